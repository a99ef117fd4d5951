# SPDX-License-Identifier: Apache-2.0
"""Processes that run in turns, and what follows from their times."""
import json
import math
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from mmfasternet.analysis.benchmark.contenders import Contender

_WORKER = Path(__file__).with_name('worker.py')
_PACKAGE = str(Path(__file__).parents[2])
# Each turn takes at least so long, or one run: short runs are repeated.
TURN_SECONDS = 0.1


@dataclass
class Result:
    """What one contender achieved.

    Args:
        contender (Contender): The network and how it was run.
        seconds (list[float]): Of each round the median time of a run.
        parameters (int): Of the network.
        macs (int): Of one run, all images of the batch.
        memory (int): Peak bytes above those of the process without network.
        layers (list[dict]): If profiled, ``name``, ``kind``, ``seconds``,
            ``macs`` and ``bytes`` of each layer.
    """

    contender: Contender
    seconds: List[float]
    parameters: int = 0
    macs: int = 0
    memory: int = 0
    layers: List[Dict[str, Any]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return float(np.median(self.seconds))

    @property
    def flops(self) -> float:
        """Floating point operations per second, two per MAC."""
        return 2 * self.macs / self.median


def spread(values: Sequence[float]) -> Tuple[float, float, float]:
    """The median, the 5th and the 95th percentile."""
    low, middle, high = np.percentile(values, [5, 50, 95])
    return float(middle), float(low), float(high)


def speedup(result: Result, baseline: Result) -> Tuple[float, float, float]:
    """How much faster than a baseline, by the rounds both ran in.

    A drift of the machine's speed changes both times of a round and not their
    ratio.

    Returns:
        tuple[float, float, float]: See :func:`spread`.
    """
    return spread(np.divide(baseline.seconds, result.seconds))


class Process:
    """The handle of a worker.

    Args:
        contender (Contender): What lives in it.
        path (str, optional): The file to read, None to build the network.
        cfg_options (dict, optional): For the config.

    Raises:
        ValueError: If the contender does not run.
    """

    def __init__(self, contender: Contender, path: Optional[str],
                 cfg_options: Optional[Dict[str, Any]]) -> None:
        self.contender = contender
        # open as long as the process is
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        paths = [_PACKAGE, os.environ.get('PYTHONPATH')]
        threads = str(contender.threads)
        self.process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=dict(
                os.environ,
                OMP_NUM_THREADS=threads,
                MKL_NUM_THREADS=threads,
                PYTHONPATH=os.pathsep.join(filter(None, paths))))
        options = cfg_options if contender.optioned else None
        try:
            self.ask('load', path=path, contender=dict(
                asdict(contender), cfg_options=options))
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, **request: Any) -> Dict[str, Any]:
        """Send a request and wait for the answer."""
        try:
            print(json.dumps(dict(ask=what, **request)),
                  file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ''
        answer = json.loads(line) if line else dict(error=self._last_words())
        if 'error' in answer:
            contender = self.contender
            raise ValueError(
                f'{contender.target} on {contender.backend} in '
                f'{contender.precision}: {answer["error"]}')
        return answer

    def _last_words(self) -> str:
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors='replace').splitlines()
        return f'its process ended with status {status}: ' + \
            ' '.join(lines[-3:])

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def race(contenders: Sequence[Contender],
         paths: Dict[tuple, str],
         rounds: int,
         cfg_options: Optional[Dict[str, Any]] = None,
         profile: Sequence[Contender] = ()) -> Dict[Contender, Result]:
    """Let contenders run in turns, each in a process of its own.

    Only one runs at any time. In each round each has one turn: a run that is
    not timed, then as many as fill a tenth of a second, of which the median
    counts.

    Args:
        contenders (Sequence[Contender]): Who takes part.
        paths (dict): By :meth:`Contender.key` the file to read; those on
            PyTorch without one build their network themselves.
        rounds (int): How many turns each has.
        cfg_options (dict, optional): For the configs.
        profile (Sequence[Contender]): Whose layers are timed afterwards.
    """
    results, processes = {}, {}
    with ExitStack() as stack:
        for contender in tqdm(contenders, desc='load'):
            path = paths.get(contender.key())
            if contender.backend == 'pytorch' and not contender.file:
                path = None
            process = Process(contender, path, cfg_options)
            stack.callback(process.close)
            processes[contender] = process
            results[contender] = Result(contender, [])
        runs = {}
        for contender, process in processes.items():
            seconds = process.ask('run', runs=1)['seconds'][0]
            runs[contender] = math.ceil(TURN_SECONDS / seconds)
        for _ in tqdm(range(rounds), desc='rounds'):
            for contender, process in processes.items():
                answer = process.ask('run', runs=runs[contender])
                results[contender].seconds.append(
                    float(np.median(answer['seconds'])))
        for contender, process in processes.items():
            results[contender].memory = process.ask('memory')['memory']
        for contender in profile:
            results[contender].layers = processes[contender].ask(
                'profile', runs=max(5, min(50, runs[contender])))['layers']
    return results
