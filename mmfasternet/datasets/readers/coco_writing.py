# SPDX-License-Identifier: Apache-2.0
"""Clean splits, and write those that are not a file yet."""
import json
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from mmfasternet.checkpoint import whole_file
from mmfasternet.datasets.images import Picture, inspect_all
from mmfasternet.datasets.readers.coco import OURS
from mmfasternet.datasets.readers.source import Source, Split


def clean(split: Split) -> Tuple[Split, List[str]]:
    """Leave out what spoils the evaluation of a split, write what it lacks.

    A box without an area is left out of training, but the evaluation counts
    it as an object that is never found; so it does with a box that is there
    twice; and it takes an annotation whose id is 0 for no annotation. What is
    not an annotation at all stays, to be judged by the checks.

    Returns:
        tuple[Split, list[str]]: The split, and what was done to it.
    """
    kept, seen, done = [], set(), []
    empty = twice = lacking = 0
    for annotation in split.coco['annotations']:
        key = _identity(annotation)
        if _is_empty(annotation):
            empty += 1
        elif key is not None and key in seen:
            twice += 1
        else:
            kept.append(completed(annotation))
            lacking += kept[-1] is not annotation
            seen.add(key)
    if empty:
        done.append(f'{empty} boxes without an area left out')
    if twice:
        done.append(f'{twice} boxes left out that are there twice')
    if lacking:
        done.append(f'{lacking} boxes without area or iscrowd: written')
    if not _are_numbered(kept):
        kept = [dict(a, id=i) if isinstance(a, dict) else a
                for i, a in enumerate(kept, 1)]
        done.append('annotations numbered from 1')
    if done:
        split = Split(dict(split.coco, annotations=kept), split.folder)
    return split, done


def _are_numbered(annotations: List[Any]) -> bool:
    """Whether each has a number above 0 of its own."""
    ids = [a.get('id') for a in annotations if isinstance(a, dict)]
    return all(isinstance(i, (int, float)) and i > 0 for i in ids) and \
        len({*ids}) == len(ids)


def completed(annotation: Any) -> Any:
    """With the area of its box and iscrowd 0, if it lacks them."""
    box = box_of(annotation)
    if box is None or annotation.get('area') and annotation.get(
            'iscrowd') is not None:
        return annotation
    return dict(annotation, area=annotation.get('area') or box[2] * box[3],
                iscrowd=annotation.get('iscrowd') or 0)


def box_of(annotation: Any) -> Optional[list]:
    """Its box, if that is four numbers."""
    box = annotation.get('bbox') if isinstance(annotation, dict) else None
    return box if isinstance(box, list) and len(box) == 4 and all(
        isinstance(v, (int, float)) for v in box) else None


def _is_empty(annotation: Any) -> bool:
    """Whether it has a box, but one without width or height."""
    box = box_of(annotation)
    return box is not None and min(box[2:]) <= 0


def drop_damaged(source: Source) -> Dict[str, Picture]:
    """Decode every image as training does, and drop those that cannot be.

    Where most of a split are missing, the folder is wrong: they stay, to be
    judged by the checks.

    Returns:
        dict[str, Picture]: What the images are, by path.
    """
    every = [*dict.fromkeys(path for split in source.splits.values()
                            for path in split.paths() if path)]
    pictures: Dict[str, Picture] = {}
    with suppress(BrokenProcessPool):  # the check says of which image
        for path, picture in zip(every, inspect_all(every, None, True)):
            pictures[path] = picture
    for name, split in source.splits.items():
        bad = {p: pictures[p].missing or pictures[p].broken
               for p in split.paths() if p in pictures
               and not pictures[p].digest}
        missing = sum(bool(pictures[p].missing) for p in bad)
        if bad and 2 * missing <= len(split.coco['images']):
            source.splits[name] = _without(split, {*bad})
            source.dropped.update((Path(p), f'the image cannot be read: {why}')
                                  for p, why in bad.items())
    return pictures


def _without(split: Split, bad: Set[str]) -> Split:
    """A split without some images and their annotations."""
    images = [*zip(split.coco['images'], split.paths())]
    gone = {repr(i.get('id')) for i, path in images if path in bad}
    return Split(dict(
        split.coco, images=[i for i, path in images if path not in bad],
        annotations=[
            a for a in split.coco['annotations'] if not isinstance(a, dict)
            or repr(a.get('image_id')) not in gone]), split.folder)


def _identity(annotation: Any) -> Optional[str]:
    """What two annotations of one object share; None if it has none."""
    try:
        return repr([annotation[k] for k in (
            'image_id', 'category_id', 'bbox')])
    except (KeyError, TypeError):
        return None


def write_coco(coco: dict, path: Path) -> None:
    """Write a COCO json, complete or not at all; its folder is made."""
    with whole_file(path) as file:
        file.write(_bytes(coco))


def write_splits(source: Source,
                 folder: Path) -> Dict[str, Tuple[Path, Path]]:
    """Write the splits that are not a file yet.

    No file is written over: a config of an earlier run may name it. If other
    content is there, the names get a number.

    Returns:
        dict[str, tuple[Path, Path]]: Json and image folder by split.

    Raises:
        ValueError: If it cannot be written there.
    """
    new = {split: _bytes(part.coco)
           for split, part in source.splits.items() if part.path is None}
    try:
        paths = _free_paths(folder, new)
        for split, path in paths.items():
            if not path.exists():
                with whole_file(path) as file:
                    file.write(new[split])
    except OSError as error:
        raise ValueError(
            f'cannot write {folder / OURS}{next(iter(new))}.json: '
            f'{error.strerror}. Choose another folder with --out-dir'
        ) from None
    return {split: (part.path or paths[split], part.folder)
            for split, part in source.splits.items()}


def _free_paths(folder: Path, contents: Dict[str, bytes]) -> Dict[str, Path]:
    """The first names that are not taken by other contents."""
    for number in count(1):
        tail = '' if number == 1 else f'_{number}'
        paths = {s: folder / f'{OURS}{s}{tail}.json' for s in contents}
        if not any(path.exists() and path.read_bytes() != contents[split]
                   for split, path in paths.items()):
            return paths
    raise AssertionError  # numbers do not end


def _bytes(coco: dict) -> bytes:
    # names that are not UTF-8 become the escapes that json has for them
    return json.dumps(coco, ensure_ascii=False).encode(
        errors='backslashreplace')
