# SPDX-License-Identifier: Apache-2.0
from typing import Any, Optional, Union

from mmengine._strategy import BaseStrategy
from mmengine.fileio import join_path
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import FlexibleRunner as _FlexibleRunner
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import clip_grad_norm_

from mmfasternet.compat.fsdp import (
    is_fsdp,
    keep_optim_state,
    saves_one_file,
)
from mmfasternet.registry import RUNNERS


@RUNNERS.register_module()
class FlexibleRunner(_FlexibleRunner):
    """MMEngine's runner with strategies, so that FSDP trains as DDP does.

    What differs from the base class:

    - Hooks see ``before_run`` before a checkpoint is read, as in ``Runner``:
      there EMAHook makes the averaged weights, and ResumeHook chooses the
      checkpoint.
    - The place of a checkpoint that is given with it counts, as in
      ``Runner``. The base class overwrites it, so the one that is saved again
      after a best validation is an epoch ahead.
    - Gradients in shards are clipped by the norm of all shards.
    - EMAHook averages whole weights, in each process.
    - The optimizer's state is gathered and loaded rightly, see
      :func:`mmfasternet.compat.fsdp.keep_optim_state`.

    A checkpoint of FSDP is one file, which anything else here reads, too.

    Raises:
        ValueError: If FSDP would save a folder with a file of each process.
    """

    def build_strategy(self, *args, **kwargs) -> BaseStrategy:
        strategy = super().build_strategy(*args, **kwargs)
        if is_fsdp(strategy):
            if not saves_one_file(strategy):
                raise ValueError(
                    'strategy.state_dict_cfg of FSDP must be of the type '
                    'FULL_STATE_DICT: nothing here reads, checks or goes on '
                    'from a folder with a file of each process')
            keep_optim_state(strategy)
        return strategy

    def register_hook(self, hook: Union[Hook, dict], *args) -> None:
        if isinstance(hook, dict) and hook['type'] in (
                'EMAHook', EMAHook) and is_fsdp(self.strategy):
            hook = dict(hook, type=_FullEMAHook)
        super().register_hook(hook, *args)

    def load_or_resume(self) -> None:
        if isinstance(self.model, FullyShardedDataParallel) and getattr(
                self.optim_wrapper, 'clip_func', None) is clip_grad_norm_:
            self.optim_wrapper.clip_func = self._clip_grad_norm
        super().call_hook('before_run')
        super().load_or_resume()

    def _clip_grad_norm(self, params: Any, **kwargs) -> Any:
        return self.model.clip_grad_norm_(**kwargs)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        if fn_name != 'before_run':  # comes after load_or_resume
            super().call_hook(fn_name, **kwargs)

    def save_checkpoint(self,
                        out_dir: str,
                        filename: str,
                        file_client_args: Optional[dict] = None,
                        save_optimizer: bool = True,
                        save_param_scheduler: bool = True,
                        meta: Optional[dict] = None,
                        by_epoch: bool = True,
                        backend_args: Optional[dict] = None) -> None:
        meta = dict(
            # hooks call it before the counter goes on
            dict(
                epoch=self.epoch + by_epoch,
                iter=self.iter + (not by_epoch),
                cfg=self.cfg.pretty_text,
                experiment_name=self.experiment_name),
            **(meta or {}))
        if hasattr(self.train_dataloader.dataset, 'metainfo'):
            meta['dataset_meta'] = self.train_dataloader.dataset.metainfo
        self.strategy.save_checkpoint(
            filename=join_path(out_dir, filename, backend_args=backend_args),
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            extra_ckpt=dict(
                meta=meta, message_hub=self.message_hub.state_dict()),
            callback=lambda checkpoint: self.call_hook(
                'before_save_checkpoint', checkpoint=checkpoint))


class _FullEMAHook(EMAHook):
    """Averages whole weights, which it gathers for the time being.

    Not shards: after a validation FSDP leaves the weights together, and what
    is swapped then would not reach the shards.
    """

    def _whole(self, runner: _FlexibleRunner, writeback: bool = False):
        return FullyShardedDataParallel.summon_full_params(
            runner.model, writeback=writeback)

    def before_run(self, runner: _FlexibleRunner) -> None:
        with self._whole(runner):
            super().before_run(runner)

    def after_train_iter(self, runner: _FlexibleRunner, *args,
                         **kwargs) -> None:
        with self._whole(runner):
            super().after_train_iter(runner, *args, **kwargs)

    def before_val_epoch(self, runner: _FlexibleRunner) -> None:
        with self._whole(runner, writeback=True):
            super().before_val_epoch(runner)

    def after_val_epoch(self, runner: _FlexibleRunner, *args,
                        **kwargs) -> None:
        with self._whole(runner, writeback=True):
            super().after_val_epoch(runner, *args, **kwargs)
