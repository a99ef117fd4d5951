# SPDX-License-Identifier: GPL-3.0-only
"""Export a trained detector, and compare the files with it on real images."""
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from mmfasternet import cli
from mmfasternet.config import load_config
from mmfasternet.deploy import DeployInfo, export, load_deployed
from mmfasternet.deploy.deployed_detector import with_fp16_weights
from mmfasternet.deploy.engines import ENGINES, EXPORTED, OPSET, engine_of
from mmfasternet.deploy.example_images import example_images
from mmfasternet.deploy.exporting import compare, node_counts
from mmfasternet.deploy.predictor import Letterbox, as_array


def parse_args():
    parser = cli.tool_parser(__doc__)
    cli.add_checkpoint(parser, exported=False)
    parser.add_argument(
        'out',
        nargs='+',
        help='files to write; the suffix is the format: '
        f'{", ".join(EXPORTED)}, or .pth (checkpoint of the deploy form)')
    parser.add_argument(
        '--shape',
        type=cli.positive_int,
        nargs=2,
        metavar=('H', 'W'),
        help='input size (default: img_scale of the config)')
    cli.add_batch_size(parser)
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='any batch size, height and width instead, in multiples of 32; '
        'Predictor fits images into --shape')
    parser.add_argument(
        '--nms',
        action='store_true',
        help='end with NMS; outputs: num_dets, boxes, scores, labels')
    parser.add_argument(
        '--score-thr',
        type=cli.share,
        help='lowest score of a box (default: that of model.test_cfg, which '
        'is meant for evaluation)')
    parser.add_argument(
        '--opset',
        type=cli.positive_int,
        help=f'of ONNX (default: {OPSET})')
    parser.add_argument(
        '--precision',
        choices=list(dict.fromkeys(
            kind for e in ENGINES.values() for kind in e.stored)),
        default='fp32',
        help='of the weights in the file (default: fp32); fp16 halves one of '
        'ncnn or LiteRT')
    parser.add_argument(
        '--images',
        help='image or folder to compare on (default: the test images of the '
        'config, or photos that scikit-learn ships)')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    begin = time.perf_counter()
    options = dict(args.cfg_options or {})
    if args.score_thr is not None:
        options['model.test_cfg.score_thr'] = args.score_thr
    with cli.clear_errors(ImportError, OSError, ValueError):
        for i, out in enumerate(args.out):  # before minutes are spent
            cli.require_output(out, args.config, args.checkpoint,
                               *args.out[:i])
            if not out.endswith('.pth'):
                engine_of(out)
        if args.opset and not any(o.endswith('.onnx') for o in args.out):
            raise ValueError('--opset is of .onnx files, and none is asked '
                             'for: leave it out')
        opset, skipped = args.opset or OPSET, cli.Skipped()
        cfg = load_config(args.config, options)
        info = DeployInfo.from_config(cfg)
        deployed = load_deployed(cfg, args.checkpoint)
        if args.precision == 'fp16':
            deployed = with_fp16_weights(deployed)
        found = example_images(cfg, args.images)[:max(8, args.batch_size)]
        images = [image for _, (image, _) in skipped.readable(
            found, as_array)]
        if not images:
            skipped.end(len(found))
        failed = []
        for out in args.out:
            start = time.perf_counter()
            done = export(deployed, info, out, args.shape, args.batch_size,
                          args.dynamic, args.nms, opset, args.precision)
            if Path(out).suffix == '.pth':
                print(f'{out}: checkpoint of the deploy form')
                continue
            letterbox = Letterbox(done)
            batch = np.stack([
                letterbox(image)[0]
                for image in islice(cycle(images), max(8, args.batch_size))
            ])
            print(describe(out, done, opset), flush=True)
            for name, (worst, limit) in compare(deployed, done, out,
                                                batch).items():
                unit = dict(boxes='pixels').get(name, '')
                ok = worst <= limit
                failed += [] if ok else [f'{out}: {name}']
                print(f'  compared with PyTorch on {len(batch)} images, '
                      f'{name}: differ by at most {worst:.2g} {unit}'.rstrip()
                      + ('' if ok else f', MORE THAN THE {limit:.2g} allowed'))
            print(f'  {time.perf_counter() - start:.1f} s')
    print(f'{time.perf_counter() - begin:.1f} s in all')
    if failed:
        sys.exit('error: does not compute what the checkpoint does: '
                 f'{"; ".join(failed)}. Please report it with the output of '
                 'python -m mmfasternet.doctor')
    skipped.end(len(found))


def describe(path, info, opset):
    """What was written, and the operators in it."""
    files = [Path(path)]
    weights = engine_of(path).weights
    if weights:
        files.append(files[0].with_suffix(weights))
    size = sum(file.stat().st_size for file in files)
    batch, height, width = (s or 'any' for s in info.shape)
    kinds = node_counts(path)
    suffix = f', opset {opset}' if path.endswith('.onnx') else ''
    most = ', '.join(f'{count} {kind}' for kind, count in kinds[:8])
    return (f'{path}: {size / 1e6:.1f} MB, batch {batch}, {height}x{width}'
            f'{", with NMS" * info.nms}{suffix}\n'
            f'  {sum(count for _, count in kinds)} nodes: {most}, ...')


if __name__ == '__main__':
    main()
