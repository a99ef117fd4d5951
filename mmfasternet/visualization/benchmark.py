# SPDX-License-Identifier: Apache-2.0
"""Pictures of a benchmark: latency, and rates under the roofs."""
import math
from collections import defaultdict
from typing import Dict, Sequence, Tuple

from matplotlib.figure import Figure  # without pyplot: no display, no state

from mmfasternet.analysis.benchmark.race import Result
from mmfasternet.analysis.benchmark.report import find_roof


def draw_latency(results: Sequence[Result],
                 accuracies: Dict[str, float]) -> Figure:
    """Latency against AP by target, or against MACs where no AP is known."""
    figure = Figure(figsize=(8, 6), dpi=120, layout='constrained')
    axes = figure.subplots()
    series = defaultdict(list)
    for result in results:
        candidate = result.candidate
        if not accuracies or candidate.target in accuracies:
            series[f'{candidate.backend} {candidate.precision}, '
                   f'{candidate.threads} thread(s), batch '
                   f'{candidate.shape[0]}'].append(result)
    for label, found in series.items():
        xs = [1e3 * r.median for r in found]
        ys = [accuracies[r.candidate.target] if accuracies else
              1e-9 * r.macs / r.candidate.shape[0] for r in found]
        axes.scatter(xs, ys, label=label)
        for result, x, y in zip(found, xs, ys):
            axes.annotate(result.candidate.name, (x, y), fontsize=8,
                          xytext=(4, 4), textcoords='offset points')
    axes.set_xlabel('latency, ms')
    axes.set_ylabel('AP' if accuracies else 'GMACs')
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_roofline(results: Sequence[Result], products: Sequence[Result],
                  bandwidths: Dict[Tuple[int, str], float]) -> Figure:
    """The rate of each layer against its arithmetic intensity.

    Large matrix products are the flat roof, copies in memory (bytes per
    second, by number of threads and device) the slope.
    """
    figure = Figure(figsize=(9, 6), dpi=120, layout='constrained')
    axes = figure.subplots()
    roofs = {}
    for result in results:
        rows = [row for row in result.layers
                if row['macs'] and row['bytes'] and row['seconds']]
        total = sum(row['seconds'] for row in result.layers)
        candidate = result.candidate
        axes.scatter(
            [2 * row['macs'] / row['bytes'] for row in rows],
            [2e-9 * row['macs'] / row['seconds'] for row in rows],
            [10 + 1500 * row['seconds'] / total for row in rows],
            alpha=0.5,
            label=f'{candidate.name}, {candidate.backend} '
            f'{candidate.precision}')
        roof = find_roof(candidate, products)
        if roof:
            roofs[f'matrix product, {candidate.precision}, '
                  f'{candidate.threads} thread(s)'] = (
                      roof[0], bandwidths.get(
                          (candidate.threads, candidate.device), math.inf))
    for label, (rate, bandwidth) in roofs.items():
        xs = [0.25, max(rate / bandwidth, 0.25), 512]
        axes.plot(xs, [1e-9 * min(rate, bandwidth * x) for x in xs], '--',
                  label=label)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xlabel('FLOP per byte of inputs, weights and outputs')
    axes.set_ylabel('GFLOP/s (area: share of the time)')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, markerscale=0.4)
    return figure
