# SPDX-License-Identifier: Apache-2.0
"""Compare the size, the MACs and the latency of detectors.

Each network (backbone, neck and the convolutions of the head; no pixel
normalisation, no box decoding, no NMS) is exported to ONNX and run by ONNX
Runtime in fp32. The runs of all networks are interleaved, so that a ratio
holds even where the machine's speed drifts.
"""
import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from mmengine.config import DictAction
from mmengine.registry import MODELS, init_default_scope
from tqdm import tqdm

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet.complexity import count_complexity
from mmfasternet.config import clear_errors, load_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'configs', nargs='+', help='config file paths or package::path')
    parser.add_argument(
        '--baselines',
        nargs='+',
        required=True,
        help='what to compare with: one config for all, or one for each')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        default=[640, 640],
        metavar=('H', 'W'),
        help='input image size (default: 640 640)')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--runs', type=int, default=30, help='timed runs of each network')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the configs, not of the baselines')
    args = parser.parse_args()
    if len(args.baselines) == 1:
        args.baselines *= len(args.configs)
    if len(args.baselines) != len(args.configs):
        parser.error(f'--baselines takes one config or {len(args.configs)}, '
                     f'got {len(args.baselines)}')
    return args


class Network(torch.nn.Module):
    """What is timed: image to raw class logits and box distances."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, image):
        return self.detector(image, mode='tensor')


def export(cfg, shape, path):
    """Write the network of a config to ONNX, with its initial weights."""
    init_default_scope(cfg.get('default_scope', 'mmyolo'))
    torch.manual_seed(0)
    network = Network(MODELS.build(cfg.model))
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            network, (torch.zeros(shape), ), str(path), dynamo=False)


def session(path, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider'])


def time_interleaved(sessions, shape, runs):
    """Seconds of each run, ``(len(sessions), runs)``."""
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    seconds = np.zeros((len(sessions), runs))
    for run in tqdm(range(-3, runs), desc='runs'):  # three to warm up
        for i, network in enumerate(sessions):
            start = time.perf_counter()
            network.run(None, {network.get_inputs()[0].name: image})
            if run >= 0:
                seconds[i, run] = time.perf_counter() - start
    return seconds


def main():
    args = parse_args()
    with clear_errors():
        cfgs = {c: load_config(c, args.cfg_options) for c in args.configs}
        cfgs.update({c: load_config(c) for c in args.baselines})
    image_shape = (args.batch_size, 3, *args.shape)
    sizes, sessions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, cfg) in enumerate(tqdm(cfgs.items(), desc='export')):
            sizes[name] = count_complexity(cfg, args.shape)['']
            path = Path(folder) / f'{i}.onnx'
            export(cfg, image_shape, path)
            sessions[name] = session(path, args.threads)
    seconds = dict(
        zip(sessions,
            time_interleaved(list(sessions.values()), image_shape,
                             args.runs)))

    print(f'ONNX Runtime, fp32, {args.threads} thread(s), batch '
          f'{args.batch_size}, {args.shape[0]}x{args.shape[1]}, median of '
          f'{args.runs} interleaved runs; speed: baseline / network, median '
          'and 5th to 95th percentile of the paired ratios\n')
    print('| network | parameters M | GFLOPs (2 x GMACs) | ms | speed |')
    print('| --- | --- | --- | --- | --- |')
    for name, baseline in zip(args.configs, args.baselines):
        for row in (baseline, name):
            parameters, macs = sizes[row]
            ratio = seconds[baseline] / seconds[row]
            low, high = np.percentile(ratio, [5, 95])
            speed = '1' if row == baseline else \
                f'**{np.median(ratio):.2f}** ({low:.2f} to {high:.2f})'
            print(f'| {Path(row).stem} | {parameters / 1e6:.2f} | '
                  f'{2 * macs / 1e9:.1f} | {1e3 * np.median(seconds[row]):.1f}'
                  f' | {speed} |')


if __name__ == '__main__':
    main()
