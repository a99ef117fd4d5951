# SPDX-License-Identifier: Apache-2.0
"""YOLO: a text file for each image, one object per line."""
import os
import re
from pathlib import Path, PurePath
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

import yaml

from mmfasternet.datasets.files import read_text
from mmfasternet.datasets.images import IMAGE_SUFFIXES, image_files
from mmfasternet.datasets.readers.source import (
    Item,
    Pair,
    Source,
    Tree,
    first_names,
)
from mmfasternet.datasets.readers.split_names import ROLES, role_of
from mmfasternet.datasets.readers.splits import (
    group,
    images_in_list,
    lines_of,
    split_lists,
)

# Where class names stand, one per line: LabelImg and Label Studio, Darknet
# and CVAT, Roboflow.
_NAME_FILES = ('classes.txt', 'obj.names', '_darknet.labels')

YAML = ('.yaml', '.yml')


def is_yolo(tree: Tree) -> bool:
    """Whether there are labels, or the names of classes."""
    return any(map(_is_name_file, tree.files)) or any(
        _label_of(image, tree) for image in tree.images)


def inner_config(tree: Tree) -> Optional[Path]:
    """The only ``data.yaml`` in the folders below, if nothing else names the
    classes."""
    folders = {path.parent for path in tree.having(YAML)} - {tree.root}
    found = [*filter(None, map(config_of, sorted(folders)))]
    named = any(map(_is_name_file, tree.files))
    return found[0] if len(found) == 1 and not named else None


def _is_name_file(path: Path) -> bool:
    name = path.name.lower()
    return name in _NAME_FILES or name.endswith('.names')


def config_of(root: Path) -> Optional[Path]:
    """The yaml with names: ``data.yaml``, or the only one there is."""
    specs = {p: _spec(p) for p in sorted(root.iterdir()) if root.is_dir()
             and p.suffix.lower() in YAML and p.is_file()
             and not p.name.startswith('.')}
    found = [path for path, spec in specs.items() if 'names' in spec]
    first = [p for p, spec in specs.items() if {'names', 'train'} & {*spec}
             and p.stem in ('data', 'dataset', root.name)]
    if len(found) > 1 and not first:
        raise ValueError(f'{root}: which of {", ".join(map(str, found))} is '
                         'it? Give that file instead of the folder')
    return (first or found or [None])[0]


def read_yolo(root: Path, config: Optional[Path] = None,
              tree: Optional[Tree] = None) -> Source:
    """Read a YOLO data set.

    Args:
        root (Path): The folder.
        config (Path, optional): Its ``data.yaml`` as Ultralytics has it.
            Defaults to None: labels stand in a folder ``labels`` or beside
            the images, class names in a file of names.
        tree (Tree, optional): The files of ``root``, if they are known.

    Raises:
        ValueError: If the yaml or a label is broken, naming file and line.
    """
    spec, entries, groups = {}, {}, {}
    if config is not None:
        spec = _spec(config)
        names = _class_names(config, spec)
        entries = _entries(config, spec)
    folders = {Path(os.path.abspath(p if p.is_dir() else p.parent))
               for paths in entries.values() for p in paths}
    inside = Path(os.path.abspath(root))
    others = sorted(f for f in folders if inside not in (f, *f.parents))
    source = Source('YOLO', Tree(root, others) if others or tree is None
                    else tree)
    if config is None:
        names = _names(source.tree)
        if not source.tree.images:
            raise ValueError(f'{root}: labels, but no image '
                             f'({", ".join(IMAGE_SUFFIXES)}); copy the images '
                             'beside them, or into a folder images')
        groups = group(source, _pairs(source.tree.images, source))
    for split, paths in entries.items():
        images = {i for path in paths for i in _images(path, source)}
        groups[split] = _pairs(sorted(images), source)
        if not images and split != 'test':
            raise ValueError(f'{config}: {split}: no image in '
                             f'{first_names(paths)}')
    if 'test' in spec and 'test' not in entries:
        source.messages.append(
            f'{config}: test is {spec["test"]!r}, which is not there')
    _find_labels(source, {p for paths in entries.values() for p in paths})
    return source.fill(
        groups,
        lambda pair: _read(pair, names, source, 'kpt_shape' in spec), names)


