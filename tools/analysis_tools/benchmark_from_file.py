# SPDX-License-Identifier: GPL-3.0-only
"""Time a deployed detector from image file to boxes.

Beside it MMDetection's inference_detector, which mmyolo's image demo calls,
with another config if one is given. Their runs are interleaved.
"""
import argparse
import time
from dataclasses import replace

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.deploy  # noqa: F401  # isort: skip
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmengine.registry import MODELS, init_default_scope
from tqdm import tqdm

from mmfasternet import cli
from mmfasternet.config import load_config
from mmfasternet.datasets.images import images_in
from mmfasternet.deploy import Predictor
from mmfasternet.deploy.predictor import detect


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('model', help='what tools/deploy/export.py wrote')
    parser.add_argument('images', help='image or folder')
    parser.add_argument(
        '--baseline',
        help='config of a detector for inference_detector; its weights are '
        'random, so hardly a box reaches NMS')
    parser.add_argument('--backend', choices=['onnxruntime', 'openvino'])
    parser.add_argument('--precision', choices=['fp32', 'bf16'],
                        default='fp32')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--runs', type=int, default=30, help='timed images (default: 30)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=None,
        help='only boxes of at least this score enter NMS (default: that of '
        'the file, which is meant for evaluation)')
    return parser.parse_args()


def build_baseline(config, info):
    """A detector for `inference_detector` with the pipeline of its config."""
    cfg = load_config(config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.eval()
    model.cfg = cfg
    model.dataset_meta = dict(classes=info.classes)
    return model


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    with cli.clear_errors():
        predictor = Predictor(
            args.model,
            backend=args.backend,
            precision=args.precision,
            threads=args.threads)
        if args.score_thr is not None:
            predictor.backend.info = replace(
                predictor.backend.info, score_thr=args.score_thr)
        images = images_in(args.images)
        baseline = args.baseline and build_baseline(args.baseline,
                                                    predictor.backend.info)
    rows = []
    for run in tqdm(range(-3, args.runs), desc='images'):  # three to warm up
        path = images[run % len(images)]
        start = time.perf_counter()
        image, meta = predictor.letterbox(path)
        before = time.perf_counter()
        detect(predictor.backend, image[None], [meta])
        end = time.perf_counter()
        network = predictor.backend.seconds
        row = [before - start, network, end - before - network, end - start,
               np.nan]
        if baseline is not None:
            start = time.perf_counter()
            inference_detector(baseline, path)
            row[-1] = time.perf_counter() - start
        if run >= 0:
            rows.append(row)
    before, inside, after, whole, other = 1e3 * np.array(rows).T
    info = predictor.backend.info
    print(f'{args.model}: {info.img_scale[1]}x{info.img_scale[0]}, '
          f'{args.threads} thread(s), median of {args.runs} images, ms')
    print('| file to input | network | output to boxes | whole | '
          'before and after / network |')
    print('| --- | --- | --- | --- | --- |')
    share = np.median((before + after) / inside)
    print(f'| {np.median(before):.1f} | {np.median(inside):.1f} | '
          f'{np.median(after):.1f} | {np.median(whole):.1f} | {share:.1%} |')
    if baseline is not None:
        ratio = other / whole
        low, high = np.percentile(ratio, [5, 95])
        print(f'{args.baseline} by inference_detector, PyTorch: '
              f'{np.median(other):.1f} ms, {np.median(ratio):.2f} times '
              f'({low:.2f} to {high:.2f})')


if __name__ == '__main__':
    main()
