# SPDX-License-Identifier: Apache-2.0
"""What a data set has: classes and sizes of boxes."""
from typing import Sequence

from matplotlib.figure import Figure  # without pyplot: no display, no state

from mmfasternet.datasets.checks import Report

from .fonts import use_fonts_for


def plot_classes(report: Report) -> Figure:
    """Boxes of each class in each split."""
    names = list(dict.fromkeys(
        n for s in report.summaries.values() for n in s.classes))
    use_fonts_for(names)
    bars = max(len(report.summaries), 1)
    figure = Figure(figsize=(7, 1.5 + 0.2 * bars * len(names)),
                    layout='constrained')
    axes = figure.subplots()
    for i, (split, summary) in enumerate(report.summaries.items()):
        axes.barh([n + (i + 0.5) / (bars + 1) for n in range(len(names))],
                  [summary.classes.get(name, 0) for name in names],
                  height=0.9 / (bars + 1), label=f'{split}: {summary.boxes}')
    axes.set_yticks([n + bars / 2 / (bars + 1) for n in range(len(names))],
                    names)
    axes.invert_yaxis()
    axes.set_xlabel('boxes')
    if report.summaries:
        axes.legend()
    return figure


def plot_box_sizes(report: Report, strides: Sequence[int]) -> Figure:
    """Height over width, in pixels of the network input, and their ratio.

    Args:
        report (Report): Of a check of the data.
        strides (Sequence[int]): The network's, drawn as lines.
    """
    figure = Figure(figsize=(12, 5), layout='constrained')
    sizes, ratios = figure.subplots(1, 2)
    for split, summary in report.summaries.items():
        width, height = summary.sizes.T
        sizes.scatter(width, height, s=4, alpha=0.4, label=split)
        ratios.hist(width / height, [2**(n / 4) for n in range(-20, 21)],
                    histtype='step', label=split)
    for stride in strides:
        sizes.axvline(stride, color='gray', linewidth=0.8)
        sizes.axhline(stride, color='gray', linewidth=0.8)
        sizes.annotate(f'stride {stride}', (stride, 1), fontsize=8,
                       xycoords=('data', 'axes fraction'), rotation=90,
                       ha='right', va='top')
    sizes.set(xscale='log', yscale='log',
              xlabel='box width, pixels of the network input',
              ylabel='box height, pixels of the network input')
    ratios.set_xscale('log', base=2)
    ratios.set(xlabel='box width / height', ylabel='boxes')
    if report.summaries:
        sizes.legend()
        ratios.legend()
    return figure
