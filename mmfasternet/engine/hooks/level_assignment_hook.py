# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from typing import Dict, List, Optional, Set

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmfasternet.registry import HOOKS


@HOOKS.register_module()
class LevelAssignmentHook(Hook):
    """Which levels of the head the objects are assigned to.

    A level (stride) that gets no object learns nothing of boxes, and nothing
    else tells: the losses look as they always do. So after each epoch the
    share of the assigned priors that lie on each level is written to the
    message hub as ``assigned/stride 8`` and so on, from where
    :class:`ResultsHook` takes it, and a level without any is warned of, once
    for each change.

    It looks at the results of ``bbox_head.assigner``, if that is an assigner
    like mmyolo's task-aligned one, else it does nothing. Of an epoch that a
    resumed training run goes on within, it counts the rest.
    """

    def __init__(self) -> None:
        self._counts: Dict[float, Tensor] = {}  # by stride, of this process
        self._empty: Set[float] = set()
        self._handle = None
        self._priors: Optional[Tensor] = None
        self._levels: Dict[float, Tensor] = {}  # which of them, by stride

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(
            runner.model) else runner.model
        assigner = getattr(getattr(model, 'bbox_head', None), 'assigner', None)
        if isinstance(assigner, nn.Module):
            self._handle = assigner.register_forward_hook(
                self._count, with_kwargs=True)

    def after_train(self, runner: Runner) -> None:
        if self._handle is not None:
            self._handle.remove()

    def before_train_epoch(self, runner: Runner) -> None:
        self._counts = {}

    def _count(self, assigner: nn.Module, args: tuple, kwargs: dict,
               result: dict) -> None:
        """Add a batch; a prior is a row of x, y and twice its stride."""
        priors = kwargs.get('priors', args[2] if len(args) > 2 else None)
        if 'fg_mask_pre_prior' not in result or not isinstance(priors, Tensor):
            return
        if priors is not self._priors:  # the head makes them once for a size
            self._priors = priors
            self._levels = {stride: priors[:, 2] == stride
                            for stride in priors[:, 2].unique().tolist()}
        assigned = result['fg_mask_pre_prior'].sum(0)
        # a product, not an index: a GPU need not be waited for
        for stride, level in self._levels.items():
            number = (assigned * level).sum()
            self._counts[stride] = self._counts.get(stride, 0) + number

    def after_train_epoch(self, runner: Runner) -> None:
        own = {stride: int(number) for stride, number in self._counts.items()}
        counts: Counter = Counter()
        for part in all_gather_object(own):
            counts.update(part)
        for stride, number in counts.items():
            runner.message_hub.update_info(
                f'assigned/stride {stride:g}',
                number / max(counts.total(), 1),
                resumed=False)
        empty = {stride for stride, number in counts.items() if not number}
        if empty - self._empty:
            self._warn(runner, sorted(empty))
        self._empty = empty

    def _warn(self, runner: Runner, strides: List[float]) -> None:
        names = ', '.join(f'{stride:g}' for stride in strides)
        knobs = ', '.join(f'{name} = {runner.cfg[name]}'
                          for name in ('initial_distance', 'img_scale')
                          if name in runner.cfg)
        runner.logger.warning(
            f'epoch {runner.epoch + 1}: no object was assigned to the level '
            f'of stride {names}, so its boxes learn nothing ({knobs or "-"}). '
            'Before training a box is 2 x initial_distance strides long (None '
            'is 7.5): where objects are smaller than that on this level, '
            'lower initial_distance, or train with a larger img_scale. Where '
            'no object is as long as a few of these strides, all is well')
