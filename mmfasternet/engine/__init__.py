# SPDX-License-Identifier: Apache-2.0
from mmfasternet.checkpoint import secure_mmengine

from . import hooks
from .flexible_runner import FlexibleRunner
from .hooks import *  # noqa: F403
from .optimizers import CPUAmpOptimWrapper, require_bfloat16

__all__ = [
    'CPUAmpOptimWrapper', 'FlexibleRunner', 'require_bfloat16', *hooks.__all__
]

# for programs of others that train by our configs
secure_mmengine()
