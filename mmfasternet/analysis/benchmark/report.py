# SPDX-License-Identifier: Apache-2.0
"""Results of a benchmark as Markdown tables and JSON."""
import json
import math
import platform
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmfasternet.analysis.benchmark.candidates import Candidate
from mmfasternet.analysis.benchmark.race import Measured, Result
from mmfasternet.analysis.tables import markdown
from mmfasternet.analysis.timing import speedup, speedup_text, spread

SHOWN = 0.001  # of the time of a network: smaller layers share a row


def find_roof(candidate: Candidate, products: Sequence[Result]
              ) -> Optional[Tuple[float, str]]:
    """FLOP/s of the fastest large matrix product, and its engine, in the
    candidate's precision, with its threads, where it runs; or None."""

    def conditions(c: Candidate) -> tuple:
        return c.precision, c.threads, c.device

    return max(((p.flops, p.candidate.backend) for p in products
                if conditions(p.candidate) == conditions(candidate)),
               default=None)


def _settings(candidate: Candidate) -> Dict[str, str]:
    return {
        'backend': candidate.backend,
        'precision': candidate.precision,
        'threads': str(candidate.threads),
        'batch': str(candidate.shape[0]),
        'input': 'x'.join(map(str, candidate.shape[1:])),
        'device': candidate.device,
        'channels last': 'yes' if candidate.channels_last else 'no',
        'compile': 'yes' if candidate.compile else 'no',
    }


def summary(measured: Measured) -> str:
    """The caption and the table of a race.

    What is the same in all rows is in the caption.
    """
    entries = measured.entries
    settings = [_settings(result.candidate) for result, *_ in entries]
    varying = [k for k in settings[0] if len({s[k] for s in settings}) > 1]
    compared = any(baseline for _, baseline, _ in entries)
    rows, sources = [], []
    for (result, baseline, published), setting in zip(entries, settings):
        candidate = result.candidate
        roof = find_roof(candidate, measured.products)
        if roof:
            sources.append(
                f'{roof[1]} {roof[0] / 1e9:.0f} GFLOP/s in '
                f'{candidate.precision} on {candidate.threads} thread(s)')
        row = {'network': candidate.name}
        row.update((k, setting[k]) for k in varying)
        row['parameters M'] = f'{result.parameters / 1e6:.2f}'
        row['GFLOPs (2 x GMACs)'] = _significant(
            2e-9 * result.macs / candidate.shape[0])
        row['ms (5th to 95th percentile)'] = '{} ({} to {})'.format(
            *(_significant(1e3 * v) for v in spread(result.seconds)))
        if compared:
            row['speed'] = _speed(result, baseline)
        row['GFLOP/s'] = _significant(result.flops / 1e9)
        row['of a matrix product'] = \
            f'{100 * result.flops / roof[0]:.0f} %' if roof else '-'
        row['memory MB'] = f'{result.memory / 1e6:.0f}'
        rows.append({**row, **published})
    common = [f'{k} {v}' for k, v in settings[0].items()
              if k not in varying and v != 'no']
    lines = [f'{", ".join(common)}; median of {len(entries[0][0].seconds)} '
             'interleaved rounds']
    if compared:
        lines.append('speed: baseline / network, median and 5th to 95th '
                     'percentile of the ratios of the rounds')
    if sources:
        lines.append(f'matrix product: {"; ".join(dict.fromkeys(sources))}')
    lines.append('memory: peak of the process above what the backend alone '
                 'takes')
    return '\n'.join(lines) + '\n\n' + markdown(rows)


def _significant(value: float) -> str:
    """Three digits, or all before the point."""
    exponent = int(f'{value:.2e}'.partition('e')[2])
    return f'{value:.{max(0, 2 - exponent)}f}' if value else '0'


def _speed(result: Result, baseline: Optional[Result]) -> str:
    if baseline is None or baseline is result:
        return '' if baseline is None else '1'
    text = speedup_text(result.seconds, baseline.seconds)
    return '**{}** {}'.format(*text.split(' ', 1))


