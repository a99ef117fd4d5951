# SPDX-License-Identifier: Apache-2.0
"""Boxes on images, in the colours of their classes."""
from typing import Optional, Sequence

import mmcv
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # without pyplot: no display, no state
from matplotlib.patches import Rectangle
from mmengine.fileio import get

from mmfasternet.evaluation.detection_quality import ImageResult

from .fonts import use_fonts_for

CAPTION = 26  # pixels in height of what stands below a picture
LINE = 2.16  # points, 3 pixels of a figure of 100 dpi
MASK = 0.4  # opacity


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
        color = class_color(label)
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
        shown, color = picture[:height][mask], class_color(label)[:3]
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


def class_color(label: int) -> tuple:
    """Red, green, blue and opacity, 0 to 1, of a class."""
    return colormaps['tab10'](label % 10)
