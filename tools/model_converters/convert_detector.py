# SPDX-License-Identifier: GPL-3.0-only
"""Convert the weights of a detector to a checkpoint of one of our configs.

SRC is one of: YOLOv8 with its own backbone, from mmyolo or Ultralytics (its
neck and head are taken where shapes agree, the backbone is initialised as the
config says); YOLOv8 with FasterNet pasted into Ultralytics; an MMDetection
detector with FasterNet, such as the authors' Mask R-CNN. Of the last two
everything must fit. Files are read as data: Ultralytics is not needed, and no
code in them is run.
"""
import re

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet import __version__, cli
from mmfasternet.checkpoint import (
    CheckpointError,
    checkpoint_path,
    compare_tensors,
    digest,
    noted_classes,
    noted_meta,
    read_checkpoint,
    save_checkpoint,
)
from mmfasternet.checkpoint.layouts.detectors import rename_detector
from mmfasternet.checkpoint.layouts.fasternet import find_tensors
from mmfasternet.config import build_model, load_config


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('src', help='weights of a detector')
    parser.add_argument('config', help='config of the detector they are for')
    parser.add_argument('dst', help='checkpoint to write')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def compare(own, tensors):
    """Names that fit, and those that do not with the reason."""
    fit = compare_tensors(own, tensors)
    if fit.broken:
        raise CheckpointError(f'{fit.broken[0]} holds NaN, infinity or '
                              'another kind of number')
    # norms of outputs that the detector does not take are not a loss
    unknown = [k for k in fit.unexpected
               if not re.match(r'backbone\.norm[0246]\.', k)]
    left = fit.shapes + [f'{k}: the config has no such tensor'
                         for k in unknown]
    order = list(tensors)
    left.sort(key=lambda line: order.index(line.split(':')[0]))
    return fit.fitting, left, fit.missing


def dataset_meta(data, cfg):
    """Class names, as inference looks for them; None leaves it COCO's."""
    noted = noted_meta(data).get('dataset_meta')
    if noted and isinstance(noted, dict):
        return noted
    if noted_classes(data):  # of mmdet 2
        return dict(classes=noted_classes(data))
    return cfg.metainfo.to_dict() if 'metainfo' in cfg else None


def main():
    args = parse_args()
    with cli.clear_errors():
        cli.require_output(args.dst, args.src, args.config)
        path = checkpoint_path(args.src)
        data = read_checkpoint(path, modules=True)
        tensors, stock = rename_detector(find_tensors(data))
        cfg = load_config(args.config, args.cfg_options)
        model = build_model(cfg)
        own = model.state_dict()
        taken, left, missing = compare(own, tensors)
        if not stock and (left or missing):
            unfit = [*left, *(f'{k}: not in the file' for k in missing)]
            raise CheckpointError(
                f'{path} does not fit {args.config}: {len(taken)} of '
                f'{len(own)} tensors do. The first that do not:\n  ' +
                '\n  '.join(unfit[:5]))
        if not taken:
            raise CheckpointError(
                f'{path}: nothing in it fits {args.config}; its first '
                f'tensors are {", ".join(list(tensors)[:4])}')
        if stock:
            # the backbone and what does not fit start as in training
            model.init_weights()
        model.load_state_dict({k: tensors[k] for k in taken}, strict=False)
        meta = dict(
            mmfasternet_version=__version__,
            converted_from=f'{path.name}, SHA-256 {digest(path)}')
        if not stock:
            classes = dataset_meta(data, cfg)
            meta.update(dict(dataset_meta=classes) if classes else {})
        save_checkpoint(
            dict(meta=meta, state_dict=model.state_dict()), args.dst)
    for name in taken if stock else ():
        print(f'taken  {name}')
    for line in left:
        print(f'left   {line}')
    print(f'{args.dst}: {len(taken)} of {len(own)} tensors from {path}' +
          (f', {len(left)} of its neck and head left; the rest is initialised '
           'as in training. Go on with --cfg-options '
           f'load_from={args.dst}' if stock else ''))


if __name__ == '__main__':
    main()
