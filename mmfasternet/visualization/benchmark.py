# SPDX-License-Identifier: Apache-2.0
"""Pictures of a benchmark: latency, and rates under the roofs."""
from typing import Dict, List, Tuple

from matplotlib.figure import Figure  # without pyplot: no display, no state


def draw_latency(points: Dict[str, List[Tuple[str, float, float]]],
                 label: str) -> Figure:
    """Latency against something else.

    Args:
        points (dict[str, list[tuple]]): Of each way to run, names of
            networks, milliseconds, and the other value.
        label (str): What that is.
    """
    figure = Figure(figsize=(8, 6), dpi=120, layout='constrained')
    axes = figure.subplots()
    for way, rows in points.items():
        names, xs, ys = zip(*rows)
        axes.scatter(xs, ys, label=way)
        for name, x, y in rows:
            axes.annotate(name, (x, y), fontsize=8, xytext=(4, 4),
                          textcoords='offset points')
    axes.set_xlabel('latency, ms')
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_roofline(layers: Dict[str, List[Tuple[float, float, float]]],
                  roofs: Dict[str, Tuple[float, float]]) -> Figure:
    """The rate of layers against their arithmetic intensity.

    Args:
        layers (dict[str, list[tuple]]): Of each network FLOP per byte,
            GFLOP/s, and the share of the time of each layer.
        roofs (dict[str, tuple]): By name, largest GFLOP/s and GB/s.
    """
    figure = Figure(figsize=(9, 6), dpi=120, layout='constrained')
    axes = figure.subplots()
    for name, rows in layers.items():
        xs, ys, shares = zip(*rows) if rows else ((), (), ())
        axes.scatter(xs, ys, [10 + 1500 * share for share in shares],
                     alpha=0.5, label=name)
    for name, (rate, bandwidth) in roofs.items():
        xs = [0.25, max(rate / bandwidth, 0.25), 512]
        axes.plot(xs, [min(rate, bandwidth * x) for x in xs], '--', label=name)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xlabel('FLOP per byte of inputs, weights and outputs')
    axes.set_ylabel('GFLOP/s (area: share of the time)')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, markerscale=0.4)
    return figure
