# SPDX-License-Identifier: Apache-2.0
import io
import logging
import re
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import Iterable, Iterator, List, Optional

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

# MMEngine requires rich, so a bar with it adds no dependency.
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from mmfasternet.compat.mmengine_runner import is_training, train_inside
from mmfasternet.engine.training_context import by_epoch, peak_memory
from mmfasternet.registry import HOOKS

# LoggerHook's lines of the progress, which the bar shows instead
_PROGRESS_LINE = re.compile(r'(Epoch|Iter)\((train|val)\).* eta: |Exp name: ')


class _Bar(Progress):
    """A bar and a line of numbers below it, once there are numbers."""

    numbers = ''

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.numbers:
            yield from super().get_renderables()
            yield Text(self.numbers, no_wrap=True, overflow='ellipsis')


class _Above(io.TextIOBase):
    """Prints log lines above the bar; rich's own way would wrap them."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def write(self, text: str) -> int:
        line = Text.from_ansi(text.removesuffix('\n'))
        self.console.print(line, soft_wrap=True)
        return len(text)


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """A live progress bar of training and validation, in a terminal.

    It shows the epoch, the iteration, the time left of the whole run (from
    the time so far, validation included), images per second, the peak memory
    (allocated on the GPU, or else resident in the main process), the learning
    rate, and the losses smoothed over the window of MMEngine's log lines.
    Those lines go to the log file only while the bar is live, everything else
    that is printed appears above it, and each epoch leaves one line.

    Where standard output is not a terminal nothing is drawn and nothing else
    changes. With several processes the first one draws.

    Args:
        interval (float): Least seconds between two updates. Defaults to 0.2.
    """

    priority = 'BELOW_NORMAL'  # after the hooks that measure

    def __init__(self, interval: float = 0.2) -> None:
        self.interval = interval
        self._bar: Optional[_Bar] = None

    def before_run(self, runner: Runner) -> None:
        if is_training(runner):
            train_inside(runner, self._live(runner))

    @contextmanager
    def _live(self, runner: Runner) -> Iterator[None]:
        console = Console()
        if not (is_main_process() and sys.stdout.isatty()
                and console.is_interactive):
            yield
            return
        # Without rich's thread: data loading forks, and a lock that a thread
        # holds at that moment stays locked in the child.
        self._bar = _Bar(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[left]}'),
            console=console,
            auto_refresh=False,
            redirect_stderr=sys.stderr.isatty())
        self._task = self._bar.add_task('', left='')
        self._start, self._start_iter = time.monotonic(), runner.iter
        self._drawn = self._memory = 0
        plain = sys.stdout
        handlers = [
            handler for handler in runner.logger.handlers
            if getattr(handler, 'stream', None) is plain
        ]
        with self._bar:
            # the cursor stays visible, so that even a kill leaves a terminal
            # as it was
            console.show_cursor(True)
            for handler in handlers:
                handler.setStream(_Above(console))
                handler.addFilter(_is_no_progress_line)
            try:
                yield
            finally:
                for handler in handlers:
                    handler.setStream(plain)
                    handler.removeFilter(_is_no_progress_line)
                self._bar.numbers = ''
                self._bar = None

    def after_train_iter(self, runner: Runner, batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        if self._bar is None:
            return
        if by_epoch(runner):
            title = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
            total = len(runner.train_dataloader)
        else:
            title, total = 'training', runner.max_iters
        if not self._is_due(batch_idx + 1 == total):
            return
        done = runner.iter + 1 - self._start_iter
        seconds = (time.monotonic() - self._start) / done * (
            runner.max_iters - runner.iter - 1)
        self._bar.numbers = '  '.join(
            self._numbers(runner, len(data_batch['inputs'])))
        self._draw(title, batch_idx + 1, total,
                   f'{timedelta(seconds=int(seconds))} left')

    def after_train_epoch(self, runner: Runner) -> None:
        if self._bar is not None and by_epoch(runner):
            scalars = runner.message_hub.log_scalars
            iterations = len(runner.train_dataloader)
            losses = [
                f'{name} {scalars[f"train/{name}"].mean(iterations):.4f}'
                for name in _losses(runner)
            ]
            self._bar.console.print(
                f'epoch {runner.epoch + 1}/{runner.max_epochs}',
                *losses,
                sep='  ',
                highlight=False)

    def after_val_iter(self, runner: Runner, batch_idx: int,
                       data_batch: Optional[dict] = None,
                       outputs: Optional[list] = None) -> None:
        total = len(runner.val_dataloader)
        if self._bar is not None and self._is_due(batch_idx + 1 == total):
            self._draw('validation', batch_idx + 1, total, '')

    def _is_due(self, last: bool) -> bool:
        return last or time.monotonic() - self._drawn >= self.interval

    def _draw(self, title: str, done: int, total: int, left: str) -> None:
        self._bar.update(
            self._task, description=title, completed=done, total=total,
            left=left)
        self._bar.refresh()
        self._drawn = time.monotonic()

    def _numbers(self, runner: Runner, batch_size: int) -> Iterator[str]:
        scalars = runner.message_hub.log_scalars
        window = runner.log_processor.window_size
        if 'train/time' in scalars:
            images = batch_size * get_world_size()
            speed = images / scalars['train/time'].mean(window)
            yield f'{speed:.1f} images/s'
        self._memory = max(self._memory, peak_memory())
        yield f'{self._memory / 2**30:.2f} GiB'
        if 'train/lr' in scalars:
            yield f'lr {scalars["train/lr"].current():.3g}'
        for name in _losses(runner):
            yield f'{name} {scalars[f"train/{name}"].mean(window):.4f}'


def _is_no_progress_line(record: logging.LogRecord) -> bool:
    return not _PROGRESS_LINE.match(record.getMessage())


def _losses(runner: Runner) -> List[str]:
    """Names of the training losses, the total first."""
    return [
        name[len('train/'):] for name in runner.message_hub.log_scalars
        if name.startswith('train/') and 'loss' in name
    ]
