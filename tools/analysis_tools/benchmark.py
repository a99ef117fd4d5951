# SPDX-License-Identifier: Apache-2.0
"""Compare the latency, the size, the rate and the memory of networks.

NETWORK is a config (a path or package::path), CONFIG,CHECKPOINT, an exported
file (.onnx, .xml of OpenVINO, .torchscript), or backbone:NAME of the paper.
Of a config the network is timed (backbone, neck and the convolutions of the
head; no pixel normalisation, no box decoding, no NMS), of a file all of it.
Each lives in a process of its own, and these run in turns, so that a ratio
holds even where the machine's speed drifts.

NETWORK@SETTING fixes how it is run: a backend, a precision, threads=N,
batch=N, [no-]channels-last, [no-]compile; e.g. as a baseline.
"""
import argparse
import json
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmfasternet import cli
from mmfasternet.analysis.benchmark import paper, report
from mmfasternet.analysis.benchmark.contenders import (
    PRECISIONS,
    Contender,
    baseline_of,
    cross,
)
from mmfasternet.analysis.benchmark.layers import exported_layers, with_macs
from mmfasternet.analysis.benchmark.networks import (
    build_network,
    count,
    export_network,
)
from mmfasternet.analysis.benchmark.race import race
from mmfasternet.checkpoint import CheckpointError

# A product that fills the arithmetic units for a while, by type of device,
# and a copy that is larger than any cache.
PRODUCT_SIDE = dict(cpu=2048, cuda=8192)
COPIED_NUMBERS = 1 << 25


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'networks', nargs='*', metavar='NETWORK', help='what to time')
    parser.add_argument(
        '--baselines',
        nargs='+',
        metavar='NETWORK',
        help='what to compare with: one for all, or one for each')
    parser.add_argument(
        '--operators',
        action='store_true',
        help="the paper's Table 1: Conv, GConv of 16 groups, DWConv and PConv")
    parser.add_argument(
        '--backbones',
        nargs='*',
        metavar='NAME',
        help="the paper's Table 3 beside FasterNet, as far as timm has it; "
        'or these rows of it, e.g. FasterNet-T0 MobileNetV2')
    parser.add_argument(
        '--backends',
        nargs='+',
        choices=list(PRECISIONS),
        help='default: onnxruntime; pytorch on a GPU')
    parser.add_argument(
        '--precisions',
        nargs='+',
        choices=['fp32', 'bf16', 'fp16', 'int8', 'int8-bf16'],
        help='default: fp32, or int8 for a quantised file. bf16: openvino and '
        'pytorch (autocast); fp16: pytorch; int8-bf16: what is not quantised '
        'in bf16, openvino')
    parser.add_argument(
        '--threads', type=int, nargs='+', default=[1], help='default: 1')
    parser.add_argument(
        '--batch-sizes', '--batch-size', type=int, nargs='+', default=[1],
        help='default: 1')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='input image size (default: 640 640, or what a file or a '
        'backbone is for)')
    parser.add_argument(
        '--runs', type=int, default=30, help='rounds (default: 30)')
    parser.add_argument(
        '--device', default='cpu', help='of pytorch, e.g. cuda:0')
    parser.add_argument(
        '--channels-last', action='store_true', help='pytorch only')
    parser.add_argument(
        '--compile', action='store_true', help='pytorch only')
    parser.add_argument(
        '--profile',
        action='store_true',
        help='also the time, the MACs and the rate of each layer')
    parser.add_argument(
        '--ap',
        nargs='+',
        default=[],
        metavar='NETWORK=AP',
        help='AP of networks, for the picture')
    parser.add_argument(
        '--out-dir',
        type=Path,
        help='folder for benchmark.json, benchmark.md, latency.png and, with '
        '--profile, roofline.png')
    cli.add_cfg_options(parser)
    args = parser.parse_args()
    if not (args.networks or args.operators or args.backbones is not None):
        parser.error('name a NETWORK, or give --operators or --backbones')
    baselines = args.baselines or [None]
    if len(baselines) == 1:
        baselines *= len(args.networks)
    if len(baselines) != len(args.networks):
        parser.error(f'--baselines takes one network or {len(args.networks)}, '
                     f'got {len(baselines)}')
    args.baselines = baselines
    for name in ('threads', 'batch_sizes', 'shape'):
        if min(getattr(args, name) or [1]) < 1:
            parser.error(f'--{name.replace("_", "-")} takes positive ints')
    if args.runs < 1:
        parser.error('--runs takes a positive int')
    try:
        args.ap = {k: float(v) for k, _, v in
                   (pair.rpartition('=') for pair in args.ap)}
    except ValueError:
        parser.error('--ap takes NETWORK=AP, e.g. mine.py=0.449')
    return args


