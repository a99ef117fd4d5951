# SPDX-License-Identifier: Apache-2.0
import sys

import torch
from mmengine.runner import EpochBasedTrainLoop, Runner

try:
    import resource
except ImportError:  # not on Windows
    resource = None


def by_epoch(runner: Runner) -> bool:
    """Whether the training counts epochs, not only iterations."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def peak_memory() -> int:
    """Of this process in bytes: on a GPU of its tensors, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if resource is None:
        return 0
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
