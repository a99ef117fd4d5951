# SPDX-License-Identifier: Apache-2.0
"""The hooks; ``mmfasternet.config.default_hooks`` says which each run has."""
from .distillation_hook import DistillationHook
from .evaluation_figures_hook import EvaluationFiguresHook
from .interrupt_hook import InterruptHook
from .level_assignment_hook import LevelAssignmentHook
from .non_finite_loss_hook import NonFiniteLossError, NonFiniteLossHook
from .picture_folders_hook import PictureFoldersHook
from .progress_bar_hook import ProgressBarHook
from .results_hook import ResultsHook
from .resume_hook import ResumeHook

__all__ = [
    'DistillationHook', 'EvaluationFiguresHook', 'InterruptHook',
    'LevelAssignmentHook', 'NonFiniteLossError', 'NonFiniteLossHook',
    'PictureFoldersHook', 'ProgressBarHook', 'ResultsHook', 'ResumeHook'
]
