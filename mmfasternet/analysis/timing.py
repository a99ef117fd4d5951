# SPDX-License-Identifier: Apache-2.0
"""The timer: what is compared runs in turns, and ratios are of rounds.

A machine that slows down for a while slows down all that runs then, which
changes times and not their ratios.
"""
import time
from typing import Any, Callable, Dict, Hashable, Mapping, Sequence, Tuple

import numpy as np
from tqdm import tqdm


def timed(function: Callable[[], Any],
          clock: Callable[[], float] = time.perf_counter
          ) -> Callable[[], float]:
    """Let a function return how long it took, in seconds of a clock, e.g. of
    ``time.process_time``, the CPU time of this process, which other programs
    hardly disturb."""

    def run() -> float:
        start = clock()
        function()
        return clock() - start

    return run


def interleave(turns: Mapping[Hashable, Callable[[], Any]],
               rounds: int,
               warm_up: int = 0) -> Dict[Any, np.ndarray]:
    """Run things in turns, each once in every round, and return what they
    returned, by name ``(rounds, ...)``: their seconds (see :func:`timed`), or
    several numbers. The rounds of ``warm_up`` come before and do not count."""
    values = {name: [] for name in turns}
    for _ in tqdm(range(warm_up + rounds), desc='rounds'):
        for name, turn in turns.items():
            values[name].append(turn())
    return {name: np.array(v[warm_up:], float) for name, v in values.items()}


def spread(values: Sequence[float]) -> Tuple[float, float, float]:
    """The median, the 5th and the 95th percentile."""
    low, middle, high = np.percentile(values, [5, 50, 95])
    return float(middle), float(low), float(high)


def speedup(seconds: Sequence[float],
            baseline: Sequence[float]) -> Tuple[float, float, float]:
    """How many times as fast as a baseline, by the rounds both ran in: see
    :func:`spread`."""
    return spread(np.divide(baseline, seconds))


def speedup_text(seconds: Sequence[float], baseline: Sequence[float]) -> str:
    """The same in words, ``1.27 (1.20 to 1.38)``."""
    return '{:.2f} ({:.2f} to {:.2f})'.format(*speedup(seconds, baseline))
