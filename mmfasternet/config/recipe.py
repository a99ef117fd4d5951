# SPDX-License-Identifier: GPL-3.0-only
# GPL because it names classes of mmyolo.
"""One recipe for several detectors, so that what differs is the network."""
from typing import Any, Iterator

from mmengine.config import Config

from .launch import class_names

# Computes the same with less time and memory, and alike under --amp, so that
# what differs between two training runs is the network.
SAME_BUT_FASTER = {
    'YOLODetector': 'mmfasternet.AnyBackboneYOLODetector',
    'BatchTaskAlignedAssigner': 'mmfasternet.SparseTaskAlignedAssigner',
}


def with_model_of(recipe: Config,
                  other: Config,
                  unmodified: bool = False) -> Config:
    """A copy of a recipe with the model of another config, for the classes of
    the recipe; mmyolo's detector and assigner are replaced by what computes
    the same faster, unless they are to stay ``unmodified``.

    Raises:
        ValueError: If the other config has no model, or the recipe names
            no classes.
    """
    if 'model' not in other:
        raise ValueError(f'{other.filename} has no `model`: it is not a '
                         'complete config')
    cfg = Config(recipe.to_dict(), filename=recipe.filename)
    classes = class_names(cfg, 'train')
    if not classes:
        raise ValueError(f'{cfg.filename} does not name its classes: set '
                         'metainfo of its train_dataloader.dataset')
    model = Config(dict(model=other.model.to_dict())).model
    for part in _dicts(model):
        if 'num_classes' in part:
            part.num_classes = len(classes)
    assigner = (model.get('train_cfg') or {}).get('assigner')
    for part in () if unmodified else filter(None, (model, assigner)):
        part.type = SAME_BUT_FASTER.get(part.type, part.type)
    cfg.model = model
    _take_teacher(cfg, other)
    return cfg


def _dicts(node: Any) -> Iterator[dict]:
    """A model's config and what is in it, without backbone and teacher."""
    if isinstance(node, dict):
        yield node
        node = [node[key] for key in node
                if key not in ('backbone', 'teacher')]
    for child in node if isinstance(node, (list, tuple)) else ():
        yield from _dicts(child)


def _take_teacher(cfg: Config, other: Config) -> None:
    """That, and images without labels, belong to a detector, not a recipe."""
    hook = other.get('default_hooks', {}).get('distillation')
    cfg.setdefault('default_hooks', {}).pop('distillation', None)
    if hook:
        cfg.default_hooks.distillation = hook
    loader, theirs = cfg.train_dataloader, other.train_dataloader
    if 'unlabelled' in loader.dataset:
        loader.dataset = loader.dataset.labelled
        loader.sampler = dict(type='DefaultSampler', shuffle=True)
    if 'unlabelled' in theirs.dataset:
        labelled = loader.dataset
        loader.dataset = theirs.dataset.copy()
        loader.dataset.labelled = labelled
        loader.dataset.unlabelled.pipeline = labelled.pipeline
        loader.sampler = theirs.sampler
