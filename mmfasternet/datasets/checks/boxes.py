# SPDX-License-Identifier: Apache-2.0
"""Checks of boxes: which are left out, in the order of the data set class."""
from dataclasses import dataclass
from typing import Any, List, Tuple

import numpy as np

from mmfasternet.datasets.checks.annotations import (
    Annotations,
    check_annotation_ids,
    is_number,
)
from mmfasternet.datasets.checks.report import (
    CLIPPED,
    DROPPED,
    MAX_EXAMPLES,
    NOTE,
    REFUSED,
)

MIN_NETWORK_PIXELS = 2  # YOLOv5RandomAffine's min_bbox_size
ROUNDING = 1  # pixels that a box may reach beyond its image
# A box that is there twice is found once at most: with more than this share
# of them the AP falls visibly. COCO itself has a few.
MAX_TWICE = 0.05
NEARLY = 0.9  # IoU from which two boxes of a class may be one object


@dataclass
class Boxes:
    """The boxes of a split."""

    coco: Annotations  #: Where they are from.
    #: ``(N, 4)`` in pixels, as written; NaN for what is not four numbers.
    xywh: np.ndarray
    labels: np.ndarray  #: ``(N, )``, index into the classes, -1 for none.
    image_of: np.ndarray  #: ``(N, )``, index into the images, -1 for none.
    ratio: np.ndarray  #: ``(N, )``, by what the image is resized.
    gone: np.ndarray  #: ``(N, )``, left out by the data set class.

    def mark(self, severity: str, kind: str, mask: np.ndarray,
             message: str) -> None:
        """Add a finding of some boxes."""
        hits, shown = np.flatnonzero(mask), []
        for i in hits[:MAX_EXAMPLES]:
            a, row = self.coco.annotations[i], self.image_of[i]
            name = f'image_id {a["image_id"]!r}' if row < 0 else \
                self.coco.images[row]['file_name']
            shown.append(f'annotation {a["id"]} of {name}: {a["bbox"]}')
        self.coco.found.add(severity, kind, shown, message, len(hits))

    def drop(self, kind: str, mask: np.ndarray, message: str,
             severity: str = DROPPED) -> None:
        """Leave boxes out; a finding of those that were still there."""
        self.mark(severity, kind, mask & ~self.gone, message)
        self.gone |= mask


def check_boxes(coco: Annotations, classes: List[str]) -> Boxes:
    """Say of each box what the data set class does with it."""
    check_annotation_ids(coco)
    anns, split = coco.annotations, coco.split
    xywh, bad = _box_array([a['bbox'] for a in anns])
    image_of, image_hint = _rows([a['image_id'] for a in anns], coco.index)
    category_of, category_hint = _rows(
        [a['category_id'] for a in anns],
        {c['id']: i for i, c in enumerate(coco.categories)})
    names = [c['name'] for c in coco.categories]
    label = {name: i for i, name in enumerate(classes)}
    labels = np.array([label.get(n, -1) for n in names] + [-1], int)
    boxes = Boxes(coco, xywh, labels[category_of], image_of,
                  np.ones(len(anns)), np.zeros(len(anns), bool))
    boxes.drop('box-format', bad,
               'not four numbers: reading them fails; write [x, y, width, '
               'height]', REFUSED)
    boxes.drop('image-unknown', image_of < 0,
               f'image_id that no image has{image_hint}: the boxes are left '
               'out')
    shifted = _shifted([a['category_id'] for a in anns],
                       [c['id'] for c in coco.categories])
    boxes.drop('category-unknown', category_of < 0,
               f'category_id that no category has{category_hint}: the boxes '
               f'are left out{shifted}', REFUSED if shifted else DROPPED)
    count = int((~boxes.gone & (boxes.labels < 0)).sum())
    boxes.gone |= boxes.labels < 0
    coco.found.add(
        DROPPED if count else NOTE, 'class-excluded',
        [n for n in names if n not in label],
        f'categories that are not in `classes`: {count} boxes are left out')
    boxes.drop('box-ignore', _flags(anns, 'ignore'),
               "'ignore' is set: training leaves the boxes out")
    if coco.images:
        _check_geometry(boxes, coco.sizes[image_of])
    boxes.drop(
        'crowd', _flags(anns, 'iscrowd'), 'iscrowd is set: nothing is learned '
        'from the boxes, and the evaluation ignores what is detected there',
        NOTE if split.test_mode else DROPPED)
    _check_twice(boxes, split.test_mode)
    return boxes


