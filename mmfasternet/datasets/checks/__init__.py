# SPDX-License-Identifier: Apache-2.0
"""Look before you train: what a COCO data set will do to a training.

The rules are those of the code that reads the data: pycocotools, mmdet's
``CocoDataset`` (mmyolo's ``YOLOv5CocoDataset`` filters as it does), mmcv's
``LoadImageFromFile`` and, for splits that are evaluated, ``CocoMetric``. The
tests compare each "dropped" with what those classes really drop.
"""
import codecs
import difflib
import json
import os
import os.path as osp
import re
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from mmfasternet.datasets.images import (
    HUGE_PIXELS,
    Picture,
    file_error,
    inspect_all,
    look_alikes,
)

REFUSED = 'refused'  # training fails, or learns or evaluates something wrong
DROPPED = 'dropped'  # the data set class leaves it out
CLIPPED = 'clipped'  # used, but not as it is written
NOTE = 'note'
SEVERITIES = (REFUSED, DROPPED, CLIPPED, NOTE)

MAX_EXAMPLES = 3
MIN_NETWORK_PIXELS = 2  # YOLOv5RandomAffine's min_bbox_size
ROUNDING = 1  # pixels that a box may reach beyond its image
SAMPLE = 100  # images looked for where images are not to be read

_ID = (int, float, str)
_NUMBER = (int, float)
_KEYS = dict(
    images=dict(id=_ID, file_name=(str, ), width=_NUMBER, height=_NUMBER),
    annotations=dict(
        id=_ID,
        image_id=_ID,
        category_id=_ID,
        bbox=(list, ),
        area=_NUMBER),
    categories=dict(id=_ID, name=(str, )))
_TRAITS = {
    '16-bit': 'more than 8 bits per channel: the network gets the upper 8 '
    'only, in which a 12-bit camera is nearly black; rescale them to 8 bits',
    'cmyk': 'CMYK: OpenCV converts it to 3 channels without a colour profile, '
    'so that colours shift; convert them to RGB',
    'grayscale': 'grayscale: the network gets 3 equal channels',
    'alpha': 'alpha channel: it is left out, what it hides is seen',
    'misnamed': 'another format than the name says: the content counts, so '
    'they are read as what they are',
    'huge': f'more than {HUGE_PIXELS} pixels: each takes seconds and hundreds '
    'of MB in every worker; shrink them or cut them into tiles',
}


class Finding(NamedTuple):
    """One kind of thing that was found in one split."""

    kind: str
    split: str
    severity: str
    count: int
    examples: Tuple[str, ...]
    message: str

    def __str__(self) -> str:
        more = '; ...' if self.count > len(self.examples) else ''
        shown = f' [{"; ".join(self.examples)}{more}]' if self.examples else ''
        return (f'{self.severity}: {self.split}: {self.kind} ({self.count}): '
                f'{self.message}{shown}')


class Split(NamedTuple):
    """Where a split is and how the config treats it.

    Args:
        ann_file (str): The COCO json.
        image_folder (str): What its file names are relative to.
        test_mode (bool): Whether the split is evaluated, not trained on.
        filter_cfg (dict): ``filter_empty_gt`` and ``min_size``, as for the
            data set class.
        img_scale (tuple[int], optional): Size that images are resized to.
        classes (sequence[str], optional): Classes of this split, if they are
            not those of all.
    """

    ann_file: str
    image_folder: str
    test_mode: bool = False
    filter_cfg: dict = {}
    img_scale: Optional[Tuple[int, int]] = None
    classes: Optional[Sequence[str]] = None


class Summary(NamedTuple):
    """What training sees of a split.

    ``sizes`` has one row ``(width, height)`` for each box, in pixels of the
    network's input, or of the image if ``img_scale`` is unknown.
    """

    images: int
    boxes: int
    classes: Dict[str, int]
    sizes: np.ndarray

    def __str__(self) -> str:
        counts = ', '.join(f'{k} {v}' for k, v in self.classes.items())
        return f'{self.images} images, {self.boxes} boxes: {counts}'


