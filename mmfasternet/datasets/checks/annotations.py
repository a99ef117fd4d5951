# SPDX-License-Identifier: Apache-2.0
"""Checks of a COCO json: that it can be read, its entries and categories."""
import codecs
import difflib
import json
import os.path as osp
import re
import sys
from collections import Counter
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence

import numpy as np

from mmfasternet.datasets.checks.report import NOTE, REFUSED, Findings, short
from mmfasternet.datasets.files import file_error

NUMBER = (int, float)
_ID = (int, float, str)
_KEYS = dict(
    images=dict(id=_ID, file_name=(str, ), width=NUMBER, height=NUMBER),
    annotations=dict(
        id=_ID, image_id=_ID, category_id=_ID, bbox=(list, ), area=NUMBER),
    categories=dict(id=_ID, name=(str, )))


def is_number(value: Any) -> bool:
    """Whether it is one that a float can hold; there is no end to an int."""
    return type(value) is float or type(value) is int and \
        abs(value) <= sys.float_info.max


class SplitConfig(NamedTuple):
    """Where a split is and how the config treats it."""

    ann_file: str  #: The COCO json.
    image_folder: str  #: What its file names are relative to.
    test_mode: bool = False  #: Whether the split is evaluated, not trained on.
    #: ``filter_empty_gt`` and ``min_size``, as for the data set class.
    filter_cfg: dict = {}
    #: Width and height that images are fitted into.
    img_scale: Optional[Sequence[int]] = None
    #: Classes of this split, if they are not those of all.
    classes: Optional[Sequence[str]] = None
    #: The content of ``ann_file``, if it is known.
    data: Optional[dict] = None
    #: Whether the longer side of ``img_scale`` is for the longer one of an
    #: image, as MMDetection's ``Resize`` has it.
    either_way: bool = False


class Annotations(NamedTuple):
    """A COCO json whose entries have all keys, each of its type."""

    split: SplitConfig  #: Where it is from.
    found: Findings  #: Gets what the checks find.
    images: List[dict]  #: As in the file.
    annotations: List[dict]  #: As in the file.
    categories: List[dict]  #: As in the file.
    #: The row in ``images`` by id; of equal ids the last.
    index: Dict[Any, int]
    sizes: np.ndarray  #: ``(images, 2)``, width and height as stated.

    def names(self, rows: Iterable[int]) -> List[str]:
        """How findings name some of the images."""
        return [f'image {e["id"]}: {e["file_name"]}'
                for e in (self.images[i] for i in rows)]


class _Unreadable(Exception):
    """Of a kind, and what is wrong."""


def read_annotations(split: SplitConfig, found: Findings,
                     cache: Dict[str, Any]) -> Optional[Annotations]:
    """Read the json of a split; None if no more can be said about it.

    ``cache`` has the files that were read, by path.
    """
    try:
        data = split.data
        if data is None:
            data = _read(str(split.ann_file), cache)
        lists = [_list(data, key) for key in _KEYS]
    except _Unreadable as error:
        kind, message = error.args
        found.refuse(kind, [split.ann_file], message)
        return None
    for key, entries in zip(_KEYS, lists):
        _check_entries(key, entries, split.test_mode, found)
    if found:
        return None
    images = lists[0]
    index = {e['id']: i for i, e in enumerate(images)}  # the last one wins
    sizes = np.array([[e['width'], e['height']] for e in images], float)
    return Annotations(split, found, *lists, index, sizes.reshape(-1, 2))


def listed_images(path: str, cache: Dict[str, Any]) -> Optional[set]:
    """``(id, file name)`` of the images of a json; None if unreadable."""
    try:
        return {(e['id'], e['file_name'])
                for e in _list(_read(path, cache), 'images')}
    except (_Unreadable, KeyError, TypeError):
        return None


# -------------------------------------------------------------------- reading
def _read(path: str, cache: Dict[str, Any]) -> Any:
    key = osp.normpath(path)
    if key not in cache:
        try:
            cache[key] = _parse(path)
        except _Unreadable as error:
            cache[key] = error
    if isinstance(cache[key], _Unreadable):
        raise cache[key]
    return cache[key]


