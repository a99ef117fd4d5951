# SPDX-License-Identifier: Apache-2.0
"""Children of MMEngine's root registries.

A child of the *root* is found from every scope (mmengine, mmdet, mmyolo) as
``type='mmfasternet.FasterNet'``; a child of mmyolo's registry would not be.
"""
from mmengine import registry
from mmengine.registry import Registry


def _child(parent: Registry, module: str) -> Registry:
    """Ours, which a module of ours fills when it is imported."""
    return Registry(
        parent.name, parent=parent, scope='mmfasternet',
        locations=[f'mmfasternet.{module}'])


MODELS = _child(registry.MODELS, 'models')
DATASETS = _child(registry.DATASETS, 'datasets')
DATA_SAMPLERS = _child(registry.DATA_SAMPLERS, 'datasets')
FUNCTIONS = _child(registry.FUNCTIONS, 'datasets')
HOOKS = _child(registry.HOOKS, 'engine')
TASK_UTILS = _child(registry.TASK_UTILS, 'models')
OPTIM_WRAPPERS = _child(registry.OPTIM_WRAPPERS, 'engine')
RUNNERS = _child(registry.RUNNERS, 'engine')
WEIGHT_INITIALIZERS = _child(
    registry.WEIGHT_INITIALIZERS, 'checkpoint.pretrained')
