# SPDX-License-Identifier: Apache-2.0
"""Look before you train: what training will make of a COCO data set.

The rules are those of the code that reads the data: pycocotools, mmdet's
``CocoDataset`` (mmyolo's ``YOLOv5CocoDataset`` filters as it does), mmcv's
``LoadImageFromFile`` and, for splits that are evaluated, ``CocoMetric``. The
tests compare each "dropped" with what those classes really drop.
"""
import os.path as osp
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from mmfasternet.datasets.checks.annotations import (
    Annotations,
    SplitConfig,
    check_categories,
    check_images,
    read_annotations,
)
from mmfasternet.datasets.checks.boxes import check_boxes, check_remains
from mmfasternet.datasets.checks.images import (
    ImageFiles,
    decode_images,
    look_for_images,
)
from mmfasternet.datasets.checks.report import (
    CLIPPED,
    DROPPED,
    NOTE,
    REFUSED,
    SEVERITIES,
    Finding,
    Findings,
    Report,
    Summary,
    short,
)

__all__ = [
    'CLIPPED', 'DROPPED', 'NOTE', 'REFUSED', 'SEVERITIES', 'Finding', 'Report',
    'SplitConfig', 'Summary', 'check_dataset'
]


def check_dataset(splits: Dict[str, Sequence],
                  classes: Optional[Sequence[str]] = None,
                  images: bool = True,
                  workers: Optional[int] = None,
                  progress: bool = True,
                  cache: Optional[Dict[str, Any]] = None,
                  unlabelled: Optional[Dict[str, Sequence[str]]] = None
                  ) -> Report:
    """Say what training and evaluation will make of a COCO data set.

    Args:
        splits (dict): A :class:`SplitConfig` or ``(ann_file, image_folder)``
            by name. A pair whose name does not start with ``train`` is one
            that is evaluated.
        classes (sequence[str], optional): The names in ``metainfo``. Defaults
            to the categories of each split.
        images (bool): Whether to decode every image. Otherwise only some are
            looked for. Defaults to True.
        workers (int, optional): Processes that decode; 0 for none beside this
            one. Defaults to one per core, or none for a few images.
        progress (bool): Whether to show a progress bar if stderr is a
            terminal. Defaults to True.
        cache (dict, optional): Gets each json that is read, by path, so that
            it is read once. Defaults to None, one for this call.
        unlabelled (dict, optional): Paths of images to train on that have no
            labels, by name. Defaults to None.

    Returns:
        Report: What was found.
    """
    cache = {} if cache is None else cache
    summaries, found, checked = {}, [], []
    for name, value in splits.items():
        split = SplitConfig(*value)
        if len(value) == 2:
            split = split._replace(test_mode=not name.startswith('train'))
        if split.classes is None:
            split = split._replace(classes=classes)
        found.append(Findings(name))
        part = _check_split(split, found[-1], cache)
        if part is not None:
            summaries[name] = part.summary
            checked.append(part)
    found.append(_compare(checked))
    files = [part.files for part in checked if part.files.folder_exists()]
    for name, paths in (unlabelled or {}).items():
        found.append(Findings(name))
        found[-1].add('unlabelled', NOTE, paths,
                      'no labels: what the teacher says of it is learnt')
        files.append(
            ImageFiles('', False, {path: {} for path in paths}, found[-1]))
    if images:
        found.append(decode_images(files, workers, progress))
    else:
        for part in files:
            look_for_images(part)
    return Report([f for part in found for f in part], summaries)


class _Checked(NamedTuple):
    """A split whose annotations were read."""

    coco: Annotations
    classes: List[str]
    explicit: bool  # whether its classes were given
    summary: Summary
    files: ImageFiles


def _check_split(split: SplitConfig, found: Findings,
                 cache: Dict[str, Any]) -> Optional[_Checked]:
    coco = read_annotations(split, found, cache)
    if coco is None:
        return None
    check_images(coco, split.test_mode, found)
    classes = check_categories(coco, split.classes, found)
    boxes = check_boxes(coco, classes, split, found)
    rows, kept = check_remains(coco, boxes, classes, split, found)
    count = np.bincount(boxes.labels[kept], minlength=len(classes)).tolist()
    summary = Summary(
        len(rows), int(kept.sum()), dict(zip(classes, count)),
        boxes.xywh[kept, 2:] * boxes.ratio[kept, None])
    entries = {
        osp.join(split.image_folder, coco.images[i]['file_name']):
        coco.images[i]
        for i in rows
    }
    files = ImageFiles(split.image_folder, split.test_mode, entries, found)
    return _Checked(coco, classes, split.classes is not None, summary, files)


def _compare(splits: List[_Checked]) -> List[Finding]:
    """What splits say differently about categories and classes."""
    findings = []
    first, *others = splits or [None]
    for other in others:
        found = Findings(f'{first.files.found.split}, '
                         f'{other.files.found.split}')
        if other.explicit and other.classes != first.classes:
            found.add('classes-differ', REFUSED,
                      [short(first.classes), short(other.classes)],
                      'a label means one thing in one split and another in '
                      'the other; give both the same `classes`', 1)
        ids = [{c['name']: c['id'] for c in s.coco.categories}
               for s in (first, other)]
        found.add('categories-differ', NOTE, sorted(set(ids[0]) ^ set(ids[1])),
                  'in one split only')
        found.add(
            'category-ids-differ', NOTE,
            [n for n in ids[0] if n in ids[1] and ids[0][n] != ids[1][n]],
            'harmless: names and their order count, not ids')
        findings += found
    return findings