def _parse(path: str) -> Any:
    error = file_error(path)
    if error:
        raise _Unreadable('annotation-unreadable', f'cannot be read: {error}')
    with open(path, 'rb') as file:
        raw = file.read()
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _Unreadable(
            'annotation-encoding', f'not UTF-8 at byte {error.start}: '
            'reading it fails; save it as UTF-8') from None
    if raw.startswith(codecs.BOM_UTF8):
        raise _Unreadable(
            'annotation-encoding', 'byte order mark at the start: '
            'reading it fails; save it as UTF-8 without BOM')
    try:
        return json.loads(text)
    except ValueError as error:
        raise _Unreadable('annotation-not-json',
                          _not_json(text, error)) from None
    except RecursionError:
        raise _Unreadable('annotation-not-json', 'too deeply nested') from None


def _list(data: Any, key: str) -> list:
    entries = data if isinstance(data, dict) else {}
    if isinstance(entries.get(key), list):
        return entries[key]
    missing = [repr(k) for k in _KEYS if not isinstance(entries.get(k), list)]
    there = sorted(data) if isinstance(data, dict) else type(data).__name__
    raise _Unreadable(
        'annotation-not-coco', f'no list {", ".join(missing)}, but '
        f'{short(there)}{_format_hint(data)}: reading it fails or finds '
        'nothing; write COCO json')


def _not_json(text: str, error: ValueError) -> str:
    """What a file that is not json may be."""
    start = text.lstrip()[:200]
    if not start:
        return 'empty file'
    if start[0] == '<':
        return ('xml, not json: reading it fails; for Pascal VOC run '
                'tools/dataset_converters/voc2coco.py')
    if re.match(r'\d+( -?[\d.]+){4,}\s*(\n|$)', start):
        return ('text like the labels of YOLO, not json: reading it fails; '
                'convert it to COCO json')
    at_end = getattr(error, 'pos', 0) >= len(text.rstrip()) - 1
    return f'not json: {error}' + ', which is its end; it is cut off' * at_end


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


# -------------------------------------------------------------------- entries
def _check_entries(name: str, entries: list, test_mode: bool,
                   found: Findings) -> None:
    """Every key that the data set class reads, of the right type."""
    kind = f'{name}-entry'
    odd = [short(e) for e in entries if type(e) is not dict]
    found.refuse(kind, odd, 'not json objects: reading them fails')
    if odd:
        return
    for key, types in _KEYS[name].items():
        bad = [short(e) for e in entries if type(e.get(key)) not in types
               or types is NUMBER and not is_number(e[key])]
        kinds = ' or '.join(t.__name__ for t in types)
        hint = ', width * height' if key == 'area' else ''
        found.refuse(
            'box-format' if key == 'bbox' else kind, bad,
            f'no {key!r} of type {kinds}: reading them fails; write it{hint}')
    if name == 'annotations':
        found.refuse(
            kind, [short(e) for e in entries if type(e.get('iscrowd')) is str],
            "'iscrowd' is text, which counts as set whatever it says; write "
            '0 or 1 without quotes')
    if name == 'annotations' and test_mode:
        found.refuse(
            kind, [short(e) for e in entries if 'iscrowd' not in e],
            "no 'iscrowd': the evaluation fails with KeyError; write "
            '"iscrowd": 0 (tools/prepare.py does)')


def check_images(coco: Annotations) -> None:
    """Ids, names and sizes of the image entries."""
    images, found = coco.images, coco.found
    twice = [i for i, e in enumerate(images) if coco.index[e['id']] != i]
    other = [i for i in twice if images[i]['file_name'] !=
             images[coco.index[images[i]['id']]]['file_name']]
    found.refuse(
        'image-id-twice', coco.names(other),
        'id of another image: the last one gets the boxes of all, the '
        'others vanish; number them anew')
    if not other:
        found.drop('image-twice', coco.names(twice),
                   'same id and file as another entry: the last one is used')
    names = Counter(images[i]['file_name'] for i in coco.index.values())
    found.note(
        'file-name-twice', [name for name, n in names.items() if n > 1],
        'listed under several ids: what is a box in one is '
        'background in the other; join the entries')
    text = [i for i, e in enumerate(images) if type(e['id']) is str]
    if coco.split.test_mode and len(text) < len(images):
        found.refuse(
            'id-types', coco.names(text),
            'image ids that are text while others are numbers: the '
            'evaluation fails with TypeError; make all of them int')
    found.drop(
        'image-no-size',
        coco.names(np.flatnonzero(~(coco.sizes > 0).all(1))),
        'width and height are not above 0: all boxes are left out, '
        'in training the image too; write the size in pixels')


