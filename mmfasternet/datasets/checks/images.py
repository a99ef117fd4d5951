# SPDX-License-Identifier: Apache-2.0
"""Checks of the image files of splits."""
import os
import os.path as osp
from concurrent.futures.process import BrokenProcessPool
from typing import Dict, List, NamedTuple, Optional, Sequence

from mmfasternet.datasets.checks.report import (
    MAX_EXAMPLES,
    NOTE,
    REFUSED,
    Finding,
    Findings,
)
from mmfasternet.datasets.images import (
    HUGE_PIXELS,
    Picture,
    file_error,
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
        folder (str): What their names are relative to.
        test_mode (bool): Whether they are evaluated, not trained on.
        entries (dict[str, dict]): The entry of the json by path, empty where
            there are no labels.
        found (Findings): Of the split.
    """

    folder: str
    test_mode: bool
    entries: Dict[str, dict]
    found: Findings

    def folder_exists(self) -> bool:
        """Look for the folder; there is a finding if it is missing."""
        exists = not self.folder or osp.isdir(self.folder) or all(
            osp.isabs(e['file_name']) for e in self.entries.values())
        self.found.add('image-folder', REFUSED,
                       [] if exists else [self.folder],
                       'no such folder: reading the first image fails')
        return exists


def look_for_images(files: ImageFiles) -> None:
    """Look for some images, without reading them."""
    paths = list(files.entries)
    sample = paths[::max(1, len(paths) // SAMPLE)]
    _add_missing(files, {p: file_error(p) for p in sample})


def decode_images(splits: Sequence[ImageFiles], workers: Optional[int],
                  progress: bool) -> List[Finding]:
    """Decode every image once.

    Returns:
        list[Finding]: Those of all splits together; the others are added to
        each split's own.
    """
    paths = list(dict.fromkeys(p for files in splits for p in files.entries))
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
    for files in splits:
        _describe(files,
                  {p: pictures[p] for p in files.entries if p in pictures})
    return findings + _leaks(splits, pictures)


def _describe(files: ImageFiles, pictures: Dict[str, Picture]) -> None:
    found = files.found
    _add_missing(files, {k: p.missing for k, p in pictures.items()},
                 len(pictures))
    found.add('image-broken', REFUSED,
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
        if stated == picture.size:
            continue
        turned = picture.orientation >= 5 and stated == picture.size[::-1]
        (exif if turned else size).append(
            f'{path}: {stated[0]}x{stated[1]} stated, '
            f'{picture.size[0]}x{picture.size[1]} loaded')
    found.add(
        'image-turned', REFUSED, exif, 'turned by the EXIF orientation when '
        'loaded, which the annotations are not: boxes are in wrong places; '
        'save the images without it')
    found.add(
        'image-size', REFUSED, size, 'not the stated size: boxes are taken '
        'as pixels of the real image, and if that was resized after '
        'labelling all are off; correct width, height and boxes')
    found.add('image-orientation', NOTE,
              [k for k, p in good.items() if _is_ambiguous(p)],
              'turned or mirrored by the EXIF orientation when loaded, which '
              'the size does not tell; look whether the boxes fit with '
              'tools/analysis_tools/browse_dataset.py')
    for trait, text in _TRAITS.items():
        found.add(f'image-{trait}', NOTE,
                  [k for k, p in good.items() if trait in p.traits], text)


def _is_ambiguous(picture: Picture) -> bool:
    square = picture.size[0] == picture.size[1]
    return 2 <= picture.orientation <= (8 if square else 4)


def _add_missing(files: ImageFiles,
                 errors: Dict[str, str],
                 total: Optional[int] = None) -> None:
    total = len(files.entries) if total is None else total
    bad = [path for path, text in errors.items() if text]
    hints = [
        f'{p}: {errors[p]}{_name_hint(files.folder, p)}'
        for p in bad[:MAX_EXAMPLES]
    ]
    of = f', {len(errors)} of {total} were looked for' if len(
        errors) < total else ''
    files.found.add(
        'image-missing', REFUSED, hints,
        f'cannot be opened{of}: training stops at the first one; '
        'correct file_name or the image folder, or remove the '
        'images from the annotation file', len(bad))


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


def _leaks(splits: Sequence[ImageFiles],
           pictures: Dict[str, Picture]) -> List[Finding]:
    """Images to train on that are evaluated too, or look alike."""
    train, val = ({
        path: pictures[path]
        for files in splits if files.test_mode == mode
        for path in files.entries if path in pictures and pictures[path].digest
    } for mode in (False, True))
    first = {p.digest: path for path, p in reversed(train.items())}
    same = {
        path: first[p.digest] for path, p in val.items() if p.digest in first
    }
    alike = look_alikes(train,
                        {k: p for k, p in val.items() if k not in same})
    findings = Findings('train, val')
    for kind, pairs, text in (
        ('leak', same, 'same pixels as an image to train on: the AP is too '
         'high; take them out of one split'),
        ('leak-alike', alike, 'looks like an image to train on (saved anew, '
         'or the same scene): the AP may be too high; compare them')):
        findings.add(kind, NOTE, [f'{a} = {b}' for a, b in pairs.items()],
                     text)
    return findings
