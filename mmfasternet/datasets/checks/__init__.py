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
from mmfasternet.datasets.images import Picture

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
                  unlabelled: Optional[Dict[str, Sequence[str]]] = None,
                  pictures: Optional[Dict[str, Picture]] = None) -> Report:
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
        pictures (dict, optional): Images that were decoded before, by path.
            Defaults to None.

    Returns:
        Report: What was found.
    """
    cache = {} if cache is None else cache
    found: List[Findings] = []
    checked: List[_Checked] = []
    for name, value in splits.items():
        split = SplitConfig(*value)
        if len(value) == 2:
            split = split._replace(test_mode=not name.startswith('train'))
        if split.classes is None:
            split = split._replace(classes=classes)
        found.append(Findings(name))
        coco = read_annotations(split, found[-1], cache)
        if coco is not None:
            checked.append(_check_split(coco))
    found += [_compare(checked[0], other) for other in checked[1:]]
    files = [part.files for part in checked if part.files.folder_exists()]
    for name, paths in (unlabelled or {}).items():
        found.append(Findings(name))
        found[-1].note('unlabelled', paths,
                       'no labels: what the teacher says of it is learnt')
        files.append(
            ImageFiles(
                SplitConfig('', ''), found[-1], {path: {} for path in paths}))
    if images:
        found.append(
            decode_images(files, workers, progress, pictures or {}))
    else:
        for part in files:
            look_for_images(part)
    return Report([f for part in found for f in part],
                  {part.coco.found.split: part.summary for part in checked})


class _Checked(NamedTuple):
    """A split whose annotations were read."""

    coco: Annotations
    classes: List[str]
    summary: Summary
    files: ImageFiles


def _check_split(coco: Annotations) -> _Checked:
    check_images(coco)
    classes = check_categories(coco)
    boxes = check_boxes(coco, classes)
    rows, kept = check_remains(boxes, classes)
    count = np.bincount(boxes.labels[kept], minlength=len(classes)).tolist()
    summary = Summary(
        len(rows), int(kept.sum()), dict(zip(classes, count)),
        boxes.xywh[kept, 2:] * boxes.ratio[kept, None])
    images = [coco.images[i] for i in rows]
    files = ImageFiles(coco.split, coco.found, {
        osp.join(coco.split.image_folder, e['file_name']): e for e in images})
    return _Checked(coco, classes, summary, files)


def _compare(first: _Checked, other: _Checked) -> Findings:
    """What two splits say differently about categories and classes."""
    found = Findings(f'{first.coco.found.split}, {other.coco.found.split}')
    given = other.coco.split.classes is not None
    if given and other.classes != first.classes:
        found.add(REFUSED, 'classes-differ',
                  [short(first.classes), short(other.classes)],
                  'a label means one thing in one split and another in '
                  'the other; give both the same `classes`', 1)
    ids = [{c['name']: c['id'] for c in split.coco.categories}
           for split in (first, other)]
    found.note('categories-differ', sorted(ids[0].keys() ^ ids[1].keys()),
               'in one split only')
    found.note('category-ids-differ',
               [n for n in ids[0] if n in ids[1] and ids[0][n] != ids[1][n]],
               'harmless: names and their order count, not ids')
    return found