# ------------------------------------------------------------------ data.yaml
def _spec(path: Path) -> Dict[str, Any]:
    """The values of a yaml that are not empty."""
    try:
        # all values are text: YAML takes a class `no` for False
        spec = yaml.load(read_text(path), yaml.BaseLoader)
    except yaml.YAMLError as error:
        hint = ' (a path of Windows must be without quotes, or in single ' \
            'ones)' if 'escape' in str(error) else ''
        raise ValueError(f'{path} is not YAML{hint}: {error}') from None
    empty = ('', 'null', '~', [], None)
    spec = {str(key).lower(): value for key, value in spec.items()
            if value not in empty} if isinstance(spec, dict) else {}
    return {**{ROLES[k]: v for k, v in spec.items() if k in ROLES}, **spec}


def _entries(path: Path, spec: Dict[str, Any]) -> Dict[str, List[Path]]:
    """The folders or lists of each split."""
    found: Dict[str, List[Path]] = {}
    # Ultralytics reads `path` from the file, YOLOv5 from where it is started
    bases = [path.parent / str(spec.get('path', ''))]
    bases += [Path(str(spec['path']))] if 'path' in spec else []
    for split in ('train', 'val', 'test'):
        entries = spec.get(split) or (
            spec.get('trainval') if split == 'train' else None) or []
        entries = entries if isinstance(entries, list) else [entries]
        if not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f'{path}: {split} must be a path or a list of '
                             f'paths, got {spec[split]!r}')
        try:
            found[split] = [_existing(path, bases, entry, split)
                            for entry in entries]
        except ValueError:
            if split != 'test':  # Roboflow names one that it does not export
                raise
    if not found['train']:
        raise ValueError(f'{path}: there is no train')
    return {k: v for k, v in found.items() if v}


def _class_names(path: Path, spec: Dict[str, Any]) -> List[str]:
    names = spec.get('names')
    if isinstance(names, dict):
        numbers = [str(i) for i in range(len(names))]
        if sorted(names) != sorted(numbers):
            raise ValueError(f'{path}: names must be numbered 0, 1, 2, ..., '
                             f'got {", ".join(sorted(names))}')
        names = [names[i] for i in numbers]
    if not isinstance(names, list) or not all(
            isinstance(name, str) for name in names or [0]):
        raise ValueError(f'{path}: names must be a list or numbered, got '
                         f'{names!r}')
    _check_names(path, names)
    if spec.get('nc', str(len(names))) != str(len(names)):
        raise ValueError(f'{path}: nc is {spec["nc"]}, but there are '
                         f'{len(names)} names')
    return names


def _check_names(path: Path, names: Sequence[str]) -> None:
    if len({*names}) < len(names):
        raise ValueError(f'{path}: names has one twice: {", ".join(names)}')


def _existing(config: Path, bases: Sequence[Path], entry: str,
              split: str) -> Path:
    """An entry of data.yaml, relative to its path or to the file itself.

    Exports of Roboflow say ``../train/images`` where ``train/images`` is
    meant. Of a path of another machine what is here counts, if its end says
    more than ``images``.
    """
    entry = entry.replace('\\', '/')
    inner = PurePath(re.sub(r'^(\.\./)+', '', entry))
    tried = [bases[0] / entry, config.parent / entry, config.parent / inner]
    tried += [base / entry for base in bases[1:]]
    tails = [PurePath(*inner.parts[i:]) for i in range(1, len(inner.parts))]
    for candidate in [*tried, *(
            config.parent / tail for tail in tails
            if len(tail.parts) > 1 or role_of(tail) == split)]:
        if candidate.exists():
            return candidate
    raise ValueError(f'{config}: {entry!r} is neither a folder nor a file; '
                     f'looked for {" and ".join(map(str, {*tried}))}')


def _images(entry: Path, source: Source) -> Iterable[Path]:
    return image_files(entry) if entry.is_dir() else images_in_list(
        entry, source)


