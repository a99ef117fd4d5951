# SPDX-License-Identifier: Apache-2.0
"""What the data that a config names will do to its training."""
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional, Sequence

from mmfasternet.datasets.checks import Report, SplitConfig, check_dataset
from mmfasternet.datasets.checks.annotations import listed_images
from mmfasternet.datasets.checks.report import (
    NOTE,
    REFUSED,
    Finding,
    Findings,
)
from mmfasternet.datasets.files import file_error
from mmfasternet.datasets.from_config import (
    dataset_class,
    leaf_classes,
    leaf_datasets,
    writes_itself,
)
from mmfasternet.datasets.images import unlabelled_images


def check_config(cfg: Any,
                 images: bool = True,
                 workers: Optional[int] = None,
                 progress: bool = True,
                 phases: Sequence[str] = ('train', 'val')) -> Report:
    """Check the data of a config.

    Args:
        cfg (Config): A complete config, as ``load_config`` returns it.
        images, workers, progress: See :func:`check_dataset`.
        phases (Sequence[str]): Of ``'train'``, ``'val'`` and ``'test'``,
            those to check. Defaults to ``('train', 'val')``.

    Returns:
        Report: What was found. Data that is not COCO json, not on this
        machine or not written yet (:func:`.writes_itself`) is a note.
    """
    splits: Dict[str, SplitConfig] = {}
    findings: List[Finding] = []
    cache: Dict[str, Any] = {}
    unlabelled: Dict[str, List[str]] = {}
    for phase in phases:
        loader = cfg.get(f'{phase}_dataloader') or {}
        leaves = []
        for leaf in leaf_datasets(loader.get('dataset')):
            if 'listed' in leaf:
                unlabelled['unlabelled'] = _unlabelled(leaf, findings)
            else:
                leaves.append(leaf)
        for i, leaf in enumerate(leaves):
            name = phase if len(leaves) == 1 else f'{phase}[{i}]'
            cls = dataset_class(leaf, cfg.get('default_scope'))
            split = _split_config(cfg, leaf)
            reason = _why_not(leaf, cls, split)
            if reason:
                findings.append(Finding('not-checked', name, NOTE, 1, (),
                                        f'data set {reason}: not checked'))
            else:
                splits[name] = split
    if unlabelled and not _model(cfg).get('teacher'):
        findings.append(
            Finding('unlabelled', 'model', REFUSED, 1, (),
                    'without a teacher they would count as background: set '
                    '`teacher`, or unlabelled_data_prefix=None'))
    report = check_dataset(splits, None, images, workers, progress, cache,
                           unlabelled)
    findings += _check_heads(cfg, splits)
    for phase in ('val', 'test'):
        findings += _check_evaluators(cfg, splits, phase, cache)
    return Report(report.findings + findings, report.summaries)


