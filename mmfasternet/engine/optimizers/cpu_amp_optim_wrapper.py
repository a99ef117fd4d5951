# SPDX-License-Identifier: Apache-2.0
from contextlib import contextmanager
from typing import Iterator

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmfasternet.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on a CPU: bfloat16 where autocast says so.

    MMEngine's ``AmpOptimWrapper`` refuses to run without an accelerator. With
    the exponents of float32, bfloat16 needs none of its loss scaling.

    Args:
        **kwargs: See :class:`mmengine.optim.OptimWrapper`.

    Raises:
        ValueError: If the CPU has no instructions for bfloat16, where it
            would be slower than float32.
    """

    def __init__(self, **kwargs) -> None:
        require_bfloat16()
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass and the loss inside autocast."""
        with super().optim_context(model), torch.autocast(
                'cpu', torch.bfloat16):
            yield


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    if not hasattr(torch.cpu, 'get_capabilities'):  # of an older PyTorch
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    known = torch.cpu.get_capabilities()
    return any(known.get(n) for n in ('avx512_bf16', 'amx_bf16', 'bf16'))


def require_bfloat16() -> None:
    """Refuse a CPU that would have to emulate bfloat16.

    Raises:
        ValueError: Saying so.
    """
    if not has_bfloat16():
        raise ValueError(
            'mixed precision (--amp) needs a CPU with bfloat16 instructions '
            '(AVX512-BF16 or AMX-BF16 on x86, BF16 on Arm), and this one has '
            'none, so that it would be slower. Train without --amp')
