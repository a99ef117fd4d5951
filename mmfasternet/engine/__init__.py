# SPDX-License-Identifier: Apache-2.0
from mmfasternet.checkpoint import secure_mmengine

from .flexible_runner import FlexibleRunner
from .hooks import (
    DistillationHook,
    EvaluationFiguresHook,
    InterruptHook,
    LevelAssignmentHook,
    NonFiniteLossError,
    NonFiniteLossHook,
    ProgressBarHook,
    ResultsHook,
    ResumeHook,
)
from .optimizers import CPUAmpOptimWrapper, require_bfloat16

__all__ = [
    'CPUAmpOptimWrapper', 'DistillationHook', 'EvaluationFiguresHook',
    'FlexibleRunner', 'InterruptHook', 'LevelAssignmentHook',
    'NonFiniteLossError', 'NonFiniteLossHook', 'ProgressBarHook',
    'ResultsHook', 'ResumeHook', 'require_bfloat16'
]

# for programs of others that train by our configs
secure_mmengine()
