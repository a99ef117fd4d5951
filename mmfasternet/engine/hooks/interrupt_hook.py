# SPDX-License-Identifier: Apache-2.0
import os
import shlex
import signal
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.checkpoint import whole_file
from mmfasternet.compat import mmengine_runner as compat
from mmfasternet.engine.training_context import by_epoch
from mmfasternet.registry import HOOKS

# a progress bar overwrites the two empty lines
_NOTICE = {
    signal.SIGINT: b'\nCtrl-C: a checkpoint is saved after this step; '
    b'once more stops at once\n\n',
    signal.SIGTERM: b'\nSIGTERM: a checkpoint is saved after this step\n\n'
}


@HOOKS.register_module()
class InterruptHook(Hook):
    """Ctrl-C or SIGTERM ends a training run with a checkpoint to go on from.

    The first signal lets the current iteration, or a running validation, come
    to its end. Then ``interrupted.pth`` is saved in the work directory,
    ``last_checkpoint`` names it, and the process exits with the status that
    shells, Slurm and Kubernetes know for that signal: 130 after SIGINT, 143
    after SIGTERM, which they send before they take a machine away. A second
    Ctrl-C stops at once, without a checkpoint.

    Together with :class:`ResumeHook` the run goes on with the next iteration,
    and nothing is trained again. Where gradients are accumulated over
    iterations, these come to their end first. Once the last epoch is trained
    there is nothing to interrupt: the run ends with its validation.
    """

    priority = 'LOWEST'  # after the schedulers' step and CheckpointHook

    def __init__(self) -> None:
        self._requested = 0  # the number of the signal

    # -------------------------------------------------------- the signal
    def before_run(self, runner: Runner) -> None:
        if compat.is_training(runner):
            compat.train_inside(runner, self._catch(runner))

    @contextmanager
    def _catch(self, runner: Runner) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # they reach all processes of a terminal or of a job
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = partial(_outlive_signals,
                                            loader.worker_init_fn)
        self._requested = 0
        self._process = os.getpid()
        previous = {number: signal.getsignal(number) for number in _NOTICE}
        for number, handler in previous.items():
            if handler not in (signal.SIG_IGN, None):  # `nohup ... &`
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                if handler is not None:
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return
        # a launcher may pass on what the whole group has received
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = self._requested or number
        if dist.is_main_process():
            os.write(2, _NOTICE[number])  # print may be what was interrupted

    def _is_requested(self) -> bool:
        """Whether any process was asked to stop: all stop together."""
        if dist.get_world_size() > 1:
            number = torch.tensor(float(self._requested))
            dist.all_reduce(number, 'max')
            self._requested = int(number)
        return bool(self._requested)

    # ---------------------------------------------------- the right moment
    def after_train_iter(self, runner: Runner, batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        if not self._is_requested() or \
                (runner.iter + 1) % compat.accumulative_counts(runner):
            return
        if not by_epoch(runner):
            if not self.is_last_train_iter(runner):
                self._stop(runner, runner.epoch, runner.iter + 1,
                           f'iteration {runner.iter + 1}')
        elif not self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._stop(runner, runner.epoch, runner.iter + 1,
                       f'epoch {runner.epoch + 1}, iteration {batch_idx + 1}')

    def after_train_epoch(self, runner: Runner) -> None:
        if (by_epoch(runner) and not self.is_last_train_epoch(runner)
                and self._is_requested()):
            epoch = runner.epoch + 1
            self._stop(runner, epoch, runner.iter, f'the end of epoch {epoch}')

    def after_val_epoch(self, runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        if (compat.is_training(runner) and runner.iter < runner.max_iters
                and self._is_requested()):
            where = f'epoch {runner.epoch}' if by_epoch(runner) else \
                f'iteration {runner.iter}'
            self._stop(runner, runner.epoch, runner.iter,
                       f'the validation after {where}')

    # ------------------------------------------------------ the checkpoint
    def _stop(self, runner: Runner, epoch: int, iteration: int,
              where: str) -> None:
        path = Path(runner.work_dir) / 'interrupted.pth'
        runner.save_checkpoint(
            str(path.parent),
            path.name,
            meta=dict(epoch=epoch, iter=iteration))
        if dist.is_main_process():
            with whole_file(path.with_name('last_checkpoint')) as note:
                note.write(str(path).encode())
        dist.barrier()
        runner.logger.info(f'interrupted at {where}; saved {path}\n'
                           f'go on with: {_resume_command(runner)}')
        runner.call_hook('after_run')
        raise SystemExit(128 + self._requested)


def _outlive_signals(init: Optional[Callable], worker: int) -> None:
    """Start a worker that goes on loading until its parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(
        target=_obey, args=(os.getppid(), ), daemon=True).start()
    if init is not None:
        init(worker)


def _obey(parent: int) -> None:
    """End this process when SIGTERM comes from its parent."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def _resume_command(runner: Runner) -> str:
    """The command of this process with ``--resume``, from the newest."""
    if runner.launcher != 'none' or Path(sys.argv[0]).name != 'train.py':
        return 'the same command and --resume'
    command = ['python', *sys.argv]
    if command[-1] != '--resume':  # the last one counts
        command.append('--resume')
    return shlex.join(command)
