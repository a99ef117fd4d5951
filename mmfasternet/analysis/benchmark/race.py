# SPDX-License-Identifier: Apache-2.0
"""Processes that run in turns, and what follows from their times."""
import json
import math
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from tqdm import tqdm

from mmfasternet.analysis.complexity import count
from mmfasternet.analysis.timing import interleave
from mmfasternet.deploy.engines import ENGINES, engine_of

from .build import build_network
from .candidates import Candidate, allowed_precisions, exported_file
from .layers import Layer, exported_layers, with_macs
from .worker import RUNTIMES

_WORKER = 'mmfasternet.analysis.benchmark.worker'
# Each turn takes at least so long, or one run: short runs are repeated.
TURN_SECONDS = 0.1
# A product that fills the arithmetic units for a while, by type of device,
# and a copy that is larger than any cache.
PRODUCT_SIDE = dict(cpu=2048, cuda=8192)
COPIED_NUMBERS = 1 << 25


@dataclass(eq=False)
class Result:
    """What one candidate achieved."""

    candidate: Candidate  #: The network and how it was run.
    seconds: List[float]  #: Of each round the median time of a run.
    parameters: int = 0  #: Of the network.
    macs: int = 0  #: Of one run, all images of the batch.
    memory: int = 0  #: Peak bytes above those of the process without network.
    #: If profiled, of each layer ``name``, ``kind``, ``seconds``, ``macs``,
    #: ``parameters`` and ``bytes``.
    layers: List[Dict[str, Any]] = field(default_factory=list)
    baseline: Optional['Result'] = None  #: Itself if it is one.
    published: Dict[str, str] = field(default_factory=dict)  #: By column.
    #: FLOP/s of the fastest large matrix product in its precision, with its
    #: threads, where it ran, and the engine of that; if one has it.
    roof: Optional[Tuple[float, str]] = None
    #: Bytes per second of a copy in memory there; if profiled.
    bandwidth: float = math.inf

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return float(np.median(self.seconds))

    @property
    def flops(self) -> float:
        """Floating point operations per second, two per MAC."""
        return 2 * self.macs / self.median


