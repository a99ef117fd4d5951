# SPDX-License-Identifier: Apache-2.0
"""What a comparison found: tables, pictures, Markdown and one HTML file."""
import base64
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.figure import Figure  # without pyplot: no display, no state

from mmfasternet.analysis.benchmark.report import markdown
from mmfasternet.analysis.comparison.runs import Run
from mmfasternet.evaluation.detection_quality import (
    ImageResult,
    confusion_matrix,
    image_score,
    precision_curves,
)
from mmfasternet.evaluation.statistics import (
    ERRORS,
    Evaluation,
    bootstrap,
    error_split,
    interval,
)
from mmfasternet.visualization.detections import (
    IOU,
    draw_boxes,
    load_picture,
    plot_confusion,
    show_picture,
)

SCORE = .3  # least one of a box that counts, as EvaluationFiguresHook's

Evaluations = Dict[str, List[Evaluation]]


def accuracy(evaluations: Evaluations, samples: int) -> str:
    """Metrics of each detector, and the differences from the first one.

    Args:
        evaluations (dict[str, list[Evaluation]]): Of each detector those of
            its seeds.
        samples (int): Of the bootstrap.

    Returns:
        str: Markdown.
    """
    values = {name: [run.metrics() for run in runs]
              for name, runs in evaluations.items()}
    first, *others = values
    metrics = list(values[first][0])
    rows = []
    for name, runs in values.items():
        cells = []
        for metric in metrics:  # NaN where there is nothing to find
            numbers = np.array([run[metric] for run in runs])
            spread = f' ± {numbers.std(ddof=1):.3f}' * (len(numbers) > 1)
            cells.append(f'{numbers.mean():.3f}{spread}')
        rows.append([name, str(len(runs)), *cells])
    text = ('Mean over the seeds ± their standard deviation.\n\n' +
            markdown(['detector', 'seeds', *metrics], rows))
    per_seed = [[name, *(f'{run["AP"]:.3f}' for run in runs)]
                for name, runs in values.items()]
    longest = max(map(len, per_seed))
    text += '\n\nAP of each seed:\n\n' + markdown(
        ['detector', *(f'run {i + 1}' for i in range(longest - 1))],
        [row + [''] * (longest - len(row)) for row in per_seed])
    if not others:
        return text
    draws = dict(zip(values, bootstrap(list(evaluations.values()), samples)))
    rows = []
    for name in others:
        cells = []
        for metric in metrics:
            means = [np.mean([run[metric] for run in values[n]])
                     for n in (name, first)]
            low, high = interval(draws[name][metric] - draws[first][metric])
            cells.append(f'{means[0] - means[1]:+.3f} ({low:+.3f} to '
                         f'{high:+.3f})')
        rows.append([name, *cells])
    return text + (
        f'\n\nDifference from {first}, with the 95 % interval of a paired '
        f'bootstrap over the {len(evaluations[first][0].image_ids)} images '
        f'({samples} samples; each takes the mean over the seeds, whose own '
        'spread is in the first table):\n\n' +
        markdown(['detector', *metrics], rows))


def by_way(benchmark: List[Dict[str, Any]]
           ) -> Dict[str, Dict[str, Dict[str, Any]]]:
    """Rows of a benchmark by backend and precision, then by detector."""
    ways: Dict[str, Dict[str, Dict[str, Any]]] = {}
    for row in benchmark:
        way = f'{row["backend"]} {row["precision"]}'
        ways.setdefault(way, {})[row['name']] = row
    return ways


def cost(runs: Sequence[Run], benchmark: List[Dict[str, Any]],
         arguments: Sequence[str]) -> str:
    """Size and speed of each detector.

    Args:
        runs (Sequence[Run]): All of them.
        benchmark (list[dict]): Rows of benchmark.json, may be empty.
        arguments (Sequence[str]): With which it was trained, to be named.

    Returns:
        str: Markdown, empty if nothing is known.
    """
    logs = {name: [row for run in runs if run.name == name
                   for row in run.log() if row['images/s']]
            for name in dict.fromkeys(run.name for run in runs)}
    ways = by_way(benchmark)
    rows = []
    for name, log in logs.items():
        found = [rows_of.get(name) for rows_of in ways.values()]
        cells = ['', '']
        if found and found[0]:
            cells = [f'{found[0]["parameters"] / 1e6:.2f}',
                     f'{found[0]["macs"] / 1e9:.2f}']
        for row in found:
            cells.append('' if row is None else f'{row["ms"]:.1f}')
            cells.append('' if row is None or not row.get('speed') else
                         f'{row["speed"]:.2f} ({row["speed_p5"]:.2f} to '
                         f'{row["speed_p95"]:.2f})')
        memory = [int(row['memory']) for row in log if row.get('memory')]
        speeds = [float(row['images/s']) for row in log]
        cells.append(f'{np.median(speeds):.1f}' if speeds else '')
        cells.append(f'{max(memory)}' if memory else '')
        rows.append([name, *cells])
    if not (benchmark or any(logs.values())):
        return ''
    columns = ['detector', 'parameters M', 'GMACs']
    for way in ways:
        columns += [f'ms, {way}', 'speed']
    with_ = f' (`{" ".join(arguments)}`)' if arguments else ''
    text = (f'Training images/s are those of the median epoch{with_}, memory '
            'is the peak of the process that trains')
    if benchmark:
        row = benchmark[0]
        text = (f'The network without box decoding and NMS, batch '
                f'{row["batch"]}, {row["input"]}, {row["threads"]} thread; '
                'speed: time of the first / its own, median and 5th to 95th '
                f'percentile of interleaved rounds. {text}')
    columns += ['training images/s', 'memory MiB']
    return f'{text}.\n\n{markdown(columns, rows)}'


