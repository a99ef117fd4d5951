# SPDX-License-Identifier: Apache-2.0
"""Look before you train: check the data of a config.

Says what training would stop at, leave out or learn wrongly. The exit status
is 1 if there is something that must be corrected first.
"""
import json
import sys
from pathlib import Path

from mmfasternet import cli
from mmfasternet.config import load_config
from mmfasternet.datasets.checks import Report
from mmfasternet.datasets.checks.config import check_config
from mmfasternet.datasets.from_config import (
    dataset_class,
    leaf_datasets,
    writes_itself,
)
from mmfasternet.visualization.datasets import plot_box_sizes, plot_classes


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        '--no-images', action='store_true',
        help='check the annotations only, which takes seconds; every image '
        'is decoded otherwise')
    parser.add_argument(
        '--workers', type=int,
        help='processes that decode, 0 for none beside this one (default: '
        'one per core)')
    parser.add_argument(
        '--out-dir', type=Path,
        help='also write report.json, class_histogram.png and boxes.png there')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if args.workers is not None and args.workers < 0:
        parser.error(f'--workers must be 0 or more, got {args.workers}')
    return args


def main():
    args = parse_args()
    with cli.clear_errors():
        if args.out_dir is not None:
            cli.make_folder(args.out_dir)
        cfg = load_config(args.config, args.cfg_options)
        for phase in ('train', 'val'):
            loader = cfg.get(f'{phase}_dataloader') or {}
            if not isinstance(loader, dict):
                raise ValueError(f'{phase}_dataloader of {args.config} must '
                                 f'be a dict, got {loader!r}')
            for leaf in leaf_datasets(loader.get('dataset')):
                cls = dataset_class(leaf, cfg.get('default_scope'))
                if writes_itself(cls):
                    cls.write_if_missing(leaf.data_root)
        if not (cfg.get('train_dataloader') or cfg.get('val_dataloader')):
            raise ValueError(f'{args.config} names no data: it has neither '
                             'train_dataloader nor val_dataloader')
        report = check_config(cfg, not args.no_images, args.workers)
        print(report)
        if args.out_dir is not None:
            write(report, args.out_dir, cfg.get('strides') or (8, 16, 32))
    sys.exit(int(report.refused))


def write(report: Report, folder: Path, strides: list) -> None:
    (folder / 'report.json').write_text(
        json.dumps(report.to_dict(), indent=2) + '\n')
    plot_classes(report).savefig(folder / 'class_histogram.png')
    plot_box_sizes(report, strides).savefig(folder / 'boxes.png')


if __name__ == '__main__':
    main()
