# SPDX-License-Identifier: Apache-2.0
"""Pictures of a comparison of detectors, each with its seeds."""
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no state

from mmfasternet.evaluation.average_precision import Evaluation
from mmfasternet.evaluation.detection_quality import (
    ImageResult,
    confusion_matrix,
    image_score,
    precision_curves,
)

from .evaluation import IOU, plot_beside_truth, plot_confusion
from .fonts import use_fonts_for

SCORE = .3  # least one of a box that counts, as EvaluationFiguresHook's


def plot_all(evaluations: Dict[str, List[Evaluation]],
             logs: Dict[str, List[List[Dict[str, str]]]],
             ways: Dict[str, Dict[str, Any]],
             images: Optional[Path]) -> List[Tuple[str, str, Figure]]:
    """All pictures: file name, caption, figure.

    Args:
        evaluations (dict[str, list[Evaluation]]): By detector, of each seed.
        logs (dict[str, list]): The same of the rows of ``results.csv``.
        ways (dict[str, dict[str, Result]]): What a benchmark found, by
            engine and precision, then by detector.
        images (Path, optional): Folder of the validation images.
    """
    aps = {name: [run.metrics()['AP'] for run in seeds]
           for name, seeds in evaluations.items()}
    milliseconds = {
        way: {name: 1e3 * result.median for name, result in results.items()}
        for way, results in ways.items()
    }
    classes = next(iter(evaluations.values()))[0].classes
    results = {name: [run.results(images) for run in seeds]
               for name, seeds in evaluations.items()}
    found = [('learning', 'Learning curves', plot_learning(logs)),
             ('pareto', 'AP against latency; the bars are the range of the '
              'seeds', plot_pareto(aps, milliseconds)),
             ('pr_curves', 'Precision over recall at IoU 0.5, a line for each '
              'seed', plot_curves(results, classes))]
    for i, (name, seeds) in enumerate(results.items()):
        matrix = confusion_matrix(seeds[0], len(classes), SCORE, IOU)
        found.append(
            (f'confusion_{i + 1}', f'Confusion matrix of {name}, first seed',
             plot_confusion(matrix, classes,
                            f'IoU {IOU}, score at least {SCORE}')))
    if len(evaluations) > 1 and images is not None:
        pair = {name: results[name][0] for name in list(results)[:2]}
        found.append(
            ('disagreements', 'Where the first two disagree most: truth, then '
             f'what each detects with a score of at least {SCORE}, first seed',
             plot_disagreements(pair, classes, 6)))
    return [(name, text, figure) for name, text, figure in found if figure]


def plot_learning(logs: Dict[str, List[List[Dict[str, str]]]]
                  ) -> Optional[Figure]:
    """AP and loss by epoch, a line for each seed of a detector, from rows of
    ``results.csv``; None if there is nothing to draw."""
    figure = Figure(figsize=(11, 4), dpi=100, layout='constrained')
    axes = figure.subplots(1, 2)
    use_fonts_for(logs)
    for axis, column, title in zip(axes, ('coco/bbox_mAP', 'loss'),
                                   ('AP on val', 'training loss')):
        for i, (name, seeds) in enumerate(logs.items()):
            label = name  # in the legend once
            for rows in seeds:
                points = [(int(row['epoch']), float(row[column]))
                          for row in rows if row.get(column) and row['epoch']]
                if points:
                    axis.plot(*zip(*points), color=f'C{i % 10}', alpha=.8,
                              label=label)
                    label = None
        axis.set(title=title, xlabel='epoch')
        axis.grid(alpha=.3)
        if axis.lines:
            axis.legend(fontsize='small')
    axes[1].set_yscale('log')
    return figure if any(axis.lines for axis in axes) else None


def plot_pareto(aps: Dict[str, List[float]],
                milliseconds: Dict[str, Dict[str, float]]
                ) -> Optional[Figure]:
    """AP against latency, a panel for each engine and precision: the mean and
    the range of the seeds; None if nothing was timed."""
    if not milliseconds:
        return None
    use_fonts_for(aps)
    figure = Figure(figsize=(5.5 * len(milliseconds), 4.5), dpi=100,
                    layout='constrained')
    axes = figure.subplots(1, len(milliseconds), squeeze=False)[0]
    for axis, (way, times) in zip(axes, milliseconds.items()):
        for i, (name, values) in enumerate(aps.items()):
            if name not in times:
                continue
            middle = np.mean(values)
            axis.errorbar(
                times[name], middle,
                [[middle - min(values)], [max(values) - middle]], fmt='o',
                capsize=4, color=f'C{i % 10}', label=name)
        axis.set(title=way, xlabel='ms per image', ylabel='AP')
        axis.set_xlim(0, 1.08 * axis.get_xlim()[1])
        axis.grid(alpha=.3)
        axis.legend(fontsize='small')
    return figure


def plot_curves(results: Dict[str, List[List[ImageResult]]],
                classes: Sequence[str]) -> Figure:
    """Precision over recall at IoU 0.5, a panel for each class."""
    use_fonts_for([*classes, *results])
    columns = min(len(classes), 4)
    lines = -(-len(classes) // columns)
    figure = Figure(figsize=(4 * columns, 3.6 * lines), dpi=100,
                    layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for i, (name, seeds) in enumerate(results.items()):
        for j, images in enumerate(seeds):
            curves = precision_curves(images, len(classes))
            for axis, curve in zip(axes, curves.T):
                if curve[0] >= 0:
                    axis.plot(np.linspace(0, 1, len(curve)), curve,
                              color=f'C{i % 10}', alpha=.7,
                              label=name if j == 0 else None)
    for axis, name in zip(axes, classes):
        axis.set(xlabel='recall', ylabel='precision', ylim=(0, 1.02))
        axis.set_title(name, parse_math=False)
        axis.grid(alpha=.3)
    axes[0].legend(fontsize='small')
    return figure


def plot_disagreements(results: Dict[str, List[ImageResult]],
                       classes: Sequence[str], count: int) -> Figure:
    """Truth and two detectors on the images whose F1 differs most."""
    rows = []
    for pair in zip(*results.values()):
        scores = [image_score(result, SCORE, IOU)[0] for result in pair]
        rows.append((abs(scores[0] - scores[1]), scores, pair))
    rows = sorted(rows, key=lambda row: -row[0])[:count]
    return plot_beside_truth([
        [(result, f'{name}: F1 {score:.2f}')
         for name, result, score in zip(results, pair, scores)]
        for _, scores, pair in rows], classes, SCORE)
