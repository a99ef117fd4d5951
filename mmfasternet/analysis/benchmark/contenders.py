# SPDX-License-Identifier: Apache-2.0
"""What runs against what: networks crossed with how they are run."""
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmfasternet.analysis.benchmark.paper import own_shape

# Of each backend the precisions of a network that is not quantised. bf16 and
# fp16 are autocast in PyTorch and a hint, which a machine may decline, in
# OpenVINO.
PRECISIONS: Dict[str, Tuple[str, ...]] = {
    'pytorch': ('fp32', 'bf16', 'fp16'),
    'onnxruntime': ('fp32', ),
    'openvino': ('fp32', 'bf16'),
}
# int8 is a property of a file: what is not quantised in it runs in fp32, or
# in bf16
QUANTISED: Dict[str, Tuple[str, ...]] = {
    'pytorch': ('int8', ),
    'onnxruntime': ('int8', ),
    'openvino': ('int8', 'int8-bf16'),
}
# Which backends read which exported file.
READERS: Dict[str, Tuple[str, ...]] = {
    '.onnx': ('onnxruntime', 'openvino'),
    '.xml': ('openvino', ),
    '.torchscript': ('pytorch', ),
}
_QUANTISED_OPERATORS = {
    'QuantizeLinear', 'DynamicQuantizeLinear', 'QLinearConv', 'ConvInteger',
    'QLinearMatMul', 'MatMulInteger'
}


@dataclass(frozen=True)
class Contender:
    """One network, run one way.

    Args:
        target (str): A config (path or ``package::path``), the same and
            ``,CHECKPOINT``, an exported file, ``backbone:NAME`` or
            ``operator:NAME:CHANNELSxSIDE`` of the paper.
        shape (tuple[int, ...]): Of the input, with the batch in front.
        backend (str): A key of ``PRECISIONS``.
        precision (str): One that the backend has for this network.
        threads (int): Of the CPU.
        device (str): Of PyTorch.
        channels_last (bool): PyTorch's memory format NHWC.
        compile (bool): ``torch.compile``.
        optioned (bool): Whether ``--cfg-options`` are for it.
    """

    target: str
    shape: Tuple[int, ...]
    backend: str = 'onnxruntime'
    precision: str = 'fp32'
    threads: int = 1
    device: str = 'cpu'
    channels_last: bool = False
    compile: bool = False
    optioned: bool = False

    @property
    def name(self) -> str:
        """Short, for a table."""
        if self.target.startswith(('backbone:', 'operator:', 'product:')):
            return self.target.partition(':')[2]
        return ', '.join(
            Path(part).stem if i == 0 else Path(part).name
            for i, part in enumerate(self.target.split(',')))

    @property
    def file(self) -> Optional[Path]:
        """The exported file, None if the network is built."""
        path = Path(self.target)
        return path if path.suffix in READERS else None

    def key(self) -> tuple:
        """What of two contenders may share one exported file."""
        return self.target, self.shape, self.optioned


