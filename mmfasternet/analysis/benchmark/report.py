# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables, JSON and pictures."""
import math
import platform
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmfasternet.analysis.benchmark.contenders import Contender
from mmfasternet.analysis.benchmark.race import Result, speedup, spread

# of the time of a network: smaller layers share a row
SHOWN = 0.001

Roof = Tuple[float, str]


@dataclass
class Entry:
    """A row of the table.

    Args:
        result (Result): Of the contender.
        baseline (Result, optional): What it is compared with; itself if it is
            a baseline.
        extra (dict[str, str]): More columns, e.g. what is published.
    """

    result: Result
    baseline: Optional[Result] = None
    extra: Dict[str, str] = field(default_factory=dict)


def find_roof(contender: Contender, products: Sequence[Result]
              ) -> Optional[Roof]:
    """The rate of the fastest large matrix product, and whose it is.

    Args:
        contender (Contender): In its precision, with its threads, where it
            runs.
        products (Sequence[Result]): Those of all backends.

    Returns:
        tuple[float, str]: Floating point operations per second, the backend;
        None where no product was run.
    """
    alike = [p for p in products if (
        p.contender.precision, p.contender.threads, p.contender.device
    ) == (contender.precision, contender.threads, contender.device)]
    if not alike:
        return None
    best = max(alike, key=lambda p: p.flops)
    return best.flops, best.contender.backend


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left and the others to the right."""
    lines = [columns, ['---'] + ['---:'] * (len(columns) - 1), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _settings(contender: Contender) -> Dict[str, str]:
    channels, *size = contender.shape[1:]
    return {
        'backend': contender.backend,
        'precision': contender.precision,
        'threads': str(contender.threads),
        'batch': str(contender.shape[0]),
        'input': 'x'.join(map(str, (channels, *size))),
        'device': contender.device,
        'channels_last': 'yes' if contender.channels_last else 'no',
        'compile': 'yes' if contender.compile else 'no',
    }


def summary(entries: Sequence[Entry], products: Sequence[Result]) -> str:
    """The caption and the table of a race.

    What is the same in all rows is in the caption.
    """
    settings = [_settings(e.result.contender) for e in entries]
    varying = [k for k in settings[0] if len({s[k] for s in settings}) > 1]
    common = [f'{k.replace("_", " ")} {v}' for k, v in settings[0].items()
              if k not in varying and v != 'no']
    compared = any(e.baseline for e in entries)
    extra = list(dict.fromkeys(k for e in entries for k in e.extra))
    columns = ['network', *(k.replace('_', ' ') for k in varying),
               'parameters M', 'GFLOPs (2 x GMACs)',
               'ms (5th to 95th percentile)', *['speed'] * compared,
               'GFLOP/s', 'of a matrix product', 'memory MB', *extra]
    rows, sources = [], []
    for entry, setting in zip(entries, settings):
        result = entry.result
        roof = find_roof(result.contender, products)
        ms = [1e3 * v for v in spread(result.seconds)]
        share = '-'
        if roof:
            share = f'{100 * result.flops / roof[0]:.0f} %'
            note = f'{roof[1]} {roof[0] / 1e9:.0f} GFLOP/s in ' \
                f'{result.contender.precision} on ' \
                f'{result.contender.threads} thread(s)'
            sources += [note] if note not in sources else []
        rows.append([
            result.contender.name, *(setting[k] for k in varying),
            f'{result.parameters / 1e6:.2f}',
            _significant(2e-9 * result.macs / result.contender.shape[0]),
            '{} ({} to {})'.format(*map(_significant, ms)),
            *[_speed(entry)] * compared,
            _significant(result.flops / 1e9), share,
            f'{result.memory / 1e6:.0f}', *(entry.extra.get(k, '')
                                            for k in extra)
        ])
    lines = [f'{", ".join(common)}; median of {len(result.seconds)} '
             'interleaved rounds']
    if compared:
        lines.append('speed: baseline / network, median and 5th to 95th '
                     'percentile of the ratios of the rounds')
    if sources:
        lines.append(f'matrix product: {"; ".join(sources)}')
    lines.append('memory: peak of the process above what the backend alone '
                 'takes')
    return '\n'.join(lines) + '\n\n' + markdown(columns, rows)


def _significant(value: float) -> str:
    """Three digits, or all before the point."""
    if not value:
        return '0'
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f'{value:.{digits}f}'


def _speed(entry: Entry) -> str:
    if entry.baseline is None:
        return ''
    if entry.baseline is entry.result:
        return '1'
    return '**{:.2f}** ({:.2f} to {:.2f})'.format(
        *speedup(entry.result, entry.baseline))


def layer_tables(result: Result, products: Sequence[Result]) -> str:
    """Where the time of a contender goes, by kind and by layer."""
    contender, layers = result.contender, result.layers
    roof = find_roof(contender, products)
    total = sum(row['seconds'] for row in layers)
    assigned = sum(row['macs'] for row in layers)
    keys = ('seconds', 'macs', 'parameters', 'bytes')
    kinds = defaultdict(lambda: dict.fromkeys((*keys, 'count'), 0))
    for row in layers:
        kind = kinds[re.sub(r' \d+->\d+', '', row['kind'])]
        for key in keys:
            kind[key] += row[key]
        kind['count'] += 1

    def cells(row: Dict[str, Any]) -> List[str]:
        seconds, macs = row['seconds'], row['macs']
        rate = 2 * macs / seconds if seconds else 0.
        return [
            _significant(1e3 * seconds), f'{100 * seconds / total:.1f} %',
            _significant(macs / 1e6) if macs else '-',
            _significant(rate / 1e9) if macs else '-',
            f'{100 * rate / roof[0]:.0f} %' if macs and roof else '-',
            f'{2 * macs / row["bytes"]:.1f}' if macs and row['bytes'] else '-',
            f'{row["parameters"]:,}' if row['parameters'] else '-',
            _significant(row['bytes'] / 1e6) if row['bytes'] else '-'
        ]

    columns = ['ms', 'of the time', 'MMACs', 'GFLOP/s', 'of a matrix product',
               'FLOP/byte', 'parameters', 'MB']
    by_time = sorted(kinds.items(), key=lambda k: -k[1]['seconds'])
    shown = [row for row in layers if row['seconds'] >= SHOWN * total]
    rest = [row for row in layers if row['seconds'] < SHOWN * total]
    if rest:
        shown.append(
            dict(name=f'{len(rest)} more, each below {SHOWN:.1%}', kind='', **{
                key: sum(row[key] for row in rest) for key in keys
            }))
    lines = [
        f'{contender.name}, {contender.backend} {contender.precision}, '
        f'{contender.threads} thread(s): {1e3 * total:.2f} ms with the '
        f'profiler on, {1e3 * result.median:.2f} ms without'
    ]
    if assigned < 0.99 * result.macs:
        lines.append(
            f'{100 * (1 - assigned / result.macs):.0f} % of the MACs are in '
            'layers that the profiler gives another name: shown as "-"')
    return '\n'.join(lines) + '\n\n' + markdown(
        ['kind', 'layers', *columns],
        [[name, str(kind['count']), *cells(kind)]
         for name, kind in by_time]) + '\n\n' + markdown(
             ['layer', 'kind', *columns],
             [[row['name'], row['kind'], *cells(row)] for row in sorted(
                 shown, key=lambda r: -r['seconds'])])


def machine(device: str) -> Dict[str, str]:
    """What the figures were measured on and with."""
    cpu = platform.processor()
    try:
        found = re.search(r'model name\s*:\s*(.+)',
                          Path('/proc/cpuinfo').read_text())
        cpu = found[1] if found else cpu
    except OSError:
        pass
    described = dict(cpu=cpu, system=platform.platform(),
                     python=platform.python_version())
    if device != 'cpu':
        import torch
        described['device'] = torch.cuda.get_device_name(device)
    for package in ('torch', 'onnxruntime', 'openvino', 'timm'):
        with suppress(PackageNotFoundError):
            described[package] = version(package)
    return described


def as_json(entries: Sequence[Entry],
            products: Sequence[Result]) -> List[Dict[str, Any]]:
    """All figures, the times of every round with them."""
    rows = []
    for entry in entries:
        result = entry.result
        roof = find_roof(result.contender, products)
        row = dict(name=result.contender.name, **asdict(result),
                   **_named(spread(result.seconds), 'median_seconds'),
                   flops_per_second=result.flops, published=entry.extra)
        if entry.baseline not in (None, result):
            row['baseline'] = asdict(entry.baseline.contender)
            row.update(_named(speedup(result, entry.baseline), 'speed'))
        if roof:
            row.update(matrix_product_flops_per_second=roof[0],
                       matrix_product_backend=roof[1],
                       share_of_matrix_product=result.flops / roof[0])
        rows.append(row)
    return rows


def _named(values: Tuple[float, float, float], name: str) -> Dict[str, float]:
    return {name: values[0], f'{name}_p5': values[1], f'{name}_p95': values[2]}


# ------------------------------------------------------------ pictures
def draw_latency(entries: Sequence[Entry], path: Path,
                 accuracies: Dict[str, float]) -> None:
    """Latency against AP, or against MACs where no AP is known.

    Args:
        entries (Sequence[Entry]): What was timed.
        path (Path): The picture.
        accuracies (dict[str, float]): AP by target.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 6), layout='constrained')
    axes = figure.subplots()
    shown = [e.result for e in entries
             if not accuracies or e.result.contender.target in accuracies]
    series = defaultdict(list)
    for result in shown:
        contender = result.contender
        series[f'{contender.backend} {contender.precision}, '
               f'{contender.threads} thread(s), batch {contender.shape[0]}'
               ].append(result)
    for label, results in series.items():
        xs = [1e3 * r.median for r in results]
        ys = [accuracies[r.contender.target] if accuracies else
              1e-9 * r.macs / r.contender.shape[0] for r in results]
        axes.scatter(xs, ys, label=label)
        for result, x, y in zip(results, xs, ys):
            axes.annotate(result.contender.name, (x, y), fontsize=8,
                          xytext=(4, 4), textcoords='offset points')
    axes.set_xlabel('latency, ms')
    axes.set_ylabel('AP' if accuracies else 'GMACs')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_roofline(results: Sequence[Result], products: Sequence[Result],
                  bandwidths: Dict[Tuple[int, str], float],
                  path: Path) -> None:
    """The rate of each layer against its arithmetic intensity.

    Args:
        results (Sequence[Result]): With layers.
        products (Sequence[Result]): Large matrix products, the flat roof.
        bandwidths (dict): Bytes per second of a copy in memory, by number of
            threads and device: the slope.
        path (Path): The picture.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 6), layout='constrained')
    axes = figure.subplots()
    roofs = {}
    for result in results:
        rows = [row for row in result.layers
                if row['macs'] and row['bytes'] and row['seconds']]
        total = sum(row['seconds'] for row in result.layers)
        contender = result.contender
        axes.scatter(
            [2 * row['macs'] / row['bytes'] for row in rows],
            [2e-9 * row['macs'] / row['seconds'] for row in rows],
            [10 + 1500 * row['seconds'] / total for row in rows],
            alpha=0.5,
            label=f'{contender.name}, {contender.backend} '
            f'{contender.precision}')
        roof = find_roof(contender, products)
        if roof:
            roofs[f'matrix product, {contender.precision}, '
                  f'{contender.threads} thread(s)'] = (
                      roof[0], bandwidths.get(
                          (contender.threads, contender.device)))
    for label, (rate, bandwidth) in roofs.items():
        knee = rate / bandwidth if bandwidth else 1.
        xs = [0.25, max(knee, 0.25), 512]
        axes.plot(xs, [1e-9 * min(rate, (bandwidth or math.inf) * x)
                       for x in xs], '--', label=label)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xlabel('FLOP per byte of inputs, weights and outputs')
    axes.set_ylabel('GFLOP/s (area: share of the time)')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, markerscale=0.4)
    figure.savefig(path, dpi=120)
