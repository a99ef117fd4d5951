# SPDX-License-Identifier: Apache-2.0
"""Modules of PyTorch, as they are."""
from contextlib import nullcontext
from typing import List, Optional

import numpy as np
import torch
from torch import nn

from mmfasternet.deploy.engines import Network, check_threads, device_name

DTYPES = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)


class PyTorchNetwork(Network):
    """A module in PyTorch.

    Args:
        module (nn.Module): With one input. Of one with the methods ``maps``
            and ``decode``, as :class:`.DeployedDetector`, the second computes
            in fp32 always.
        precision (str): ``'fp32'``, ``'bf16'`` or ``'fp16'``, by autocast.
        threads (int, optional): Threads of the whole process. Defaults to
            None, PyTorch's choice.
        device (str): Where to run.
        channels_last (bool): Memory format of the maps. Defaults to True,
            which was faster wherever it was measured.
        compile (bool): Compile with ``torch.compile``.

    Raises:
        ValueError: If the device or the precision is not there.
    """

    def __init__(self,
                 module: nn.Module,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu',
                 channels_last: bool = True,
                 compile: bool = False) -> None:
        if precision not in DTYPES:
            raise ValueError(f'PyTorch computes in {" or ".join(DTYPES)}, got '
                             f'the precision {precision}')
        super().__init__('the PyTorch network', [(None, ) * 4], 'float32',
                         None)
        self.device, self.precision = usable_device(device), precision
        check_threads(threads)
        if threads is not None:
            torch.set_num_threads(threads)
        module = module.to(self.device)
        self.format = torch.contiguous_format
        if channels_last:
            self.format = torch.channels_last
            module = module.to(memory_format=self.format)
        self.decode = getattr(module, 'decode', None)
        forward = module if self.decode is None else module.maps
        self.forward = torch.compile(forward) if compile else forward

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """See :class:`Network`."""
        x = torch.from_numpy(images).to(self.device)
        if x.dim() == 4:
            x = x.contiguous(memory_format=self.format)
        dtype = DTYPES[self.precision]
        with nullcontext() if dtype is None else torch.autocast(
                self.device.type, dtype):
            outs = self.forward(x)
        if self.decode is not None:
            outs = self.decode(*([m.float() for m in maps] for maps in outs))
        # NumPy has no bfloat16
        return [(out.float() if out.is_floating_point() else out).cpu().numpy()
                for out in flat(outs)]


def flat(outs: object) -> List[torch.Tensor]:
    """The tensors of nested lists and tuples, in order."""
    if isinstance(outs, torch.Tensor):
        return [outs]
    return [tensor for out in outs for tensor in flat(out)]


def usable_device(name: str) -> torch.device:
    """A device that is there.

    Raises:
        ValueError: If it is not a device, or not there.
    """
    try:
        device = torch.device(device_name(name))
        torch.empty(0, device=device).cpu()  # nothing comes back of `meta`
    except (RuntimeError, AssertionError) as error:
        there = ['cpu', *(f'cuda:{i}' for i in range(
            torch.cuda.device_count()))]
        raise ValueError(f'the device {name} cannot be used, there are '
                         f'{", ".join(there)} '
                         f'({str(error).splitlines()[0]})') from None
    return device
