# SPDX-License-Identifier: Apache-2.0
"""An account of every file: what is used, dropped and left out."""
import os
from pathlib import Path
from typing import Dict, Iterable, List, Set, Union

from PIL import Image

from mmfasternet.datasets.images import IMAGE_SUFFIXES
from mmfasternet.datasets.readers.source import Source, first_names

# Of cameras and phones; Pillow knows the others.
_MORE_SUFFIXES = {
    '.arw', '.avif', '.cr2', '.cr3', '.dng', '.heic', '.heif', '.jxl', '.nef',
    '.raw', '.svg'
}


def account(source: Source) -> List[str]:
    """Lines of a table: found = used + dropped + left out.

    Below it stands what was left out, and why.

    Args:
        source (Source): The data set, with its splits.
    """
    used = _real(path for split in source.splits.values()
                 for path in split.paths() if path)
    dropped = _real(source.dropped)
    tree = source.tree
    known = {*IMAGE_SUFFIXES, *_MORE_SUFFIXES, *(
        s for s, kind in Image.registered_extensions().items()
        if kind not in ('PDF', 'HDF5', 'MPEG'))}
    images = [f for f in tree.files + tree.hidden if f.suffix.lower() in known]
    # used though it was not found below the folder
    elsewhere = [f for f in used - _real(images) if os.path.isfile(f)]
    kinds = {f.suffix.lower() for f in source.labels}
    copies = [f for f in tree.hidden if f.suffix.lower() in kinds]
    stems = {f.stem for f in tree.images}
    others = [f for f in tree.having(('.json', '.txt', '.xml'))
              if f.stem in stems and f not in source.labels]
    read, lost, unused = _labels(source, used, dropped)
    turned = [] if not source.turned else [
        f'look at {len(source.turned)} images: they are turned by their EXIF '
        'orientation, and the labels do not say whether they were made on '
        f'the turned ones: {first_names(source.turned)}']
    left = {**_images_left(source, images, used | dropped), **unused,
            'hidden copies of labels': copies,
            f'labels of other formats than {source.format}': others}
    return [
        f'{"":8}   found    used dropped  left out',
        _row('images', [*images, *elsewhere], used, dropped),
        _row('labels', [*source.labels, *copies, *others], read, lost),
        *(f'left out: {len(files)} {why}: {first_names(files)}'
          for why, files in left.items() if files),
        *turned
    ]


def _real(paths: Iterable[Union[str, Path]]) -> Set[str]:
    return {os.path.abspath(path) for path in paths}


def _row(name: str, found: List, used: Set[str], dropped: Set[str]) -> str:
    real = _real(found)
    counts = len(real), len(real & used), len(real & dropped)
    return f'{name:8}{counts[0]:8}{counts[1]:8}{counts[2]:8}' \
        f'{counts[0] - counts[1] - counts[2]:10}'


def _images_left(source: Source, images: List[Path],
                 accounted: Set[str]) -> Dict[str, List[Path]]:
    """Images that are neither used nor dropped, by the reason."""
    hidden = {*source.tree.hidden}
    copies, others, unused = [], [], []
    for file in images:
        if os.path.abspath(file) not in accounted:
            (copies if file in hidden else
             unused if file.suffix.lower() in IMAGE_SUFFIXES else
             others).append(file)
    return {'hidden copies': copies,
            'images of a kind that is not read': others,
            'images without a label or a split': unused}


def _labels(source: Source, used: Set[str], dropped: Set[str]) -> tuple:
    """Labels of images that are used, of dropped ones, and the others."""
    read, lost, alone, unused = [], [], [], []
    for file, images in source.labels.items():
        real = _real(images)
        if real & used:
            read.append(file)
        elif real & dropped:
            lost.append(file)
        else:
            (unused if images else alone).append(file)
    return _real(read), _real(lost), {
        'labels without an image': alone,
        'labels of an image in no split': unused}
