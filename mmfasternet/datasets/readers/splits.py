# SPDX-License-Identifier: Apache-2.0
"""Which images train, validate and test, as names of files and folders say."""
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Dict, List, Optional, Sequence

from mmfasternet.datasets.files import read_text
from mmfasternet.datasets.images import IMAGE_SUFFIXES
from mmfasternet.datasets.readers.source import (
    Pair,
    Source,
    Tree,
    first_names,
)
from mmfasternet.datasets.readers.split_names import (
    ROLES,
    role_of,
    roles_of,
)

_LISTS = ('.txt', '.csv', '.lst')
# Lists for other tasks on the images of VOC.
_OTHER_TASKS = ('Segmentation', 'Layout', 'Action')


def group(source: Source, pairs: Sequence[Pair],
          hints: Optional[Dict[Path, str]] = None) -> Dict[str, List[Pair]]:
    """Pairs by split, as lists say, else hints, else folders.

    A hint is the name of an image's split in the file of its labels. There
    is a message for what is in no split.

    Raises:
        ValueError: If there is nothing to train on.
    """
    pairs = source.unique(pairs)
    groups = _listed(source, pairs)
    if not groups:
        hints = hints or {}
        roles = roles_of([
            [PurePath(hints.get(pair.image, '')),
             *(source.tree.folder_of(f) for f in pair if f is not None)]
            for pair in pairs
        ])
        for role, pair in zip(roles, pairs):
            groups.setdefault(role or '', []).append(pair)
    return settle(groups, source)


def settle(groups: Dict[str, list], source: Source,
           what: str = 'images') -> Dict[str, list]:
    """Keep train, val and test of the roles that were found."""
    rest = groups.pop('', [])
    both = groups.pop('trainval', [])
    if both and 'train' in groups:
        source.messages.append(f'trainval: {len(both)} {what}, not used '
                               'because train is there')
    elif both:
        groups['train'] = both
    if 'train' not in groups and rest:
        groups['train'] = rest
    elif rest:
        names = ', '.join(sorted(groups))
        source.messages.append(f'{len(rest)} {what} in none of the splits '
                               f'{names}: {first_names([p[0] for p in rest])}')
    if not groups.get('train'):
        raise ValueError(f'{source.root}: there is no training split, only '
                         f'{", ".join(sorted(groups)) or "empty folders"}')
    return {k: v for k, v in groups.items() if v}


# ---------------------------------------------------------------------- lists
def split_lists(tree: Tree) -> Dict[str, List[Path]]:
    """Text files that list images, by split.

    A ``.data`` of Darknet says which they are, or else their names: exact
    ones (``train.txt``), or else those that end in it (``mine_train.txt``).
    """
    found: Dict[str, List[Path]] = {}
    for path in tree.having(('.data', )):
        for key, _, value in (line.partition('=') for line in lines_of(path)):
            role = ROLES.get(key.strip())
            file = role and find_listed(value.strip(), path, tree)
            if file:
                found.setdefault(role, []).append(file)
            elif role in ('train', 'val') and value.strip():
                raise ValueError(f'{path}: {key.strip()} is {value.strip()}, '
                                 'which is not there')
    of_data = {*found}
    paths = [path for path in tree.having(_LISTS) if _is_list(path, tree)]
    roles = roles_of([[PurePath(path.stem)] for path in paths])
    for role, path in zip(roles, paths):
        if role and role not in of_data:
            found.setdefault(role, []).append(path)
    return found


def _is_list(path: Path, tree: Tree) -> bool:
    """Whether it has the name of a split, and names images."""
    if path.parent.name in _OTHER_TASKS or not role_of(
            PurePath(path.stem), exact=False):
        return False
    lines = lines_of(path)[:10]
    # an image may be called `test`, and those are its labels
    if re.fullmatch(r'\d[.\d]*(\s+[-+.\deE]+){4,}', ''.join(lines[:1])) or (
            not lines and tree.nearest(path.stem, IMAGE_SUFFIXES, path)):
        return False
    return path.name.lower() in {f'{word}.txt' for word in ROLES} or any(
        find_listed(line, path, tree) for line in lines)


def lines_of(path: Path) -> List[str]:
    """Lines that are not empty, without space around them."""
    return [line.strip() for line in read_text(path).splitlines()
            if line.strip()]


def images_in_list(path: Path, source: Source,
                   choose: Callable = lambda file: file) -> list:
    """What the lines of a list mean, ``choose`` of the file that each names.

    What is not there, or for which that is None, is counted in a message.

    Raises:
        ValueError: If most of the images do not exist.
    """
    lines = lines_of(path)
    found = [find_listed(line, path, source.tree) for line in lines]
    source.missing(path, [line for line, file in zip(lines, found)
                          if file is None], len(lines))
    files = [file for file in found if file is not None]
    chosen = [choose(file) for file in files]
    bare = [file for file, one in zip(files, chosen) if one is None]
    if bare:
        source.messages.append(
            f'{path}: {len(bare)} of the {len(lines)} images that it lists '
            f'have no labels, or are not there: {first_names(bare)}')
    return [one for one in chosen if one is not None]


def _listed(source: Source,
            pairs: Sequence[Pair]) -> Dict[str, List[Pair]]:
    lists = split_lists(source.tree)
    if not lists:
        return {}
    of = {file: pair for pair in pairs for file in pair if file is not None}
    groups: Dict[str, List[Pair]] = {}
    for role, paths in lists.items():
        groups[role] = [*dict.fromkeys(
            pair for path in paths
            for pair in images_in_list(path, source, of.get))]
        if not groups[role]:
            text = f'{first_names(paths)}: lists no image that can be used'
            if role == 'train':
                raise ValueError(text)
            source.messages.append(text)
    taken = {pair for part in groups.values() for pair in part}
    groups[''] = [pair for pair in pairs if pair not in taken]
    return groups


def find_listed(line: str, file: Path, tree: Tree) -> Optional[Path]:
    """The image (or label) that a line of a list, which is a file, means.

    It is a path, from the list, the data set or another machine; or a name
    without suffix. Behind it lists of VOC have a mark, others its labels.
    """
    names = [line.replace('\\', '/').strip('"')]
    names += re.findall(r'^(\S+)\s+(?:-?[01]|\S+\.(?:xml|txt|json))$',
                        names[0])
    for name in names:
        for base in (file.parent, tree.root):
            for tail in (name, name.partition('/')[2]):
                if tail and os.path.isfile(base / tail):
                    return base / tail
        path = PurePath(name)
        suffixes = (*IMAGE_SUFFIXES, '.xml', '.json')
        # `1.5` is a name without suffix
        for stem in [path.name] + [path.stem] * (
                path.suffix.lower() in suffixes):
            for kind in (('.xml', '.json'), IMAGE_SUFFIXES):
                found = tree.nearest(stem, kind, file)
                if found is not None:
                    return found
    return None
