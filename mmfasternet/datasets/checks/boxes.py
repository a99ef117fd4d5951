# SPDX-License-Identifier: Apache-2.0
"""Checks of boxes: which are left out, in the order of the data set class."""
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from mmfasternet.datasets.checks.annotations import (
    NUMBER,
    Annotations,
    SplitConfig,
    check_annotation_ids,
    image_name,
)
from mmfasternet.datasets.checks.report import (
    CLIPPED,
    DROPPED,
    MAX_EXAMPLES,
    NOTE,
    REFUSED,
    Findings,
)

MIN_NETWORK_PIXELS = 2  # YOLOv5RandomAffine's min_bbox_size
ROUNDING = 1  # pixels that a box may reach beyond its image
# A box that is there twice is found once at most: with more than this share
# of them the AP falls visibly. COCO itself has a few.
MAX_TWICE = 0.05
NEARLY = 0.9  # IoU from which two boxes of a class may be one object


class Boxes(NamedTuple):
    """The boxes of a split.

    Attributes:
        xywh (np.ndarray): ``(N, 4)`` in pixels, as written; NaN for what is
            not four numbers.
        labels (np.ndarray): ``(N, )``, index into the classes, -1 for none.
        image_of (np.ndarray): ``(N, )``, index into the images, -1 for none.
        ratio (np.ndarray): ``(N, )``, by what the image is resized.
        gone (np.ndarray): ``(N, )``, left out by the data set class.
    """

    xywh: np.ndarray
    labels: np.ndarray
    image_of: np.ndarray
    ratio: np.ndarray
    gone: np.ndarray


class _Marker:
    """Adds findings of boxes; ``gone`` are those that are left out."""

    def __init__(self, coco: Annotations, found: Findings) -> None:
        self.coco, self.found = coco, found
        self.gone = np.zeros(len(coco.annotations), bool)

    def mark(self, kind: str, severity: str, mask: np.ndarray,
             message: str) -> None:
        hits = np.flatnonzero(mask)
        shown = []
        for a in (self.coco.annotations[i] for i in hits[:MAX_EXAMPLES]):
            image = self.coco.index.get(a['image_id'])
            name = f'image_id {a["image_id"]!r}' if image is None else \
                self.coco.images[image]['file_name']
            shown.append(f'annotation {a["id"]} of {name}: {a["bbox"]}')
        self.found.add(kind, severity, shown, message, len(hits))

    def drop(self, kind: str, mask: np.ndarray, message: str,
             severity: str = DROPPED) -> None:
        self.mark(kind, severity, mask & ~self.gone, message)
        self.gone |= mask


def check_boxes(coco: Annotations, classes: List[str], split: SplitConfig,
                found: Findings) -> Boxes:
    """Say of each box what the data set class does with it."""
    anns, marker = coco.annotations, _Marker(coco, found)
    check_annotation_ids(coco, split.test_mode, found)
    xywh, bad = _box_array([a['bbox'] for a in anns])
    marker.drop('box-format', bad,
                'not four numbers: reading them fails; write [x, y, width, '
                'height]', REFUSED)
    image_of = np.array([coco.index.get(a['image_id'], -1) for a in anns], int)
    hint = _type_hint([anns[i]['image_id']
                       for i in np.flatnonzero(image_of < 0)], coco.index)
    marker.drop('image-unknown', image_of < 0,
                f'image_id that no image has{hint}: the boxes are left out')
    labels = _check_labels(coco, classes, marker)
    marker.drop('box-ignore', _flags(anns, 'ignore'),
                "'ignore' is set: training leaves the boxes out")
    ratio = np.ones(len(anns))
    if len(coco.images):
        sizes = coco.sizes[image_of]
        if split.img_scale is not None:
            with np.errstate(all='ignore'):
                ratio = np.minimum(
                    max(split.img_scale) / sizes.max(1),
                    min(split.img_scale) / sizes.min(1))
        _check_geometry(xywh, sizes, ratio, split, marker)
    marker.drop(
        'crowd', _flags(anns, 'iscrowd'), 'iscrowd is set: nothing is learned '
        'from the boxes, and the evaluation ignores what is detected there',
        NOTE if split.test_mode else DROPPED)
    boxes = Boxes(xywh, labels, image_of, ratio, marker.gone)
    _check_twice(boxes, split.test_mode, marker)
    return boxes


def _flags(annotations: List[dict], key: str) -> np.ndarray:
    return np.array([bool(a.get(key)) for a in annotations], bool)


