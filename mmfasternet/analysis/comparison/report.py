# SPDX-License-Identifier: Apache-2.0
"""What a comparison found: tables, Markdown and one HTML file."""
import base64
import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from mmfasternet.analysis.benchmark.race import Measured, Result
from mmfasternet.analysis.comparison.runs import Run
from mmfasternet.analysis.tables import markdown
from mmfasternet.analysis.timing import speedup_text
from mmfasternet.evaluation.average_precision import (
    Evaluation,
    bootstrap,
    interval,
)
from mmfasternet.evaluation.detection_quality import confusion_matrix
from mmfasternet.evaluation.errors import ERRORS, error_split
from mmfasternet.visualization import comparison as pictures
from mmfasternet.visualization.evaluation import IOU, plot_confusion

Evaluations = Dict[str, List[Evaluation]]
# of a backend and precision the result of each detector, and of the baseline
Latencies = Dict[str, Dict[str, Tuple[Result, Result]]]


def accuracy(evaluations: Evaluations, samples: int) -> str:
    """Metrics of each detector (by its seeds), and the differences from the
    first one with bootstrap intervals, as Markdown."""
    values = {name: [run.metrics() for run in runs]
              for name, runs in evaluations.items()}
    first, *others = values
    rows = []
    for name, runs in values.items():
        rows.append({'detector': name, 'seeds': len(runs)})
        for metric in runs[0]:  # NaN where there is nothing to find
            numbers = np.array([run[metric] for run in runs])
            rows[-1][metric] = f'{numbers.mean():.3f}'
            if len(numbers) > 1:
                rows[-1][metric] += f' ± {numbers.std(ddof=1):.3f}'
    per_seed = [
        {'detector': name, **{f'run {i}': f'{run["AP"]:.3f}'
                              for i, run in enumerate(runs, 1)}}
        for name, runs in values.items()
    ]
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


def _differences(evaluations: Evaluations,
                 values: Dict[str, List[Dict[str, float]]],
                 samples: int) -> List[Dict[str, str]]:
    """Rows: each detector but the first, minus the first."""
    draws = dict(zip(values, bootstrap(list(evaluations.values()), samples)))
    first, *others = values
    rows = []
    for name in others:
        rows.append({'detector': name})
        for metric in values[first][0]:
            mean, base = (np.mean([run[metric] for run in values[n]])
                          for n in (name, first))
            low, high = interval(draws[name][metric] - draws[first][metric])
            rows[-1][metric] = \
                f'{mean - base:+.3f} ({low:+.3f} to {high:+.3f})'
    return rows


def latencies(measured: Measured, names: Dict[str, str]) -> Latencies:
    """Results of a benchmark by backend and precision, then by detector."""
    found: Latencies = {}
    for result, baseline, _ in measured.entries:
        c = result.candidate
        found.setdefault(f'{c.backend} {c.precision}', {})[
            names[c.target]] = result, baseline
    return found


def cost(runs: Sequence[Run], ways: Latencies,
         arguments: Sequence[str]) -> str:
    """Size and speed of each detector, trained with ``arguments``, as
    Markdown; empty if nothing is known."""
    logs: Dict[str, list] = {}
    for run in runs:
        logs.setdefault(run.name, []).extend(
            row for row in run.log() if row['images/s'])
    if not (ways or any(logs.values())):
        return ''
    rows = []
    for name, log in logs.items():
        row = {'detector': name, 'parameters M': '', 'GMACs': ''}
        for way, results in ways.items():
            result, baseline = results.get(name, (None, None))
            row.update({f'ms, {way}': '', f'speed, {way}': ''})
            if result:
                row['parameters M'] = f'{result.parameters / 1e6:.2f}'
                row['GMACs'] = f'{result.macs / 1e9:.2f}'
                row[f'ms, {way}'] = f'{1e3 * result.median:.1f}'
            if result is not baseline:
                row[f'speed, {way}'] = speedup_text(
                    result.seconds, baseline.seconds)
        speeds = [float(line['images/s']) for line in log]
        memory = [int(line['memory']) for line in log if line.get('memory')]
        row['training images/s'] = f'{np.median(speeds):.1f}' if speeds else ''
        row['memory MiB'] = max(memory, default='')
        rows.append(row)
    with_ = f' (`{" ".join(arguments)}`)' if arguments else ''
    text = (f'Training images/s are those of the median epoch{with_}, memory '
            'is the peak of the process that trains')
    if ways:
        candidate = next(iter(next(iter(ways.values())).values()))[0].candidate
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


def figures(evaluations: Evaluations, runs: Sequence[Run], ways: Latencies,
            images: Optional[Path]) -> List[Tuple[str, str, Figure]]:
    """All pictures: file name, caption, figure."""
    score = pictures.SCORE
    logs: Dict[str, list] = {}
    for run in runs:
        logs.setdefault(run.name, []).append(run.log())
    aps = {name: [run.metrics()['AP'] for run in seeds]
           for name, seeds in evaluations.items()}
    milliseconds = {
        way: {name: 1e3 * result.median
              for name, (result, _) in results.items()}
        for way, results in ways.items()
    }
    classes = next(iter(evaluations.values()))[0].classes
    results = {name: [run.results(images) for run in seeds]
               for name, seeds in evaluations.items()}
    found = [('learning', 'Learning curves', pictures.plot_learning(logs)),
             ('pareto', 'AP against latency; the bars are the range of the '
              'seeds', pictures.plot_pareto(aps, milliseconds)),
             ('pr_curves', 'Precision over recall at IoU 0.5, a line for each '
              'seed', pictures.plot_curves(results, classes))]
    for i, (name, seeds) in enumerate(results.items()):
        matrix = confusion_matrix(seeds[0], len(classes), score, IOU)
        found.append(
            (f'confusion_{i + 1}', f'Confusion matrix of {name}, first seed',
             plot_confusion(matrix, classes,
                            f'IoU {IOU}, score at least {score}')))
    if len(evaluations) > 1 and images is not None:
        pair = {name: results[name][0] for name in list(results)[:2]}
        found.append(
            ('disagreements', 'Where the first two disagree most: truth, then '
             f'what each detects with a score of at least {score}, first seed',
             pictures.plot_disagreements(pair, classes, 6)))
    return [(name, text, figure) for name, text, figure in found if figure]


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
