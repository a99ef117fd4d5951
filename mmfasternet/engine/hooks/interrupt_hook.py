# SPDX-License-Identifier: Apache-2.0
import copy
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
from mmengine.dist import (
    all_reduce,
    barrier,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.registry import HOOKS

from .training_context import by_epoch, is_training, train_inside

# a progress bar overwrites the two empty lines
_NOTICE = (b'\nCtrl-C: a checkpoint is saved after this step; '
           b'once more stops at once\n\n')


@HOOKS.register_module()
class InterruptHook(Hook):
    """Ctrl-C ends a training with a checkpoint that ``--resume`` takes.

    The first SIGINT lets the current iteration, or a running validation, come
    to its end. Then ``interrupted.pth`` is saved in the work directory,
    ``last_checkpoint`` names it, and the process exits with status 130. The
    second one stops at once, without a checkpoint.

    MMEngine resumes at the begin of an epoch. So an epoch that was
    interrupted is trained again from its first iteration, from the weights
    that it had reached; the learning rate is the one that it had begun with,
    and the number of epochs and iterations comes out as planned. At the end
    of an epoch, and with ``IterBasedTrainLoop``, nothing is trained again.
    Once the last epoch is trained there is nothing to interrupt: the training
    ends with its validation.
    """

    priority = 'LOWEST'  # after the schedulers' step and CheckpointHook

    def __init__(self) -> None:
        self._requested = False
        self._epoch_start: Optional[Dict[str, Any]] = None
        self._is_repeated = False

    # -------------------------------------------------------- the signal
    def before_run(self, runner: Runner) -> None:
        if is_training(runner):
            train_inside(runner, self._catch(runner))

    @contextmanager
    def _catch(self, runner: Runner) -> Iterator[None]:
        previous = signal.getsignal(signal.SIGINT)
        if (threading.current_thread() is not threading.main_thread()
                or previous in (signal.SIG_IGN, None)):  # `nohup ... &`
            yield
            return
        # Ctrl-C reaches all processes of the terminal
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = partial(_ignore_sigint,
                                            loader.worker_init_fn)
        self._requested = False
        self._process = os.getpid()
        signal.signal(signal.SIGINT, self._on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _on_sigint(self, *args) -> None:
        if os.getpid() != self._process:
            return
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        if is_main_process():
            os.write(2, _NOTICE)  # print may be what was interrupted

    def _is_requested(self) -> bool:
        """Whether any process was asked to stop: all stop together."""
        if get_world_size() == 1:
            return self._requested
        flag = torch.tensor(float(self._requested))
        all_reduce(flag, 'max')
        return bool(flag)

    # ---------------------------------------------------- the right moment
    def before_train_epoch(self, runner: Runner) -> None:
        if by_epoch(runner):
            self._epoch_start = _schedule(runner)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        if not self._is_requested():
            return
        if not by_epoch(runner):
            if not self.is_last_train_iter(runner):
                self._stop(runner, runner.epoch, runner.iter + 1,
                           f'iteration {runner.iter + 1}')
        elif not self.end_of_epoch(runner.train_dataloader, batch_idx):
            epoch = runner.epoch + 1
            self._is_repeated = True
            self._stop(
                runner, runner.epoch, runner.iter - batch_idx,
                f'epoch {epoch}, iteration {batch_idx + 1}',
                f'\nepoch {epoch} will be trained again from its first '
                'iteration, from the weights that it has reached')

    def after_train_epoch(self, runner: Runner) -> None:
        if (by_epoch(runner) and not self.is_last_train_epoch(runner)
                and self._is_requested()):
            epoch = runner.epoch + 1
            self._stop(runner, epoch, runner.iter, f'the end of epoch {epoch}')

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        if (is_training(runner) and runner.iter < runner.max_iters
                and self._is_requested()):
            where = f'epoch {runner.epoch}' if by_epoch(runner) else \
                f'iteration {runner.iter}'
            self._stop(runner, runner.epoch, runner.iter,
                       f'the validation after {where}')

    # ------------------------------------------------------ the checkpoint
    def _stop(self,
              runner: Runner,
              epoch: int,
              iteration: int,
              where: str,
              repeated: str = '') -> None:
        path = Path(runner.work_dir) / 'interrupted.pth'
        part = path.with_name('interrupted.part.pth')
        runner.save_checkpoint(
            str(part.parent),
            part.name,
            meta=dict(epoch=epoch, iter=iteration))
        if is_main_process():
            os.replace(part, path)
            path.with_name('last_checkpoint').write_text(str(path))
        barrier()
        runner.logger.info(f'interrupted at {where}; saved {path}{repeated}\n'
                           f'go on with: {_resume_command(runner)}')
        runner.call_hook('after_run')
        raise SystemExit(128 + signal.SIGINT)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._is_repeated:
            checkpoint['optimizer'].update(self._epoch_start['optimizer'])
            checkpoint['param_schedulers'] = self._epoch_start['schedulers']


def _ignore_sigint(init: Optional[Callable], worker: int) -> None:
    """Start a worker that outlives the Ctrl-C until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if init is not None:
        init(worker)


def _schedule(runner: Runner) -> Dict[str, Any]:
    """What the schedulers change, as a checkpoint keeps it."""
    optimizer = runner.optim_wrapper.state_dict()
    schedulers = runner.param_schedulers or []
    return copy.deepcopy(
        dict(
            optimizer={
                key: optimizer[key]
                for key in ('param_groups', 'base_param_settings')
                if key in optimizer
            },
            schedulers=[s.state_dict() for s in schedulers]))


def _resume_command(runner: Runner) -> str:
    """The command of this process with ``--resume``, from the newest."""
    if runner.launcher != 'none' or Path(sys.argv[0]).name != 'train.py':
        return 'the same command and --resume'
    command = ['python', *sys.argv]
    if command[-1] != '--resume':  # the last one counts
        command.append('--resume')
    return shlex.join(command)
