# SPDX-License-Identifier: Apache-2.0
"""Pictures of feature maps, partial convolutions, gradients and layers.

The image is what the network gets, uint8 ``(H, W, 3)`` in RGB, maps are
``(C, h, w)`` by their names.
"""
import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.visualization import Visualizer
from torch import Tensor
from torch.nn import functional as F

TILE = 160  # pixels of the longer side of a channel's picture
VANISHED = 1e-9  # of the largest gradient or activation
COLUMNS = 8  # of the picture of alike channels


def _sheet(rows: int, columns: int, ratio: float,
           width: float) -> Tuple[Figure, np.ndarray]:
    """Axes without ticks; ratio is height / width of what is shown."""
    figure = Figure(figsize=(columns * width, rows * (width * ratio + 0.3)),
                    layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    return figure, axes


def draw_features(picture: np.ndarray, maps: Dict[str, Tensor],
                  cams: Optional[Dict[str, Tensor]] = None) -> Figure:
    """The image, and over it the mean over the channels of each map, or class
    activation maps that were made of these, ``(h, w)`` from 0 to 1."""
    ratio = picture.shape[0] / picture.shape[1]
    figure, axes = _sheet(1, 1 + len(maps), ratio, 2.6)
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title('input', fontsize=8, y=1)
    for axis, (name, x) in zip(axes[0, 1:], maps.items()):
        heat = x if cams is None else cams[name][None]
        heat = F.interpolate(
            heat[None].float(), picture.shape[:2], mode='bilinear')
        axis.imshow(Visualizer.draw_featmap(heat[0], picture))
        axis.set_title(f'{name}\n{_size(x)}', fontsize=8, y=1)
    return figure


def draw_channels(picture: np.ndarray, maps: Tensor) -> np.ndarray:
    """The 20 channels with the largest sum, by MMEngine's visualizer."""
    scale = TILE / max(picture.shape[:2])
    size = tuple(round(side * scale) for side in picture.shape[:2])
    return Visualizer.draw_featmap(
        maps, channel_reduction=None, resize_shape=size)


def _size(maps: Tensor) -> str:
    return 'x'.join(map(str, maps.shape[-3:]))


def draw_redundancy(name: str, maps: Tensor, r: Tensor) -> Figure:
    """Channels, each beside those that look most like it.

    The channels in front are spread evenly, from the one with the closest
    twin to the one with none, so that the picture is not a choice of the
    best. ``r`` is their correlation ``(C, C)``, NaN where a channel is
    constant.
    """
    r = r.cpu()
    varies = (~r.diagonal().isnan()).nonzero().flatten()
    r = r[varies][:, varies]
    largest = r.abs().fill_diagonal_(0).amax(1)
    count = min(6, len(varies))
    places = torch.linspace(0, len(varies) - 1, count).round().long()
    seeds = largest.argsort(descending=True)[places]
    columns = min(COLUMNS, len(varies))
    figure, axes = _sheet(count, columns, maps.shape[1] / maps.shape[2], 1.3)
    for row, seed in zip(axes, seeds):
        others = r[seed].abs().clone()
        others[seed] = 2  # itself first
        for axis, other in zip(row, others.argsort(descending=True)):
            axis.imshow(maps[varies[other]].detach().cpu(), cmap='gray')
            label = f'channel {varies[other]}' if other == seed else \
                f'r = {r[seed, other]:.2f}'
            axis.set_title(label, fontsize=7, y=1)
    figure.suptitle(f'{name}, {_size(maps)}: channels and those most like '
                    'them', fontsize=9)
    return figure


def draw_pconvs(rows: Sequence[Any]) -> Figure:
    """Convolved against untouched channels, by PConvStatistics."""
    figure = Figure(figsize=(max(6, 0.45 * len(rows)), 8),
                    layout='constrained')
    level, alike, share = figure.subplots(3, sharex=True)
    xs = range(len(rows))
    for axis, key, label in (
        (level, 'rms_before', 'convolved, before'),
        (level, 'rms_after', 'convolved, after'),
        (level, 'rms_untouched', 'untouched'),
        (alike, 'alike_before', 'convolved, before'),
        (alike, 'alike_after', 'convolved, after')):
        axis.plot(xs, [getattr(row, key) for row in rows], 'o-', label=label)
    level.set(ylabel='root mean square', yscale='log')
    alike.set(ylabel='largest |r| with\nan untouched channel', ylim=(0, 1))
    share.bar(xs, [row.share for row in rows], label='measured')
    share.plot(xs, [row.touched / (row.touched + row.untouched)
                    for row in rows], 'k--', label='by their number')
    share.set(ylabel='share of the convolved\nin what the 1x1 takes in',
              ylim=(0, 1))
    share.set_xticks(xs, [row.name.replace('.spatial_mixing', '')
                          for row in rows], rotation=90, fontsize=7)
    for axis in (level, alike, share):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def draw_fields(
    fields: Dict[str, Tensor],
    squares: Dict[str, Tuple[Sequence[float], Dict[float, float]]]
) -> Figure:
    """Effective receptive fields, over four powers of ten.

    Args:
        fields (dict[str, Tensor]): ``(H, W)`` by name of the map.
        squares (dict[str, tuple]): Of each row and column of its middle, and
            the sides of the squares around that by the share they hold.
    """
    first = next(iter(fields.values()))
    figure, axes = _sheet(1, len(fields), first.shape[0] / first.shape[1], 2.6)
    for axis, (name, field) in zip(axes[0], fields.items()):
        shown = (field / field.max()).clamp(min=1e-4).log10().cpu()
        axis.imshow(shown, cmap='inferno', vmin=-4, vmax=0)
        (row, column), sides = squares[name]
        for side, style in zip(sides.values(), ('-', '--')):
            axis.add_patch(Rectangle(
                (column - side / 2, row - side / 2), side, side, fill=False,
                edgecolor='cyan', linestyle=style))
        words = [f'{s:.0%}: {side:.0f} px' for s, side in sides.items()]
        axis.set_title(f'{name}\n{", ".join(words)}', fontsize=8, y=1)
    return figure


def draw_layers(rows: Sequence[Any]) -> Figure:
    """Activations and gradients of one step, LayerStatistics by depth."""
    figure = Figure(figsize=(12, 9), layout='constrained')
    axes = figure.subplots(4, sharex=True)
    parts: Dict[str, List[int]] = {}
    for i, row in enumerate(rows):
        parts.setdefault(row.name.partition('.')[0], []).append(i)
    panels = (('std', 'activation,\nstandard deviation'),
              ('dead', 'dead channels'),
              ('grad_std', 'gradient of the output,\nstandard deviation'),
              ('weight_grad', 'gradient of the weights\n/ weights, norms'))
    for axis, (key, label) in zip(axes, panels):
        # what has vanished lies on the bottom, or it would hide the rest
        values = [getattr(row, key) for row in rows]
        lowest = 0. if key == 'dead' else VANISHED * max(
            (v for v in values if not math.isnan(v)), default=1.)
        for part, places in parts.items():
            shown = [i for i in places
                     if not math.isnan(getattr(rows[i], key))]
            axis.plot(shown, [max(getattr(rows[i], key), lowest)
                              for i in shown], '.', label=part)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if key == 'dead':
            axis.set_ylim(-0.02, 1.02)
        else:
            axis.set_yscale('log')
    axes[0].legend(fontsize=8)
    axes[-1].set_xlabel('layer, in the order in which they run')
    return figure


def save(picture: object, path: object) -> None:
    """Write a figure, or uint8 ``(H, W, 3)`` in RGB, as a file."""
    if isinstance(picture, np.ndarray):
        cv2.imwrite(str(path), picture[..., ::-1])
    else:
        picture.savefig(path, dpi=120, bbox_inches='tight')
