# SPDX-License-Identifier: Apache-2.0
from .cpu_amp_optim_wrapper import CPUAmpOptimWrapper, require_bfloat16

__all__ = ['CPUAmpOptimWrapper', 'require_bfloat16']
