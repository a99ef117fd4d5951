# SPDX-License-Identifier: Apache-2.0
"""Checks of the image files of splits."""
import os
import os.path as osp
from concurrent.futures.process import BrokenProcessPool
from typing import Dict, NamedTuple, Optional, Sequence

from mmfasternet.datasets.checks.annotations import SplitConfig
from mmfasternet.datasets.checks.report import MAX_EXAMPLES, REFUSED, Findings
from mmfasternet.datasets.files import file_error
from mmfasternet.datasets.images import (
    HUGE_PIXELS,
    Picture,
    inspect_all,
    look_alikes,
)

SAMPLE = 100  # images looked for where images are not to be read

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


class ImageFiles(NamedTuple):
    """The image files that a split uses.

    Attributes:
        split (SplitConfig): Where they are.
        found (Findings): Of the split.
        entries (dict[str, dict]): The entry of the json by path, empty where
            there are no labels.
    """

    split: SplitConfig
    found: Findings
    entries: Dict[str, dict]

    def folder_exists(self) -> bool:
        """Look for the folder; there is a finding if it is missing."""
        folder = self.split.image_folder
        exists = not folder or osp.isdir(folder) or all(
            osp.isabs(e['file_name']) for e in self.entries.values())
        self.found.refuse('image-folder', [] if exists else [folder],
                               'no such folder: reading the first image fails')
        return exists


def look_for_images(files: ImageFiles) -> None:
    """Look for some images, without reading them."""
    paths = list(files.entries)
    sample = paths[::max(1, len(paths) // SAMPLE)]
    _add_missing(files, {p: file_error(p) for p in sample}, len(paths))


def decode_images(splits: Sequence[ImageFiles], workers: Optional[int],
                  progress: bool, known: Dict[str, Picture]) -> Findings:
    """Decode every image once; findings of all splits together are returned,
    the others are added to each split's own. ``known`` were decoded before."""
    paths = list(dict.fromkeys(p for files in splits for p in files.entries
                               if p not in known))
    pictures, together = {}, Findings('all')
    try:
        for picture, path in zip(
                inspect_all(paths, workers, progress), paths):
            pictures[path] = picture
    except BrokenProcessPool:
        together.add(
            REFUSED, 'check-crashed', paths[len(pictures):][:1],
            f'a process died after {len(pictures)} of {len(paths)} '
            'images: out of memory, or an image that crashes the '
            'decoder, from this one on; find it with workers=0', 1)
    pictures.update(known)
    for files in splits:
        _describe(files,
                  {p: pictures[p] for p in files.entries if p in pictures})
    together += _leaks(splits, pictures)
    return together


def _describe(files: ImageFiles, pictures: Dict[str, Picture]) -> None:
    found = files.found
    _add_missing(files, {k: p.missing for k, p in pictures.items()},
                 len(pictures))
    found.refuse('image-broken',
                 [f'{k}: {p.broken}' for k, p in pictures.items() if p.broken],
                 'cannot be decoded: training stops at the first one; replace '
                 'the images or remove them from the annotation file')
    good = {k: p for k, p in pictures.items() if p.digest}
    exif, size = [], []
    for path, picture in good.items():
        entry = files.entries[path]
        if not entry:  # without labels, nothing is stated of it
            continue
        stated = (entry['width'], entry['height'])
        if stated != picture.size:
            turned = picture.orientation >= 5 and stated == picture.size[::-1]
            (exif if turned else size).append(
                f'{path}: {stated[0]}x{stated[1]} stated, '
                f'{picture.size[0]}x{picture.size[1]} loaded')
    found.refuse(
        'image-turned', exif, 'turned by the EXIF orientation when '
        'loaded, which the annotations are not: boxes are in wrong places; '
        'save the images without it')
    found.refuse(
        'image-size', size, 'not the stated size: boxes are taken '
        'as pixels of the real image, and if that was resized after '
        'labelling all are off; correct width, height and boxes')
    # which the size tells, but of a square
    found.note(
        'image-orientation',
        [k for k, p in good.items()
         if 2 <= p.orientation <= (8 if p.size[0] == p.size[1] else 4)],
        'turned or mirrored by the EXIF orientation when loaded, which '
        'the size does not tell; look whether the boxes fit with '
        'tools/analysis_tools/browse_dataset.py')
    for trait, text in _TRAITS.items():
        found.note(f'image-{trait}',
                   [k for k, p in good.items() if trait in p.traits], text)


def _add_missing(files: ImageFiles, errors: Dict[str, str],
                 total: int) -> None:
    bad = [path for path, text in errors.items() if text]
    folder = files.split.image_folder
    hints = [f'{p}: {errors[p]}{_name_hint(folder, p)}'
             for p in bad[:MAX_EXAMPLES]]
    some = f', {len(errors)} of {total} were looked for' if len(
        errors) < total else ''
    files.found.add(
        REFUSED, 'image-missing', hints,
        f'cannot be opened{some}: training stops at the first one; '
        'correct file_name or the image folder, or remove the '
        'images from the annotation file', len(bad))


def _name_hint(folder: str, path: str) -> str:
    """Where an image that is missing may be."""
    if '\\' in (osp.relpath(path, folder) if folder else path):
        return ' (write / instead of \\)'
    base = osp.basename(path)
    if osp.isfile(osp.join(folder, base)):
        return f' ({base} is there)'
    try:
        near = os.listdir(osp.dirname(path) or '.')
    except OSError:
        return ''
    close = [n for n in near if n.lower() == base.lower()] or [
        n for n in near if osp.splitext(n)[0] == osp.splitext(base)[0]]
    return f' ({close[0]} is there)' if close and close[0] != base else ''


def _leaks(splits: Sequence[ImageFiles],
           pictures: Dict[str, Picture]) -> Findings:
    """Images to train on that are evaluated too, or look alike."""
    train, val = ({
        path: pictures[path]
        for files in splits if files.split.test_mode == mode
        for path in files.entries if path in pictures and pictures[path].digest
    } for mode in (False, True))
    first = {p.digest: path for path, p in reversed(train.items())}
    same = [f'{path} = {first[p.digest]}' for path, p in val.items()
            if p.digest in first]
    alike = look_alikes(train, {path: p for path, p in val.items()
                                if p.digest not in first})
    findings = Findings('train, val')
    findings.note('leak', same, 'same pixels as an image to train on: the AP '
                  'is too high; take them out of one split')
    findings.note(
        'leak-alike', [f'{a} = {b}' for a, b in alike.items()],
        'looks like an image to train on (saved anew, or the same scene): '
        'the AP may be too high; compare them')
    return findings
