# SPDX-License-Identifier: Apache-2.0
"""What the knobs ``teacher`` and ``unlabelled_data_prefix`` add to a config.

Called by the config itself, so that whoever reads it gets the same: the copy
in a work directory holds the teacher's network and needs no other config.
"""
from typing import Any, Dict

from mmengine.config import Config

from mmfasternet.compat import import_mmyolo

from .launch import class_names
from .loading import load_config


def teach(names: Dict[str, Any]) -> None:
    """Let a detector learn from a teacher, and from images without labels.

    Args:
        names (dict): The ``globals()`` of a config with the knobs
            ``teacher``, ``teacher_checkpoint`` and
            ``unlabelled_data_prefix``; ``model``, ``default_hooks``,
            ``custom_imports`` and ``train_dataloader`` are changed in place.
            Without any of the knobs nothing is.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If one of the knobs needs another, or the config has no
            detector.
    """
    teacher = names['teacher']
    for knob, needs in (('teacher', 'teacher_checkpoint'),
                        ('teacher_checkpoint', 'teacher'),
                        ('unlabelled_data_prefix', 'teacher')):
        if names[knob] is not None and names[needs] is None:
            raise ValueError(f'{knob} = {names[knob]!r} needs {needs}, see '
                             'docs/en/distillation.md')
    if teacher is None:
        return
    import_mmyolo()
    cfg = load_config(teacher)
    names['model'].update(
        type='mmfasternet.DistilledYOLODetector',
        teacher=_network(cfg, teacher))
    imports = names['custom_imports']['imports']  # also where it stands alone
    imports += [module for module in (cfg.get('custom_imports') or {}).get(
        'imports', ()) if module not in imports]
    names['default_hooks']['distillation'] = dict(
        type='mmfasternet.DistillationHook',
        checkpoint=names['teacher_checkpoint'],
        # for a checkpoint that does not name them
        classes=class_names(cfg, 'train'))
    if names['unlabelled_data_prefix'] is not None:
        _add_images(names)


def _network(cfg: Config, name: str) -> dict:
    """The teacher's model without what only training it needs."""
    model = cfg.get('model')
    if not isinstance(model, dict):
        raise ValueError(f'teacher = {name!r} has no `model`: it is not the '
                         'config of a detector')
    network = model.to_dict()
    for key in ('train_cfg', 'teacher'):
        network.pop(key, None)
    return dict(network, _scope_=cfg.get('default_scope') or 'mmyolo')


def _add_images(names: Dict[str, Any]) -> None:
    """Those without labels; what the config lists elsewhere has some."""
    loader = names['train_dataloader']
    labelled = loader['dataset']
    listed = [[names[f'{split}_ann_file'], names[f'{split}_data_prefix']]
              for split in ('train', 'val', 'test')]
    listed[2][1] = listed[1][1] if listed[2][1] is None else listed[2][1]
    unlabelled = dict(
        type='mmfasternet.UnlabelledImages',
        _scope_='mmyolo',
        data_root=labelled['data_root'],
        data_prefix=dict(img=names['unlabelled_data_prefix']),
        listed=[pair for pair in listed if pair[0] is not None],
        pipeline=labelled['pipeline'])
    loader['dataset'] = dict(
        type='mmfasternet.WithUnlabelled',
        _scope_='mmyolo',
        labelled=labelled,
        unlabelled=unlabelled)
    loader['sampler'] = dict(type='mmfasternet.MixedSampler')
