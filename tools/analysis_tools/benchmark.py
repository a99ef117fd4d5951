# SPDX-License-Identifier: Apache-2.0
"""Compare the latency, the size, the rate and the memory of networks.

NETWORK is a config (a path or package::path), CONFIG,CHECKPOINT, an exported
file (.onnx, .xml of OpenVINO), or backbone:NAME of the paper.
Of a config the network is timed (backbone, neck and the convolutions of the
head; no pixel normalisation, no box decoding, no NMS), of a file all of it.
Each lives in a process of its own, and these run in turns, so that a ratio
holds even where the machine's speed drifts.

NETWORK@SETTING fixes how it is run: a backend, a precision, threads=N,
batch=N, [no-]channels-last, [no-]compile; e.g. as a baseline.
"""
import json
from pathlib import Path

from mmfasternet import cli
from mmfasternet.analysis.benchmark import paper, report
from mmfasternet.analysis.benchmark.candidates import baseline_of, cross
from mmfasternet.analysis.benchmark.race import Pair, measure
from mmfasternet.deploy.engines import ENGINES
from mmfasternet.environment import machine
from mmfasternet.visualization import benchmark as pictures


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument(
        'networks', nargs='*', metavar='NETWORK', help='what to time')
    parser.add_argument(
        '--baselines', nargs='+', metavar='NETWORK',
        help='what to compare with: one for all, or one for each')
    parser.add_argument(
        '--operators', action='store_true',
        help="the paper's Table 1: Conv, GConv of 16 groups, DWConv and PConv")
    parser.add_argument(
        '--backbones', nargs='*', metavar='NAME',
        help="the paper's Table 3 beside FasterNet, as far as timm has it; "
        'or these rows of it, e.g. FasterNet-T0 MobileNetV2')
    add_settings(parser)
    parser.add_argument(
        '--profile', action='store_true',
        help='also the time, the MACs and the rate of each layer')
    parser.add_argument(
        '--ap', nargs='+', default=[], metavar='NETWORK=AP',
        help='AP of networks, for the picture')
    parser.add_argument(
        '--out-dir', type=Path,
        help='folder for benchmark.json, benchmark.md, latency.png and, with '
        '--profile, roofline.png')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if not (args.networks or args.operators or args.backbones is not None):
        parser.error('name a NETWORK, or give --operators or --backbones')
    args.baselines = args.baselines or [None]
    if len(args.baselines) == 1:
        args.baselines *= len(args.networks)
    if len(args.baselines) != len(args.networks):
        parser.error(f'--baselines takes one network or {len(args.networks)}, '
                     f'got {len(args.baselines)}')
    try:
        args.ap = {k: float(v) for k, _, v in
                   (pair.rpartition('=') for pair in args.ap)}
    except ValueError:
        parser.error('--ap takes NETWORK=AP, e.g. mine.py=0.449')
    named = {spec.partition('@')[0] for spec in (
        *args.networks, *filter(None, args.baselines))}
    for name in args.ap:
        if name not in named and not name.startswith('backbone:'):
            parser.error(f'--ap {name}: no NETWORK is called so, there are '
                         f'{", ".join(sorted(named)) or "none"}')
    return args


def add_settings(parser):
    """How networks are run."""
    parser.add_argument(
        '--backends', nargs='+', choices=list(ENGINES),
        help='default: onnxruntime; pytorch on a GPU')
    parser.add_argument(
        '--precisions', nargs='+',
        choices=['fp32', 'bf16', 'fp16', 'int8', 'int8-bf16'],
        help='default: fp32, or int8 for a quantised file. bf16: openvino, '
        'ncnn and pytorch (autocast); fp16: pytorch, and ncnn on ARM; '
        'int8-bf16: what is not quantised in bf16, openvino')
    parser.add_argument(
        '--threads', type=cli.thread_count, nargs='+', default=[1],
        help='default: 1')
    parser.add_argument(
        '--batch-sizes', '--batch-size', type=cli.positive_int, nargs='+',
        default=[1], help='default: 1')
    parser.add_argument(
        '--shape', type=cli.positive_int, nargs=2, metavar=('H', 'W'),
        help='input image size (default: 640 640, or what a file or a '
        'backbone is for)')
    parser.add_argument(
        '--runs', type=cli.positive_int, default=30,
        help='rounds (default: 30)')
    cli.add_device(parser)
    parser.add_argument(
        '--channels-last', action='store_true', help='pytorch only')
    parser.add_argument(
        '--compile', action='store_true', help='pytorch only')


def ways(spec, args, shape=None, options=None, baseline=None, published=None):
    """All candidates of a network, each with its baseline and what is
    published; what cannot be run is said."""
    found, notes = cross(
        spec, args.backends, args.precisions, args.threads, args.batch_sizes,
        shape, device=args.device, channels_last=args.channels_last,
        compile=args.compile, options=json.dumps(options or {}))
    for note in notes:
        print(f'left out: {note}')
    return [Pair(candidate, baseline and baseline_of(
        candidate, baseline, shape), published or {}) for candidate in found]


def groups(args):
    """The races: title and pairs of each."""
    pairs = []
    for spec, baseline in zip(args.networks, args.baselines):
        for pair in ways(
                spec, args, args.shape, args.cfg_options, baseline):
            if pair.baseline:
                pairs.append(Pair(pair.baseline, pair.baseline))
            pairs.append(pair)
    if pairs:
        yield '', pairs
    for channels, side in paper.MAPS if args.operators else ():
        specs = [f'operator:{name}:{channels}x{side}'
                 for name in paper.OPERATOR_MS]
        yield f'Operators, {channels}x{side}x{side}', study(
            specs, specs[0], args)
    if args.backbones is not None:
        for rows in [map(paper.find_backbone, args.backbones)] if \
                args.backbones else paper.BACKBONES:
            specs = [f'backbone:{row.name}' for row in rows]
            base = next((s for s in specs if 'FasterNet' in s), specs[0])
            yield 'Backbones', study(specs, base, args)


def study(specs, baseline, args):
    """One race of the paper, whose networks have their own shape."""
    pairs = []
    base_ms = paper.find(baseline).ms
    for spec in specs:
        ms = paper.find(spec).ms
        published = {'paper: ms': f'{ms:g}',
                     'paper: speed': f'{base_ms / ms:.2f}'}
        pairs += ways(spec, args, baseline=baseline, published=published)
    return pairs


def write(args, texts, results):
    """Into the folder that was asked for."""
    report.write_json(args.out_dir / 'benchmark.json', results, args.device)
    where = ', '.join(
        f'{k} {v}' for k, v in machine(args.device).items())
    (args.out_dir / 'benchmark.md').write_text(
        '\n\n'.join([where, *texts]) + '\n')
    pictures.draw_latency(results, args.ap).savefig(
        args.out_dir / 'latency.png')
    if args.profile:
        pictures.draw_roofline(results).savefig(args.out_dir / 'roofline.png')
    print(f'written to {args.out_dir}')


def main():
    args = parse_args()
    texts, results = [], []
    with cli.clear_errors():
        if args.out_dir:
            cli.make_folder(args.out_dir)
        for title, pairs in groups(args):
            race = measure(pairs, args.runs, args.profile)
            parts = [f'### {title}'] * bool(title) + [report.summary(race)]
            if args.profile:
                parts += map(report.layer_tables, race)
            texts.append('\n\n'.join(parts))
            print(f'{texts[-1]}\n')
            results += race
    if args.out_dir:
        write(args, texts, results)


if __name__ == '__main__':
    main()
