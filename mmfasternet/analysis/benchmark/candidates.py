# SPDX-License-Identifier: Apache-2.0
"""What runs against what: networks crossed with how they are run."""
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmfasternet.deploy.engines import ENGINES, EXPORTED, engine_of, readers_of

from . import paper

# What is tried first of what can run a network on a CPU.
_ORDER = ('onnxruntime', 'openvino', 'pytorch')
_QUANTISED_OPERATORS = {
    'QuantizeLinear', 'DynamicQuantizeLinear', 'QLinearConv', 'ConvInteger',
    'QLinearMatMul', 'MatMulInteger', 'FakeQuantize'
}


@dataclass(frozen=True)
class Candidate:
    """One network, run one way."""

    #: A config (path or ``package::path``), the same and ``,CHECKPOINT``, an
    #: exported file, or ``backbone:NAME`` or ``operator:NAME:CHANNELSxSIDE``
    #: of the paper.
    target: str
    shape: Tuple[int, ...]  #: Of the input, with the batch in front.
    backend: str = 'onnxruntime'  #: Name of an engine.
    precision: str = 'fp32'  #: One that the engine has for this network.
    threads: int = 1  #: Of the CPU.
    device: str = 'cpu'  #: Of PyTorch.
    channels_last: bool = False  #: PyTorch's memory format NHWC.
    compile: bool = False  #: ``torch.compile``.
    options: str = '{}'  #: Overrides of its config, as JSON.

    @property
    def name(self) -> str:
        """Short, for a table."""
        if self.target.startswith(('backbone:', 'operator:', 'product:')):
            return self.target.partition(':')[2]
        first, *others = (Path(part) for part in self.target.split(','))
        return ', '.join([first.stem, *(path.name for path in others)])

    def key(self) -> tuple:
        """What of two candidates may share one exported file."""
        return self.target, self.shape, self.options, self.suffix

    @property
    def suffix(self) -> str:
        """Of the file that its network is written to, '' if to none."""
        return _written_suffix(self.backend)


def _written_suffix(backend: str) -> str:
    """ONNX where that is read, so that engines share a file."""
    reads = ENGINES[backend].reads
    return '.onnx' if '.onnx' in reads else ''.join(reads[:1])


def exported_file(target: str) -> Optional[Path]:
    """The exported file that a target is, None if its network is built."""
    path = Path(target)
    return path if target.endswith(EXPORTED) else None


def allowed_precisions(target: str, backend: str) -> Tuple[str, ...]:
    """Of a network on an engine, the usual first; empty if it cannot."""
    engine, file = ENGINES[backend], exported_file(target)
    own = _written_suffix(backend) not in ('', '.onnx')
    # a file that only one engine reads is timed by benchmark_from_file.py,
    # and of the yardsticks these engines have none
    if file and (own or file.suffix not in engine.reads) or \
            own and target.startswith(('product:', 'copy:')):
        return ()
    return engine.quantised if is_quantised(target) else engine.precisions


@cache
def is_quantised(target: str) -> bool:
    """Whether an exported file computes with integers.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    file = exported_file(target)
    if file and not file.is_file():
        raise FileNotFoundError(f'exported file not found: {file}')
    return bool(file) and any(
        kind in _QUANTISED_OPERATORS
        for _, kind in engine_of(file).operators(file))


def input_shape(target: str, batch: int,
                shape: Optional[Sequence[int]]) -> Tuple[int, ...]:
    """The input of a network: batch, channels, and height and width, which
    are its own if ``shape`` is None, 640x640 if it is for any.

    Raises:
        ValueError: If a file was exported for another input.
    """
    published = paper.find(target)
    if published:
        channels, *own = published.shape
        return (batch, channels, *(shape or own))
    fixed = _exported_shape(target)
    if len(fixed) != 4:
        raise ValueError(f'{target} takes an input of {len(fixed)} axes, '
                         'expected images (N, C, H, W)')
    wanted = (batch, fixed[1] or 3,
              *(shape or (side or 640 for side in fixed[2:])))
    if any(f and f != w for f, w in zip(fixed, wanted)):
        was, asked = ('x'.join(str(s or '?') for s in sides)
                      for sides in (fixed, wanted))
        raise ValueError(
            f'{target} was exported for {was} (N x C x H x W), not for '
            f'{asked}: export it again, or leave --shape and --batch-sizes at '
            'what it is for')
    return wanted


@cache
def _exported_shape(target: str) -> Tuple[Optional[int], ...]:
    """Of the only input, None for an axis of any size."""
    file = exported_file(target)
    if file is None:
        return (None, ) * 4
    return next(e for e in readers_of(file) if e.is_installed).open(file).shape


def parse_spec(spec: str) -> Tuple[str, Dict[str, Any]]:
    """Split ``TARGET@SETTING@...`` into the target and what it fixes, by the
    arguments of :func:`cross`.

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
            fixed['backends'] = [setting]
        elif setting in precisions:
            fixed['precisions'] = [setting]
        elif number:
            name = 'threads' if number[1] == 'threads' else 'batches'
            fixed[name] = [int(number[2])]
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
    backends = fixed.pop('backends', backends)
    precisions = fixed.pop('precisions', precisions)
    threads = fixed.pop('threads', threads)
    batches = fixed.pop('batches', batches)
    common.update(fixed)
    on_cpu = common.get('device', 'cpu') == 'cpu'
    if backends is None:
        backends = [b for b in (_ORDER if on_cpu else _ORDER[-1:])
                    if allowed_precisions(target, b)][:1]
    found, notes = [], []
    for backend in backends:
        allowed = allowed_precisions(target, backend)
        if not allowed:
            notes.append(f'{target} does not run on {backend}')
            continue
        if not on_cpu and backend != 'pytorch':
            notes.append(f'{target}: {backend} runs on the CPU here, only '
                         'pytorch on --device')
            continue
        # the layout and the compiler are PyTorch's
        only = {} if backend == 'pytorch' else dict(
            channels_last=False, compile=False)
        for precision in precisions or allowed[:1]:
            if precision not in allowed:
                notes.append(f'{target} has no {precision} on {backend}, it '
                             f'has {", ".join(allowed)}')
                continue
            found += [
                Candidate(target, input_shape(target, batch, shape), backend,
                          precision, number, **{**common, **only})
                for number in threads for batch in batches
            ]
    if not found:
        hint = '. int8 is a property of an exported, quantised file' if any(
            'int8' in note for note in notes) else ''
        why = '; '.join(notes) or 'benchmark_from_file.py times it'
        raise ValueError(f'{spec} cannot be run: {why}{hint}')
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
    backend, = fixed.get('backends', [candidate.backend])
    has_same = candidate.precision in allowed_precisions(target, backend)
    try:
        (baseline, ), _ = cross(
            spec, [backend], [candidate.precision] if has_same else None,
            [candidate.threads], [candidate.shape[0]], shape,
            device=candidate.device, channels_last=candidate.channels_last,
            compile=candidate.compile)
    except ValueError as error:
        raise ValueError(f'--baselines {error}') from None
    return baseline
