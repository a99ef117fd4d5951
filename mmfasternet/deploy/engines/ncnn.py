# SPDX-License-Identifier: Apache-2.0
"""``.ncnn.param`` files, with their ``.ncnn.bin`` and ``.ncnn.json``, in ncnn.

The first is a text: a number, the numbers of layers and blobs, and of each
layer its kind, its name, its blobs and its options. The last one is ours.
"""
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import ncnn
import numpy as np

from mmfasternet.deploy.engines import (
    Keep,
    Network,
    damaged,
    require_package,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

MAGIC = '7767517'  # of its text format, in its net.cpp
# before weights stands what they are, in its modelbin.cpp
FP32, INT8 = (number.to_bytes(4, 'little') for number in (0, 0x000D4B38))
LEVELS = 127  # its int8 is symmetric, without -128


class NCNNNetwork(Network):
    """A file in ncnn, which runs one image after another."""

    def __init__(self, net: ncnn.Net, name: str, text: Optional[str]) -> None:
        super().__init__(name, [(None, ) * 4] * len(net.input_names()),
                         'float32', text)
        self.net, (self.input, ) = net, net.input_names()
        # out2 before out10
        self.outputs = sorted(net.output_names(), key=lambda n: (len(n), n))

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """See :class:`Network`; uint8 will do as well."""
        runs = [self.blobs(image, self.outputs) for image in images]
        return [np.stack(outs) for outs in zip(*runs)]

    def blobs(self, image: np.ndarray,
              names: Sequence[str]) -> List[np.ndarray]:
        """What these hold in a run of an image ``(C, H, W)``."""
        extractor = self.net.create_extractor()
        extractor.set_light_mode(names is self.outputs)
        # kept by this name: it is the memory that ncnn computes on
        values = np.ascontiguousarray(image, 'f4')
        extractor.input(self.input, ncnn.Mat(values))
        outs = []
        for name in names:
            failed, out = extractor.extract(name)
            if failed:
                raise ValueError(f'ncnn cannot run {self.name} on an input of '
                                 f'{image.shape}')
            outs.append(np.array(out))
        return outs


def open(path: Path, precision: str, threads: Optional[int],
         device: str) -> Network:
    """See :meth:`.Engine.open`."""
    if device != 'cpu':
        raise ValueError(f'ncnn runs on the CPU here, not on {device}')
    if precision == 'fp16' and not ncnn.cpu_support_arm_asimdhp():
        raise ValueError('ncnn computes in fp16 on ARM processors that can, '
                         'and would take fp32 on this one: ask for fp32 or '
                         'bf16')
    weights = path.with_suffix('.bin')
    if not weights.is_file():
        raise FileNotFoundError(f'{path} needs its weights, {weights}, which '
                                'are not there: copy both')
    operators(path)
    net = ncnn.Net()
    net.opt.num_threads = threads or os.cpu_count()
    for kind in ('fp16', 'bf16'):
        for option in ('packed', 'storage', 'arithmetic'):
            if hasattr(net.opt, f'use_{kind}_{option}'):
                setattr(net.opt, f'use_{kind}_{option}', precision == kind)
    if net.load_param(str(path)) or net.load_model(str(weights)):
        raise damaged(path, ValueError(f'it and {weights} are not a network'))
    described = path.with_suffix('.json')
    return NCNNNetwork(
        net, str(path),
        described.read_text(errors='replace') if described.is_file() else None)


def write(network: 'nn.Module',
          images: 'Tensor',
          path: Path,
          text: Optional[str],
          dynamic: bool = False,
          precision: str = 'fp32') -> None:
    """See :meth:`.Engine.write`; by pnnx, which reads what PyTorch traced."""
    import torch
    pnnx = require_package('pnnx')
    shapes = [images[:1].shape]
    if dynamic:  # what is equal in two sizes is taken for a constant
        shapes.append((*shapes[0][:2], *(2 * side for side in shapes[0][2:])))
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / 'network.pt'
        torch.jit.trace(
            network, images[:1].float(), check_trace=False).save(str(traced))
        done = subprocess.run([
            pnnx.EXEC_PATH, str(traced), f'fp16={int(precision == "fp16")}',
            *(f'inputshape{"2" * i}=[{",".join(map(str, shape))}]f32'
              for i, shape in enumerate(shapes)),
            f'ncnnparam={path.resolve()}',
            f'ncnnbin={path.with_suffix(".bin").resolve()}'
        ], cwd=folder, capture_output=True, text=True)
    if not path.is_file():
        raise ValueError(f'pnnx cannot convert this network: '
                         f'{done.stderr.strip()[-200:]}')
    unknown = {kind for _, kind in operators(path)
               if ncnn.layer_to_index(kind) < 0}
    if unknown:
        raise ValueError('ncnn has no layer for '
                         f'{", ".join(sorted(unknown))} of this network')
    if text is not None:
        path.with_suffix('.json').write_text(text)


def operators(path: Path) -> List[Tuple[str, str]]:
    """See :meth:`.Engine.operators`."""
    try:
        magic, counts, *lines = path.read_text().splitlines()
        layers = [line.split() for line in lines]
        # ncnn takes memory for as many as the file says
        there = len(layers), sum(int(layer[3]) for layer in layers)
        if magic.strip() != MAGIC or counts.split() != [*map(str, there)]:
            raise ValueError(f'{there[0]} layers and {there[1]} blobs after '
                             f'{magic} {counts}')
        return [(layer[1], layer[0]) for layer in layers]
    except (ValueError, IndexError) as error:
        raise damaged(path, error) from None


def quantize(path: Path, out: Path, batches: Sequence[np.ndarray],
             keep: Keep) -> None:
    """See :meth:`.Engine.quantize`: convolutions in the form that ncnn's own
    quantiser writes, which no package has.

    In float are the depthwise ones and what ``keep`` names.
    """
    network = open(path, 'fp32', None, 'cpu')
    magic, counts, *lines = path.read_text().splitlines()
    layers = [line.split() for line in lines]
    quantised = [layer[0] == 'Convolution' and not keep(layer[1])
                 for layer in layers]
    scales = _scales(network, batches, [
        *dict.fromkeys(layer[4] for layer, is_int8 in zip(layers, quantised)
                       if is_int8)])
    data, start, parts = path.with_suffix('.bin').read_bytes(), 0, []
    for i, (layer, is_int8) in enumerate(zip(layers, quantised)):
        if not layer[0].startswith('Convolution'):
            continue
        options = dict(option.split('=') for option in layer if '=' in option)
        channels, size = int(options['0']), int(options['6'])
        middle = start + 4 + 4 * size
        end = middle + 4 * channels * int(options.get('5', 0))
        if data[start:start + 4] != FP32 or end > len(data):
            raise ValueError(f'{path} has weights of other layers than '
                             'convolutions, or in fp16: quantise a file of '
                             'export.py in fp32')
        weights, bias = data[start:middle], data[middle:end]
        start = end
        if is_int8:
            lines[i] += ' 8=2'  # a scale per channel of the weights
            weights, factors = _to_int8(weights[4:], channels)
            bias += factors + scales[layer[4]].tobytes()
        parts += weights, bias
    if start != len(data):
        raise ValueError(f'{path} has weights of other layers than '
                         'convolutions, which cannot be in int8 here')
    out.write_text('\n'.join([magic, counts, *lines, '']))
    out.with_suffix('.bin').write_bytes(b''.join(parts))
    if network.text is not None:
        out.with_suffix('.json').write_text(network.text)


def _to_int8(weights: bytes, channels: int) -> Tuple[bytes, bytes]:
    """Weights with what they are before them, and their scales."""
    values = np.frombuffer(weights, '<f4').reshape(channels, -1)
    scales = LEVELS / np.abs(values).max(1).clip(1e-9)
    data = np.rint(values * scales[:, None]).astype('i1').tobytes()
    return INT8 + data + bytes(-len(data) % 4), scales.astype('<f4').tobytes()


def _scales(network: NCNNNetwork, batches: Sequence[np.ndarray],
            names: Sequence[str]) -> Dict[str, np.ndarray]:
    """Of each blob the scale whose int8 has the least squared error, by a
    thousand of its values in each image, the greatest one with them."""
    generator = np.random.default_rng(0)
    seen: Dict[str, List[np.ndarray]] = {name: [] for name in names}
    for image in (image for batch in batches for image in batch):
        for name, blob in zip(names, network.blobs(image, names)):
            seen[name] += generator.choice(blob.ravel(), 1000), \
                np.abs(blob).max(keepdims=True).ravel()
    found = {}
    for name, parts in seen.items():
        values = np.concatenate(parts)
        tried = LEVELS / np.abs(values).max().clip(1e-9) / np.linspace(
            0.2, 1, 81)
        errors = [np.square(np.rint(values * scale).clip(-LEVELS, LEVELS) /
                            scale - values).mean() for scale in tried]
        found[name] = tried[np.argmin(errors)].astype('<f4')
    return found