def _flags(annotations: List[dict], key: str) -> np.ndarray:
    return np.array([bool(a.get(key)) for a in annotations], bool)


def _rows(ids: List[Any], index: dict) -> Tuple[np.ndarray, str]:
    """Where ids lead to, -1 for nowhere; whether they differ in type only."""
    texts = {str(i) for i in index}
    mistyped = any(i not in index and str(i) in texts for i in ids)
    return np.array([index.get(i, -1) for i in ids], int), (
        ' (text in one place, numbers in the other)' if mistyped else '')


def _shifted(used: List[Any], ids: List[Any]) -> str:
    """What to say if ids count from 0 in one place and from 1 in the other;
    '' if they do not."""
    numbers = {i for i in used if type(i) is int}
    for step in (1, -1):
        if len(numbers) > 1 and numbers - {*ids} and \
                numbers <= {i + step for i in ids if type(i) is int}:
            return ', and others get the class beside theirs: each ' \
                f'category_id is by one too {"high" if step > 0 else "low"}' \
                '; correct all of them'
    return ''


def _box_array(boxes: List[Any]) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes as floats, and which are not four numbers (those are NaN)."""
    bad = [len(b) != 4 or not all(map(is_number, b)) for b in boxes]
    rows = [[np.nan] * 4 if wrong else b for b, wrong in zip(boxes, bad)]
    return np.array(rows, float).reshape(-1, 4), np.array(bad, bool)


@np.errstate(all='ignore')  # NaN and infinity are what is looked for
def _check_geometry(boxes: Boxes, image_sizes: np.ndarray) -> None:
    split = boxes.coco.split
    if split.img_scale is not None:
        sizes, scale = image_sizes, np.array(split.img_scale)
        if split.either_way:
            sizes, scale = np.sort(sizes), np.sort(scale)
        boxes.ratio = (scale / sizes).min(1)
    _check_convention(boxes, image_sizes)
    x, y, w, h = boxes.xywh.T
    width, height = image_sizes.T
    right, bottom = np.minimum(x + w, width), np.minimum(y + h, height)
    inside = (right > np.maximum(x, 0)) & (bottom > np.maximum(y, 0))
    finite = np.isfinite(boxes.xywh).all(1)
    area = np.array([a['area'] for a in boxes.coco.annotations], float)
    boxes.drop('box-not-finite', ~finite & ~inside,
               'NaN or infinity: the boxes are left out')
    out = 'the boxes are left out'
    if split.test_mode:
        out += '; the evaluation, which reads the file itself, counts ' \
            'each as an object never found'
    boxes.drop('box-no-area', (w <= 0) | (h <= 0),
               f'width and height are not above 0: {out}')
    boxes.drop('box-outside', ~inside,
               f'wholly outside the stated size of the image: {out}')
    boxes.drop('box-tiny', (w < 1) | (h < 1), f'thinner than one pixel: {out}')
    boxes.drop('box-area', area <= 0, "'area' is not above 0: the boxes are "
               'left out; write width * height')
    left = ~boxes.gone
    boxes.mark(CLIPPED, 'box-not-finite', ~finite & left,
               'infinite sides: the boxes reach to the border of the image '
               'or the mosaic; correct them')
    beyond = (x < -ROUNDING) | (y < -ROUNDING) | (
        x + w > width + ROUNDING) | (y + h > height + ROUNDING)
    boxes.mark(CLIPPED, 'box-beyond-image', beyond & finite & left,
               'beyond the image: a resize clips the boxes to it, but '
               'mosaic only to its own border, so that they reach into a '
               'neighbour; clip them')
    if split.img_scale is not None:
        small = np.minimum(w, h) * boxes.ratio < MIN_NETWORK_PIXELS
        boxes.mark(NOTE, 'box-below-2-pixels', small & left,
                   f'thinner than {MIN_NETWORK_PIXELS} pixels once the image '
                   f'has {tuple(split.img_scale)}, where the augmentation of '
                   'YOLO leaves boxes out; raise img_scale or cut the images '
                   'into tiles')


def _check_convention(boxes: Boxes, image_sizes: np.ndarray) -> None:
    """Boxes that are written as another format does."""
    use = ~boxes.gone & np.isfinite(boxes.xywh).all(1)
    xywh, sizes = boxes.xywh[use], image_sizes[use]
    if not len(xywh):
        return
    if (np.abs(xywh) <= 1).all():
        boxes.mark(REFUSED, 'box-fractions', use,
                   'all boxes lie between 0 and 1, as in files of YOLO: '
                   'all are left out; COCO counts pixels')
    start, end = xywh[:, :2], xywh[:, 2:]
    beyond = (start + end > sizes + ROUNDING).any(1)
    if len(xywh) >= 10 and beyond.mean() > 0.1 and (
            end > start).all() and (end <= sizes + ROUNDING).all():
        boxes.mark(REFUSED, 'box-corners', use,
                   'all boxes make sense as [x1, y1, x2, y2]; as [x, y, '
                   f'width, height], {beyond.sum()} leave their image: '
                   'wrong boxes are learned; write width and height')


def _check_twice(boxes: Boxes, test_mode: bool) -> None:
    """Objects that have two boxes."""
    use = np.flatnonzero(~boxes.gone & np.isfinite(boxes.xywh).all(1))
    keys = np.column_stack([boxes.image_of, boxes.labels, boxes.xywh])[use]
    order = np.lexsort(keys.T[::-1])
    keys, use = keys[order], use[order]
    twice, nearly = np.zeros((2, len(boxes.gone)), bool)
    for step in (1, 2, 3):  # sorted by x, the two are close
        a, b = keys[:-step], keys[step:]
        same = (a[:, :2] == b[:, :2]).all(1)
        equal = (a == b).all(1)
        twice[use[step:]] |= equal
        nearly[use[step:]] |= same & ~equal & (
            _iou(a[:, 2:], b[:, 2:]) > NEARLY)
    wrong = test_mode and twice.sum() > MAX_TWICE * len(use)
    does = 'an object is found once, so that the AP is too low' if test_mode \
        else 'the object counts twice'
    boxes.mark(REFUSED if wrong else NOTE, 'box-twice', twice,
               f'the same box and class as another of the image: {does}; '
               'remove them (tools/prepare.py does)')
    boxes.mark(NOTE, 'box-nearly-twice', nearly & ~twice,
               f'IoU above {NEARLY} with a box of the same class: probably '
               'one object, labelled twice; look at them')


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of boxes ``[x, y, width, height]``, row by row."""
    start = np.maximum(a[:, :2], b[:, :2])
    end = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    inner = np.maximum(end - start, 0).prod(1)
    return inner / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - inner)


