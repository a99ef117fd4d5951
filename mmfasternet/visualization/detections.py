# SPDX-License-Identifier: Apache-2.0
"""Boxes on images, and what an evaluation says of them."""
from pathlib import Path
from typing import Optional, Sequence

import mmcv
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # without pyplot: no display, no state
from matplotlib.patches import Rectangle
from mmengine.fileio import get

from mmfasternet.evaluation.detection_quality import ImageResult, image_score

from .fonts import use_fonts_for

IOU = 0.5
MAX_NAMES = 30  # classes; with more, a figure has no room for text
CAPTION = 26  # pixels in height of what stands below a picture
LINE = 2.16  # points, 3 pixels of a figure of 100 dpi
MASK = 0.4  # opacity


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
        axis.plot(recall, curves[:, k], color=_color(k), alpha=0.7,
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
    pictures = [load_picture(result) for result in results]
    heights = [p.shape[0] / p.shape[1] for p in pictures]
    figure = Figure(figsize=(10, 5 * sum(heights) + 0.4 * len(results)),
                    dpi=100, layout='constrained')
    rows = figure.subplots(
        len(results), 2, squeeze=False, height_ratios=heights)
    for (left, right), result, picture in zip(rows, results, pictures):
        f1, overlap = image_score(result, score_thr, IOU)
        show_picture(left, picture, f'{Path(result.path).name}: truth')
        show_picture(right, picture, f'score at least {score_thr}: F1 '
                     f'{f1:.2f}, mean IoU {overlap:.2f}')
        draw_result(left, result, names)
        draw_result(right, result, names, score_thr)
    return figure


def load_picture(result: ImageResult) -> np.ndarray:
    """The image of a result: uint8 ``(H, W, 3)``, RGB."""
    return mmcv.imfrombytes(get(result.path), channel_order='rgb')


def show_picture(axis: Axes, picture: np.ndarray, title: str = '') -> None:
    """Draw an image, so that boxes can be drawn on it in its pixels."""
    height, width = picture.shape[:2]
    # a box counts from the corner of the first pixel
    axis.imshow(picture, extent=(0, width, height, 0))
    use_fonts_for([title])
    axis.set_axis_off()
    axis.set_title(title, fontsize='small', parse_math=False)


def draw_result(axis: Axes, result: ImageResult, names: Sequence[str],
                score_thr: Optional[float] = None) -> None:
    """Draw the boxes of an image.

    Args:
        axis (Axes): In pixels of the image.
        result (ImageResult): The image.
        names (Sequence[str]): The classes.
        score_thr (float, optional): Least score of a prediction. Defaults to
            None, for the truth.
    """
    if score_thr is None:
        draw_boxes(axis, result.true_boxes, result.true_labels,
                   [names[label] + ' (ignored)' * bool(ignored) for
                    label, ignored in zip(result.true_labels, result.ignored)])
        return
    shown = result.scores >= score_thr
    labels = result.labels[shown]
    draw_boxes(axis, result.boxes[shown], labels,
               [f'{names[label]} {score:.2f}' for label, score in zip(
                   labels, result.scores[shown])])


def draw_boxes(axis: Axes, boxes: np.ndarray, labels: Sequence[int],
               texts: Sequence[str]) -> None:
    """Draw boxes in the colours of their classes, each with its text.

    Args:
        axis (Axes): Of :func:`show_picture`.
        boxes (ndarray): ``(N, 4)`` as x1, y1, x2, y2, in pixels.
        labels (Sequence[int]): The classes ``(N, )``, from 0.
        texts (Sequence[str]): ``(N, )``.
    """
    use_fonts_for(texts)
    height = axis.get_ylim()[0]
    for (x1, y1, x2, y2), label, text in zip(boxes, labels, texts):
        color = _color(label)
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False,
                                 color=color, linewidth=LINE))
        # above the box, unless that is above the image
        axis.text(max(x1, 0), max(y1, 0), text, fontsize='small',
                  color='white', parse_math=False, clip_on=True,
                  va='top' if y1 < height / 20 else 'bottom',
                  bbox=dict(facecolor=color, edgecolor='none', pad=1))


def paint(picture: np.ndarray, boxes: np.ndarray, labels: Sequence[int],
          texts: Sequence[str], masks: Sequence[np.ndarray] = (),
          caption: Optional[str] = None) -> np.ndarray:
    """A picture with boxes, in its own size; see :func:`draw_boxes`.

    Args:
        picture (ndarray): uint8 ``(H, W, 3)``, RGB.
        boxes, labels, texts: See :func:`draw_boxes`.
        masks (Sequence[ndarray]): Of objects, bool ``(N, H, W)``.
        caption (str, optional): Stands below, on ``CAPTION`` more pixels.

    Returns:
        ndarray: Like ``picture``.
    """
    height, width = picture.shape[:2]
    below = 0 if caption is None else CAPTION
    picture = np.pad(picture, ((0, below), (0, 0), (0, 0)),
                     constant_values=255)
    for mask, label in zip(masks, labels):
        shown, color = picture[:height][mask], _color(label)[:3]
        picture[:height][mask] = shown + MASK * (
            255 * np.array(color) - shown)
    # text is as large as on a picture of 8 inches, if that is not too small
    dpi = max(100, max(height, width) / 8)
    whole = height + below
    figure = Figure(figsize=((width + .01) / dpi, (whole + .01) / dpi),
                    dpi=dpi, facecolor='none')
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0, below / whole, 1, height / whole))
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    draw_boxes(axis, boxes, labels, texts)
    if caption:
        use_fonts_for([caption])
        figure.text(2 / width, below / whole / 2, caption, va='center',
                    fontsize='small', parse_math=False)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    covered = drawn[..., 3] > 0
    opacity = drawn[covered, 3:] / 255
    picture[covered] = np.rint(
        opacity * drawn[covered, :3] + (1 - opacity) * picture[covered])
    return picture


def _color(label: int) -> tuple:
    return colormaps['tab10'](label % 10)
