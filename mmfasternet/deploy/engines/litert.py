# SPDX-License-Identifier: Apache-2.0
"""``.tflite`` files, in LiteRT (once TensorFlow Lite)."""
import copy
import os
import threading
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple
from zipfile import ZipFile

import numpy as np
from ai_edge_litert import interpreter as litert

from mmfasternet.deploy.engines import (
    KEY,
    Keep,
    Network,
    damaged,
    require_package,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# in the archive behind the network, where TensorFlow Lite's own tools put
# the names of classes
TEXT, LONGEST = f'{KEY}.json', 2**20


class LiteRTNetwork(Network):
    """A file in LiteRT; images are ``(N, H, W, C)`` there."""

    def __init__(self, interpreter: litert.Interpreter, name: str,
                 text: Optional[str]) -> None:
        entries = interpreter.get_input_details()
        super().__init__(
            name, [(int(n), *np.roll(sides, 1).tolist())
                   for n, *sides in (entry['shape'] for entry in entries)],
            np.dtype(entries[0]['dtype']).name if entries else '', text)
        self.interpreter, self.input = interpreter, entries[0]['index']
        self.lock = threading.Lock()
        # output_2 before output_10
        self.outputs = [detail['index'] for detail in sorted(
            interpreter.get_output_details(),
            key=lambda detail: (len(detail['name']), detail['name']))]

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """See :class:`Network`; uint8 will do as well."""
        with self.lock:
            self.interpreter.set_tensor(self.input, self.prepare(images))
            self.interpreter.invoke()
            return [self.interpreter.get_tensor(i) for i in self.outputs]

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Images as the file takes them."""
        return np.moveaxis(images, 1, -1).astype(self.dtype)


def _interpreter(path: Path, **options: Any) -> litert.Interpreter:
    try:
        interpreter = litert.Interpreter(str(path), **options)
        interpreter.allocate_tensors()
        return interpreter
    except (RuntimeError, ValueError) as error:
        raise damaged(path, error) from error


def open(path: Path, precision: str, threads: Optional[int],
         device: str) -> Network:
    """See :meth:`.Engine.open`."""
    if device != 'cpu':
        raise ValueError(f'LiteRT runs on the CPU here, not on {device}')
    interpreter = _interpreter(path, num_threads=threads or os.cpu_count())
    try:
        with ZipFile(path) as archive, archive.open(TEXT) as file:
            text = file.read(LONGEST).decode(errors='replace')
    except Exception:  # an archive can be wrong in a dozen ways
        text = None
    return LiteRTNetwork(interpreter, str(path), text)


def write(network: 'nn.Module',
          images: 'Tensor',
          path: Path,
          text: Optional[str],
          dynamic: bool = False,
          precision: str = 'fp32') -> None:
    """See :meth:`.Engine.write`; by litert-torch."""
    import torch
    litert_torch = require_package('litert_torch')
    # it knows a constant by its address, and copies what does not lie in
    # order: of two such weights the second then gets the values of the first
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    network = litert_torch.to_channel_last_io(network, args=[0]).eval()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        litert_torch.convert(
            network, (images.float().movedim(1, -1).contiguous(), )
        ).export(str(path))
        if precision == 'fp16':
            _store_fp16(path)
    _add_text(path, text)


def _add_text(path: Path, text: Optional[str]) -> None:
    if text is not None:
        with ZipFile(path, 'a') as archive:
            archive.writestr(TEXT, text)


def _store_fp16(path: Path) -> None:
    """Weights of convolutions in fp16, which are made fp32 when it is run."""
    tool = require_package('ai_edge_quantizer')
    types, quantizer = tool.qtyping, tool.Quantizer(str(path))
    quantizer.update_quantization_recipe(
        '.*', types.TFLOperationName.CONV_2D,
        types.OpQuantizationConfig(
            weight_tensor_config=types.TensorQuantizationConfig(
                16, dtype=types.TensorDataType.FLOAT),
            compute_precision=types.ComputePrecision.FLOAT),
        'float_casting')
    quantizer.quantize().export_model(str(path), overwrite=True)


def operators(path: Path) -> List[Tuple[str, str]]:
    """See :meth:`.Engine.operators`."""
    resolver = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = _interpreter(path, experimental_op_resolver_type=resolver)
    return [(str(op['index']), op['op_name'])
            for op in interpreter._get_ops_details()]


def quantize(path: Path, out: Path, batches: Sequence[np.ndarray],
             keep: Keep) -> None:
    """See :meth:`.Engine.quantize`; by AI Edge Quantizer.

    Input and outputs stay in float. ``keep`` is not asked: of its modules a
    file has no names.
    """
    tool = require_package('ai_edge_quantizer')
    quantizer = tool.Quantizer(str(path), tool.recipe.static_wi8_ai8())
    for end in ('INPUT', 'OUTPUT'):
        quantizer.update_quantization_recipe(
            '.*', tool.qtyping.TFLOperationName(end),
            algorithm_key='no_quantize')
    network = open(path, 'fp32', 1, 'cpu')
    (name, signature), = network.interpreter.get_signature_list().items()
    entry, = signature['inputs']
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        ranges = quantizer.calibrate({name: [
            {entry: network.prepare(images)} for images in batches]})
        quantizer.quantize(ranges).export_model(str(out), overwrite=True)
    _add_text(out, network.text)
