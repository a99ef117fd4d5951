# SPDX-License-Identifier: Apache-2.0
"""``.xml`` files with their ``.bin``, and ``.onnx`` files, in OpenVINO."""
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

import numpy as np
import openvino

from mmfasternet.deploy.engines import (
    KEY,
    Keep,
    Network,
    damaged,
    require_package,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'int8': 'f32', 'int8-bf16': 'bf16'}
CONVOLUTIONS = ('Convolution', 'GroupConvolution')


@cache
def openvino_core() -> openvino.Core:
    """The one ``openvino.Core`` of this process, with its CPU plugin loaded.

    The plugin gives the main thread another stack for signals and, when it is
    unloaded, the one that it found. Two that are not unloaded in the opposite
    order leave freed memory behind, in which Ctrl-C then crashes.
    """
    core = openvino.Core()
    core.get_property('CPU', 'FULL_DEVICE_NAME')
    return core


class OpenVINONetwork(Network):
    """A file in OpenVINO, as :func:`compile_file` gives it."""

    def __init__(self, compiled: openvino.CompiledModel, name: str,
                 text: Optional[str]) -> None:
        kind = compiled.inputs[0].get_element_type().to_dtype()
        super().__init__(
            name, [tuple(d.get_length() if d.is_static else None
                         for d in e.partial_shape) for e in compiled.inputs],
            np.dtype(kind).name, text)
        self.compiled, self.lock = compiled, threading.Lock()

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """See :class:`Network`."""
        with self.lock:
            outs = self.compiled([images], share_inputs=True)
            # a copy: what comes is memory that the engine uses again
            return [outs[i].copy() for i in range(len(self.compiled.outputs))]


def compile_file(path: Path,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu',
                 shape: Optional[Sequence[int]] = None,
                 **properties: Any) -> openvino.CompiledModel:
    """Compile a file for the latency of single runs.

    Args:
        path, threads, device: See :meth:`.Engine.open`.
        precision (str): A key of :data:`HINTS`, which a device may decline;
            see the property ``INFERENCE_PRECISION_HINT`` of the result.
        shape (Sequence[int], optional): Fixes that of the input. Defaults to
            None, as the file has it.
        **properties: Others of OpenVINO, such as ``PERF_COUNT=True``.

    Raises:
        CheckpointError, ValueError: See :meth:`.Engine.open`.
    """
    properties = dict(
        INFERENCE_PRECISION_HINT=HINTS[precision],
        PERFORMANCE_HINT='LATENCY',
        **properties)
    if threads is not None:
        properties['INFERENCE_NUM_THREADS'] = threads
    core = openvino_core()
    # several GPUs are listed as GPU.0 and GPU.1, one as GPU
    kinds = {name.partition('.')[0] for name in core.available_devices}
    if device.partition('.')[0].upper() not in (*kinds, 'AUTO'):
        raise ValueError(f'OpenVINO cannot use {device}, it has '
                         f'{", ".join(core.available_devices)}')
    try:
        model = core.read_model(str(path))
        if shape is not None:
            model.reshape(list(shape))
        return core.compile_model(model, device.upper(), properties)
    except Exception as error:
        raise damaged(path, error) from error


def open(path: Path, precision: str, threads: Optional[int],
         device: str) -> Network:
    """See :meth:`.Engine.open`."""
    compiled = compile_file(path, precision, threads, device)
    return OpenVINONetwork(compiled, str(path), _text(path))


def _text(path: Path) -> Optional[str]:
    """What :meth:`.Engine.write` wrote; OpenVINO drops that of ONNX."""
    if path.suffix == '.onnx':
        model = require_package('onnx').load(
            str(path), load_external_data=False)
        return {p.key: p.value for p in model.metadata_props}.get(KEY)
    model = openvino_core().read_model(str(path))
    return model.get_rt_info(KEY).astype(str) if \
        model.has_rt_info(KEY) else None


def write(network: 'nn.Module', images: 'Tensor', path: Path,
          text: Optional[str], **options: Any) -> None:
    """See :meth:`.Engine.write` and :func:`.onnx_model.to_onnx`."""
    import onnx

    from mmfasternet.deploy.onnx_model import to_onnx
    model = to_onnx(network, images, **options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'network.onnx'
        onnx.save(model, file)
        converted = openvino.convert_model(str(file))
        if text is not None:
            converted.set_rt_info(text, KEY)
        openvino.save_model(converted, str(path), compress_to_fp16=False)


def operators(path: Path) -> List[Tuple[str, str]]:
    """See :meth:`.Engine.operators`."""
    model = openvino_core().read_model(str(path))
    return [(op.get_friendly_name().partition('/')[0], op.get_type_name())
            for op in model.get_ordered_ops()]


def quantize(path: Path, out: Path, batches: Sequence[np.ndarray],
             keep: Keep) -> None:
    """See :meth:`.Engine.quantize`; by NNCF."""
    nncf = require_package('nncf')
    model = openvino_core().read_model(str(path))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=sum(map(len, batches)),
        # SiLU and GELU have few negative values: asymmetric activations
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=_float_names(model, keep)))
    openvino.save_model(quantized, str(out), compress_to_fp16=False)


def _float_names(model: openvino.Model,
                 keep: Keep) -> List[str]:
    """What NNCF must not touch: the parts to keep, and the decoding."""
    names = []
    before = set()  # operations that a convolution comes after
    for op in reversed(model.get_ordered_ops()):
        name, kind = op.get_friendly_name(), op.get_type_name()
        is_convolution = kind in CONVOLUTIONS
        if is_convolution or name in before:
            before.update(
                value.get_source_output().get_node().get_friendly_name()
                for value in op.inputs())
        if is_convolution:
            if keep(name.partition('/')[0]):
                names.append(name)
        elif name not in before and kind not in ('Constant', 'Result'):
            names.append(name)
    return names