# ---------------------------------------------------------------- what is left
def check_remains(boxes: Boxes, classes: List[str]
                  ) -> Tuple[np.ndarray, np.ndarray]:
    """What the filter leaves, and whether that is anything.

    Returns:
        tuple: Rows of the images that are used, and a mask ``(N, )`` of the
        boxes.
    """
    coco, found, split = boxes.coco, boxes.coco.found, boxes.coco.split
    rows = np.array(sorted(coco.index.values()), int)
    cfg = {} if split.test_mode else split.filter_cfg or {}
    small = coco.sizes[rows].min(1) < cfg.get('min_size', 0)
    found.drop('image-small', coco.names(rows[small]),
               f'width or height below min_size={cfg.get("min_size")} of '
               'filter_cfg: training leaves the images out')
    # mmdet asks for any annotation of a class, also of a box left out
    has = np.zeros(len(coco.images), bool)
    has[boxes.image_of[(boxes.labels >= 0) & (boxes.image_of >= 0)]] = True
    empty = bool(cfg.get('filter_empty_gt')) & ~has[rows]
    found.drop('image-empty', coco.names(rows[empty & ~small]),
               'no annotation of the classes: training leaves the images out '
               '(filter_empty_gt=True)')
    rows = rows[~small & ~empty]
    kept = ~boxes.gone & np.isin(boxes.image_of, rows)
    if not len(rows):
        found.refuse('split-empty', [split.ann_file],
                     'no image is left: the data set class fails with "need '
                     'at least one array to concatenate"')
    elif not kept.any():
        does = 'every AP is -1' if split.test_mode else 'nothing is learned'
        found.refuse('no-boxes', [split.ann_file], f'no box is left: {does}')
    else:
        does = 'left out of the mean AP' if split.test_mode else \
            'nothing is learned for it'
        learned = {*boxes.labels[kept]}
        found.note('class-no-boxes',
                   [c for i, c in enumerate(classes) if i not in learned],
                   f'no box: {does}')
        alone = rows[~np.isin(rows, boxes.image_of[kept])]
        found.note('image-background', coco.names(alone),
                   'no box: used as background')
    return rows, kept
