# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found: precision, confusion, best and worst images."""
from pathlib import Path
from typing import Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no state

from mmfasternet.evaluation.detection_quality import ImageResult, image_score

from .detections import class_color, draw_result, load_picture, show_picture
from .fonts import use_fonts_for

IOU = 0.5
MAX_NAMES = 30  # classes; with more, a figure has no room for text


def plot_precision(curves: np.ndarray, names: Sequence[str]) -> Figure:
    """Precision over recall of each class.

    Args:
        curves (ndarray): Of :func:`precision_curves`.
        names (Sequence[str]): The classes.
    """
    use_fonts_for(names)
    figure = Figure(figsize=(9, 6), dpi=100, layout='constrained')
    axis = figure.subplots()
    recall = np.linspace(0, 1, len(curves))
    known = [k for k in range(len(names)) if curves[0, k] >= 0]
    for k in known:
        axis.plot(recall, curves[:, k], color=class_color(k), alpha=0.7,
                  label=f'{names[k]}: {curves[:, k].mean():.3f}')
    title = 'no true boxes'
    if known:
        mean = curves[:, known].mean(axis=1)
        title = f'AP50 {mean.mean():.3f}'
        axis.plot(recall, mean, 'k', linewidth=3, label=f'mean: {title[5:]}')
        if len(known) <= MAX_NAMES:
            axis.legend(title='AP at IoU 0.5', fontsize='small')
    axis.set(title=f'{title}, last validation', xlabel='recall',
             ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    return figure


def plot_confusion(matrix: np.ndarray, names: Sequence[str],
                   rule: str) -> Figure:
    """Confusion matrix: counts, coloured by the share of their row.

    Args:
        matrix (ndarray): Of :func:`confusion_matrix`.
        names (Sequence[str]): The classes.
        rule (str): What counts as a match.
    """
    use_fonts_for(names)
    size = len(matrix)
    side = min(max(5, 2.5 + 0.55 * size), 20)
    figure = Figure(figsize=(side + 1, side), dpi=100, layout='constrained')
    axis = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(share, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, label='share of the row', shrink=0.8)
    if size <= MAX_NAMES:
        for i, j in np.argwhere(matrix):
            axis.text(j, i, matrix[i, j], ha='center', va='center',
                      color='white' if share[i, j] > 0.6 else 'black')
    font = 'medium' if size <= MAX_NAMES else 5
    axis.set_xticks(range(size), [*names, 'background\n(missed)'],
                    rotation=90, fontsize=font)
    axis.set_yticks(range(size), [*names, 'background\n(false)'],
                    fontsize=font)
    axis.set(title=rule, xlabel='predicted', ylabel='true')
    return figure


def plot_images(results: Sequence[ImageResult], names: Sequence[str],
                score_thr: float) -> Figure:
    """Images with their true boxes, and beside it the predicted ones.

    Args:
        results (Sequence[ImageResult]): The images, a row each.
        names (Sequence[str]): The classes.
        score_thr (float): Least score of a prediction that is drawn.
    """
    rows = []
    for result in results:
        f1, overlap = image_score(result, score_thr, IOU)
        rows.append([(result, f'score at least {score_thr}: F1 {f1:.2f}, '
                      f'mean IoU {overlap:.2f}')])
    return plot_beside_truth(rows, names, score_thr)


def plot_beside_truth(rows: Sequence[Sequence[Tuple[ImageResult, str]]],
                      names: Sequence[str], score_thr: float) -> Figure:
    """The truth of an image in each row, and beside it what one or several
    detectors found there, with at least a score, each with its title."""
    pictures = [load_picture(row[0][0]) for row in rows]
    heights = [p.shape[0] / p.shape[1] for p in pictures]
    columns = 1 + len(rows[0])
    figure = Figure(
        figsize=(5 * columns, 5 * sum(heights) + 0.4 * len(rows)), dpi=100,
        layout='constrained')
    grid = figure.subplots(
        len(rows), columns, squeeze=False, height_ratios=heights)
    for (left, *others), row, picture in zip(grid, rows, pictures):
        truth = row[0][0]
        show_picture(left, picture, f'{Path(truth.path).name}: truth')
        draw_result(left, truth, names)
        for axis, (result, title) in zip(others, row):
            show_picture(axis, picture, title)
            draw_result(axis, result, names, score_thr)
    return figure
