# SPDX-License-Identifier: Apache-2.0
"""Activations and gradients of each layer in one training step.

The batch is the first of the config's training set. Dead channels, and
gradients that vanish or explode, are what to look for.
"""
import csv
import math
from pathlib import Path

from mmengine.runner import Runner, set_random_seed

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet import cli
from mmfasternet.analysis.inspection import network, statistics
from mmfasternet.analysis.tables import markdown
from mmfasternet.config import load_config, require_loader
from mmfasternet.visualization import network as pictures


def parse_args():
    parser = cli.tool_parser(__doc__)
    cli.add_checkpoint(parser, optional=True)
    parser.add_argument(
        '--out-dir', type=Path, default=Path('output'),
        help='for layers.csv and layers.png')
    cli.add_device(parser)
    parser.add_argument(
        '--seed', type=cli.seed, default=0, help='of the batch')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def first_batch(cfg, seed):
    loader = cfg.train_dataloader.copy()
    loader.update(num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    return next(iter(Runner.build_dataloader(loader, seed=seed)))


def part(row):
    """The stage or the like: a name up to its first number."""
    words = row.name.split('.')
    end = next((i for i, word in enumerate(words) if word.isdigit()), 1)
    return '.'.join(words[:end + 1])


def span(rows, key):
    values = [getattr(row, key) for row in rows]
    values = [value for value in values if not math.isnan(value)]
    return f'{min(values):.1e} to {max(values):.1e}' if values else '-'


def main():
    args = parse_args()
    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        require_loader(cfg, 'train')
        cli.make_folder(args.out_dir)
        model = network.load_network(cfg, args.checkpoint, args.device)
        set_random_seed(args.seed)
        data = first_batch(cfg, args.seed)
        rows = statistics.layer_statistics(model, data)
    parts = {}
    for row in rows:
        parts.setdefault(part(row), []).append(row)
    print('smallest and largest of the layers of each part')
    print(markdown([{
        'part': name,
        'layers': len(group),
        'std of the output': span(group, 'std'),
        'dead': f'{max(row.dead for row in group):.1%}',
        'std of its gradient': span(group, 'grad_std'),
        'gradient / weights': span(group, 'weight_grad')
    } for name, group in parts.items()]))
    with (args.out_dir / 'layers.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(statistics.LayerStatistics._fields)
        writer.writerows(rows)
    pictures.save(pictures.draw_layers(rows), args.out_dir / 'layers.png')
    print(f'{len(data["inputs"])} images; layers.csv and layers.png in '
          f'{args.out_dir}')


if __name__ == '__main__':
    main()