def _check_labels(coco: Annotations, classes: List[str],
                  marker: _Marker) -> np.ndarray:
    """The class of each box, -1 for none."""
    rows = {c['id']: i for i, c in enumerate(coco.categories)}
    ids = [a['category_id'] for a in coco.annotations]
    row = np.array([rows.get(i, -1) for i in ids], int)
    hint = _type_hint([ids[i] for i in np.flatnonzero(row < 0)], rows)
    marker.drop('category-unknown', row < 0,
                f'category_id that no category has{hint}: the boxes are '
                'left out')
    names = [c['name'] for c in coco.categories]
    label = {name: i for i, name in enumerate(classes)}
    labels = np.array([label.get(n, -1) for n in names] + [-1], int)[row]
    unused = [n for n in names if n not in label]
    count = int((~marker.gone & (labels < 0)).sum())
    marker.gone |= labels < 0
    marker.found.add(
        'class-excluded', DROPPED if count else NOTE, unused,
        f'categories that are not in `classes`: {count} boxes are left out')
    return labels


@np.errstate(all='ignore')  # NaN and infinity are what is looked for
def _check_geometry(boxes: np.ndarray, image_sizes: np.ndarray,
                    ratio: np.ndarray, split: SplitConfig,
                    marker: _Marker) -> None:
    _check_convention(boxes, image_sizes, marker)
    x, y, w, h = boxes.T
    width, height = image_sizes.T
    right, bottom = np.minimum(x + w, width), np.minimum(y + h, height)
    inside = (right > np.maximum(x, 0)) & (bottom > np.maximum(y, 0))
    finite = np.isfinite(boxes).all(1)
    out = 'the boxes are left out'
    if split.test_mode:
        out += '; the evaluation, which reads the file itself, counts ' \
            'each as an object never found'
    marker.drop('box-not-finite', ~finite & ~inside,
                'NaN or infinity: the boxes are left out')
    marker.drop('box-no-area', (w <= 0) | (h <= 0),
                f'width and height are not above 0: {out}')
    marker.drop('box-outside', ~inside,
                f'wholly outside the stated size of the image: {out}')
    marker.drop('box-tiny', (w < 1) | (h < 1),
                f'thinner than one pixel: {out}')
    area = np.array([a['area'] for a in marker.coco.annotations], float)
    marker.drop('box-area', area <= 0,
                "'area' is not above 0: the boxes are left out; write width "
                '* height')
    left = ~marker.gone
    marker.mark('box-not-finite', CLIPPED, ~finite & left,
                'infinite sides: the boxes reach to the border of the image '
                'or the mosaic; correct them')
    beyond = (x < -ROUNDING) | (y < -ROUNDING) | (
        x + w > width + ROUNDING) | (y + h > height + ROUNDING)
    marker.mark('box-beyond-image', CLIPPED, beyond & finite & left,
                'beyond the image: a resize clips the boxes to it, but '
                'mosaic only to its own border, so that they reach into a '
                'neighbour; clip them')
    if split.img_scale is not None:
        small = np.minimum(w, h) * ratio < MIN_NETWORK_PIXELS
        marker.mark(
            'box-below-2-pixels', NOTE, small & left,
            f'thinner than {MIN_NETWORK_PIXELS} pixels once the image has '
            f'{tuple(split.img_scale)}, where the augmentation of '
            'YOLO leaves boxes out; raise img_scale or cut the images '
            'into tiles')


def _check_convention(boxes: np.ndarray, image_sizes: np.ndarray,
                      marker: _Marker) -> None:
    """Boxes that are written as another format does."""
    use = ~marker.gone & np.isfinite(boxes).all(1)
    boxes, sizes = boxes[use], image_sizes[use]
    if not len(boxes):
        return
    if (np.abs(boxes) <= 1).all():
        marker.mark('box-fractions', REFUSED, use,
                    'all boxes lie between 0 and 1, as in files of YOLO: '
                    'all are left out; COCO counts pixels')
    start, end = boxes[:, :2], boxes[:, 2:]
    beyond = (start + end > sizes + ROUNDING).any(1)
    if len(boxes) >= 10 and beyond.mean() > 0.1 and (
            end > start).all() and (end <= sizes + ROUNDING).all():
        marker.mark('box-corners', REFUSED, use,
                    'all boxes make sense as [x1, y1, x2, y2]; as [x, y, '
                    f'width, height], {beyond.sum()} leave their image: '
                    'wrong boxes are learned; write width and height')


