# SPDX-License-Identifier: GPL-3.0-only
"""Detect objects in images: draws the boxes and writes them as json."""
import os.path as osp
import sys
from collections import Counter
from pathlib import Path

from mmfasternet import cli
from mmfasternet.deploy.engines import EXPORTED, require_followed


def image_parser(description):
    """What every demo of images takes."""
    parser = cli.tool_parser(description)
    parser.add_argument('img', help='image file, folder of images, or URL')
    cli.add_checkpoint(parser)
    parser.add_argument(
        '--out-dir',
        default='./output',
        help='pictures go to OUT_DIR/vis, boxes to OUT_DIR/preds')
    cli.add_device(parser, None)
    cli.add_engine(parser)
    parser.add_argument(
        '--show', action='store_true', help='open a window with each picture')
    cli.add_score_thr(parser)
    cli.add_batch_size(parser)
    cli.add_cfg_options(parser)
    return parser


def parse_args():
    return image_parser(__doc__).parse_args()


def images_of(args):
    """What was asked for, without the pictures of an earlier run in it."""
    from mmfasternet.datasets.files import files_below, is_hidden
    from mmfasternet.datasets.images import IMAGE_SUFFIXES, images_in
    images = images_in(args.img)
    ours = tuple(osp.realpath(osp.join(args.out_dir, name)) + osp.sep
                 for name in ('vis', 'patch', 'preds'))
    others = Counter(
        file.suffix.lower() or 'without suffix'
        for file in files_below(args.img) if not is_hidden(file, args.img)
        and not osp.realpath(file).startswith(ours)
        and file.suffix.lower() not in IMAGE_SUFFIXES)
    if others:
        print(f'left out, images are {", ".join(IMAGE_SUFFIXES)}: ' +
              ', '.join(f'{n} {suffix}' for suffix, n in others.items()),
              file=sys.stderr, flush=True)
    return [i for i in images if not osp.realpath(i).startswith(ours)] or \
        images


def load(args, cfg):
    """A checkpoint runs as it was trained, unless an engine is asked for."""
    from mmfasternet.deploy import Predictor, TrainedPredictor
    require_followed(args.checkpoint, args.cfg_options)
    if args.backend or args.checkpoint.endswith(EXPORTED):
        return Predictor(args.checkpoint, cfg, args.backend, args.precision,
                         args.threads, args.device or 'cpu')
    if args.precision != 'fp32' or args.threads:
        raise ValueError('--precision and --threads are those of an engine: '
                         'give --backend, too')
    return TrainedPredictor(args.checkpoint, cfg, args.device)


def save_all(args, images, predictor, found, skipped):
    """Draw and write what was found, say it, and what was skipped.

    Args:
        args (Namespace): With ``img``, ``out_dir``, ``show``, ``score_thr``.
        images (list[str]): All images.
        predictor (Predictor): What draws.
        found (Iterable[tuple]): Path and sample of those that can be read.
        skipped (Skipped): The others, when ``found`` is at its end.
    """
    from mmfasternet.datasets.images import read_image
    from mmfasternet.deploy.result_files import (
        as_dict,
        output_names,
        write_image,
        write_json,
    )
    names = dict(zip(images, output_names(images, args.img)))
    vis, preds = (osp.join(args.out_dir, f) for f in ('vis', 'preds'))
    for path, name in names.items():
        if osp.realpath(path) == osp.realpath(osp.join(vis, name[0])):
            raise ValueError(f'{path} would be painted over: give another '
                             '--out-dir')
    for path, sample in found:
        result = as_dict(sample, predictor.classes)
        picture = predictor.draw(
            read_image(path), sample, args.score_thr, args.show)
        write_image(picture, osp.join(vis, names[path][0]))
        write_json(result, osp.join(preds, names[path][1]))
        shown = [f'{name} {score:.2f}' for name, score in zip(
            result['names'], result['scores']) if score >= args.score_thr]
        print(f'{path}: {", ".join(shown) or "nothing found"}')
    if len(skipped) < len(images):
        print(f'pictures in {vis}, boxes in {preds}')
    skipped.end(len(images))


def main():
    args = parse_args()
    with cli.clear_errors(ImportError, OSError, ValueError):
        from mmfasternet.config import load_config
        images, skipped = images_of(args), cli.Skipped()
        cli.make_folder(Path(args.out_dir))
        predictor = load(args, load_config(args.config, args.cfg_options))
        found = predictor.stream(images, args.batch_size, skip=skipped)
        save_all(args, images, predictor, found, skipped)


if __name__ == '__main__':
    main()
