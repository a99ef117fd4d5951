# SPDX-License-Identifier: Apache-2.0
"""Results of a benchmark as Markdown tables and JSON."""
import json
import re
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from mmfasternet.analysis.tables import markdown
from mmfasternet.analysis.timing import speedup, speedup_text, spread
from mmfasternet.environment import machine

from .candidates import Candidate
from .race import Result

SHOWN = 0.001  # of the time of a network: smaller layers share a row


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


def summary(results: Sequence[Result]) -> str:
    """The caption and the table of a race.

    What is the same in all rows is in the caption.
    """
    settings = [_settings(result.candidate) for result in results]
    varying = [k for k in settings[0] if len({s[k] for s in settings}) > 1]
    compared = any(result.baseline for result in results)
    rows, sources = [], []
    for result, setting in zip(results, settings):
        candidate, roof = result.candidate, result.roof
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
            row['speed'] = _speed(result)
        row['GFLOP/s'] = _significant(result.flops / 1e9)
        row['of a matrix product'] = _share(result.flops, roof)
        row['memory MB'] = f'{result.memory / 1e6:.0f}'
        rows.append({**row, **result.published})
    common = [f'{k} {v}' for k, v in settings[0].items()
              if k not in varying and v != 'no']
    lines = [f'{", ".join(common)}; median of {len(results[0].seconds)} '
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


def _share(flops: float, roof: Optional[Tuple[float, str]]) -> str:
    return f'{100 * flops / roof[0]:.0f} %' if flops and roof else '-'


def _speed(result: Result) -> str:
    if result.baseline in (None, result):
        return '' if result.baseline is None else '1'
    text = speedup_text(result.seconds, result.baseline.seconds)
    return '**{}** {}'.format(*text.split(' ', 1))


def layer_tables(result: Result) -> str:
    """Where the time of a candidate goes, by kind and by layer."""
    candidate, layers = result.candidate, result.layers
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
            'of a matrix product': _share(rate, result.roof),
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


def write_json(path: Path, results: Sequence[Result], device: str) -> None:
    """All figures of several races, and what they depend on."""
    path.write_text(json.dumps(dict(
        machine=machine(device), results=[*map(as_json, results)]), indent=1))


def as_json(result: Result) -> Dict[str, Any]:
    """All figures of a candidate, the times of every round with them."""
    row = dict(
        vars(result), name=result.candidate.name,
        candidate=asdict(result.candidate), flops_per_second=result.flops,
        **_named('median_seconds', spread(result.seconds)))
    baseline, roof, _ = map(row.pop, ('baseline', 'roof', 'bandwidth'))
    if baseline not in (None, result):
        row.update(
            baseline=asdict(baseline.candidate),
            **_named('speed', speedup(result.seconds, baseline.seconds)))
    if roof:
        row.update(matrix_product_flops_per_second=roof[0],
                   matrix_product_backend=roof[1],
                   share_of_matrix_product=result.flops / roof[0])
    return row


def _named(name: str, values: Tuple[float, float, float]) -> Dict[str, float]:
    return {name: values[0], f'{name}_p5': values[1], f'{name}_p95': values[2]}
