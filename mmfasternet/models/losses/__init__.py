# SPDX-License-Identifier: Apache-2.0
from .distillation_losses import (
    box_imitation,
    feature_imitation,
    score_imitation,
)

__all__ = ['box_imitation', 'feature_imitation', 'score_imitation']
