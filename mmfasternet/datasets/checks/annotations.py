# SPDX-License-Identifier: Apache-2.0
"""Checks of a COCO json: that it can be read, its entries and categories."""
import codecs
import difflib
import json
import os.path as osp
import re
from collections import Counter
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence

import numpy as np

from mmfasternet.datasets.checks.report import (
    DROPPED,
    NOTE,
    REFUSED,
    Findings,
    short,
)
from mmfasternet.datasets.images import file_error

NUMBER = (int, float)
_ID = (int, float, str)
_KEYS = dict(
    images=dict(id=_ID, file_name=(str, ), width=NUMBER, height=NUMBER),
    annotations=dict(
        id=_ID, image_id=_ID, category_id=_ID, bbox=(list, ), area=NUMBER),
    categories=dict(id=_ID, name=(str, )))


class SplitConfig(NamedTuple):
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
        data (dict, optional): The content of ``ann_file``, if it is known.
    """

    ann_file: str
    image_folder: str
    test_mode: bool = False
    filter_cfg: dict = {}
    img_scale: Optional[Sequence[int]] = None
    classes: Optional[Sequence[str]] = None
    data: Optional[dict] = None


class Annotations(NamedTuple):
    """A COCO json whose entries have all keys, each of its type.

    Attributes:
        images, annotations, categories (list[dict]): As in the file.
        index (dict): The row in ``images`` by id; of equal ids the last.
        sizes (np.ndarray): ``(images, 2)``, width and height as stated.
    """

    images: List[dict]
    annotations: List[dict]
    categories: List[dict]
    index: Dict[Any, int]
    sizes: np.ndarray


class _Unreadable(Exception):
    """Of a kind, and what is wrong."""


def read_annotations(split: SplitConfig, found: Findings,
                     cache: Dict[str, Any]) -> Optional[Annotations]:
    """Read the json of a split.

    Args:
        split (SplitConfig): The split.
        found (Findings): Of the split; gets those of the file's form.
        cache (dict): Files that were read, by path.

    Returns:
        Annotations: None if no more can be said about it.
    """
    try:
        data = split.data
        if data is None:
            data = _read(str(split.ann_file), cache)
        lists = [_list(data, key) for key in _KEYS]
    except _Unreadable as error:
        kind, message = error.args
        found.add(kind, REFUSED, [split.ann_file], message)
        return None
    for key, entries in zip(_KEYS, lists):
        _check_entries(key, entries, split.test_mode, found)
    if found:
        return None
    images = lists[0]
    index = {e['id']: i for i, e in enumerate(images)}  # the last one wins
    sizes = np.array([[e['width'], e['height']] for e in images], float)
    return Annotations(*lists, index, sizes.reshape(-1, 2))


def image_name(entry: dict) -> str:
    """How a finding names an image."""
    return f'image {entry["id"]}: {entry["file_name"]}'


def listed_images(path: str, cache: Dict[str, Any]) -> Optional[set]:
    """``(id, file name)`` of the images of a json; None if unreadable."""
    try:
        data = _read(path, cache)
        return {(e['id'], e['file_name']) for e in _list(data, 'images')}
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
    if isinstance(data, dict) and isinstance(data.get(key), list):
        return data[key]
    found = sorted(data) if isinstance(data, dict) else type(data).__name__
    missing = [
        key for key in _KEYS
        if not (isinstance(data, dict) and isinstance(data.get(key), list))
    ]
    raise _Unreadable(
        'annotation-not-coco', f'no list {", ".join(map(repr, missing))}, but '
        f'{short(found)}{_format_hint(data)}: reading it fails or finds '
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


# -------------------------------------------------------------------- entries
def _check_entries(name: str, entries: list, test_mode: bool,
                   found: Findings) -> None:
    """Every key that the data set class reads, of the right type."""
    kind = f'{name}-entry'
    odd = [short(e) for e in entries if type(e) is not dict]
    found.add(kind, REFUSED, odd, 'not json objects: reading them fails')
    if odd:
        return
    for key, types in _KEYS[name].items():
        bad = [short(e) for e in entries if type(e.get(key)) not in types]
        kinds = ' or '.join(t.__name__ for t in types)
        hint = ', width * height' if key == 'area' else ''
        found.add(
            'box-format' if key == 'bbox' else kind, REFUSED, bad,
            f'no {key!r} of type {kinds}: reading them fails; write it{hint}')
    if name == 'annotations' and test_mode:
        found.add(kind, REFUSED,
                  [short(e) for e in entries if 'iscrowd' not in e],
                  "no 'iscrowd': the evaluation fails with KeyError; write "
                  '"iscrowd": 0')


def check_images(coco: Annotations, test_mode: bool, found: Findings) -> None:
    """Ids, names and sizes of the image entries."""
    images = coco.images
    twice = [e for i, e in enumerate(images) if coco.index[e['id']] != i]
    other = [
        e for e in twice
        if images[coco.index[e['id']]]['file_name'] != e['file_name']
    ]
    found.add(
        'image-id-twice', REFUSED, [image_name(e) for e in other],
        'id of another image: the last one gets the boxes of all, the '
        'others vanish; number them anew')
    if not other:
        found.add('image-twice', DROPPED, [image_name(e) for e in twice],
                  'same id and file as another entry: the last one is used')
    names = Counter(images[i]['file_name'] for i in coco.index.values())
    found.add('file-name-twice', NOTE,
              [name for name, count in names.items() if count > 1],
              'listed under several ids: what is a box in one is '
              'background in the other; join the entries')
    if test_mode and len({type(i) is str for i in coco.index}) == 2:
        found.add('id-types', REFUSED,
                  [image_name(e) for e in images if type(e['id']) is str],
                  'image ids that are text while others are numbers: the '
                  'evaluation fails with TypeError; make all of them int')
    bad = ~(coco.sizes > 0).all(1)
    found.add('image-no-size', DROPPED,
              [image_name(images[i]) for i in np.flatnonzero(bad)],
              'width and height are not above 0: all boxes are left out, '
              'in training the image too; write the size in pixels')


def check_annotation_ids(coco: Annotations, test_mode: bool,
                         found: Findings) -> None:
    """Ids of the boxes."""
    ids = [a['id'] for a in coco.annotations]
    if len(set(ids)) < len(ids):
        twice = [i for i, count in Counter(ids).items() if count > 1]
        found.add(
            'annotation-id-twice', REFUSED, twice, 'ids of several '
            'annotations: mmdet stops (not unique); number them anew')
    if not test_mode:
        return
    found.add('id-types', REFUSED,
              [i for i in ids if type(i) is str and not i.isdecimal()],
              'annotation ids that are not numbers: the evaluation fails '
              'with ValueError; number them')
    found.add('annotation-id-zero', NOTE, [i for i in ids if i == 0],
              'means "not found" to pycocotools, so the object counts as '
              'missed; count annotation ids from 1')


# ----------------------------------------------------------------- categories
def check_categories(coco: Annotations, classes: Any,
                     found: Findings) -> List[str]:
    """Compare the categories with the classes of the config.

    Returns:
        list[str]: The classes, each once.
    """
    names = [c['name'] for c in coco.categories]
    count = Counter(c['id'] for c in coco.categories)
    found.add('category-id-twice', REFUSED,
              [short(c) for c in coco.categories if count[c['id']] > 1],
              'id of several categories: their boxes cannot be told '
              'apart; number them anew')
    classes = _class_list(classes, names, found)
    twice = [n for n, count in Counter(names).items() if count > 1]
    used = [n for n in twice if n in classes]
    found.add(
        'category-twice', REFUSED if used else NOTE, used or twice,
        'names of several categories: each counts as a class of its own and '
        'shifts the labels of later ones' +
        (', and the evaluation ends with IndexError' if used else '') +
        '; join them')
    missing = [c for c in classes if c not in names]
    hints = [f'{c!r}{_close(c, names)}' for c in missing]
    if len(missing) == len(classes):
        found.add(
            'class-none', REFUSED, hints, 'none of the classes is a category, '
            'names compared exactly: no box is left; categories are '
            f'{short(names)}')
        return classes
    found.add(
        'class-missing', REFUSED, hints, 'not a category of the file, names '
        'compared exactly: nothing is learned for them, and the '
        'evaluation ends with IndexError; correct the names or add the '
        'categories')
    # labels count the file's categories, names those of the config
    matched = [n for n in names if n in classes]
    wrong = [
        f'{name!r} is learned and drawn as {classes[i]!r}'
        for i, name in enumerate(dict.fromkeys(matched)) if name != classes[i]
    ]
    found.add(
        'class-order', REFUSED, wrong, 'not the order of the '
        'categories: labels follow the file, names follow `classes`, so '
        'both must agree in all splits; the order of the file is '
        f'{short(tuple(matched))}')
    return classes


def _class_list(classes: Any, names: List[str], found: Findings) -> List[str]:
    """The classes as a list; a wrong kind of them is a finding."""
    if classes is None:
        return list(dict.fromkeys(names))
    if isinstance(classes, str):
        if osp.isfile(classes):  # MMEngine reads the names from there
            with open(classes, encoding='utf-8') as file:
                return file.read().splitlines()
        found.add(
            'classes-string', REFUSED, [repr(classes)], 'a string, '
            'of which each letter counts as a class; a tuple of one needs '
            f'its comma: ({classes!r},)')
        return [classes]
    count = Counter(classes)
    found.add(
        'classes-twice', REFUSED, [repr(c) for c in count if count[c] > 1],
        'listed twice: later labels get wrong names, and the evaluation '
        'ends with IndexError; name each once')
    return list(count)


def _close(name: str, names: Iterable[str]) -> str:
    same = [n for n in names if n.split() and
            ''.join(n.split()).lower() == ''.join(str(name).split()).lower()]
    close = same or difflib.get_close_matches(str(name), names, n=1)
    return f' (did you mean {close[0]!r}?)' if close else ''