@dataclass
class Report:
    """The findings, the worst first, and what remains of each split."""

    findings: List[Finding] = field(default_factory=list)
    summaries: Dict[str, Summary] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether training on this would fail or be in vain."""
        return any(f.severity == REFUSED for f in self.findings)

    def __str__(self) -> str:
        lines = [f'{name}: {s}' for name, s in self.summaries.items()]
        lines += map(str, self.findings)
        count = Counter(f.severity for f in self.findings)
        total = ', '.join(f'{s} {count[s]}' for s in SEVERITIES if count[s])
        verdict = 'not ready to train on' if self.refused else \
            'ready to train on'
        return '\n'.join([*lines, f'{verdict}: {total or "no findings"}'])

    def to_dict(self) -> dict:
        """Everything but the sizes of the boxes, for json."""
        return dict(
            refused=self.refused,
            findings=[f._asdict() for f in self.findings],
            splits={
                name: dict(
                    images=s.images, boxes=s.boxes, classes=dict(s.classes))
                for name, s in self.summaries.items()
            })


def check_dataset(splits: Dict[str, Sequence],
                  classes: Optional[Sequence[str]] = None,
                  images: bool = True,
                  workers: Optional[int] = None,
                  progress: bool = True) -> Report:
    """Say what training and evaluation will make of a COCO data set.

    Args:
        splits (dict): A :class:`Split` or ``(ann_file, image_folder)`` by
            name. A pair whose name does not start with ``train`` is one that
            is evaluated.
        classes (sequence[str], optional): The names in ``metainfo``. Defaults
            to the categories of each split.
        images (bool): Whether to decode every image. Otherwise only some are
            looked for. Defaults to True.
        workers (int, optional): Processes that decode; 0 for none beside this
            one. Defaults to one per core, or none for a few images.
        progress (bool): Whether to show a progress bar if stderr is a
            terminal. Defaults to True.

    Returns:
        Report: What was found.
    """
    report, parts = Report(), []
    for name, value in splits.items():
        split = Split(*value)
        if len(value) == 2:
            split = split._replace(test_mode=not name.startswith('train'))
        if split.classes is None:
            split = split._replace(classes=classes)
        part = _SplitCheck(name, split)
        if part.run():
            report.summaries[name] = part.summary()
        parts.append(part)
    findings = _compare_categories([part for part in parts if part.readable])
    found = [part for part in parts if part.has_folder]
    if images:
        findings += _check_images(found, workers, progress)
    else:
        for part in found:
            part.check_sample()
    report.findings = sorted(
        [f for part in parts for f in part.findings] + findings,
        key=lambda f: SEVERITIES.index(f.severity))
    return report


class _Stop(Exception):
    """Nothing more can be said about a split."""


class _SplitCheck:
    """The checks of one split that need no image to be decoded."""

    def __init__(self, name: str, split: Split) -> None:
        self.name, self.split = name, split
        self.findings: List[Finding] = []
        self.readable = self.has_folder = False

    def add(self,
            kind: str,
            severity: str,
            examples: Sequence,
            message: str,
            count: Optional[int] = None) -> None:
        """Add a finding unless there are no examples of it."""
        if len(examples):
            # names of files may hold what cannot be printed
            shown = tuple(
                str(e).encode(errors='backslashreplace').decode()
                for e in examples[:MAX_EXAMPLES])
            self.findings.append(
                Finding(kind, self.name, severity,
                        len(examples) if count is None else count, shown,
                        message))

    def stop(self, kind: str, message: str) -> None:
        self.add(kind, REFUSED, [self.split.ann_file], message)
        raise _Stop

    def run(self) -> bool:
        """Check the annotations; False if they cannot be read at all."""
        try:
            self.read()
            self.check_entries()
            self.check_image_entries()
            self.check_categories()
            self.check_boxes()
            self.check_remains()
        except _Stop:
            return False
        self.readable = True
        self.check_folder()
        return True

    def read(self) -> None:
        """Read the json into ``images``, ``annotations``, ``categories``."""
        path = self.split.ann_file
        error = file_error(path)
        if error:
            self.stop('annotation-unreadable', f'cannot be read: {error}')
        with open(path, 'rb') as file:
            raw = file.read()
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            self.stop(
                'annotation-encoding', f'not UTF-8 at byte {error.start}: '
                'reading it fails; save it as UTF-8')
        if raw.startswith(codecs.BOM_UTF8):
            self.stop(
                'annotation-encoding', 'byte order mark at the start: '
                'reading it fails; save it as UTF-8 without BOM')
        try:
            data = json.loads(text)
        except ValueError as error:
            self.stop('annotation-not-json', _not_json(text, error))
        except RecursionError:
            self.stop('annotation-not-json', 'too deeply nested')
        self.take_lists(data)

    def take_lists(self, data: Any) -> None:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        missing = [
            key for key in _KEYS
            if not (isinstance(data, dict) and isinstance(data.get(key), list))
        ]
        if missing:
            self.stop(
                'annotation-not-coco',
                f'no list {", ".join(map(repr, missing))}, but '
                f'{_short(found)}{_format_hint(data)}: reading it fails or '
                'finds nothing; write COCO json')
        self.images, self.annotations, self.categories = (
            data[key] for key in _KEYS)

    def check_entries(self) -> None:
        """Every key that the data set class reads, of the right type."""
        for name, keys in _KEYS.items():
            entries, kind = getattr(self, name), f'{name}-entry'
            odd = [_short(e) for e in entries if type(e) is not dict]
            self.add(kind, REFUSED, odd, 'no json objects: reading them fails')
            for key, types in keys.items() if not odd else ():
                bad = [_short(e) for e in entries
                       if type(e.get(key)) not in types]
                kinds = ' or '.join(t.__name__ for t in types)
                hint = ', width * height' if key == 'area' else ''
                self.add(
                    'box-format' if key == 'bbox' else kind, REFUSED, bad,
                    f'no {key!r} of type {kinds}: reading them fails; write '
                    f'it{hint}')
            if name == 'annotations' and self.split.test_mode and not odd:
                self.add(
                    kind, REFUSED,
                    [_short(e) for e in entries if 'iscrowd' not in e],
                    "no 'iscrowd': the evaluation fails with KeyError; write "
                    '"iscrowd": 0')
        if self.findings:
            raise _Stop

    def check_image_entries(self) -> None:
        images = self.images
        self.index = {e['id']: i for i, e in enumerate(images)}  # last wins
        twice = [e for i, e in enumerate(images) if self.index[e['id']] != i]
        other = [
            e for e in twice
            if images[self.index[e['id']]]['file_name'] != e['file_name']
        ]
        self.add(
            'image-id-twice', REFUSED, [_image(e) for e in other],
            'id of another image: the last one gets the boxes of all, the '
            'others vanish; number them anew')
        if not other:
            self.add('image-twice', DROPPED, [_image(e) for e in twice],
                     'same id and file as another entry: the last one is used')
        names = Counter(images[i]['file_name'] for i in self.index.values())
        self.add('file-name-twice', NOTE,
                 [name for name, count in names.items() if count > 1],
                 'listed under several ids: what is a box in one is '
                 'background in the other; join the entries')
        kinds = {type(i) is str for i in self.index}
        if self.split.test_mode and len(kinds) == 2:
            self.add('id-types', REFUSED,
                     [_image(e) for e in images if type(e['id']) is str],
                     'image ids that are text while others are numbers: the '
                     'evaluation fails with TypeError; make all of them int')
        self.image_sizes = np.array([[e['width'], e['height']]
                                     for e in images], float).reshape(-1, 2)
        bad = ~(self.image_sizes > 0).all(1)
        self.add('image-no-size', DROPPED,
                 [_image(images[i]) for i in np.flatnonzero(bad)],
                 'width and height are not above 0: all boxes are left out, '
                 'in training the image too; write the size in pixels')

    def check_categories(self) -> None:
        names = [c['name'] for c in self.categories]
        self.check_category_ids()
        self.classes = self.read_classes(names)
        twice = [n for n, count in Counter(names).items() if count > 1]
        used = [n for n in twice if n in self.classes]
        self.add(
            'category-twice', REFUSED if used else NOTE, used or twice,
            'names of several categories: each counts as a class of its own '
            'and shifts the labels of later ones; join them')
        missing = [c for c in self.classes if c not in names]
        hints = [f'{c!r}{_close(c, names)}' for c in missing]
        if len(missing) == len(self.classes):
            self.add(
                'class-none', REFUSED, hints, 'no class is a category, names '
                'compared exactly: no box is left; categories are '
                f'{_short(names)}')
            return
        self.add(
            'class-missing', REFUSED, hints, 'no category of the file, names '
            'compared exactly: nothing is learned for them, and the '
            'evaluation ends with IndexError; correct the names or add the '
            'categories')
        self.check_order([n for n in names if n in self.classes])

    def check_category_ids(self) -> None:
        count = Counter(c['id'] for c in self.categories)
        self.add('category-id-twice', REFUSED,
                 [_short(c) for c in self.categories if count[c['id']] > 1],
                 'id of several categories: their boxes cannot be told '
                 'apart; number them anew')

    def read_classes(self, names: List[str]) -> List[str]:
        """The classes as a list; a wrong kind of them is a finding."""
        classes = self.split.classes
        if classes is None:
            return list(dict.fromkeys(names))
        if isinstance(classes, str):
            if osp.isfile(classes):  # MMEngine reads the names from there
                with open(classes, encoding='utf-8') as file:
                    return file.read().splitlines()
            self.add(
                'classes-string', REFUSED, [repr(classes)], 'a string, '
                'of which each letter counts as a class; a tuple of one needs '
                f'its comma: ({classes!r},)')
            return [classes]
        count = Counter(classes)
        self.add(
            'classes-twice', REFUSED,
            [repr(c) for c in count if count[c] > 1],
            'listed twice: later labels get wrong names, and the evaluation '
            'ends with IndexError; name each once')
        return list(count)

    def check_order(self, matched: List[str]) -> None:
        """Labels count the file's categories, names those of the config."""
        wrong = [
            f'{name!r} is learned and drawn as {self.classes[i]!r}'
            for i, name in enumerate(dict.fromkeys(matched))
            if name != self.classes[i]
        ]
        self.add(
            'class-order', REFUSED, wrong, 'not the order of the '
            'categories: labels follow the file, names follow `classes`, so '
            'both must agree in all splits; the order of the file is '
            f'{_short(tuple(matched))}')

    def check_boxes(self) -> None:
        """Which boxes are left out, in the order of the data set class."""
        anns = self.annotations
        self.check_annotation_ids()
        self.boxes, bad = _box_array([a['bbox'] for a in anns])
        self.gone = np.zeros(len(anns), bool)
        self.drop('box-format', bad,
                  'not four numbers: reading them fails; write [x, y, width, '
                  'height]', REFUSED)
        images = np.array([self.index.get(a['image_id'], -1) for a in anns],
                          int)
        hint = _type_hint([anns[i]['image_id']
                           for i in np.flatnonzero(images < 0)], self.index)
        self.drop('image-unknown', images < 0,
                  f'image_id that no image has{hint}: the boxes are left out')
        self.check_labels()
        self.drop('box-ignore',
                  np.array([bool(a.get('ignore')) for a in anns], bool),
                  "'ignore' is set: training leaves the boxes out")
        self.image_of = images
        if len(self.images):
            self.check_geometry(self.image_sizes[images])
        crowd = np.array([bool(a.get('iscrowd')) for a in anns], bool)
        self.drop(
            'crowd', crowd, 'iscrowd is set: nothing is learned from the '
            'boxes, and the evaluation ignores what is detected there',
            NOTE if self.split.test_mode else DROPPED)

    def check_annotation_ids(self) -> None:
        ids = [a['id'] for a in self.annotations]
        if len(set(ids)) < len(ids):
            twice = [i for i, count in Counter(ids).items() if count > 1]
            self.add(
                'annotation-id-twice', REFUSED, twice, 'ids of several '
                'annotations: mmdet stops (not unique); number them anew')
        if not self.split.test_mode:
            return
        self.add('id-types', REFUSED,
                 [i for i in ids if type(i) is str and not i.isdecimal()],
                 'annotation ids that are no numbers: the evaluation fails '
                 'with ValueError; number them')
        self.add('annotation-id-zero', NOTE, [i for i in ids if i == 0],
                 'means "not found" to pycocotools, so the object counts as '
                 'missed; count annotation ids from 1')

    def check_labels(self) -> None:
        """The class of each box in ``labels``, -1 for none."""
        rows = {c['id']: i for i, c in enumerate(self.categories)}
        ids = [a['category_id'] for a in self.annotations]
        row = np.array([rows.get(i, -1) for i in ids], int)
        hint = _type_hint([ids[i] for i in np.flatnonzero(row < 0)], rows)
        self.drop('category-unknown', row < 0,
                  f'category_id that no category has{hint}: the boxes are '
                  'left out')
        names = [c['name'] for c in self.categories]
        label = {name: i for i, name in enumerate(self.classes)}
        of_row = np.array([label.get(n, -1) for n in names] + [-1], int)
        self.labels = of_row[row]
        unused = [n for n in names if n not in label]
        count = int((~self.gone & (self.labels < 0)).sum())
        self.gone |= self.labels < 0
        self.add(
            'class-excluded', DROPPED if count else NOTE, unused,
            f'categories that are not in `classes`: {count} boxes are left '
            'out')

    @np.errstate(all='ignore')  # NaN and infinity are what is looked for
    def check_geometry(self, image_sizes: np.ndarray) -> None:
        self.check_convention(image_sizes)
        x, y, w, h = self.boxes.T
        width, height = image_sizes.T
        right, bottom = np.minimum(x + w, width), np.minimum(y + h, height)
        inside = (right > np.maximum(x, 0)) & (bottom > np.maximum(y, 0))
        finite = np.isfinite(self.boxes).all(1)
        out = 'the boxes are left out'
        if self.split.test_mode:
            out += '; the evaluation, which reads the file itself, counts ' \
                'each as an object never found'
        self.drop('box-not-finite', ~finite & ~inside,
                  'NaN or infinity: the boxes are left out')
        self.drop('box-no-area', (w <= 0) | (h <= 0),
                  f'width and height are not above 0: {out}')
        self.drop('box-outside', ~inside,
                  f'wholly outside the stated size of the image: {out}')
        self.drop('box-tiny', (w < 1) | (h < 1),
                  f'thinner than one pixel: {out}')
        area = np.array([a['area'] for a in self.annotations], float)
        self.drop('box-area', area <= 0,
                  "'area' is not above 0: the boxes are left out; write width "
                  '* height')
        self.mark('box-not-finite', CLIPPED, ~finite & ~self.gone,
                  'infinite sides: the boxes reach to the border of the image '
                  'or the mosaic; correct them')
        beyond = (x < -ROUNDING) | (y < -ROUNDING) | (
            x + w > width + ROUNDING) | (y + h > height + ROUNDING)
        self.mark('box-beyond-image', CLIPPED, beyond & finite & ~self.gone,
                  'beyond the image: a resize clips the boxes to it, but '
                  'mosaic only to its own border, so that they reach into a '
                  'neighbour; clip them')
        small = np.minimum(w, h) * self.ratio() < MIN_NETWORK_PIXELS
        if self.split.img_scale is not None:
            self.mark(
                'box-below-2-pixels', NOTE, small & ~self.gone,
                f'thinner than {MIN_NETWORK_PIXELS} pixels once the image has '
                f'{tuple(self.split.img_scale)}, where the augmentation of '
                'YOLO leaves boxes out; raise img_scale or cut the images '
                'into tiles')

    def check_convention(self, image_sizes: np.ndarray) -> None:
        """Boxes that are written as another format does."""
        use = ~self.gone & np.isfinite(self.boxes).all(1)
        boxes, sizes = self.boxes[use], image_sizes[use]
        if not len(boxes):
            return
        if (np.abs(boxes) <= 1).all():
            self.mark('box-fractions', REFUSED, use,
                      'all boxes lie between 0 and 1, as in files of YOLO: '
                      'all are left out; COCO counts pixels')
        start, end = boxes[:, :2], boxes[:, 2:]
        beyond = (start + end > sizes + ROUNDING).any(1)
        if len(boxes) >= 10 and beyond.mean() > 0.1 and (
                end > start).all() and (end <= sizes + ROUNDING).all():
            self.mark('box-corners', REFUSED, use,
                      'all boxes make sense as [x1, y1, x2, y2]; as [x, y, '
                      f'width, height], {beyond.sum()} leave their image: '
                      'wrong boxes are learned; write width and height')

    @np.errstate(all='ignore')
    def ratio(self) -> np.ndarray:
        """By what the image of each box is resized for the network."""
        scale = self.split.img_scale
        if scale is None or not len(self.images):
            return np.ones(len(self.boxes))
        sizes = self.image_sizes[self.image_of]
        return np.minimum(
            max(scale) / sizes.max(1), min(scale) / sizes.min(1))

    def drop(self,
             kind: str,
             mask: np.ndarray,
             message: str,
             severity: str = DROPPED) -> None:
        """Mark boxes that are not gone yet, and let them be gone."""
        self.mark(kind, severity, mask & ~self.gone, message)
        self.gone |= mask

    def mark(self, kind: str, severity: str, mask: np.ndarray,
             message: str) -> None:
        hits = np.flatnonzero(mask)
        shown = []
        for a in (self.annotations[i] for i in hits[:MAX_EXAMPLES]):
            image = self.index.get(a['image_id'])
            name = self.images[image]['file_name'] if image is not None else \
                f'image_id {a["image_id"]!r}'
            shown.append(f'annotation {a["id"]} of {name}: {a["bbox"]}')
        self.add(kind, severity, shown, message, len(hits))

    def check_remains(self) -> None:
        """What the filter leaves, and whether that is anything."""
        rows = np.array(sorted(self.index.values()), int)
        cfg = {} if self.split.test_mode else self.split.filter_cfg or {}
        small = self.image_sizes[rows].min(1) < cfg.get('min_size', 0)
        self.add(
            'image-small', DROPPED,
            [_image(self.images[i]) for i in rows[small]],
            f'width or height below min_size={cfg.get("min_size")} of '
            'filter_cfg: training leaves the images out')
        # mmdet asks for any annotation of a class, also of a box left out
        has = np.zeros(len(self.images), bool)
        has[self.image_of[(self.labels >= 0) & (self.image_of >= 0)]] = True
        drop = bool(cfg.get('filter_empty_gt')) & ~has[rows]
        self.add(
            'image-empty', DROPPED, [_image(self.images[i]) for i in
                                     rows[drop & ~small]],
            'no annotation of the classes: training leaves the images out '
            '(filter_empty_gt=True)')
        self.kept_rows = rows[~small & ~drop]
        kept = np.zeros(len(self.images), bool)
        kept[self.kept_rows] = True
        self.kept = ~self.gone
        self.kept[self.kept] = kept[self.image_of[self.kept]]
        self.check_something_left()

    def check_something_left(self) -> None:
        if not len(self.kept_rows):
            self.add('split-empty', REFUSED, [self.split.ann_file],
                     'no image is left: the data set class fails with "need '
                     'at least one array to concatenate"')
            return
        count = np.bincount(self.labels[self.kept], minlength=len(
            self.classes))
        if not count.sum():
            does = 'every AP is -1' if self.split.test_mode else \
                'nothing is learned'
            self.add('no-boxes', REFUSED, [self.split.ann_file],
                     f'no box is left: {does}')
            return
        self.add(
            'class-no-boxes', NOTE,
            [c for c, n in zip(self.classes, count) if not n],
            'no box: left out of the mean AP'
            if self.split.test_mode else 'no box: nothing is learned for it')
        boxes = np.bincount(
            self.image_of[self.kept], minlength=len(self.images))
        empty = [i for i in self.kept_rows if not boxes[i]]
        self.add('image-background', NOTE,
                 [_image(self.images[i]) for i in empty],
                 'no box: used as background')

    def summary(self) -> Summary:
        count = np.bincount(
            self.labels[self.kept], minlength=len(self.classes)).tolist()
        sizes = self.boxes[self.kept, 2:] * self.ratio()[self.kept, None]
        return Summary(
            len(self.kept_rows), int(self.kept.sum()),
            dict(zip(self.classes, count)), sizes)

    def paths(self) -> Dict[str, dict]:
        """The entries that are used by the path of their image."""
        folder = self.split.image_folder
        return {
            osp.join(folder, self.images[i]['file_name']): self.images[i]
            for i in self.kept_rows
        }

    def check_folder(self) -> None:
        folder = self.split.image_folder
        names = [self.images[i]['file_name'] for i in self.kept_rows]
        self.has_folder = not folder or osp.isdir(folder) or all(
            map(osp.isabs, names))
        self.add('image-folder', REFUSED, [] if self.has_folder else [folder],
                 'no such folder: reading the first image fails')

    def check_sample(self) -> None:
        """Look for some images, without reading them."""
        paths = list(self.paths())
        sample = paths[::max(1, len(paths) // SAMPLE)]
        self.add_missing({p: file_error(p) for p in sample}, len(paths))

    def add_missing(self, errors: Dict[str, str], total: int) -> None:
        bad = [path for path, text in errors.items() if text]
        hints = [
            f'{p}: {errors[p]}{_name_hint(self.split.image_folder, p)}'
            for p in bad[:MAX_EXAMPLES]
        ]
        of = f', {len(errors)} of {total} were looked for' if len(
            errors) < total else ''
        self.add('image-missing', REFUSED, hints,
                 f'cannot be opened{of}: training stops at the first one; '
                 'correct file_name or the image folder, or remove the '
                 'images from the annotation file', len(bad))


def _compare_categories(parts: List[_SplitCheck]) -> List[Finding]:
    """What splits say differently about categories and classes."""
    findings = []
    first, *others = parts or [None]
    for part in others:
        pair = f'{first.name}, {part.name}'
        if list(part.classes) != list(first.classes) and (
                part.split.classes is not None):
            findings.append(
                Finding(
                    'classes-differ', pair, REFUSED, 1,
                    (_short(first.classes), _short(part.classes)),
                    'a label means one thing in one split and another in the '
                    'other; give both the same `classes`'))
        ids = [{c['name']: c['id'] for c in p.categories}
               for p in (first, part)]
        only = sorted(set(ids[0]) ^ set(ids[1]))
        if only:
            findings.append(
                Finding('categories-differ', pair, NOTE, len(only),
                        tuple(only[:MAX_EXAMPLES]),
                        'in one split only'))
        moved = [n for n in ids[0] if n in ids[1] and ids[0][n] != ids[1][n]]
        if moved:
            findings.append(
                Finding(
                    'category-ids-differ', pair, NOTE, len(moved),
                    tuple(moved[:MAX_EXAMPLES]),
                    'harmless: names and their order count, not ids'))
    return findings


# ------------------------------------------------------------------ images
def _check_images(parts: List[_SplitCheck], workers: Optional[int],
                  progress: bool) -> List[Finding]:
    """Decode every image once; findings of the splits go to them."""
    paths = list(dict.fromkeys(p for part in parts for p in part.paths()))
    pictures, findings = {}, []
    try:
        for picture, path in zip(
                inspect_all(paths, workers, progress), paths):
            pictures[path] = picture
    except BrokenProcessPool:
        findings.append(
            Finding(
                'check-crashed', 'all', REFUSED, 1,
                tuple(paths[len(pictures):][:1]),
                f'a process died after {len(pictures)} of {len(paths)} '
                'images: out of memory, or an image that crashes the '
                'decoder, from this one on; find it with workers=0'))
    for part in parts:
        own = {p: (entry, pictures[p]) for p, entry in part.paths().items()
               if p in pictures}
        _describe(part, own)
    return findings + _leaks(parts, pictures)


def _describe(part: _SplitCheck, own: Dict[str, tuple]) -> None:
    part.add_missing({k: p.missing for k, (_, p) in own.items()}, len(own))
    part.add('image-broken', REFUSED,
             [f'{k}: {p.broken}' for k, (_, p) in own.items() if p.broken],
             'cannot be decoded: training stops at the first one; replace the '
             'images or remove them from the annotation file')
    good = {k: v for k, v in own.items() if v[1].digest}
    exif, size = [], []
    for path, (entry, picture) in good.items():
        stated = (entry['width'], entry['height'])
        if stated == picture.size:
            continue
        turned = picture.orientation >= 5 and stated == picture.size[::-1]
        (exif if turned else size).append(
            f'{path}: {stated[0]}x{stated[1]} stated, '
            f'{picture.size[0]}x{picture.size[1]} loaded')
    part.add(
        'image-turned', REFUSED, exif, 'turned by the EXIF orientation when '
        'loaded, which the annotations are not: boxes are in wrong places; '
        'save the images without it')
    part.add(
        'image-size', REFUSED, size, 'not the stated size: boxes are taken '
        'as pixels of the real image, and if that was resized after '
        'labelling all are off; correct width, height and boxes')
    part.add('image-orientation', NOTE,
             [k for k, (_, p) in good.items() if _is_ambiguous(p)],
             'turned or mirrored by the EXIF orientation when loaded, which '
             'the size does not tell; look whether the boxes fit with '
             'tools/analysis_tools/browse_dataset.py')
    for trait, text in _TRAITS.items():
        part.add(f'image-{trait}', NOTE,
                 [k for k, (_, p) in good.items() if trait in p.traits],
                 text)


def _is_ambiguous(picture: Picture) -> bool:
    square = picture.size[0] == picture.size[1]
    return 2 <= picture.orientation <= (8 if square else 4)


def _leaks(parts: List[_SplitCheck],
           pictures: Dict[str, Picture]) -> List[Finding]:
    """Images to train on that are evaluated too, or look alike."""
    train, val = ({
        path: pictures[path]
        for part in parts if part.split.test_mode == mode
        for path in part.paths() if path in pictures and pictures[path].digest
    } for mode in (False, True))
    first = {p.digest: path for path, p in reversed(train.items())}
    same = {
        path: first[p.digest] for path, p in val.items() if p.digest in first
    }
    alike = look_alikes(train,
                         {k: p for k, p in val.items() if k not in same})
    findings = []
    for kind, pairs, text in (
        ('leak', same, 'same pixels as an image to train on: the AP is too '
         'high; take them out of one split'),
        ('leak-alike', alike, 'looks like an image to train on (saved anew, '
         'or the same scene): the AP may be too high; compare them')):
        if pairs:
            findings.append(
                Finding(
                    kind, 'train, val', NOTE, len(pairs),
                    tuple(f'{a} = {b}' for a, b in pairs.items())
                    [:MAX_EXAMPLES], text))
    return findings


# ------------------------------------------------------------------- words
def _not_json(text: str, error: ValueError) -> str:
    """What a file that is no json may be."""
    start = text.lstrip()[:200]
    if not start:
        return 'empty file'
    if start[0] == '<':
        return ('xml, not json: reading it fails; for Pascal VOC run '
                'tools/dataset_converters/voc2coco.py')
    if re.match(r'\d+( -?[\d.]+){4,}\s*(\n|$)', start):
        return ('text like the labels of YOLO, not json: reading it fails; '
                'convert it to COCO json')
    where = getattr(error, 'pos', 0)
    cut = ', which is its end; it is cut off' if where >= len(
        text.rstrip()) - 1 else ''
    return f'not json: {error}{cut}'


def _format_hint(data: Any) -> str:
    hints = dict(
        shapes='LabelMe', data_list='OpenMMLab 2.x', _via_img_metadata='VIA')
    for key, name in hints.items():
        if isinstance(data, dict) and key in data:
            return f' (a file of {name}?)'
    if isinstance(data, list) and data and isinstance(data[0], dict) and \
            'score' in data[0]:
        return ' (detections, not annotations?)'
    return ''


def _box_array(boxes: List[Any]) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes as floats, and which are not four numbers (those are NaN)."""
    try:
        array = np.array(boxes)
    except ValueError:  # of unequal length
        array = np.empty(0, object)
    if array.shape == (len(boxes), 4) and array.dtype.kind in 'iuf':
        return array.astype(float), np.zeros(len(boxes), bool)
    bad = [
        len(b) != 4 or any(type(v) not in _NUMBER for v in b) for b in boxes
    ]
    rows = [[np.nan] * 4 if wrong else b for b, wrong in zip(boxes, bad)]
    return np.array(rows, float).reshape(-1, 4), np.array(bad, bool)


def _type_hint(unknown: List[Any], known: Iterable) -> str:
    """Whether ids differ only in being text or a number."""
    texts = {str(k) for k in known}
    if any(str(i) in texts for i in unknown):
        return ' (text in one place, numbers in the other)'
    return ''


def _name_hint(folder: str, path: str) -> str:
    """Where an image that is missing may be."""
    name = osp.relpath(path, folder) if folder else path
    if '\\' in name:
        return ' (write / instead of \\)'
    base = osp.basename(path)
    if osp.isfile(osp.join(folder, base)):
        return f' ({base} is there)'
    try:
        near = os.listdir(osp.dirname(path) or '.')
    except OSError:
        return ''
    close = [n for n in near if n.lower() == base.lower()] or [
        n for n in near if osp.splitext(n)[0] == osp.splitext(base)[0]
    ]
    return f' ({close[0]} is there)' if close and close[0] != base else ''


def _close(name: str, names: List[str]) -> str:
    same = [n for n in names if n.split() and
            ''.join(n.split()).lower() == ''.join(str(name).split()).lower()]
    close = same or difflib.get_close_matches(str(name), names, n=1)
    return f' (did you mean {close[0]!r}?)' if close else ''


def _image(entry: dict) -> str:
    return f'image {entry["id"]}: {entry["file_name"]}'


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:76]} ...'