class Process:
    """The handle of a worker, in which a candidate lives that reads the file
    ``path``, or builds its network if that is None."""

    def __init__(self, candidate: Candidate, path: Optional[str]) -> None:
        self.candidate = candidate
        # open as long as the process is
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        threads = str(candidate.threads)
        environment = dict(
            os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
        self.process = subprocess.Popen(
            [sys.executable, '-m', _WORKER,
             json.dumps([asdict(candidate), path])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, env=environment)

    def ask(self, what: str, **request: Any) -> Any:
        """Send a request and wait for the answer.

        Raises:
            ValueError: If the candidate does not run.
        """
        try:
            print(json.dumps(dict(ask=what, **request)),
                  file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ''
        answer = json.loads(line) if line else dict(error=self._last_words())
        if 'error' in answer:
            c = self.candidate
            raise ValueError(f'{c.target} on {c.backend} in {c.precision}: '
                             f'{answer["error"]}')
        return answer['answer']

    def _last_words(self) -> str:
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors='replace').splitlines()
        return f'its process ended with status {status}: ' + \
            ' '.join(lines[-3:])

    def close(self) -> None:
        """End the process, which holds nothing that could be lost."""
        with suppress(BrokenPipeError), self.process:
            self.process.kill()
        self.errors.close()


def race(candidates: Sequence[Candidate],
         paths: Dict[tuple, str],
         rounds: int,
         profile: Sequence[Candidate] = ()) -> Dict[Candidate, Result]:
    """Let candidates run in turns, each in a process of its own.

    Only one runs at any time. In each round each has one turn: a run that is
    not timed, then as many as fill a tenth of a second, of which the median
    counts. ``paths`` has by :meth:`Candidate.key` the file to read; PyTorch
    builds its networks itself. The layers of ``profile`` are timed afterwards.

    Raises:
        ValueError: If a candidate does not run.
    """
    with ExitStack() as stack:
        processes, runs, turns = {}, {}, {}
        for candidate in tqdm(candidates, desc='load'):
            process = Process(candidate, paths.get(candidate.key()))
            stack.callback(process.close)
            process.ask('load')
            processes[candidate] = process
        for candidate, process in processes.items():
            seconds, = process.ask('time', runs=1)
            runs[candidate] = math.ceil(TURN_SECONDS / seconds)
            turns[candidate] = lambda p=process, n=runs[candidate]: \
                np.median(p.ask('time', runs=n))
        seconds = interleave(turns, rounds)
        return {
            candidate: Result(
                candidate, seconds[candidate].tolist(),
                memory=process.ask('memory'),
                layers=process.ask(
                    'profile', runs=max(5, min(50, runs[candidate])))
                if candidate in profile else [])
            for candidate, process in processes.items()
        }


# ------------------------------------------------------- a whole measurement
class Pair(NamedTuple):
    """A candidate, its baseline (itself if it is one), published figures."""

    candidate: Candidate
    baseline: Optional[Candidate] = None
    published: Dict[str, str] = {}


def measure(pairs: Sequence[Pair],
            rounds: int,
            profile: bool = False) -> List[Result]:
    """Race candidates, their baselines and what this machine can do.

    Returns:
        list[Result]: Of the candidates, in the order of ``pairs``.

    Raises:
        ValueError: If a candidate does not run.
    """
    candidates = list(dict.fromkeys(filter(None, [
        *(p.candidate for p in pairs), *(p.baseline for p in pairs)])))
    if profile and any(c.compile for c in candidates):
        raise ValueError('torch.compile leaves no layers to time: profile '
                         'without --compile')
    silent = {c.backend for c in candidates} - RUNTIMES.keys()
    if profile and silent:
        raise ValueError(f'the packages of {" and ".join(sorted(silent))} '
                         'have no profiler: leave out --profile')
    everything = candidates + _yardsticks(candidates, profile)
    with tempfile.TemporaryDirectory() as folder:
        networks: Dict[tuple, _Network] = {}
        for candidate in everything:
            if candidate.key() not in networks:
                networks[candidate.key()] = _prepare(
                    candidate,
                    Path(folder) / f'{len(networks)}{candidate.suffix}')
        results = race(
            everything, {key: n.path for key, n in networks.items()}, rounds,
            candidates if profile else ())
    for candidate, result in results.items():
        network = networks[candidate.key()]
        result.parameters, result.macs = network.modules['']
        if candidate.backend != 'pytorch':
            result.layers = with_macs(result.layers, network.layers)
            continue
        for row in result.layers:
            row['parameters'], row['macs'] = network.modules.get(
                row['name'], (0, 0))
    for candidate, baseline, published in reversed(pairs):  # the first wins
        result = results[candidate]
        result.baseline, result.published = results.get(baseline), published
        _set_roofs(result, [*results.values()])
    return [results[c] for c in dict.fromkeys(p.candidate for p in pairs)]


def _set_roofs(result: Result, others: Sequence[Result]) -> None:
    """What the machine can do in its conditions."""
    own = result.candidate
    for other in others:
        kind, c = other.candidate.target.partition(':')[0], other.candidate
        if (c.threads, c.device) != (own.threads, own.device):
            continue
        if kind == 'copy':
            result.bandwidth = 8 * COPIED_NUMBERS / other.median
        elif kind == 'product' and c.precision == own.precision:
            roof = other.flops, c.backend
            result.roof = max(roof, result.roof or roof)


def _yardsticks(candidates: Sequence[Candidate],
                profile: bool) -> List[Candidate]:
    """The matrix products, and for a profile copies in memory."""
    found = []
    for candidate in candidates:
        kind = torch.device(candidate.device).type
        side = PRODUCT_SIDE.get(kind, PRODUCT_SIDE['cuda'])
        product = replace(
            candidate, target=f'product:{side}', shape=(side, side),
            channels_last=False, compile=False, options='{}')
        found += [
            replace(product, backend=name) for name, engine in ENGINES.items()
            if candidate.precision in allowed_precisions(product.target, name)
            and engine.is_installed and (name == 'pytorch' or kind == 'cpu')
        ]
        if profile:
            found.append(replace(
                product, target=f'copy:{COPIED_NUMBERS}', backend='pytorch',
                shape=(COPIED_NUMBERS, ), precision='fp32'))
    return list(dict.fromkeys(found))


class _Network(NamedTuple):
    """What all candidates of a key share."""

    path: Optional[str]
    # parameters and MACs, '' those of all, the others if it was built.
    modules: Dict[str, Tuple[int, int]]
    layers: List[Layer]  # if it was exported


def _prepare(candidate: Candidate, path: Path) -> _Network:
    """Count a network, and write it to ``path`` if its engine reads files."""
    file, modules, layers = exported_file(candidate.target), {}, []
    if file is None:
        network = build_network(candidate.target,
                                json.loads(candidate.options))
        try:
            modules = count(network, candidate.shape)
        except Exception as error:
            raise ValueError(
                f'{candidate.target} does not run on images alone, as '
                'two-stage detectors do not: '
                f'{type(error).__name__}: {error}') from error
        if candidate.suffix:
            file = path
            try:
                engine_of(file).write(
                    network, torch.zeros(candidate.shape), file)
            except ValueError as error:
                raise ValueError(f'{candidate.target}: {error}') from error
    if file and candidate.suffix == '.onnx':
        parameters, layers = exported_layers(file, candidate.shape)
        modules.setdefault(
            '', (parameters, sum(layer.macs for layer in layers)))
    return _Network(file and str(file), modules, layers)
