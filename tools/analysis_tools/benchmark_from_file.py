# SPDX-License-Identifier: GPL-3.0-only
"""Time a deployed detector from image file to boxes.

Beside it another one, or MMDetection's inference_detector, which mmyolo's
image demo calls, with a config. Their runs are interleaved.
"""
import itertools
from dataclasses import replace
from functools import partial

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.models  # noqa: F401  # isort: skip
import numpy as np
import torch
from mmdet.apis import inference_detector

from mmfasternet import cli
from mmfasternet.analysis.tables import markdown
from mmfasternet.analysis.timing import interleave, speedup_text, timed
from mmfasternet.config import build_model, load_config
from mmfasternet.datasets.images import images_in
from mmfasternet.deploy import Predictor
from mmfasternet.deploy.engines import EXPORTED

WARM_UP = 3  # images that are not timed


def parse_args():
    parser = cli.tool_parser(__doc__.split('\n')[0])
    parser.add_argument('model', help='what tools/deploy/export.py wrote')
    parser.add_argument('images', help='image or folder')
    parser.add_argument(
        '--baseline',
        help='another exported file, or the config of a detector for '
        'inference_detector, whose weights are random, so that hardly a box '
        'reaches NMS')
    cli.add_engine(parser, exported_only=True, threads=False)
    parser.add_argument(
        '--threads', type=cli.thread_count, default=1, help='default: 1')
    parser.add_argument(
        '--runs', type=cli.positive_int, default=30,
        help='timed images (default: 30)')
    parser.add_argument(
        '--score-thr', type=cli.share,
        help='only boxes of at least this score enter NMS (default: that of '
        'the file, which is meant for evaluation)')
    return parser.parse_args()


def build_baseline(config, info):
    """A detector for `inference_detector` with the pipeline of its config."""
    cfg = load_config(config)
    cfg.setdefault('default_scope', 'mmdet')
    torch.manual_seed(0)
    model = build_model(cfg)
    model.eval()
    model.cfg = cfg
    model.dataset_meta = dict(classes=info.classes)
    return model


def open_baseline(args, info):
    """What finds boxes in an image, and what it is."""
    if not args.baseline.endswith(EXPORTED):
        model = build_baseline(args.baseline, info)
        return (partial(inference_detector, model),
                f'{args.baseline} by inference_detector, PyTorch')
    other = Predictor(args.baseline, threads=args.threads)
    other.backend.info = replace(
        other.backend.info, score_thr=info.score_thr)
    return other, args.baseline


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    with cli.clear_errors():
        predictor = Predictor(
            args.model, backend=args.backend, precision=args.precision,
            threads=args.threads)
        info = predictor.backend.info
        if args.score_thr is not None:
            info = predictor.backend.info = replace(
                info, score_thr=args.score_thr)
        skipped = cli.Skipped()
        found = images_in(args.images)[:args.runs + WARM_UP]
        images = [path for path, _ in skipped.readable(
            found, predictor.letterbox)]
        if not images:
            skipped.end(len(found))
        detected = itertools.cycle(images)

        def detect():
            seconds = predictor(next(detected))[0].seconds
            return [seconds[k] for k in ('prepare', 'network', 'boxes')]

        turns = {args.model: detect}
        if args.baseline:
            baseline, name = open_baseline(args, info)
            paths = itertools.cycle(images)
            turns['baseline'] = timed(lambda: baseline(next(paths)))
        seconds = interleave(turns, args.runs, warm_up=WARM_UP)
    before, network, after = 1e3 * seconds[args.model].T
    whole = before + network + after
    print(f'{args.model}: {info.img_scale[1]}x{info.img_scale[0]}, '
          f'{args.threads} thread(s), median of {args.runs} images, ms')
    shares = (before + after) / network
    print(markdown([{
        'file to input': f'{np.median(before):.1f}',
        'network': f'{np.median(network):.1f}',
        'output to boxes': f'{np.median(after):.1f}',
        'whole': f'{np.median(whole):.1f}',
        'before and after / network': f'{np.median(shares):.1%}'
    }]))
    if args.baseline:
        other = 1e3 * seconds['baseline']
        speed, spread = speedup_text(whole, other).split(' ', 1)
        print(f'{name}: {np.median(other):.1f} ms, {speed} times {spread}')
    skipped.end(len(found))


if __name__ == '__main__':
    main()