# ------------------------------------------------------------ what runs
def ways(spec, args, optioned=False):
    """All contenders of a network; what cannot be run is said."""
    found, notes = cross(
        spec, args.backends, args.precisions, args.threads, args.batch_sizes,
        args.shape, device=args.device, channels_last=args.channels_last,
        compile=args.compile, optioned=optioned)
    for note in notes:
        print(f'left out: {note}')
    return found


def groups(args):
    """Races: each a list of contender, baseline and published figures."""
    pairs = []
    for spec, baseline in zip(args.networks, args.baselines):
        for contender in ways(spec, args, args.cfg_options is not None):
            base = baseline and baseline_of(contender, baseline, args.shape)
            if base:
                pairs.append((base, base, {}))
            pairs.append((contender, base, {}))
    if pairs:
        yield '', pairs
    if args.operators:
        for channels, side in paper.MAPS:
            specs = [f'operator:{name}:{channels}x{side}'
                     for name in paper.OPERATORS]
            yield f'Operators, {channels}x{side}x{side}', study(
                specs, specs[0], args, paper.operator_ms)
    if args.backbones is not None:
        for rows in paper.backbone_groups(args.backbones):
            specs = [f'backbone:{row.name}' for row in rows]
            base = next((s for s in specs if 'FasterNet' in s), specs[0])
            ms = {f'backbone:{row.name}': row.ms for row in rows}
            yield 'Backbones', study(specs, base, args, ms.get)


def study(specs, baseline, args, published_ms):
    """One race of the paper, beside what it says."""
    pairs = []
    for spec in specs:
        ms = published_ms(spec)
        figures = {'paper: ms': f'{ms:g}',
                   'paper: speed': f'{published_ms(baseline) / ms:.2f}'}
        pairs += [(contender, baseline_of(contender, baseline), figures)
                  for contender in ways(spec, replace_shape(args))]
    return pairs


def replace_shape(args):
    """The networks of the paper have their own."""
    return argparse.Namespace(**{**vars(args), 'shape': None})


def yardsticks(contenders, profile):
    """The matrix products, and for a profile copies in memory."""
    found = []
    for contender in contenders:
        kind = torch.device(contender.device).type
        side = PRODUCT_SIDE.get(kind, PRODUCT_SIDE['cuda'])
        product = replace(
            contender, target=f'product:{side}', shape=(side, side),
            channels_last=False, compile=False, optioned=False)
        found += [
            replace(product, backend=backend)
            for backend, precisions in PRECISIONS.items()
            if contender.precision in precisions and find_spec(
                backend.replace('pytorch', 'torch')) and
            (backend == 'pytorch' or kind == 'cpu')
        ]
        if profile:
            found.append(
                Contender(f'copy:{COPIED_NUMBERS}', (COPIED_NUMBERS, ),
                          'pytorch', 'fp32', contender.threads,
                          contender.device))
    return list(dict.fromkeys(found))


