# SPDX-License-Identifier: Apache-2.0
"""YOLO: a text file for each image, one object per line."""
import re
from pathlib import Path, PurePath
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import yaml

from mmfasternet.datasets.files import read_text
from mmfasternet.datasets.images import IMAGE_SUFFIXES, image_files
from mmfasternet.datasets.readers.source import Item, Pair, Source, Tree
from mmfasternet.datasets.readers.split_names import role_of
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


def _is_name_file(path: Path) -> bool:
    return path.name in _NAME_FILES or path.suffix == '.names'


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
    keypoints = False
    if config is None:
        source = Source('YOLO', tree or Tree(root))
        names = _names(source.tree)
        groups = group(source, _pairs(source.tree.images, source))
    else:
        names, entries = _config(config)
        folders = {p if p.is_dir() else p.parent
                   for paths in entries.values() for p in paths}
        source = Source('YOLO', Tree(root, sorted(
            f for f in folders if root not in (f, *f.parents))))
        groups = {}
        for split, paths in entries.items():
            images = {i for path in paths for i in _images(path, source)}
            groups[split] = _pairs(sorted(images), source)
        keypoints = 'kpt_shape' in _spec(config)
        test = _spec(config).get('test')
        if test is not None and 'test' not in groups:
            source.messages.append(
                f'{config}: test is {test!r}, which is not there')
    _find_labels(source)
    return source.fill(
        groups, lambda pair: _read(pair, names, source, keypoints), names)


# ------------------------------------------------------------------ data.yaml
def _spec(path: Path) -> Dict[str, Any]:
    """The values of a yaml that are not empty."""
    try:
        # all values are text: YAML takes a class `no` for False
        spec = yaml.load(read_text(path), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is not YAML: {error}') from None
    empty = ('', 'null', '~', [], None)
    return {k: v for k, v in spec.items() if v not in empty} if isinstance(
        spec, dict) else {}


def _config(path: Path) -> Tuple[List[str], Dict[str, List[Path]]]:
    """The class names, and the folders or lists of each split."""
    spec = _spec(path)
    names = _class_names(path, spec)
    base = path.parent / str(spec.get('path', ''))
    found = {}
    for split in ('train', 'val', 'test'):
        entries = spec.get(split, [])
        entries = entries if isinstance(entries, list) else [entries]
        if not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f'{path}: {split} must be a path or a list of '
                             f'paths, got {spec[split]!r}')
        try:
            found[split] = [_existing(path, base, entry, split)
                            for entry in entries]
        except ValueError:
            if split != 'test':  # Roboflow names one that it does not export
                raise
    if not found['train']:
        raise ValueError(f'{path}: there is no train')
    return names, {k: v for k, v in found.items() if v}


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
    if len({*names}) < len(names):
        raise ValueError(f'{path}: names has one twice: {", ".join(names)}')
    if spec.get('nc', str(len(names))) != str(len(names)):
        raise ValueError(f'{path}: nc is {spec["nc"]}, but there are '
                         f'{len(names)} names')
    return names


def _existing(config: Path, base: Path, entry: str, split: str) -> Path:
    """An entry of data.yaml, relative to its path or to the file itself.

    Exports of Roboflow say ``../train/images`` where ``train/images`` is
    meant. Of a path of another machine what is here counts, if its end says
    more than ``images``.
    """
    entry = entry.replace('\\', '/')
    inner = PurePath(re.sub(r'^(\.\./)+', '', entry))
    tried = [base / entry, config.parent / entry, config.parent / inner]
    tails = [PurePath(*inner.parts[i:]) for i in range(1, len(inner.parts))]
    for candidate in [*tried, *(
            config.parent / tail for tail in tails
            if len(tail.parts) > 1 or role_of(tail) == split)]:
        if candidate.exists():
            return candidate
    raise ValueError(f'{config}: {entry!r} is neither '
                     f'{" nor ".join(map(str, dict.fromkeys(tried)))}')


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
    return next(iter(found))


def _label_of(image: Path, tree: Tree) -> Optional[Path]:
    # the last folder `images` of the path is `labels` for the text
    text = image.with_suffix('.txt')
    parallel = Path(re.sub(r'(.*/|^)images/', r'\1labels/', text.as_posix()))
    for path in (parallel, text, text.parent.parent / 'labels' / text.name):
        if path.is_file():
            return path
    label = tree.nearest(image.stem, ('.txt', ), image)
    # unless it is that of a nearer image
    nearest = label and tree.nearest(image.stem, IMAGE_SUFFIXES, label)
    return label if nearest and nearest.parent == image.parent else None


def _pairs(images: Iterable[Path], source: Source) -> List[Pair]:
    return [pair for image in images
            for pair in source.pair(_label_of(image, source.tree), image)]


def _find_labels(source: Source) -> None:
    """Add the text files whose image is in no split, or not there."""
    used = {i for images in source.labels.values() for i in images}
    lists = {p for paths in split_lists(source.tree).values() for p in paths}
    for path in source.tree.having(('.txt', )):
        if path not in lists and path.name not in _NAME_FILES and \
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
        corners = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    elif len(values) >= 6 and len(values) % 2 == 0:  # an outline
        corners = (min(values[::2]), min(values[1::2]),
                   max(values[::2]), max(values[1::2]))
    else:
        raise ValueError(
            f'{place}: expected a class and x, y, width, height or an outline '
            f'of three or more points, got {len(values) + 1} numbers '
            '(keypoints need kpt_shape in the data.yaml)')
    # a rounding error beyond the edge is common, pixels instead are not
    if not all(-0.5 < v < 1.5 for v in corners):
        raise ValueError(f'{place}: coordinates are shares of the image size, '
                         f'0 to 1, got {line.strip()!r}')
    return names[int(label)], corners
