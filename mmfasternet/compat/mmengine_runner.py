# SPDX-License-Identifier: Apache-2.0
"""What of MMEngine's runner, loops and samplers is not a public interface.

Written against mmengine 0.10.7, onedl-mmengine 0.10.12 and PyTorch 2.6 to
2.13; tests/test_compat/test_mmengine_runner.py fails where that changes.
"""
import re
import traceback
from contextlib import AbstractContextManager
from typing import Any, Iterator, Optional, Tuple

from mmengine.dataset import InfiniteSampler
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader


def what_was_built(error: Exception) -> Optional[str]:
    """Whether an error arose while a part of a config was built.

    Returns:
        str, optional: ``'optim_wrapper'``, whose errors do not say so
        themselves; an empty string for another part; None if it arose
        elsewhere.
    """
    calls = {f.name for f in traceback.extract_tb(error.__traceback__)}
    if 'build_optim_wrapper' in calls:
        return 'optim_wrapper'
    # of a scheduler it is `build_scheduler_from_cfg`
    is_built = any(re.fullmatch('build(_.*)?_from_cfg', call)
                   for call in calls)
    return '' if is_built else None


def is_unknown_metric(error: Exception) -> bool:
    """Whether it is that of a ``save_best`` which names no metric."""
    calls = traceback.extract_tb(error.__traceback__)
    return type(error) is KeyError and \
        calls[-1].name == '_save_best_checkpoint'


def is_training(runner: Runner) -> bool:
    """Whether this is ``runner.train()``, not ``val()`` or ``test()``.

    ``train`` alone builds the loop from its config. The property of the same
    name would build it, too.
    """
    return isinstance(runner._train_loop, BaseLoop)


def train_inside(runner: Runner, context: AbstractContextManager) -> None:
    """Let the training loop run inside a context manager.

    It is left however the loop ends: MMEngine calls no hook after an exception
    or Ctrl-C, so a hook that changes something of the process (the terminal,
    a signal handler) has no other place to put it back. To be called in
    ``before_run``.
    """
    loop = runner.train_loop
    run = loop.run

    def run_inside():
        loop.run = run
        with context:
            return run()

    loop.run = run_inside


def resume_request(runner: Runner) -> Tuple[bool, Optional[str]]:
    """Whether to resume, and the checkpoint to load or resume from."""
    return runner._resume, runner._load_from


def set_resume_request(runner: Runner, resume: bool,
                       load_from: Optional[str]) -> None:
    """Change it in ``before_run``, after which the runner reads both."""
    runner._resume, runner._load_from = resume, load_from


def accumulative_counts(runner: Runner) -> int:
    """Over how many iterations a step sums its gradients."""
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def is_validation_due(runner: Runner) -> bool:
    """Whether the loop would validate where the training run stands now."""
    loop = runner.train_loop
    done, last = (runner.epoch, runner.max_epochs) if isinstance(
        loop, EpochBasedTrainLoop) else (runner.iter, runner.max_iters)
    loop._decide_current_val_interval()  # it follows `dynamic_intervals`
    return (runner.val_loop is not None and done > 0
            and done >= loop.val_begin
            and (done % loop.val_interval == 0 or done == last))


def replace_batches(loader: DataLoader, batches: Any) -> None:
    """Let a data loader take its batches from elsewhere.

    PyTorch forbids to set ``batch_sampler``, because an iterator would not
    notice. The loop of MMEngine 0.10.7 has made one at this time.
    """
    loader._iterator = None
    object.__setattr__(loader, 'batch_sampler', batches)


def restart_sampler(sampler: Any) -> None:
    """Let an ``InfiniteSampler``, which is one generator, begin anew."""
    if isinstance(sampler, InfiniteSampler):
        sampler.indices = sampler._indices_of_rank()


def begin_within_epoch(runner: Runner, offset: Any) -> None:
    """Number the iterations of an epoch from ``offset()`` on."""
    loop = runner.train_loop
    run_iter = loop.run_iter
    loop.run_iter = lambda idx, data_batch: run_iter(idx + offset(),
                                                     data_batch)


def begin_at_iteration(runner: Runner, iteration: int) -> None:
    """Let a loop without epochs skip nothing: its data begin there."""
    loop = runner.train_loop
    loop.dataloader_iterator = _Advanced(
        type(loop.dataloader_iterator)(runner.train_dataloader), iteration)


class _Advanced:
    """The iterator of a loop that need not be advanced any more.

    MMEngine does that with one call or, before its forks, one by one.
    """

    def __init__(self, iterator: Iterator, num_steps: int) -> None:
        self.iterator = iterator
        self.num_steps = num_steps

    def skip_iter(self, num_iters: int) -> None:
        self.num_steps = 0

    def __next__(self) -> Any:
        if self.num_steps > 0:
            self.num_steps -= 1
            return None
        return next(self.iterator)