def _unlabelled(leaf: dict, findings: List[Finding]) -> List[str]:
    """The images of a data set without labels."""
    root = leaf.get('data_root') or ''
    (folder, ), *listed = (
        [osp.join(root, path) for path in paths]
        for paths in ([leaf['data_prefix']['img']], *leaf['listed']))
    try:
        return unlabelled_images(folder, listed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        findings.append(
            Finding('unlabelled', 'unlabelled', REFUSED, 1, (folder, ),
                    f'cannot be used: {error}'))
        return []


def _why_not(leaf: dict, cls: Optional[type], split: SplitConfig) -> str:
    """Why a data set cannot be checked, '' if it can."""
    # subclasses for LVIS, panoptic and other files read them their own way
    own = [getattr(cls, name, None) for name in (
        'load_data_list', 'parse_data_info', 'filter_data')]
    if not all(getattr(f, '__qualname__', '').startswith('CocoDataset.')
               for f in own):
        return f'{leaf["type"]} does not read plain COCO json'
    if '://' in str(leaf.get('data_root')):
        return f'at {leaf["data_root"]} is not on this machine'
    if writes_itself(cls) and not osp.exists(split.ann_file):
        return f'{leaf["type"]} writes its files at the start'
    return ''


def _split_config(cfg: Any, leaf: dict) -> SplitConfig:
    root = leaf.get('data_root') or ''
    prefix = leaf.get('data_prefix') or {}
    if isinstance(prefix, dict):
        prefix = prefix.get('img', '')
    scales = (value for value in _values(
        leaf.get('pipeline'), ('img_scale', 'scale'))
        if isinstance(value, (list, tuple)) and [*map(type, value)] == [
            int, int])
    return SplitConfig(
        osp.join(root, leaf.get('ann_file') or ''), osp.join(root, prefix),
        bool(leaf.get('test_mode')), dict(leaf.get('filter_cfg') or {}),
        cfg.get('img_scale') or next(scales, None),
        leaf_classes(leaf, cfg.get('default_scope')),
        # of mmyolo's configs all have that name, and letterboxes
        either_way=not cfg.get('img_scale'))


def _values(node: Any, keys: Sequence[str]) -> Iterator[Any]:
    """Values below keys, at any depth."""
    children = node.items() if isinstance(node, dict) else enumerate(
        node if isinstance(node, (list, tuple)) else ())
    for key, child in children:
        if key in keys:
            yield child
        else:
            yield from _values(child, keys)


def _model(cfg: Any) -> dict:
    """Its model, nothing where that is not one."""
    model = cfg.get('model')
    return model if isinstance(model, dict) else {}


def _check_heads(cfg: Any, splits: Dict[str, SplitConfig]) -> Findings:
    """Heads for another number of classes, or that cannot be trained."""
    found = Findings('model')
    student = {key: value for key, value in _model(cfg).items()
               if key != 'teacher'}
    if not all(split.test_mode for split in splits.values()):
        found.refuse(
            'reg-max', [f'reg_max={n}' for n in _bins(student)
                        if not isinstance(n, int) or n < 2],
            'training needs a whole number of bins, 2 or more: the loss of '
            "YOLOv8's box distribution ends with IndexError")
    classes = next((s.classes for s in splits.values()), None)
    if not classes or isinstance(classes, str):
        return found
    heads = _values(student, ('bbox_head', 'mask_head'))
    numbers = dict.fromkeys(
        f'num_classes={n}' for n in _values(list(heads), ('num_classes', ))
        if n != len(classes))
    found.refuse('num-classes', [*numbers],
                 f'not the {len(classes)} of `classes`: training or the '
                 'evaluation ends with IndexError')
    return found


def _bins(model: dict) -> Iterator[Any]:
    """Bins of the distributions over distances of YOLOv8's heads."""
    for module in _values(model, ('head_module', )):
        if isinstance(module, dict) and 'YOLOv8' in str(module.get('type')):
            yield module.get('reg_max', 16)


def _check_evaluators(cfg: Any, splits: Dict[str, SplitConfig], phase: str,
                      cache: Dict[str, Any]) -> Findings:
    """An evaluator that reads another file than the data set."""
    found = Findings(phase)
    files = [osp.normpath(s.ann_file) for name, s in splits.items()
             if name.startswith(phase)]
    for path in _values(cfg.get(f'{phase}_evaluator'), ('ann_file', )):
        if not (path and files) or osp.normpath(path) in files:
            continue
        error, severity = file_error(path), REFUSED
        if error:
            does = f'and cannot be read: {error}'
        elif listed_images(path, cache) != set().union(
                *(listed_images(f, cache) or () for f in files)):
            does = 'and lists other images: the AP would be wrong; set ' \
                f'{phase}_evaluator.ann_file as well'
        else:
            severity, does = NOTE, 'but lists the same images'
        found.add(severity, 'evaluator-file', [path, files[0]],
                  f'not the annotation file of the data set, {does}', 1)
    return found
