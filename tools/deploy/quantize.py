# SPDX-License-Identifier: GPL-3.0-only
"""Quantise an exported detector to int8; print AP and speed of both."""
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from mmengine.runner import Runner

from mmfasternet import cli
from mmfasternet.analysis.timing import interleave, timed
from mmfasternet.config import load_config, require_data
from mmfasternet.deploy import load_backend, use_exported
from mmfasternet.deploy.example_images import example_images
from mmfasternet.deploy.predictor import Letterbox
from mmfasternet.deploy.quantization import parts, quantize, sensitivity


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument('config', help='config file path')
    parser.add_argument(
        'model',
        help='what tools/deploy/export.py wrote: .onnx (quantised by ONNX '
        'Runtime), .xml (by NNCF for OpenVINO), .ncnn.param, or .tflite (by '
        'AI Edge Quantizer)')
    parser.add_argument('out', help='file to write, with the same suffix')
    parser.add_argument(
        '--images',
        help='folder of images to calibrate with (default: the training '
        'images of the config)')
    parser.add_argument(
        '--num-images',
        type=cli.positive_int,
        default=200,
        help='how many of them, evenly spread (default: 200)')
    parser.add_argument(
        '--keep',
        nargs='+',
        default=[],
        metavar='PART',
        help='parts of the network to keep in float, as --sensitivity names '
        'them')
    parser.add_argument(
        '--sensitivity',
        action='store_true',
        help='first print how far each part moves the scores when it alone is '
        'quantised (minutes)')
    parser.add_argument(
        '--max-drop',
        type=cli.share,
        metavar='AP',
        help='keep the most sensitive parts in float, one after another, '
        'until AP drops by no more than this')
    parser.add_argument(
        '--threads',
        type=cli.positive_int,
        default=1,
        help='of the timed runs (default: 1)')
    parser.add_argument(
        '--runs',
        type=cli.positive_int,
        default=20,
        help='timed runs (default: 20)')
    parser.add_argument(
        '--no-test',
        action='store_true',
        help='do not measure AP on the test images of the config')
    parser.add_argument(
        '--work-dir', default='./work_dirs/quantize',
        help='the dir to save logs of the test (default: '
        './work_dirs/quantize)')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if args.no_test and args.max_drop is not None:
        parser.error('--max-drop is measured, it needs the test')
    return args


def calibration_images(cfg, args, backend, skipped):
    """uint8 ``(N, 3, H, W)``, N a multiple of the batch size."""
    found = example_images(cfg, args.images, 'train')
    count = min(args.num_images, len(found))
    found = [found[i * len(found) // count] for i in range(count)]
    inputs = [x for _, (x, _) in skipped.readable(
        found, Letterbox(backend.info))]
    if not inputs:
        skipped.end(count)
    size = backend.info.shape[0] or 1
    return np.stack([*islice(cycle(inputs), -(-len(inputs) // size) * size)])


def average_precision(cfg, path, work_dir):
    """AP of a file on the test set of the config."""
    cfg = cfg.copy()
    use_exported(cfg, path)
    cfg.work_dir = work_dir
    cfg.log_level = 'WARNING'
    cfg.experiment_name = f'{Path(path).stem}_{time.time_ns()}'
    metrics = Runner.from_cfg(cfg).test()
    return next(metrics[key] for key in metrics if key.endswith('mAP'))


def speed(paths, images, threads, runs):
    """Seconds of each run of two files, their runs interleaved."""
    backends = [load_backend(path, threads=threads) for path in paths]
    size = backends[0].info.shape[0] or 1
    turns = {
        path: timed(partial(backend, images[:size]))
        for path, backend in zip(paths, backends)
    }
    return list(interleave(turns, runs, warm_up=3).values())


def main():
    args = parse_args()
    with cli.clear_errors(ImportError, OSError, ValueError):
        cli.require_output(args.out, args.model, args.config)
        cfg = load_config(args.config, args.cfg_options)
        backend = load_backend(args.model)
        if not args.no_test:
            require_data(cfg, 'test')
        skipped = cli.Skipped()
        images = calibration_images(cfg, args, backend, skipped)
        keep, moved = list(args.keep), {}
        if args.sensitivity or args.max_drop is not None:
            moved = sensitivity(args.model, images[:32])
            print('| part, alone in int8 | scores move by (relative RMS) |')
            print('| --- | --- |')
            for name, value in moved.items():
                print(f'| {name} | {value:.4f} |', flush=True)
        aps = []
        while True:
            quantize(args.model, args.out, images, keep)
            print(f'{args.out}: int8, calibrated on {len(images)} images'
                  f'{", in float: " * bool(keep)}{", ".join(keep)}')
            if args.no_test:
                break
            if not aps:
                aps.append(average_precision(cfg, args.model, args.work_dir))
            aps[1:] = [average_precision(cfg, args.out, args.work_dir)]
            print(f'  AP {aps[0]:.4f} in float, {aps[1]:.4f} in int8')
            rest = [name for name in moved if name not in keep]
            if args.max_drop is None or aps[0] - aps[1] <= args.max_drop or \
                    not rest:
                break
            keep.append(rest[0])
        seconds = speed([args.model, args.out], images, args.threads,
                        args.runs)
    ratio = seconds[0] / seconds[1]
    low, high = np.percentile(ratio, [5, 95])
    before, after = 1e3 * np.median(seconds, 1)
    print(f'  {before:.1f} ms in float, {after:.1f} ms in int8, '
          f'{args.threads} thread(s): {np.median(ratio):.2f} times as fast '
          f'({low:.2f} to {high:.2f}, {args.runs} interleaved runs)')
    there = parts(args.model)
    if there:
        print(f'  {len(there) - len(keep)} of {len(there)} parts in int8')
    skipped.end(len(images) + len(skipped))


if __name__ == '__main__':
    main()