# --------------------------------------------------------------------- labels
def _names(tree: Tree) -> Tuple[str, ...]:
    found: Dict[Tuple[str, ...], Path] = {}
    for path in filter(_is_name_file, tree.files):
        found.setdefault(tuple(lines_of(path)), path)
    found.pop((), None)
    if len(found) > 1:
        raise ValueError(f'{tree.root}: the class names differ between '
                         f'{" and ".join(map(str, found.values()))}')
    if not found:
        raise ValueError(
            f'{tree.root}: YOLO labels have numbers only; write the class '
            'names, one per line, into classes.txt there, or give the '
            'data.yaml')
    names, path = next(iter(found.items()))
    _check_names(path, names)
    return names


def _label_of(image: Path, tree: Tree) -> Optional[Path]:
    # the last folder `images` of the path is `labels` for the text
    text = image.with_suffix('.txt')
    parallel = Path(re.sub(r'(.*/|^)images/', r'\1labels/', text.as_posix()))
    for path in (parallel, text, text.parent.parent / 'labels' / text.name):
        if path.is_file():
            return path
    label = tree.nearest(image.stem, ('.txt', ), image)
    # unless it is that of a nearer image
    nearest = label and tree.nearest(label.stem, IMAGE_SUFFIXES, label)
    return label if nearest and nearest.with_suffix('') == image.with_suffix(
        '') else None


def _pairs(images: Iterable[Path], source: Source) -> List[Pair]:
    return [pair for image in images
            for pair in source.pair(_label_of(image, source.tree), image)]


def _find_labels(source: Source, named: Set[Path]) -> None:
    """Add the text files whose image is in no split, or not there.

    ``named`` are those that the data.yaml takes for lists of images.
    """
    used = {i for images in source.labels.values() for i in images}
    lists = {os.path.abspath(p) for paths in [
        named, *split_lists(source.tree).values()] for p in paths}
    for path in source.tree.having(('.txt', )):
        if os.path.abspath(path) not in lists and not _is_name_file(path) and \
                not path.stem.lower().startswith(('readme', 'license')):
            image = None if path in source.labels else source.tree.nearest(
                path.stem, IMAGE_SUFFIXES, path)
            source.pair(path, None if image in used else image)


def _read(pair: Pair, names: Sequence[str], source: Source,
          keypoints: bool) -> Optional[Item]:
    size = source.size_of(pair.image)
    if size is None:
        return None
    shapes = []
    # without a label there is nothing to see in the image
    lines = read_text(pair.label).splitlines() if pair.label else []
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f'{pair.label}:{number}'
            if keypoints:  # behind the box
                line = ' '.join(line.split()[:5])
            name, corners = _parse(place, line, names)
            shapes.append((place, name,
                           [v * s for v, s in zip(corners, size * 2)], 0))
    return Item(pair.image, *size, source.boxes(shapes, size))


def _parse(place: str, line: str,
           names: Sequence[str]) -> Tuple[str, Tuple[float, ...]]:
    """Class name and corners, as shares of the image."""
    try:
        label, *values = map(float, line.split())
    except ValueError:
        raise ValueError(f'{place}: expected numbers, got {line!r}') from None
    if label not in range(len(names)):
        raise ValueError(f'{place}: class {label:g}, but there are '
                         f'{len(names)} names, 0 to {len(names) - 1}')
    if len(values) == 4:
        cx, cy, w, h = values
        w, h = abs(w), abs(h)  # drawn from the right or from below
        corners = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    elif len(values) >= 6 and len(values) % 2 == 0:  # an outline
        corners = (min(values[::2]), min(values[1::2]),
                   max(values[::2]), max(values[1::2]))
    else:
        raise ValueError(
            f'{place}: expected a class and x, y, width, height or an outline '
            f'of three or more points, got {len(values) + 1} numbers '
            '(keypoints need kpt_shape in the data.yaml; scores and angles '
            'must go)')
    # a rounding error beyond the edge is common, pixels instead are not
    if not all(-0.5 < v < 1.5 for v in corners):
        hint = ' (keypoints need kpt_shape in the data.yaml)' \
            if len(values) > 4 else ''
        raise ValueError(f'{place}: coordinates are shares of the image size, '
                         f'0 to 1, got {line.strip()!r}{hint}')
    return names[int(label)], corners
