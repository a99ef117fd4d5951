# SPDX-License-Identifier: Apache-2.0
"""The course of a training run."""
from typing import Dict, List

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no display, no state

Row = Dict[str, str]
# of ``results.csv``, before the losses, the metrics and what else there is
FIRST_COLUMNS = ('epoch', 'iteration', 'seconds', 'images/s', 'memory', 'lr')


def plot_results(rows: List[Row]) -> Figure:
    """Losses, metrics and learning rate of each epoch.

    Args:
        rows (list[dict]): Rows of ``results.csv``. With average precision
            (``mAP``) among the metrics, only that is drawn.

    Returns:
        Figure: The figure.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    losses = [n for n in names if 'loss' in n]
    metrics = [n for n in names if n not in (*FIRST_COLUMNS, *losses)]
    metrics = [n for n in metrics if 'mAP' in n] or metrics
    figure = Figure(figsize=(15, 4.5), dpi=100, layout='constrained')
    axes = figure.subplots(1, 3)
    for axis, title, columns in zip(
            axes, ('training loss', 'validation', 'learning rate'),
        (losses, metrics, ['lr'])):
        _plot_columns(axis, rows, columns)
        axis.set_title(title)
    return figure


def _plot_columns(axis: Axes, rows: List[Row], columns: List[str]) -> None:
    x_name = 'epoch' if rows[0].get('epoch') else 'iteration'
    for column in columns:
        points = [(int(row[x_name]), float(row[column])) for row in rows
                  # COCO's -1 says that there is nothing to measure
                  if row.get(column, '-1') != '-1']
        if points:
            axis.plot(*zip(*points), marker='.', label=column)
    axis.set_xlabel(x_name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    if axis.lines and len(columns) > 1:
        axis.legend()
