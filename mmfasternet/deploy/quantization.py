# SPDX-License-Identifier: GPL-3.0-only
"""Post-training quantisation to int8, by NNCF and ONNX Runtime.

Weights get a scale per channel, activations one per tensor, from images of
the user. What follows the last convolutions, the decoding of boxes and
scores, stays in float: a coordinate up to 640 has no place in 8 bits.
"""
import re
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Union

import numpy as np

from .backends import (
    KEY,
    Backend,
    load_backend,
    openvino_core,
    require_package,
)
from .engines import EXPORTED
from .exporting import quiet, written_whole

# Layers of a detector that are kept in float or quantised together: part,
# module, and its number if there are several
_PART = re.compile(r'\w+\.\w+(\.\d+)?')
_CONVOLUTIONS = ('Conv', 'Convolution', 'GroupConvolution')


def quantize(path: Union[str, Path],
             out: Union[str, Path],
             images: np.ndarray,
             keep: Sequence[str] = ()) -> None:
    """Quantise an exported detector to int8.

    Args:
        path (str | Path): What :func:`.exporting.export` wrote: ``.onnx``,
            quantised by ONNX Runtime, or ``.xml``, quantised by NNCF.
        out (str | Path): The file to write, with the same suffix; complete
            or not there.
        images (np.ndarray): uint8, ``(N, 3, H, W)``, as they enter the
            network; a few hundred of what it will see.
        keep (Sequence[str]): Parts to keep in float, see :func:`parts`.
            Defaults to ``()``.

    Raises:
        ValueError: If a file or part is none of the above.
    """
    path, out = Path(path), Path(out)
    if path.suffix not in EXPORTED or out.suffix != path.suffix:
        raise ValueError(f'{path} and {out} must both end in '
                         f'{" or ".join(EXPORTED)}')
    unknown = {*keep} - {*parts(path)}
    if unknown:
        raise ValueError(f'{path} has no part {", ".join(sorted(unknown))}; '
                         f'its parts are {", ".join(parts(path))}')
    with written_whole(out) as part, quiet('nncf', ''):
        write = _by_onnxruntime if path.suffix == '.onnx' else _by_nncf
        write(path, part, images, tuple(keep))


def parts(path: Union[str, Path]) -> List[str]:
    """The parts of an exported detector that are quantised together.

    Args:
        path (str | Path): ``.onnx`` or ``.xml``.

    Returns:
        list[str]: Names of modules, such as ``'backbone.stages.0'``.
    """
    names = {}
    for name, kind in _nodes(Path(path)):
        if kind in _CONVOLUTIONS:
            names[_part(name)] = None
    return [*names]


def sensitivity(path: Union[str, Path],
                images: np.ndarray) -> Dict[str, float]:
    """How far each part moves the scores when it alone is quantised.

    Args:
        path (str | Path): See :func:`quantize`.
        images (np.ndarray): See :func:`quantize`; the first half is for the
            scales, the other for the comparison.

    Returns:
        dict[str, float]: By part, the root mean square of the difference of
        the scores relative to that of the scores, the worst first.
    """
    half = (len(images) + 1) // 2
    reference = _scores(load_backend(path), images[half:])
    names = parts(path)
    moved = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            out = Path(folder) / f'part{Path(path).suffix}'
            quantize(path, out, images[:half],
                     [other for other in names if other != name])
            difference = _scores(load_backend(out), images[half:]) - reference
            moved[name] = float(
                np.sqrt((difference**2).mean() / (reference**2).mean()))
    return dict(sorted(moved.items(), key=lambda item: -item[1]))


def _scores(backend: Backend, images: np.ndarray) -> np.ndarray:
    size = backend.info.shape[0] or 1
    index = 2 if backend.info.nms else 1
    return np.concatenate([
        backend(images[i:i + size])[index]
        for i in range(0, len(images) - size + 1, size)
    ])


def _part(name: str) -> str:
    found = _PART.match(name)
    return found[0] if found else name


def _nodes(path: Path) -> List[tuple]:
    """Names and kinds of the operations of a graph."""
    if path.suffix == '.onnx':
        model = require_package('onnx').load(str(path))
        return [(node.name, node.op_type) for node in model.graph.node]
    model = openvino_core().read_model(str(path))
    return [(op.get_friendly_name().partition('/')[0], op.get_type_name())
            for op in model.get_ordered_ops()]


def _by_onnxruntime(path: Path, out: Path, images: np.ndarray,
                    keep: Sequence[str]) -> None:
    onnx = require_package('onnx')
    require_package('onnxruntime')
    from onnxruntime import quantization
    backend = load_backend(path)
    size = backend.info.shape[0] or 1
    batches = iter([
        {backend.input: images[i:i + size]}
        for i in range(0, len(images) - size + 1, size)
    ])

    class Reader(quantization.CalibrationDataReader):
        """The images, one run after another."""

        def get_next(self):
            return next(batches, None)

    quantization.quantize_static(
        str(path),
        str(out),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=['Conv'],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[
            name for name, kind in _nodes(path)
            if kind in _CONVOLUTIONS and _part(name) in keep
        ])
    model = onnx.load(str(out))
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=backend.info.dumps())
    onnx.save(model, str(out))


def _by_nncf(path: Path, out: Path, images: np.ndarray,
             keep: Sequence[str]) -> None:
    openvino = require_package('openvino')
    nncf = require_package('nncf')
    info = load_backend(path).info
    size = info.shape[0] or 1
    model = openvino_core().read_model(str(path))
    quantized = nncf.quantize(
        model,
        nncf.Dataset([
            images[i:i + size] for i in range(0, len(images) - size + 1, size)
        ]),
        subset_size=len(images),
        # SiLU and GELU have few negative values: asymmetric activations
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=_float_names(model, keep)))
    quantized.set_rt_info(info.dumps(), KEY)
    openvino.save_model(quantized, str(out), compress_to_fp16=False)


def _float_names(model: Any, keep: Sequence[str]) -> List[str]:
    """What NNCF must not touch: the parts to keep, and the decoding."""
    names = []
    before = set()  # operations that a convolution comes after
    for op in reversed(model.get_ordered_ops()):
        name, kind = op.get_friendly_name(), op.get_type_name()
        is_convolution = kind in _CONVOLUTIONS
        if is_convolution or name in before:
            before.update(
                value.get_source_output().get_node().get_friendly_name()
                for value in op.inputs())
        if is_convolution:
            if _part(name.partition('/')[0]) in keep:
                names.append(name)
        elif name not in before and kind not in ('Constant', 'Result'):
            names.append(name)
    # the summand of a last convolution is an operation of its own
    return names