def check_annotation_ids(coco: Annotations) -> None:
    """Ids of the boxes."""
    ids = [a['id'] for a in coco.annotations]
    coco.found.refuse(
        'annotation-id-twice', [i for i, n in Counter(ids).items() if n > 1],
        'ids of several annotations: mmdet stops (not unique); number them '
        'anew')
    if not coco.split.test_mode:
        return
    coco.found.refuse(
        'id-types',
        [i for i in ids if type(i) is str and not i.isdecimal()],
        'annotation ids that are not numbers: the evaluation fails '
        'with ValueError; number them')
    coco.found.note(
        'annotation-id-zero', [i for i in ids if i == 0],
        'means "not found" to pycocotools, so the object counts as '
        'missed; count annotation ids from 1')


# ----------------------------------------------------------------- categories
def check_categories(coco: Annotations) -> List[str]:
    """Compare the categories with the classes of the config.

    Returns:
        list[str]: The classes, each once.
    """
    found = coco.found
    names = [c['name'] for c in coco.categories]
    count = Counter(c['id'] for c in coco.categories)
    found.refuse(
        'category-id-twice',
        [short(c) for c in coco.categories if count[c['id']] > 1],
        'id of several categories: their boxes cannot be told '
        'apart; number them anew')
    classes = _class_list(coco.split.classes, names, found)
    twice = [name for name, n in Counter(names).items() if n > 1]
    used = [name for name in twice if name in classes]
    found.add(
        REFUSED if used else NOTE, 'category-twice', used or twice,
        'names of several categories: each counts as a class of its own and '
        'shifts the labels of later ones' +
        (', and the evaluation ends with IndexError' if used else '') +
        '; join them')
    alike = Counter(map(_letters, classes))
    found.note('class-alike', [repr(c) for c in classes
                               if alike[_letters(c)] > 1],
               'differ in upper case or spaces only: probably one class under '
               'several names; join them')
    missing = [f'{c!r}{_close(c, names)}' for c in classes if c not in names]
    if len(missing) == len(classes):
        found.refuse(
            'class-none', missing, 'none of the classes is a category, '
            'names compared exactly: no box is left; categories are '
            f'{short(names)}')
        return classes
    found.refuse(
        'class-missing', missing, 'not a category of the file, names '
        'compared exactly: nothing is learned for them, and the '
        'evaluation ends with IndexError; correct the names or add the '
        'categories')
    # labels count the file's categories, names those of the config
    matched = [name for name in names if name in classes]
    found.refuse(
        'class-order',
        [f'{name!r} is learned and drawn as {drawn!r}' for name, drawn in zip(
            dict.fromkeys(matched), classes) if name != drawn],
        'not the order of the categories: labels follow the file, names '
        'follow `classes`, so both must agree in all splits; the order of '
        f'the file is {short(tuple(matched))}')
    return classes


def _class_list(classes: Any, names: List[str], found: Findings) -> List[str]:
    """The classes as a list; a wrong kind of them is a finding."""
    if classes is None:
        return list(dict.fromkeys(names))
    if isinstance(classes, str):
        if osp.isfile(classes):  # MMEngine reads the names from there
            with open(classes, encoding='utf-8') as file:
                return file.read().splitlines()
        found.refuse(
            'classes-string', [repr(classes)], 'a string, '
            'of which each letter counts as a class; a tuple of one needs '
            f'its comma: ({classes!r},)')
        return [classes]
    count = Counter(classes)
    found.refuse(
        'classes-twice', [repr(c) for c in count if count[c] > 1],
        'listed twice: later labels get wrong names, and the evaluation '
        'ends with IndexError; name each once')
    return list(count)


def _letters(name: Any) -> str:
    return ''.join(str(name).split()).lower()


def _close(name: str, names: Iterable[str]) -> str:
    """The name that may be meant."""
    close = [n for n in names if n.split() and _letters(n) == _letters(name)]
    close = close or difflib.get_close_matches(str(name), names, n=1)
    return f' (did you mean {close[0]!r}?)' if close else ''
