# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.compat.mmengine_runner import resume_request
from mmfasternet.engine.training_context import by_epoch
from mmfasternet.registry import HOOKS


class NonFiniteLossError(FloatingPointError):
    """The loss or the weights became NaN or infinite."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop at the first loss that is NaN or infinite, and say where.

    The error names the iteration, the losses, the learning rate, the images
    of the batch and the last checkpoint. That one stays usable: this hook
    acts before the averaged weights (EMA) are updated and before anything is
    saved. Weights that a step from a finite loss has ruined are refused
    before they replace a checkpoint. With ``AmpOptimWrapper`` the loss that
    is looked at is not scaled, so infinite gradients, which the scaler
    expects, are not an error.

    Raises:
        NonFiniteLossError: If a loss or a weight is NaN or infinite.
    """

    priority = 'HIGH'  # EMAHook is 49 or NORMAL, CheckpointHook VERY_LOW

    def before_train(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        if not isinstance(loader.collate_fn, _CollateWithPaths):
            loader.collate_fn = _CollateWithPaths(loader.collate_fn)
        # an earlier training run in this folder may have left one
        self._foreign = None if resume_request(
            runner)[0] else _last_checkpoint(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        if math.isfinite(outputs['loss'].item()):
            return
        losses = [
            f'{name} = {value.item():.4g}' for name, value in outputs.items()
            if 'loss' in name
        ]
        lr = runner.optim_wrapper.get_lr()['lr'][0]
        paths = _image_paths(data_batch)
        raise NonFiniteLossError('\n'.join([
            f'the loss is not finite at {_where(runner, batch_idx)}: ' +
            ', '.join(losses),
            f'  learning rate: {lr:.4g}',
            '  images of the batch (what mosaic or mixup added is not known): '
            + (', '.join(paths) or 'their paths are not in this batch'),
            self._advice(runner)
        ]))

    def after_train_epoch(self, runner: Runner) -> None:
        self._check_weights(runner, runner.model.state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._check_weights(runner, checkpoint['state_dict'])

    def _check_weights(self, runner: Runner,
                       state: Dict[str, torch.Tensor]) -> None:
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise NonFiniteLossError(
                    f'{name} is not finite after {runner.iter} iterations, '
                    'although the loss was; it is not saved\n' +
                    self._advice(runner))

    def _advice(self, runner: Runner) -> str:
        last = _last_checkpoint(runner)
        if last is None or last == self._foreign:
            last = ('none was saved', )
        return (f'  last good checkpoint: {last[0]}\n'
                '  a lower learning rate, a longer warm-up or training '
                'without --amp may avoid this')


class _CollateWithPaths:
    """Keep the paths of the images where collation drops them.

    mmyolo's ``yolov5_collate`` makes one tensor of the annotations of a batch
    and forgets the rest; its preprocessor ignores an additional key.
    """

    def __init__(self, collate: Callable) -> None:
        self.collate = collate

    def __call__(self, batch: List[dict]) -> Any:
        collated = self.collate(batch)
        if isinstance(collated, dict) and isinstance(
                collated.get('data_samples'), dict):
            collated['img_paths'] = [
                item['data_samples'].get('img_path') for item in batch
            ]
        return collated


def _image_paths(data_batch: dict) -> List[str]:
    samples = data_batch.get('data_samples')
    if isinstance(samples, dict):
        paths = data_batch.get('img_paths', [])
    else:
        paths = [sample.get('img_path') for sample in samples or []]
    return [path for path in paths if path]


def _where(runner: Runner, batch_idx: int) -> str:
    if by_epoch(runner):
        return (f'epoch {runner.epoch + 1}, iteration {batch_idx + 1} of '
                f'{len(runner.train_dataloader)}')
    return f'iteration {batch_idx + 1} of {runner.max_iters}'


def _last_checkpoint(runner: Runner) -> Optional[Tuple[str, int]]:
    """The path in MMEngine's note of it, and when that was written."""
    note = Path(runner.work_dir) / 'last_checkpoint'
    if not note.is_file():
        return None
    return note.read_text().strip(), note.stat().st_mtime_ns
