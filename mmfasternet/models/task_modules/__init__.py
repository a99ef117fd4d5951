# SPDX-License-Identifier: GPL-3.0-only
from .sparse_task_aligned_assigner import SparseTaskAlignedAssigner

__all__ = ['SparseTaskAlignedAssigner']
