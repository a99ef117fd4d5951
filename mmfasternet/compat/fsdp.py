# SPDX-License-Identifier: Apache-2.0
"""What MMEngine's FSDP strategy and PyTorch's FSDP do wrongly.

Written against mmengine 0.10.7, onedl-mmengine 0.10.12 and PyTorch 2.13;
tests/test_tools/test_distributed.py shows each with two processes.
"""
from functools import partial
from typing import Any, Dict

from mmengine._strategy import BaseStrategy
from mmengine.dist import all_gather_object
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.optim import Optimizer


def is_fsdp(strategy: BaseStrategy) -> bool:
    """Whether it is MMEngine's ``FSDPStrategy``, without importing that."""
    return hasattr(strategy, '_is_full_state_dict')


def saves_one_file(strategy: BaseStrategy) -> bool:
    """Of an FSDP strategy: not a folder with a file of each process."""
    return strategy._is_full_state_dict()


def keep_optim_state(strategy: BaseStrategy) -> None:
    """Let an FSDP strategy save and load the optimizer's state rightly.

    MMEngine gives PyTorch 2.1 and later its arguments in another order than
    they are; for the rest see :func:`whole_optim_state` and
    :func:`_in_order_of_memory`.
    """
    strategy.optim_state_dict = partial(_optim_state, strategy)
    strategy.load_optim_state_dict = partial(_load_optim_state, strategy)


def _optim_state(strategy: BaseStrategy) -> dict:
    wrapper = strategy.optim_wrapper
    state = whole_optim_state(strategy.model, wrapper.optimizer)
    # the schedule of `base_lr`, which MMEngine's strategy leaves out
    if wrapper.base_param_settings is not None:
        state['base_param_settings'] = wrapper.base_param_settings
    return state


def _load_optim_state(strategy: BaseStrategy, state: dict) -> None:
    wrapper = strategy.optim_wrapper
    state = dict(state)
    settings = state.pop('base_param_settings', None)
    loaded = FullyShardedDataParallel.optim_state_dict_to_load(
        model=strategy.model,
        optim=wrapper.optimizer,
        optim_state_dict=dict(
            state, state=_in_order_of_memory(strategy.model, state['state'])))
    wrapper.load_state_dict(dict(loaded, base_param_settings=settings))


def _in_order_of_memory(model: FullyShardedDataParallel,
                        state: Dict[str, dict]) -> Dict[str, dict]:
    """State of the whole parameters, by name, as PyTorch 2.13 shards it.

    A shard is a part of the memory of a parameter, but PyTorch cuts what
    belongs to it out of the state in the order of the indices. Where a weight
    lies channels last, Adam's means would be those of other weights.
    """
    if model.sharding_strategy is ShardingStrategy.NO_SHARD and \
            model._use_orig_params:
        return state  # nothing is cut, as with one process
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        strides = {name: p.stride() for name, p in model.named_parameters()}

    def ordered(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value  # the number of steps
        stride = strides[name]
        dims = sorted(range(value.dim()), key=lambda dim: -stride[dim])
        return value.permute(dims).reshape(value.shape)

    return {
        name: {kind: ordered(name, value)
               for kind, value in values.items()}
        for name, values in state.items()
    }


def whole_optim_state(model: FullyShardedDataParallel,
                      optimizer: Optimizer) -> dict:
    """State of an optimizer of shards, as the one of the whole model.

    PyTorch 2.13 gathers all of it in one buffer, one kind after the other, so
    where the result stays on its device each kind has the numbers of the last
    one, Adam's means those of its squares. Here it gathers one at a time.

    Args:
        model (FullyShardedDataParallel): Set to ``FULL_STATE_DICT``. All
            processes call this together.
        optimizer (Optimizer): Of its parameters.

    Returns:
        dict: State dict, with names instead of numbers of parameters.
    """
    state = dict(optimizer.state)
    kinds = {kind for values in state.values() for kind in values}
    whole: Dict[str, dict] = {}
    try:
        for kind in sorted(kinds.union(*all_gather_object(kinds))):
            for param, values in state.items():
                optimizer.state[param] = {kind: values[kind]}
            part = FullyShardedDataParallel.optim_state_dict(model, optimizer)
            for name, values in part['state'].items():
                # a view of the buffer, with which all of it would be saved
                whole.setdefault(name, {}).update(
                    {key: value.clone() if isinstance(value, Tensor) else value
                     for key, value in values.items()})
    finally:
        optimizer.state.update(state)
    return dict(
        FullyShardedDataParallel.optim_state_dict(model, optimizer),
        state=whole)
