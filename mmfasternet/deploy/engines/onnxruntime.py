# SPDX-License-Identifier: Apache-2.0
"""``.onnx`` files, in ONNX Runtime."""
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

import numpy as np
import onnxruntime

from mmfasternet.deploy.engines import (
    KEY,
    Keep,
    Network,
    damaged,
    require_package,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class ONNXRuntimeNetwork(Network):
    """A file in ONNX Runtime, as :func:`open_session` gives it."""

    def __init__(self, session: onnxruntime.InferenceSession,
                 name: str) -> None:
        entries = session.get_inputs()
        kind = entries[0].type[len('tensor('):-1]
        super().__init__(
            name, [tuple(d if isinstance(d, int) else None for d in e.shape)
                   for e in entries],
            dict(float='float32', double='float64').get(kind, kind),
            session.get_modelmeta().custom_metadata_map.get(KEY))
        self.session, self.input = session, entries[0].name

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """See :class:`Network`."""
        return self.session.run(None, {self.input: images})


def open_session(path: Path,
                 threads: Optional[int] = None,
                 device: str = 'cpu',
                 **options: Any) -> onnxruntime.InferenceSession:
    """A session with every optimisation of the graph.

    Args:
        path, threads: See :meth:`.Engine.open`.
        device (str): ``'cpu'`` or ``'cuda:0'``.
        **options: Of ``onnxruntime.SessionOptions``.

    Raises:
        CheckpointError, ValueError: See :meth:`.Engine.open`.
    """
    settings = onnxruntime.SessionOptions()
    options = dict(
        intra_op_num_threads=threads or 0, log_severity_level=3, **options)
    for name, value in options.items():
        setattr(settings, name, value)
    kind, _, index = device.partition(':')
    provider = dict(cpu='CPUExecutionProvider',
                    cuda='CUDAExecutionProvider').get(kind)
    if provider not in onnxruntime.get_available_providers():
        hint = 'install onnxruntime-gpu in the place of onnxruntime' if \
            provider else 'take cpu or cuda:0'
        raise ValueError(f'ONNX Runtime cannot use {device}: {hint}')
    try:
        own = dict(device_id=int(index or 0)) if kind == 'cuda' else {}
        session = onnxruntime.InferenceSession(
            str(path), settings, providers=[(provider, own)])
    except Exception as error:  # it raises a dozen kinds of its own
        raise damaged(path, error) from error
    if session.get_providers()[0] != provider:  # it falls back to the CPU
        raise ValueError(f'ONNX Runtime cannot use {device}: is there such a '
                         'GPU, and CUDA for it?')
    return session


def open(path: Path, precision: str, threads: Optional[int],
         device: str) -> Network:
    """See :meth:`.Engine.open`; the precision is that of the file."""
    return ONNXRuntimeNetwork(open_session(path, threads, device), str(path))


def write(network: 'nn.Module', images: 'Tensor', path: Path,
          text: Optional[str], **options: Any) -> None:
    """See :meth:`.Engine.write` and :func:`.onnx_model.to_onnx`."""
    import onnx

    from mmfasternet.deploy.onnx_model import to_onnx
    model = to_onnx(network, images, **options)
    if text is not None:
        model.metadata_props.add(key=KEY, value=text)
    onnx.save(model, path)


def operators(path: Path) -> List[Tuple[str, str]]:
    """See :meth:`.Engine.operators`."""
    model = require_package('onnx').load(str(path), load_external_data=False)
    return [(node.name, node.op_type) for node in model.graph.node]


def quantize(path: Path, out: Path, batches: Sequence[np.ndarray],
             keep: Keep) -> None:
    """See :meth:`.Engine.quantize`; by ONNX Runtime's own quantiser."""
    from onnxruntime import quantization
    name = open(path, 'fp32', None, 'cpu').input
    feeds = iter([{name: batch} for batch in batches])

    class Reader(quantization.CalibrationDataReader):
        """The batches, one run after another."""

        def get_next(self):
            return next(feeds, None)

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
            node for node, kind in operators(path)
            if kind == 'Conv' and keep(node)
        ])