# ------------------------------------------------------------ running
def prepare(contenders, folder, cfg_options):
    """Of each network the file to read, parameters, MACs and layers."""
    paths, sizes, layers = {}, {}, {}
    for contender in contenders:
        key = contender.key()
        if key in sizes:
            continue
        file = contender.file
        network = None
        if file is None:
            network = build_network(
                contender.target, cfg_options if contender.optioned else None)
            try:
                sizes[key] = count(network, contender.shape)
            except Exception as error:
                raise ValueError(
                    f'{contender.target} does not run on images alone, as '
                    'two-stage detectors do not: '
                    f'{type(error).__name__}: {error}') from error
            if any(c.key() == key and c.backend != 'pytorch'
                   for c in contenders):
                file = Path(folder) / f'{len(paths)}.onnx'
                export_network(network, contender.shape, file)
        elif file.suffix == '.torchscript':
            network = torch.jit.load(str(file))
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.zeros(contender.shape))
            sizes[key] = (sum(p.numel() for p in network.parameters()),
                          counter.get_total_flops() // 2)
        if file:
            paths[key] = str(file)
        if file and file.suffix != '.torchscript':
            parameters, layers[key] = exported_layers(file, contender.shape)
            sizes.setdefault(
                key, (parameters, sum(layer.macs for layer in layers[key])))
    return paths, sizes, layers


def run(pairs, args):
    """One race: the entries of its table, products and bandwidths."""
    contenders = list(dict.fromkeys(c for c, _, _ in pairs))
    baselines = [b for _, b, _ in pairs if b]
    contenders += [b for b in dict.fromkeys(baselines) if b not in contenders]
    for contender in contenders if args.profile else ():
        if contender.backend == 'pytorch' and (contender.compile
                                               or contender.file):
            raise ValueError(
                f'--profile {contender.target}: torch.compile and TorchScript '
                'leave no layers to time; profile it without --compile, or '
                'its config or ONNX file')
    measures = yardsticks(contenders, args.profile)
    with tempfile.TemporaryDirectory() as folder:
        paths, sizes, layers = prepare([*contenders, *measures], folder,
                                       args.cfg_options)
        results = race([*contenders, *measures], paths, args.runs,
                       args.cfg_options, contenders if args.profile else ())
    for contender, result in results.items():
        result.parameters, result.macs = sizes[contender.key()]
        result.layers = with_macs(result.layers,
                                  layers.get(contender.key(), []))
    entries = {}
    for contender, baseline, figures in pairs:
        entries.setdefault(
            contender,
            report.Entry(results[contender], results.get(baseline), figures))
    products = [r for c, r in results.items() if 'product:' in c.target]
    bandwidths = {(c.threads, c.device): 8 * COPIED_NUMBERS / r.median
                  for c, r in results.items() if 'copy:' in c.target}
    return list(entries.values()), products, bandwidths


def main():
    args = parse_args()
    everything, products, bandwidths, texts, rows = [], [], {}, [], []
    with cli.clear_errors(FileNotFoundError, ValueError, ImportError,
                      CheckpointError):
        for title, pairs in groups(args):
            entries, found, speeds = run(pairs, args)
            text = f'### {title}\n\n' * bool(title) + report.summary(
                entries, found)
            if args.profile:
                text += ''.join(
                    f'\n\n{report.layer_tables(e.result, found)}'
                    for e in entries)
            print(f'{text}\n')
            texts.append(text)
            everything += entries
            products += found
            bandwidths.update(speeds)
            rows += report.as_json(entries, found)
    if args.out_dir:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        described = report.machine(args.device)
        (args.out_dir / 'benchmark.json').write_text(
            json.dumps(dict(machine=described, results=rows), indent=1))
        (args.out_dir / 'benchmark.md').write_text(
            ', '.join(f'{k} {v}' for k, v in described.items()) + '\n\n' +
            '\n\n'.join(texts) + '\n')
        report.draw_latency(everything, args.out_dir / 'latency.png', args.ap)
        if args.profile:
            report.draw_roofline([e.result for e in everything], products,
                                 bandwidths, args.out_dir / 'roofline.png')
        print(f'written to {args.out_dir}')


if __name__ == '__main__':
    main()
