# SPDX-License-Identifier: Apache-2.0
import csv
import io
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.checkpoint import whole_file
from mmfasternet.compat.mmengine_runner import is_training
from mmfasternet.engine.training_context import by_epoch, peak_memory
from mmfasternet.registry import HOOKS
from mmfasternet.visualization.training import (
    FIRST_COLUMNS,
    Row,
    plot_results,
)


@HOOKS.register_module()
class ResultsHook(Hook):
    """Write ``results.csv`` while it trains and ``results.png`` at the end.

    The table in the work directory has one row per epoch: number and last
    iteration, seconds and images per second of its training (without the
    validation), peak memory of the process so far in MiB (on a GPU that of
    its tensors), last learning rate, each loss averaged over the epoch, the
    shares of :class:`LevelAssignmentHook`, and the metrics of the validation
    that followed, if one did. It is complete on disk after each epoch and each
    validation. A resumed training run keeps the rows up to where it goes on
    from and replaces the others; of an epoch that it goes on within, the time
    and speed are those of the rest. Without epochs (``IterBasedTrainLoop``)
    there is one row per validation instead.
    """

    priority = 'BELOW_NORMAL'  # after the hooks that measure

    @master_only
    def before_train(self, runner: Runner) -> None:
        self.path = Path(runner.work_dir) / 'results.csv'
        self.rows: List[Row] = []
        if runner.iter > 0 and self.path.is_file():
            with self.path.open(newline='') as file:
                self.rows = [{k: v
                              for k, v in row.items() if v}
                             for row in csv.DictReader(file)
                             if int(row['iteration']) <= runner.iter]
        self._begin()

    def before_train_epoch(self, runner: Runner) -> None:
        self._begin()

    def _begin(self) -> None:
        self._images = self._iterations = 0
        self._start = self._end = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        self._images += len(data_batch['inputs']) * get_world_size()
        # of the epoch, also where it was trained in two parts
        self._iterations = batch_idx + 1 if by_epoch(
            runner) else self._iterations + 1
        self._end = time.monotonic()  # before a validation that may follow

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        if by_epoch(runner):
            self._add_row(runner, runner.epoch + 1)
            self._write()

    @master_only
    def after_val_epoch(self, runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        if not is_training(runner):
            return
        if not self.rows or self.rows[-1]['iteration'] != str(runner.iter):
            self._add_row(runner, runner.epoch if by_epoch(runner) else None)
            self._begin()
        self.rows[-1].update({
            name: _text(value)
            for name, value in (metrics or {}).items()
            if isinstance(value, (int, float))
        })
        self._write()

    def _add_row(self, runner: Runner, epoch: Optional[int]) -> None:
        row = dict(
            epoch=epoch,
            iteration=runner.iter,
            lr=runner.optim_wrapper.get_lr()['lr'][0])
        if self._iterations:
            row.update(self._measured(runner))
        # else it was resumed in a folder without the rows of the first part
        self.rows.append(
            {k: _text(v) for k, v in row.items() if v is not None})

    def _measured(self, runner: Runner) -> Iterator[Tuple[str, float]]:
        """What the iterations since the last row have given."""
        seconds = self._end - self._start
        scalars = runner.message_hub.log_scalars
        yield 'seconds', seconds
        yield 'images/s', self._images / seconds
        yield 'memory', peak_memory() >> 20
        yield 'lr', scalars['train/lr'].current()
        for key, history in scalars.items():
            prefix, _, name = key.partition('/')
            if prefix == 'train' and 'loss' in name:
                yield name, history.mean(self._iterations)
        for key, share in runner.message_hub.runtime_info.items():
            if key.startswith('assigned/'):
                yield key, share

    def _write(self) -> None:
        """The first columns, the losses, then the rest as it appeared."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        others = [name for name in names if name not in FIRST_COLUMNS]
        text = io.StringIO()
        writer = csv.DictWriter(
            text,
            [*FIRST_COLUMNS, *sorted(others, key=lambda n: 'loss' not in n)],
            restval='')
        writer.writeheader()
        writer.writerows(self.rows)
        with whole_file(self.path) as file:
            file.write(text.getvalue().encode())

    @master_only
    def after_train(self, runner: Runner) -> None:
        if self.rows:
            figure = plot_results(self.rows)
            figure.savefig(self.path.with_name('results.png'))
            runner.logger.info(f'Results of each epoch: {self.path}, .png')


def _text(value: float) -> str:
    return f'{value:.6g}' if isinstance(value, float) else str(value)
