# SPDX-License-Identifier: Apache-2.0
"""An account of every file: what is used, dropped and left out."""
import os
from collections import Counter
from pathlib import Path
from typing import Iterable, List, Set

from PIL import Image

from mmfasternet.datasets.images import IMAGE_SUFFIXES
from mmfasternet.datasets.readers.source import Source

# Of cameras and phones; Pillow knows the others.
_MORE_SUFFIXES = {
    '.arw', '.avif', '.cr2', '.cr3', '.dng', '.heic', '.heif', '.jxl', '.nef',
    '.raw', '.svg'
}
MAX_NAMES = 3


def account(source: Source) -> List[str]:
    """Lines of a table: found = used + dropped + left out.

    Below it stands what was left out, and why.

    Args:
        source (Source): The data set, with its splits.
    """
    used = {
        _real(split.folder / image['file_name'])
        for split in source.splits.values()
        for image in split.coco['images']
        if isinstance(image, dict) and isinstance(image.get('file_name'), str)
    }
    tree = source.tree
    known = {*IMAGE_SUFFIXES, *_MORE_SUFFIXES, *(
        s for s, kind in Image.registered_extensions().items()
        if kind not in ('PDF', 'HDF5', 'MPEG'))}
    files = [f for f in [*tree.files, *tree.hidden]
             if f.suffix.lower() in known]
    hidden = {*tree.hidden}
    dropped = {_real(f) for f in source.dropped}
    rest = [f for f in files if _real(f) not in used | dropped]
    lines = [f'{"":8}   found    used dropped  left out',
             _row('images', [*files, *_new(used, files)], used, dropped)]
    lines += [
        *_why('hidden copies', [f for f in rest if f in hidden]),
        *_why('images of a kind that is not read',
              [f for f in rest if f not in hidden
               and f.suffix.lower() not in IMAGE_SUFFIXES]),
        *_why('images without a label or a split',
              [f for f in rest if f not in hidden
               and f.suffix.lower() in IMAGE_SUFFIXES])
    ]
    return _with_labels(lines, source, used, dropped)


def _with_labels(lines: List[str], source: Source, used: Set[str],
                 dropped: Set[str]) -> List[str]:
    labels = source.labels
    read, lost, alone, unused = [], [], [], []
    for file, images in labels.items():
        real = {_real(i) for i in images}
        if source.format == 'COCO' or real & used:
            read.append(file)
        elif real & dropped:
            lost.append(file)
        else:
            (unused if images else alone).append(file)
    suffixes = {f.suffix.lower() for f in labels}
    hidden = [f for f in source.tree.hidden if f.suffix.lower() in suffixes]
    found = [*labels, *hidden]
    lines.insert(2, _row('labels', found, {_real(f) for f in read},
                         {_real(f) for f in lost}))
    return [
        *lines, *_why('labels without an image', alone),
        *_why('labels of an image in no split', unused),
        *_why('hidden copies of labels', hidden)
    ]


def _real(path: Path) -> str:
    return os.path.abspath(path)


def _new(used: Set[str], files: Iterable[Path]) -> List[str]:
    """What is used though it was not found below the folder."""
    return sorted(f for f in used - {_real(f) for f in files}
                  if os.path.isfile(f))


def _row(name: str, found: List, used: Set[str], dropped: Set[str]) -> str:
    real = Counter(_real(f) for f in found)
    numbers = (len(real), len(real.keys() & used), len(real.keys() & dropped))
    return f'{name:8}{numbers[0]:8}{numbers[1]:8}{numbers[2]:8}' \
        f'{numbers[0] - numbers[1] - numbers[2]:10}'


def _why(text: str, files: List[Path]) -> List[str]:
    if not files:
        return []
    names = ', '.join(map(str, files[:MAX_NAMES]))
    more = ', ...' if len(files) > MAX_NAMES else ''
    return [f'left out: {len(files)} {text}: {names}{more}']
