# SPDX-License-Identifier: Apache-2.0
"""What runs against what: networks crossed with how they are run."""
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmfasternet.analysis.benchmark.paper import own_shape
from mmfasternet.deploy.engines import (
    ENGINES,
    EXPORTED,
    engine_of,
    readers_of,
)

# What is tried first of what can run a network on a CPU.
_ORDER = ('onnxruntime', 'openvino', 'pytorch')
_QUANTISED_OPERATORS = {
    'QuantizeLinear', 'DynamicQuantizeLinear', 'QLinearConv', 'ConvInteger',
    'QLinearMatMul', 'MatMulInteger', 'FakeQuantize'
}


@dataclass(frozen=True)
class Candidate:
    """One network, run one way.

    Args:
        target (str): A config (path or ``package::path``), the same and
            ``,CHECKPOINT``, an exported file, ``backbone:NAME`` or
            ``operator:NAME:CHANNELSxSIDE`` of the paper.
        shape (tuple[int, ...]): Of the input, with the batch in front.
        backend (str): Name of an engine.
        precision (str): One that the engine has for this network.
        threads (int): Of the CPU.
        device (str): Of PyTorch.
        channels_last (bool): PyTorch's memory format NHWC.
        compile (bool): ``torch.compile``.
        options (str): Overrides of its config, as JSON.
    """

    target: str
    shape: Tuple[int, ...]
    backend: str = 'onnxruntime'
    precision: str = 'fp32'
    threads: int = 1
    device: str = 'cpu'
    channels_last: bool = False
    compile: bool = False
    options: str = '{}'

    @property
    def name(self) -> str:
        """Short, for a table."""
        if self.target.startswith(('backbone:', 'operator:', 'product:')):
            return self.target.partition(':')[2]
        first, *others = (Path(part) for part in self.target.split(','))
        return ', '.join([first.stem, *(path.name for path in others)])

    @property
    def file(self) -> Optional[Path]:
        """The exported file, None if the network is built."""
        path = Path(self.target)
        return path if path.suffix in EXPORTED else None

    def key(self) -> tuple:
        """What of two candidates may share one exported file."""
        return self.target, self.shape, self.options


def allowed_precisions(target: str, backend: str) -> Tuple[str, ...]:
    """Of a network on an engine, the usual first; empty if it cannot."""
    engine = ENGINES[backend]
    suffix = Path(target).suffix
    if suffix in EXPORTED and suffix not in engine.reads:
        return ()
    return engine.quantised if is_quantised(target) else engine.precisions