def errors(evaluations: Evaluations) -> str:
    """What each kind of error costs, as Markdown."""
    rows = []
    for name, runs in evaluations.items():
        splits = [error_split(run) for run in runs]
        rows.append([name, *(f'{np.mean([s[kind] for s in splits]):.3f}'
                             for kind in ERRORS)])
    return (
        'What AP50 would gain if all errors of a kind were mended (TIDE, '
        'Bolya et al., ECCV 2020): the class is wrong, the place, both, a '
        'second detection of one object, of nothing, none at all. Mean over '
        f'the seeds.\n\n{markdown(["detector", *ERRORS], rows)}')


# ------------------------------------------------------------------ pictures
def plot_learning(runs: Sequence[Run]) -> Optional[Figure]:
    """AP and loss by epoch, a line for each run."""
    figure = Figure(figsize=(11, 4), dpi=100, layout='constrained')
    axes = figure.subplots(1, 2)
    names = list(dict.fromkeys(run.name for run in runs))
    drawn = set()  # that have their place in the legend
    for run in runs:
        rows = run.log()
        for axis, column in zip(axes, ('coco/bbox_mAP', 'loss')):
            points = [(int(row['epoch']), float(row[column])) for row in rows
                      if row.get(column) and row['epoch']]
            if points:
                new = (run.name, column) not in drawn
                axis.plot(
                    *zip(*points),
                    color=f'C{names.index(run.name) % 10}',
                    alpha=.8,
                    label=run.name if new else None)
                drawn.add((run.name, column))
    for axis, title in zip(axes, ('AP on val', 'training loss')):
        axis.set(title=title, xlabel='epoch')
        axis.grid(alpha=.3)
        if axis.lines:
            axis.legend(fontsize='small')
    axes[1].set_yscale('log')
    return figure if drawn else None


def plot_pareto(evaluations: Evaluations,
                benchmark: List[Dict[str, Any]]) -> Optional[Figure]:
    """AP against latency: the mean and the range of the seeds."""
    ways = by_way(benchmark)
    if not ways:
        return None
    figure = Figure(
        figsize=(5.5 * len(ways), 4.5), dpi=100, layout='constrained')
    values = {name: np.array([run.metrics()['AP'] for run in runs])
              for name, runs in evaluations.items()}
    for axis, (way, rows) in zip(
            figure.subplots(1, len(ways), squeeze=False)[0], ways.items()):
        for i, (name, aps) in enumerate(values.items()):
            if name not in rows:
                continue
            middle = aps.mean()
            axis.errorbar(
                rows[name]['ms'],
                middle, [[middle - aps.min()], [aps.max() - middle]],
                fmt='o',
                capsize=4,
                color=f'C{i % 10}',
                label=name)
        axis.set(title=way, xlabel='ms per image', ylabel='AP')
        axis.set_xlim(0, 1.08 * axis.get_xlim()[1])
        axis.grid(alpha=.3)
        axis.legend(fontsize='small')
    return figure


def to_results(evaluation: Evaluation, folder: Optional[Path]
               ) -> List[ImageResult]:
    """The images of an evaluation, in the order of its ``image_ids``."""
    truth = evaluation.truth
    label = {id_: i for i, id_ in enumerate(truth.getCatIds())}
    results = []
    for image_id, (detections, boxes) in evaluation.by_image().items():
        name = truth.imgs[image_id]['file_name']
        results.append(
            ImageResult(
                path=str(folder / name) if folder else name,
                boxes=_xyxy(detections),
                labels=np.array([label[d['category_id']] for d in detections],
                                int),
                scores=np.array([d['score'] for d in detections]),
                true_boxes=_xyxy(boxes),
                true_labels=np.array([label[b['category_id']] for b in boxes],
                                     int),
                ignored=np.array([bool(b.get('iscrowd', 0)) for b in boxes],
                                 bool)))
    return results


