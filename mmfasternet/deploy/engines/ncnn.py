# SPDX-License-Identifier: Apache-2.0
"""``.ncnn.param`` files, with their ``.ncnn.bin`` and ``.ncnn.json``, in ncnn.

The first is a text: a number, the numbers of layers and blobs, and of each
layer its kind, its name, its blobs and its options. The last one is ours.
"""
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

import ncnn
import numpy as np

from mmfasternet.deploy.engines import Network, damaged, require_package

if TYPE_CHECKING:
    from torch import Tensor, nn

MAGIC = '7767517'  # of its text format, in its net.cpp


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
        runs = [self._run(np.ascontiguousarray(image, 'f4'))
                for image in images]
        return [np.stack(outs) for outs in zip(*runs)]

    def _run(self, image: np.ndarray) -> List[np.ndarray]:
        extractor = self.net.create_extractor()
        extractor.input(self.input, ncnn.Mat(image))
        outs = []
        for name in self.outputs:
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
