# SPDX-License-Identifier: Apache-2.0
from .hooks import (
    EvaluationFiguresHook,
    InterruptHook,
    NonFiniteLossError,
    NonFiniteLossHook,
    ProgressBarHook,
    ResultsHook,
    ResumeHook,
)
from .optimizers import CPUAmpOptimWrapper, require_bfloat16

__all__ = [
    'CPUAmpOptimWrapper', 'EvaluationFiguresHook', 'InterruptHook',
    'NonFiniteLossError', 'NonFiniteLossHook', 'ProgressBarHook',
    'ResultsHook', 'ResumeHook', 'require_bfloat16'
]