def layer_tables(result: Result, products: Sequence[Result]) -> str:
    """Where the time of a candidate goes, by kind and by layer."""
    candidate, layers = result.candidate, result.layers
    roof = find_roof(candidate, products)
    total = _sum(layers, 'seconds')

    def cells(rows: Sequence[Dict[str, Any]]) -> Dict[str, str]:
        seconds, macs, parameters, size = (
            _sum(rows, key)
            for key in ('seconds', 'macs', 'parameters', 'bytes'))
        rate = 2 * macs / seconds if seconds else 0.
        return {
            'ms': _significant(1e3 * seconds),
            'of the time': f'{100 * seconds / total:.1f} %',
            'MMACs': _significant(macs / 1e6) if macs else '-',
            'GFLOP/s': _significant(rate / 1e9) if macs else '-',
            'of a matrix product':
            f'{100 * rate / roof[0]:.0f} %' if macs and roof else '-',
            'FLOP/byte': f'{2 * macs / size:.1f}' if macs and size else '-',
            'parameters': f'{parameters:,}' if parameters else '-',
            'MB': _significant(size / 1e6) if size else '-'
        }

    kinds = defaultdict(list)
    for row in layers:
        kinds[re.sub(r' \d+->\d+', '', row['kind'])].append(row)
    by_kind = [{'kind': kind, 'layers': len(group), **cells(group)}
               for kind, group in sorted(
                   kinds.items(), key=lambda item: -_sum(item[1], 'seconds'))]
    by_time = sorted(layers, key=lambda row: -row['seconds'])
    rest = [row for row in by_time if row['seconds'] < SHOWN * total]
    by_layer = [{'layer': row['name'], 'kind': row['kind'], **cells([row])}
                for row in by_time[:len(by_time) - len(rest)]]
    if rest:
        by_layer.append({'layer': f'{len(rest)} more, each below {SHOWN:.1%}',
                         **cells(rest)})
    text = (f'{candidate.name}, {candidate.backend} {candidate.precision}, '
            f'{candidate.threads} thread(s): {1e3 * total:.2f} ms with the '
            f'profiler on, {1e3 * result.median:.2f} ms without')
    assigned = _sum(layers, 'macs')
    if assigned < 0.99 * result.macs:
        text += (f'\n{100 * (1 - assigned / result.macs):.0f} % of the MACs '
                 'are in layers that the profiler gives another name: shown '
                 'as "-"')
    return '\n\n'.join([text, markdown(by_kind), markdown(by_layer)])


def _sum(rows: Sequence[Dict[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows)


def machine(device: str) -> Dict[str, str]:
    """What the figures depend on."""
    cpu = platform.processor()
    with suppress(OSError):
        found = re.search(r'model name\s*:\s*(.+)',
                          Path('/proc/cpuinfo').read_text())
        cpu = found[1] if found else cpu
    described = dict(cpu=cpu, system=platform.platform(),
                     python=platform.python_version())
    if device != 'cpu':
        import torch
        described['device'] = torch.cuda.get_device_name(device)
    for package in ('torch', 'onnxruntime', 'openvino', 'timm'):
        with suppress(PackageNotFoundError):
            described[package] = version(package)
    return described


def write_json(path: Path, races: Sequence[Measured], device: str) -> None:
    """All figures of several races, and what they depend on."""
    rows = [row for race in races for row in as_json(race)]
    path.write_text(json.dumps(
        dict(machine=machine(device), results=rows), indent=1))


def as_json(measured: Measured) -> List[Dict[str, Any]]:
    """All figures, the times of every round with them."""
    rows = []
    for result, baseline, texts in measured.entries:
        roof = find_roof(result.candidate, measured.products)
        row = dict(name=result.candidate.name, **asdict(result),
                   **_named('median_seconds', spread(result.seconds)),
                   flops_per_second=result.flops, published=texts)
        if baseline not in (None, result):
            row['baseline'] = asdict(baseline.candidate)
            row.update(
                _named('speed', speedup(result.seconds, baseline.seconds)))
        if roof:
            row.update(matrix_product_flops_per_second=roof[0],
                       matrix_product_backend=roof[1],
                       share_of_matrix_product=result.flops / roof[0])
        rows.append(row)
    return rows


def _named(name: str, values: Tuple[float, float, float]) -> Dict[str, float]:
    return {name: values[0], f'{name}_p5': values[1], f'{name}_p95': values[2]}


def latency_points(results: Sequence[Result], accuracies: Dict[str, float]
                   ) -> Dict[str, List[Tuple[str, float, float]]]:
    """For ``draw_latency``: ms over AP by target, or over GMACs of an image
    where no AP is known."""
    points = defaultdict(list)
    for result in results:
        c = result.candidate
        if not accuracies or c.target in accuracies:
            points[f'{c.backend} {c.precision}, {c.threads} thread(s), batch '
                   f'{c.shape[0]}'].append(
                       (c.name, 1e3 * result.median, accuracies[c.target]
                        if accuracies else 1e-9 * result.macs / c.shape[0]))
    return points


def roofline(measured: Measured) -> Tuple[dict, dict]:
    """For ``draw_roofline``: what multiplies by network, and the roofs."""
    layers, roofs = {}, {}
    for result, *_ in measured.entries:
        c = result.candidate
        total = _sum(result.layers, 'seconds')
        layers[f'{c.name}, {c.backend} {c.precision}'] = [
            (2 * row['macs'] / row['bytes'],
             2e-9 * row['macs'] / row['seconds'], row['seconds'] / total)
            for row in result.layers
            if row['macs'] and row['bytes'] and row['seconds']
        ]
        roof = find_roof(c, measured.products)
        if roof:
            bandwidth = measured.bandwidths.get((c.threads, c.device),
                                                math.inf)
            roofs[f'matrix product, {c.precision}, {c.threads} thread(s)'] = (
                1e-9 * roof[0], 1e-9 * bandwidth)
    return layers, roofs
