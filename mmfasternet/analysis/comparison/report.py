# SPDX-License-Identifier: Apache-2.0
"""What a comparison found: tables, Markdown and one HTML file."""
import base64
import re
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from mmfasternet.analysis.benchmark.race import Result
from mmfasternet.analysis.tables import markdown
from mmfasternet.analysis.timing import speedup_text
from mmfasternet.evaluation.average_precision import (
    Evaluation,
    bootstrap,
    interval,
)
from mmfasternet.evaluation.detection_errors import ERRORS, error_split

Evaluations = Dict[str, List[Evaluation]]
# by detector and metric, of each seed
Values = Dict[str, Dict[str, np.ndarray]]
# rows of results.csv by detector, for each of its seeds
Logs = Dict[str, List[List[Dict[str, str]]]]
Latencies = Dict[str, Dict[str, Result]]  # by way to run, then by detector


def accuracy(evaluations: Evaluations, samples: int) -> str:
    """Metrics of each detector (by its seeds), and the differences from the
    first one with bootstrap intervals, as Markdown."""
    values: Values = {}
    for name, runs in evaluations.items():
        found = [run.metrics() for run in runs]
        values[name] = {metric: np.array([one[metric] for one in found])
                        for metric in found[0]}
    first, *others = values
    rows = [{'detector': name, 'seeds': len(own['AP']), **{
        metric: f'{v.mean():.3f}' + (  # NaN where there is nothing to find
            f' ± {v.std(ddof=1):.3f}' if len(v) > 1 else '')
        for metric, v in own.items()}} for name, own in values.items()]
    per_seed = [{'detector': name, **{
        f'run {i}': f'{ap:.3f}' for i, ap in enumerate(own['AP'], 1)}}
        for name, own in values.items()]
    parts = ['Mean over the seeds ± their standard deviation.',
             markdown(rows), 'AP of each seed:', markdown(per_seed)]
    if others:
        parts += [
            f'Difference from {first}, with the 95 % interval of a paired '
            f'bootstrap over the {len(evaluations[first][0].image_ids)} images'
            f' ({samples} samples; each takes the mean over the seeds, whose '
            'own spread is in the first table):',
            markdown(_differences(evaluations, values, samples))
        ]
    return '\n\n'.join(parts)


def _differences(evaluations: Evaluations, values: Values,
                 samples: int) -> List[Dict[str, str]]:
    """Rows: each detector but the first, minus the first."""
    draws = dict(zip(values, bootstrap(list(evaluations.values()), samples)))
    first, *others = values
    rows = []
    for name in others:
        rows.append({'detector': name})
        for metric, base in values[first].items():
            difference = values[name][metric].mean() - base.mean()
            low, high = interval(draws[name][metric] - draws[first][metric])
            rows[-1][metric] = f'{difference:+.3f} ({low:+.3f} to {high:+.3f})'
    return rows


def cost(logs: Logs, ways: Latencies, arguments: Sequence[str]) -> str:
    """Size and speed of each detector, trained with ``arguments``, as
    Markdown; empty if nothing is known."""
    epochs = {name: [row for log in seeds for row in log if row['images/s']]
              for name, seeds in logs.items()}
    if not (ways or any(epochs.values())):
        return ''
    rows = []
    for name, log in epochs.items():
        row = {'detector': name, 'parameters M': '', 'GMACs': ''}
        for way, results in ways.items():
            result = results.get(name)
            row.update({f'ms, {way}': '', f'speed, {way}': ''})
            if result:
                row['parameters M'] = f'{result.parameters / 1e6:.2f}'
                row['GMACs'] = f'{result.macs / 1e9:.2f}'
                row[f'ms, {way}'] = f'{1e3 * result.median:.1f}'
                if result is not result.baseline:
                    row[f'speed, {way}'] = speedup_text(
                        result.seconds, result.baseline.seconds)
        speeds = [float(line['images/s']) for line in log]
        memory = [int(line['memory']) for line in log if line.get('memory')]
        row['training images/s'] = f'{np.median(speeds):.1f}' if speeds else ''
        row['memory MiB'] = max(memory, default='')
        rows.append(row)
    with_ = f' (`{" ".join(arguments)}`)' if arguments else ''
    text = (f'Training images/s are those of the median epoch{with_}, memory '
            'is the peak of the process that trains')
    if ways:
        candidate = next(iter(next(iter(ways.values())).values())).candidate
        batch, *size = candidate.shape
        text = (f'The network without box decoding and NMS, batch {batch}, '
                f'{"x".join(map(str, size))}, {candidate.threads} thread; '
                'speed: time of the first / its own, median and 5th to 95th '
                f'percentile of interleaved rounds. {text}')
    return f'{text}.\n\n{markdown(rows)}'


def errors(evaluations: Evaluations) -> str:
    """What each kind of error costs, as Markdown."""
    rows = []
    for name, runs in evaluations.items():
        splits = [error_split(run) for run in runs]
        rows.append({'detector': name, **{
            kind: f'{np.mean([split[kind] for split in splits]):.3f}'
            for kind in ERRORS}})
    return (
        'What AP50 would gain if all errors of a kind were fixed (TIDE, '
        'Bolya et al., ECCV 2020): the class is wrong, the place, both, a '
        'second detection of one object, of nothing, none at all. Mean over '
        f'the seeds.\n\n{markdown(rows)}')


def write(folder: Path, text: str,
          drawn: Sequence[Tuple[str, str, Figure]]) -> Path:
    """Write report.md with its pictures, and report.html with all in it."""
    for name, caption, figure in drawn:
        figure.savefig(folder / f'{name}.png')
        text += f'\n\n{caption}:\n\n![{caption}]({name}.png)'
    (folder / 'report.md').write_text(f'{text}\n', encoding='utf-8')

    def embed(match: re.Match) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = MarkdownIt('commonmark', dict(html=False)).enable('table').render(
        text)
    title = text.partition('\n')[0].lstrip('# ')
    page = folder / 'report.html'
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title>{title}</title>'
        f'<style>{_STYLE}</style>\n' +
        re.sub(r'src="([^":/]+\.png)"', embed, body),
        encoding='utf-8')
    return page


_STYLE = (
    'body{font:16px/1.5 sans-serif;max-width:1100px;margin:2em auto;'
    'padding:0 1em}table{border-collapse:collapse;display:block;'
    'overflow-x:auto}td,th{border:1px solid #ccc;padding:.3em .6em;'
    'text-align:right;white-space:nowrap}td:first-child,th:first-child'
    '{text-align:left}img{max-width:100%}')