@cache
def is_quantised(target: str) -> bool:
    """Whether an exported file computes with integers.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(target)
    if path.suffix not in READERS:
        return False
    if not path.is_file():
        raise FileNotFoundError(f'exported file not found: {path}')
    if path.suffix == '.onnx':
        import onnx
        nodes = onnx.load(str(path), load_external_data=False).graph.node
        return any(n.op_type in _QUANTISED_OPERATORS for n in nodes)
    # the .xml of OpenVINO is the graph, its weights are another file
    return path.suffix == '.xml' and b'"FakeQuantize"' in path.read_bytes()


def input_shape(target: str, batch: int,
                shape: Optional[Sequence[int]]) -> Tuple[int, ...]:
    """The input of a network, with the batch in front.

    Args:
        target (str): See :class:`Contender`.
        batch (int): Images at once.
        shape (Sequence[int], optional): Height and width; None for the one
            that the network is made for, 640x640 if it is for any.

    Raises:
        ValueError: If a file was exported for another input.
    """
    own = own_shape(target)
    if own:
        return (batch, own[0], *(shape or own[1:]))
    wanted = (batch, 3, *(shape or (640, 640)))
    fixed = _exported_shape(Path(target))
    if fixed is None:
        return wanted
    if len(fixed) != 4:
        raise ValueError(f'{target} takes an input of {len(fixed)} axes, '
                         'expected images (N, C, H, W)')
    if shape is None:
        wanted = (batch, 3, *(f or 640 for f in fixed[2:]))
    wanted = (wanted[0], fixed[1] or 3, *wanted[2:])
    if any(f and f != w for f, w in zip(fixed, wanted)):
        raise ValueError(
            f'{target} was exported for {_times(fixed)} (N x C x H x W), not '
            f'for {_times(wanted)}: export it again, or leave --shape and '
            '--batch-sizes at what it is for')
    return wanted


def _times(shape: Sequence[Optional[int]]) -> str:
    return 'x'.join(str(s or '?') for s in shape)


@cache
def _exported_shape(path: Path) -> Optional[List[Optional[int]]]:
    """Of the only input of a file, None for an axis of any size."""
    if path.suffix == '.onnx':
        import onnx
        graph = onnx.load(str(path), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [i for i in graph.input if i.name not in weights]
        shapes = [[d.dim_value or None for d in i.type.tensor_type.shape.dim]
                  for i in inputs]
    elif path.suffix == '.xml':
        import openvino
        model = openvino.Core().read_model(str(path))
        shapes = [[d.get_length() if d.is_static else None
                   for d in i.partial_shape] for i in model.inputs]
    else:
        return None
    if len(shapes) != 1:
        raise ValueError(f'{path} has {len(shapes)} inputs, expected one: '
                         'the images')
    return shapes[0]


def parse_spec(spec: str) -> Tuple[str, Dict[str, Any]]:
    """Split ``TARGET@SETTING@...`` into the target and what it fixes.

    Raises:
        ValueError: If a setting is none.
    """
    target, *settings = spec.split('@')
    fixed: Dict[str, Any] = {}
    precisions = {p for table in (PRECISIONS, QUANTISED)
                  for names in table.values() for p in names}
    for setting in settings:
        number = re.fullmatch(r'(threads|batch)=([1-9]\d*)', setting)
        switch = re.fullmatch(r'(no-)?(channels-last|compile)', setting)
        if setting in PRECISIONS:
            fixed['backend'] = setting
        elif setting in precisions:
            fixed['precision'] = setting
        elif number:
            fixed[number[1]] = int(number[2])
        elif switch:
            fixed[switch[2].replace('-', '_')] = not switch[1]
        else:
            raise ValueError(
                f'{spec}: after @ stands a backend ({", ".join(PRECISIONS)}), '
                f'a precision ({", ".join(sorted(precisions))}), threads=N, '
                'batch=N, [no-]channels-last or [no-]compile, not '
                f'{setting!r}')
    return target, fixed


def allowed_precisions(target: str, backend: str) -> Tuple[str, ...]:
    """Of a network on a backend, the usual one first; empty if it cannot."""
    suffix = Path(target).suffix
    if suffix in READERS and backend not in READERS[suffix]:
        return ()
    return (QUANTISED if is_quantised(target) else PRECISIONS)[backend]


def cross(spec: str,
          backends: Optional[Sequence[str]],
          precisions: Optional[Sequence[str]],
          threads: Sequence[int],
          batches: Sequence[int],
          shape: Optional[Sequence[int]] = None,
          **common: Any) -> Tuple[List[Contender], List[str]]:
    """All ways to run a network, and notes on those that do not exist.

    Args:
        spec (str): See :func:`parse_spec`; what it fixes is not crossed.
        backends (Sequence[str], optional): None for the first that can:
            ONNX Runtime on a CPU, PyTorch on a GPU.
        precisions (Sequence[str], optional): None for fp32, or int8 if a file
            is quantised.
        threads (Sequence[int]): Numbers of threads.
        batches (Sequence[int]): Batch sizes.
        shape (Sequence[int], optional): Height and width.
        **common: Other fields of :class:`Contender`.

    Raises:
        ValueError: If none of the combinations exists.
    """
    target, fixed = parse_spec(spec)
    common.update({k: v for k, v in fixed.items() if k in
                   ('channels_last', 'compile')})
    if 'backend' in fixed:
        backends = [fixed['backend']]
    elif backends is None:
        order = ('onnxruntime', 'openvino', 'pytorch')
        if common.get('device', 'cpu') != 'cpu':
            order = ('pytorch', )
        backends = [b for b in order if allowed_precisions(target, b)][:1]
    if 'precision' in fixed:
        precisions = [fixed['precision']]
    found, notes = [], []
    for backend in backends:
        allowed = allowed_precisions(target, backend)
        if not allowed:
            notes.append(f'{target} does not run on {backend}')
            continue
        for precision in precisions or allowed[:1]:
            if precision not in allowed:
                notes.append(f'{target} has no {precision} on {backend}, it '
                             f'has {", ".join(allowed)}')
                continue
            # the layout and the compiler are PyTorch's
            only = {} if backend == 'pytorch' else dict(
                channels_last=False, compile=False)
            found += [
                Contender(target, input_shape(target, n, shape), backend,
                          precision, t, **{**common, **only})
                for t in ([fixed['threads']] if 'threads' in fixed else
                          threads)
                for n in ([fixed['batch']] if 'batch' in fixed else batches)
            ]
    if common.get('device', 'cpu') != 'cpu':
        notes += [f'{c.target}: {c.backend} runs on the CPU here, only '
                  'pytorch on --device' for c in found
                  if c.backend != 'pytorch']
        found = [c for c in found if c.backend == 'pytorch']
    if not found:
        hint = '. int8 is a property of an exported, quantised file' if any(
            'int8' in note for note in notes) else ''
        raise ValueError(f'{spec} cannot be run: '
                         f'{"; ".join(notes) or "no backend reads it"}{hint}')
    return found, notes


def baseline_of(contender: Contender, spec: str,
                shape: Optional[Sequence[int]] = None) -> Contender:
    """What a contender is compared with: run as it is, unless ``@`` says so.

    A network that does not exist in the precision of the contender is run in
    its own usual one, so that a quantised file can be compared with the one
    that it was made from.

    Args:
        contender (Contender): The network.
        spec (str): See :func:`parse_spec`.
        shape (Sequence[int], optional): Height and width.

    Raises:
        ValueError: If the baseline cannot be run.
    """
    target, fixed = parse_spec(spec)
    backend = fixed.get('backend', contender.backend)
    allowed = allowed_precisions(target, backend)
    precision = fixed.get('precision', contender.precision)
    if 'precision' not in fixed and precision not in allowed:
        precision = (allowed or ('none', ))[0]
    if precision not in allowed:
        raise ValueError(f'--baselines {spec}: {target} does not run on '
                         f'{backend} in {precision}')
    on_pytorch = backend == 'pytorch'
    return replace(
        contender,
        target=target,
        shape=input_shape(target, fixed.get('batch', contender.shape[0]),
                          shape),
        backend=backend,
        precision=precision,
        threads=fixed.get('threads', contender.threads),
        channels_last=on_pytorch and fixed.get('channels_last',
                                               contender.channels_last),
        compile=on_pytorch and fixed.get('compile', contender.compile),
        optioned=False)
