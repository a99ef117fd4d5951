# SPDX-License-Identifier: Apache-2.0
"""Clean splits, and write those that are not a file yet."""
import json
from itertools import count
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from mmfasternet.checkpoint import whole_file
from mmfasternet.datasets.readers.coco import OURS
from mmfasternet.datasets.readers.source import Source, Split


def clean(split: Split) -> Tuple[Split, List[str]]:
    """Leave out what spoils the evaluation of a split.

    A box without an area is left out of training, but the evaluation counts
    it as an object that is never found; so it does with a box that is there
    twice; and it takes an annotation whose id is 0 for no annotation. What is
    not an annotation at all stays, to be judged by the checks.

    Returns:
        tuple[Split, list[str]]: The split, and what was done to it.
    """
    old, kept, seen, done = split.coco['annotations'], [], set(), []
    twice = 0
    for annotation in old:
        if _is_empty(annotation):
            continue
        key = _identity(annotation)
        twice += key in seen
        if key not in seen:
            kept.append(annotation)
        seen |= {key} - {None}
    if len(old) - len(kept) - twice:
        done.append(f'{len(old) - len(kept) - twice} boxes without an area '
                    'left out')
    if twice:
        done.append(f'{twice} boxes left out that are there twice')
    if any(isinstance(a, dict) and a.get('id') == 0 for a in kept):
        kept = [dict(a, id=i) if isinstance(a, dict) else a
                for i, a in enumerate(kept, 1)]
        done.append('annotations numbered from 1')
    if done:
        split = Split(dict(split.coco, annotations=kept), split.folder)
    return split, done


def _is_empty(annotation: object) -> bool:
    """Whether it has a box, but one without width or height."""
    box = annotation.get('bbox') if isinstance(annotation, dict) else None
    return isinstance(box, list) and len(box) == 4 and all(
        isinstance(v, (int, float)) for v in box) and min(box[2:]) <= 0


def _identity(annotation: object) -> Optional[str]:
    """What two annotations of one object share; None if it has none."""
    keys = ('image_id', 'category_id', 'bbox')
    if not isinstance(annotation, dict) or any(
            k not in annotation for k in keys):
        return None
    return repr([annotation[k] for k in keys])


def write_coco(coco: dict, path: Path) -> None:
    """Write a COCO json, complete or not at all.

    Args:
        coco (dict): Its content.
        path (Path): Where to; its folder is made.
    """
    with whole_file(path) as file:
        file.write(_bytes(coco))


def write_splits(source: Source,
                 folder: Path) -> Dict[str, Tuple[Path, Path]]:
    """Write the splits that are not a file yet.

    No file is written over: a config of an earlier run may name it. If other
    content is there, the names get a number.

    Args:
        source (Source): The data set.
        folder (Path): Where to write.

    Returns:
        dict[str, tuple[Path, Path]]: Json and image folder by split.

    Raises:
        ValueError: If it cannot be written there.
    """
    new = {split: _bytes(part.coco)
           for split, part in source.splits.items() if part.path is None}
    for number in count(1):
        tail = '' if number == 1 else f'_{number}'
        paths = {split: folder / f'{OURS}{split}{tail}.json' for split in new}
        try:
            if any(paths[s].exists() and paths[s].read_bytes() != new[s]
                   for s in new):
                continue
            for split, path in paths.items():
                if not path.exists():
                    with whole_file(path) as file:
                        file.write(new[split])
        except OSError as error:
            raise ValueError(
                f'cannot write {next(iter(paths.values()))}: '
                f'{error.strerror}. Choose another folder with --out-dir'
            ) from None
        return {split: (part.path or paths[split], part.folder)
                for split, part in source.splits.items()}
    raise AssertionError


def _bytes(coco: dict) -> bytes:
    return json.dumps(coco, ensure_ascii=False).encode()