def _check_twice(boxes: Boxes, test_mode: bool, marker: _Marker) -> None:
    """Objects that have two boxes."""
    use = np.flatnonzero(~boxes.gone & np.isfinite(boxes.xywh).all(1))
    keys = np.column_stack(
        [boxes.image_of, boxes.labels, boxes.xywh])[use]
    order = np.lexsort(keys.T[::-1])
    keys, use = keys[order], use[order]
    twice, nearly = (np.zeros(len(boxes.gone), bool) for _ in range(2))
    for step in (1, 2, 3):  # sorted by x, the two are close
        a, b = keys[:-step], keys[step:]
        same = (a[:, :2] == b[:, :2]).all(1)
        equal = (a == b).all(1)
        twice[use[step:]] |= equal
        nearly[use[step:]] |= same & ~equal & (
            _iou(a[:, 2:], b[:, 2:]) > NEARLY)
    wrong = test_mode and twice.sum() > MAX_TWICE * len(use)
    marker.mark(
        'box-twice', REFUSED if wrong else NOTE, twice,
        'the same box and class as another of the image: ' +
        ('an object is found once, so that the AP is too low'
         if test_mode else 'the object counts twice') +
        '; remove them (tools/prepare.py does)')
    marker.mark('box-nearly-twice', NOTE, nearly & ~twice,
                f'IoU above {NEARLY} with a box of the same class: probably '
                'one object, labelled twice; look at them')


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of boxes ``[x, y, width, height]``, row by row."""
    start = np.maximum(a[:, :2], b[:, :2])
    end = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    inner = np.maximum(end - start, 0).prod(1)
    return inner / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - inner)


# ---------------------------------------------------------------- what is left
def check_remains(coco: Annotations, boxes: Boxes, classes: List[str],
                  split: SplitConfig,
                  found: Findings) -> Tuple[np.ndarray, np.ndarray]:
    """What the filter leaves, and whether that is anything.

    Returns:
        tuple: Rows of the images that are used, and a mask ``(N, )`` of the
        boxes.
    """
    rows = np.array(sorted(coco.index.values()), int)
    cfg = {} if split.test_mode else split.filter_cfg or {}
    small = coco.sizes[rows].min(1) < cfg.get('min_size', 0)
    found.add(
        'image-small', DROPPED, _names(coco, rows[small]),
        f'width or height below min_size={cfg.get("min_size")} of '
        'filter_cfg: training leaves the images out')
    # mmdet asks for any annotation of a class, also of a box left out
    has = np.zeros(len(coco.images), bool)
    has[boxes.image_of[(boxes.labels >= 0) & (boxes.image_of >= 0)]] = True
    empty = bool(cfg.get('filter_empty_gt')) & ~has[rows]
    found.add(
        'image-empty', DROPPED, _names(coco, rows[empty & ~small]),
        'no annotation of the classes: training leaves the images out '
        '(filter_empty_gt=True)')
    rows = rows[~small & ~empty]
    used = np.zeros(len(coco.images), bool)
    used[rows] = True
    kept = ~boxes.gone
    kept[kept] = used[boxes.image_of[kept]]
    if not len(rows):
        found.add('split-empty', REFUSED, [split.ann_file],
                  'no image is left: the data set class fails with "need '
                  'at least one array to concatenate"')
    elif not kept.any():
        does = 'every AP is -1' if split.test_mode else 'nothing is learned'
        found.add('no-boxes', REFUSED, [split.ann_file],
                  f'no box is left: {does}')
    else:
        _note_empty(coco, boxes, rows, kept, classes, split.test_mode, found)
    return rows, kept


def _note_empty(coco: Annotations, boxes: Boxes, rows: np.ndarray,
                kept: np.ndarray, classes: List[str], test_mode: bool,
                found: Findings) -> None:
    count = np.bincount(boxes.labels[kept], minlength=len(classes))
    found.add(
        'class-no-boxes', NOTE, [c for c, n in zip(classes, count) if not n],
        'no box: left out of the mean AP'
        if test_mode else 'no box: nothing is learned for it')
    count = np.bincount(boxes.image_of[kept], minlength=len(coco.images))
    found.add('image-background', NOTE, _names(coco, rows[count[rows] == 0]),
              'no box: used as background')


def _names(coco: Annotations, rows: Sequence[int]) -> List[str]:
    return [image_name(coco.images[i]) for i in rows]


def _box_array(boxes: List[Any]) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes as floats, and which are not four numbers (those are NaN)."""
    array: Optional[np.ndarray]
    try:
        array = np.array(boxes)
    except ValueError:  # of unequal length
        array = np.empty(0, object)
    if array.shape == (len(boxes), 4) and array.dtype.kind in 'iuf':
        return array.astype(float), np.zeros(len(boxes), bool)
    bad = [
        len(b) != 4 or any(type(v) not in NUMBER for v in b) for b in boxes
    ]
    rows = [[np.nan] * 4 if wrong else b for b, wrong in zip(boxes, bad)]
    return np.array(rows, float).reshape(-1, 4), np.array(bad, bool)


def _type_hint(unknown: List[Any], known: Iterable) -> str:
    """Whether ids differ only in being text or a number."""
    texts = {str(k) for k in known}
    if any(str(i) in texts for i in unknown):
        return ' (text in one place, numbers in the other)'
    return ''
