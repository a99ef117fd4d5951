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

__all__ = [
    'EvaluationFiguresHook', 'InterruptHook', 'NonFiniteLossError',
    'NonFiniteLossHook', 'ProgressBarHook', 'ResultsHook',
    'ResumeHook'
]
