# SPDX-License-Identifier: Apache-2.0
import sys
from contextlib import AbstractContextManager

import torch
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

try:
    import resource
except ImportError:  # not on Windows
    resource = None


def is_training(runner: Runner) -> bool:
    """Whether this is ``runner.train()``, not ``val()`` or ``test()``."""
    return isinstance(runner._train_loop, BaseLoop)


def by_epoch(runner: Runner) -> bool:
    """Whether the training counts epochs, not only iterations."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def train_inside(runner: Runner, context: AbstractContextManager) -> None:
    """Let the training loop run inside a context manager.

    MMEngine calls no hook after an exception or Ctrl-C, so a hook that
    changes something of the process (the terminal, a signal handler) has no
    other place to put it back. To be called in ``before_run``.

    Args:
        runner (Runner): The runner, about to train.
        context (AbstractContextManager): Entered when the loop starts, left
            however it ends.
    """
    loop = runner.train_loop
    run = loop.run

    def run_inside():
        loop.run = run
        with context:
            return run()

    loop.run = run_inside


def peak_memory() -> int:
    """Of this process in bytes: on a GPU of its tensors, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if resource is None:
        return 0
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