@cache
def is_quantised(target: str) -> bool:
    """Whether an exported file computes with integers.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(target)
    if path.suffix not in EXPORTED:
        return False
    if not path.is_file():
        raise FileNotFoundError(f'exported file not found: {path}')
    return any(kind in _QUANTISED_OPERATORS
               for _, kind in engine_of(path).operators(path))


def input_shape(target: str, batch: int,
                shape: Optional[Sequence[int]]) -> Tuple[int, ...]:
    """The input of a network: batch, channels, and height and width, which
    are its own if ``shape`` is None, 640x640 if it is for any.

    Raises:
        ValueError: If a file was exported for another input.
    """
    own = own_shape(target)
    if own:
        return (batch, own[0], *(shape or own[1:]))
    fixed = _exported_shape(Path(target))
    if fixed is None:
        return (batch, 3, *(shape or (640, 640)))
    if len(fixed) != 4:
        raise ValueError(f'{target} takes an input of {len(fixed)} axes, '
                         'expected images (N, C, H, W)')
    wanted = (batch, fixed[1] or 3,
              *(shape or (side or 640 for side in fixed[2:])))
    if any(f and f != w for f, w in zip(fixed, wanted)):
        raise ValueError(
            f'{target} was exported for {_times(fixed)} (N x C x H x W), not '
            f'for {_times(wanted)}: export it again, or leave --shape and '
            '--batch-sizes at what it is for')
    return wanted


def _times(shape: Sequence[Optional[int]]) -> str:
    return 'x'.join(str(s or '?') for s in shape)


@cache
def _exported_shape(path: Path) -> Optional[Tuple[Optional[int], ...]]:
    """Of the only input of a file, None for an axis of any size."""
    if path.suffix not in EXPORTED:
        return None
    engine = next(e for e in readers_of(path) if e.is_installed)
    return engine.open(path).shape


def parse_spec(spec: str) -> Tuple[str, Dict[str, Any]]:
    """Split ``TARGET@SETTING@...`` into the target and what it fixes.

    Raises:
        ValueError: If a setting is not one.
    """
    target, *settings = spec.split('@')
    fixed: Dict[str, Any] = {}
    precisions = {p for engine in ENGINES.values()
                  for p in (*engine.precisions, *engine.quantised)}
    for setting in settings:
        number = re.fullmatch(r'(threads|batch)=([1-9]\d*)', setting)
        switch = re.fullmatch(r'(no-)?(channels-last|compile)', setting)
        if setting in ENGINES:
            fixed['backend'] = setting
        elif setting in precisions:
            fixed['precision'] = setting
        elif number:
            fixed[number[1]] = int(number[2])
        elif switch:
            fixed[switch[2].replace('-', '_')] = not switch[1]
        else:
            raise ValueError(
                f'{spec}: after @ stands a backend ({", ".join(ENGINES)}), '
                f'a precision ({", ".join(sorted(precisions))}), threads=N, '
                'batch=N, [no-]channels-last or [no-]compile, not '
                f'{setting!r}')
    if Path(target).suffix in ('.torchscript', '.pt2'):
        engine_of(target)  # which says that nothing runs it
    return target, fixed


def cross(spec: str,
          backends: Optional[Sequence[str]],
          precisions: Optional[Sequence[str]],
          threads: Sequence[int],
          batches: Sequence[int],
          shape: Optional[Sequence[int]] = None,
          **common: Any) -> Tuple[List[Candidate], List[str]]:
    """All ways to run a network, and notes on those that do not exist.

    What ``spec`` fixes (see :func:`parse_spec`) is not crossed. Without
    ``backends`` it is the first that can: ONNX Runtime on a CPU, PyTorch on a
    GPU; without ``precisions`` fp32, or int8 if a file is quantised.
    ``common`` are other fields of :class:`Candidate`.

    Raises:
        ValueError: If none of the combinations exists.
    """
    target, fixed = parse_spec(spec)
    on_cpu = common.get('device', 'cpu') == 'cpu'
    common.update({k: v for k, v in fixed.items() if k in
                   ('channels_last', 'compile')})
    if 'backend' in fixed:
        backends = [fixed['backend']]
    elif backends is None:
        backends = [b for b in (_ORDER if on_cpu else _ORDER[-1:])
                    if allowed_precisions(target, b)][:1]
    if 'precision' in fixed:
        precisions = [fixed['precision']]
    threads = [fixed['threads']] if 'threads' in fixed else threads
    batches = [fixed['batch']] if 'batch' in fixed else batches
    found, notes = [], []
    for backend in backends:
        allowed = allowed_precisions(target, backend)
        if not allowed:
            notes.append(f'{target} does not run on {backend}')
        elif not on_cpu and backend != 'pytorch':
            notes.append(f'{target}: {backend} runs on the CPU here, only '
                         'pytorch on --device')
            continue
        for precision in (precisions or allowed[:1]) if allowed else ():
            if precision not in allowed:
                notes.append(f'{target} has no {precision} on {backend}, it '
                             f'has {", ".join(allowed)}')
                continue
            # the layout and the compiler are PyTorch's
            only = {} if backend == 'pytorch' else dict(
                channels_last=False, compile=False)
            found += [
                Candidate(target, input_shape(target, batch, shape), backend,
                          precision, number, **{**common, **only})
                for number in threads for batch in batches
            ]
    if not found:
        hint = '. int8 is a property of an exported, quantised file' if any(
            'int8' in note for note in notes) else ''
        raise ValueError(f'{spec} cannot be run: '
                         f'{"; ".join(notes) or "no backend reads it"}{hint}')
    return found, notes


def baseline_of(candidate: Candidate, spec: str,
                shape: Optional[Sequence[int]] = None) -> Candidate:
    """What a candidate is compared with: run as it is, unless ``@`` says so.

    A network that does not exist in the precision of the candidate is run in
    its own usual one, so that a quantised file can be compared with the one
    that it was made from.

    Raises:
        ValueError: If the baseline cannot be run.
    """
    target, fixed = parse_spec(spec)
    backend = fixed.get('backend', candidate.backend)
    allowed = allowed_precisions(target, backend)
    precision = fixed.get('precision', candidate.precision)
    if 'precision' not in fixed and precision not in allowed:
        precision = (allowed or ('none', ))[0]
    if precision not in allowed:
        raise ValueError(f'--baselines {spec}: {target} does not run on '
                         f'{backend} in {precision}')
    on_pytorch = backend == 'pytorch'
    return replace(
        candidate,
        target=target,
        shape=input_shape(target, fixed.get('batch', candidate.shape[0]),
                          shape),
        backend=backend,
        precision=precision,
        threads=fixed.get('threads', candidate.threads),
        options='{}',
        **{name: on_pytorch and fixed.get(name, getattr(candidate, name))
           for name in ('channels_last', 'compile')})