def _xyxy(items: List[dict]) -> np.ndarray:
    boxes = np.array([item['bbox'] for item in items], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def plot_curves(evaluations: Evaluations) -> Figure:
    """Precision over recall at IoU 0.5, a panel for each class."""
    classes = next(iter(evaluations.values()))[0].classes
    columns = min(len(classes), 4)
    lines = -(-len(classes) // columns)
    figure = Figure(
        figsize=(4 * columns, 3.6 * lines), dpi=100, layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for i, (name, runs) in enumerate(evaluations.items()):
        for j, run in enumerate(runs):
            curves = precision_curves(to_results(run, None), len(classes))
            for axis, curve in zip(axes, curves.T):
                if curve[0] >= 0:
                    axis.plot(
                        np.linspace(0, 1, len(curve)),
                        curve,
                        color=f'C{i % 10}',
                        alpha=.7,
                        label=name if j == 0 else None)
    for axis, name in zip(axes, classes):
        axis.set(xlabel='recall', ylabel='precision', ylim=(0, 1.02))
        axis.set_title(name, parse_math=False)
        axis.grid(alpha=.3)
    axes[0].legend(fontsize='small')
    return figure


def plot_disagreements(evaluations: Evaluations, folder: Path,
                       count: int) -> Figure:
    """The images whose F1 differs most between the first two detectors.

    Args:
        evaluations (dict): At least two; the first seed of each is drawn.
        folder (Path): Of the images.
        count (int): How many.

    Returns:
        Figure: Truth, then each of the two, a row for each image.
    """
    names = list(evaluations)[:2]
    pairs = list(zip(*(to_results(evaluations[n][0], folder) for n in names)))
    scores = [[image_score(r, SCORE, IOU)[0] for r in pair] for pair in pairs]
    order = sorted(
        range(len(pairs)), key=lambda i: -abs(scores[i][0] - scores[i][1]))
    chosen = order[:count]
    figure = Figure(
        figsize=(12, 3.4 * len(chosen)), dpi=80, layout='constrained')
    classes = next(iter(evaluations.values()))[0].classes
    for axes, i in zip(
            figure.subplots(len(chosen), 3, squeeze=False), chosen):
        picture = load_picture(pairs[i][0])
        titles = [f'{Path(pairs[i][0].path).name}: truth', *(
            f'{n}: F1 {s:.2f}' for n, s in zip(names, scores[i]))]
        for axis, title in zip(axes, titles):
            show_picture(axis, picture, title)
        draw_boxes(axes[0], pairs[i][0], classes, None)
        for axis, result in zip(axes[1:], pairs[i]):
            draw_boxes(axis, result, classes, SCORE)
    return figure


def figures(evaluations: Evaluations, runs: Sequence[Run],
            benchmark: List[Dict[str, Any]], images: Optional[Path]
            ) -> List[Tuple[str, str, Figure]]:
    """All pictures: file name, caption, figure."""
    found = [('learning', 'Learning curves', plot_learning(runs)),
             ('pareto', 'AP against latency; the bars are the range of the '
              'seeds', plot_pareto(evaluations, benchmark)),
             ('pr_curves', 'Precision over recall at IoU 0.5, a line for each '
              'seed', plot_curves(evaluations))]
    for i, (name, (run, *_)) in enumerate(evaluations.items()):
        matrix = confusion_matrix(
            to_results(run, None), len(run.classes), SCORE, IOU)
        found.append(
            (f'confusion_{i + 1}', f'Confusion matrix of {name}, first seed',
             plot_confusion(matrix, run.classes,
                            f'IoU {IOU}, score at least {SCORE}')))
    if len(evaluations) > 1 and images is not None:
        found.append(
            ('disagreements', 'Where the first two disagree most: truth, then '
             f'what each detects with a score of at least {SCORE}, first seed',
             plot_disagreements(evaluations, images, 6)))
    return [(name, text, figure) for name, text, figure in found if figure]


def write(folder: Path, text: str,
          pictures: Sequence[Tuple[str, str, Figure]]) -> Path:
    """Write report.md with its pictures, and report.html with all in it.

    Args:
        folder (Path): Where to.
        text (str): Markdown.
        pictures (Sequence[tuple]): Of :func:`figures`.

    Returns:
        Path: Of report.html.
    """
    for name, caption, figure in pictures:
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
