# SPDX-License-Identifier: Apache-2.0
"""Pictures of a benchmark: latency, and rates under the roofs."""
from collections import defaultdict
from typing import Any, Dict, Sequence

from matplotlib.figure import Figure  # without pyplot: no display, no state


def draw_latency(results: Sequence[Any],
                 accuracies: Dict[str, float]) -> Figure:
    """AP over latency, or GMACs of an image where no AP is known.

    Args:
        results (Sequence[Result]): Of a benchmark.
        accuracies (dict[str, float]): AP by target; others are left out.
    """
    points = defaultdict(list)  # of each way to run
    for result in results:
        c = result.candidate
        if not accuracies or c.target in accuracies:
            way = (f'{c.backend} {c.precision}, {c.threads} thread(s), batch '
                   f'{c.shape[0]}')
            points[way].append((
                c.name, 1e3 * result.median, accuracies[c.target]
                if accuracies else 1e-9 * result.macs / c.shape[0]))
    figure = Figure(figsize=(8, 6), dpi=120, layout='constrained')
    axes = figure.subplots()
    for way, rows in points.items():
        names, xs, ys = zip(*rows)
        axes.scatter(xs, ys, label=way)
        for name, x, y in rows:
            axes.annotate(name, (x, y), fontsize=8, xytext=(4, 4),
                          textcoords='offset points')
    axes.set(xlabel='latency, ms', ylabel='AP' if accuracies else 'GMACs')
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_roofline(results: Sequence[Any]) -> Figure:
    """The rate of layers that multiply against their arithmetic intensity,
    by the results of a benchmark that were profiled."""
    figure = Figure(figsize=(9, 6), dpi=120, layout='constrained')
    axes = figure.subplots()
    roofs = {}
    for result in results:
        c = result.candidate
        rows = [row for row in result.layers
                if row['macs'] and row['bytes'] and row['seconds']]
        total = sum(row['seconds'] for row in result.layers)
        axes.scatter([2 * row['macs'] / row['bytes'] for row in rows],
                     [2e-9 * row['macs'] / row['seconds'] for row in rows],
                     [10 + 1500 * row['seconds'] / total for row in rows],
                     alpha=0.5, label=f'{c.name}, {c.backend} {c.precision}')
        if result.roof:
            roofs[f'matrix product, {c.precision}, {c.threads} thread(s)'] = \
                1e-9 * result.roof[0], 1e-9 * result.bandwidth
    for name, (rate, bandwidth) in roofs.items():
        xs = [0.25, max(rate / bandwidth, 0.25), 512]
        axes.plot(xs, [min(rate, bandwidth * x) for x in xs], '--', label=name)
    axes.set_xscale('log', base=2)
    axes.set(yscale='log',
             xlabel='FLOP per byte of inputs, weights and outputs',
             ylabel='GFLOP/s (area: share of the time)')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, markerscale=0.4)
    return figure
