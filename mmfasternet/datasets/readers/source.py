# SPDX-License-Identifier: Apache-2.0
"""What was found in a folder, and how it becomes COCO."""
import math
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)
from urllib.parse import unquote

from mmfasternet.datasets.files import files_below, is_hidden
from mmfasternet.datasets.images import IMAGE_SUFFIXES, size_and_turn
from mmfasternet.datasets.readers.split_names import role_of

VAL_SHARE = 0.2  # of the images without a split, what validates
IMAGE_FOLDERS = {'images', 'jpegimages', 'imgs'}


class Tree:
    """The files of a folder, each once.

    Args:
        root (Path): The folder.
        others (Iterable[Path]): Folders elsewhere that belong to it.
    """

    def __init__(self, root: Path, others: Iterable[Path] = ()) -> None:
        self.root = root
        self.files: List[Path] = []
        self.hidden: List[Path] = []
        for folder in dict.fromkeys([root, *others]):
            for file in files_below(folder):
                hidden = is_hidden(file, folder)
                (self.hidden if hidden else self.files).append(file)
        self.images = self.having(IMAGE_SUFFIXES)
        self.by_stem: Dict[str, List[Path]] = {}
        for file in self.files:
            self.by_stem.setdefault(_folded(file.stem), []).append(file)

    def having(self, suffixes: Sequence[str]) -> List[Path]:
        """The files with one of these suffixes."""
        return [f for f in self.files if f.suffix.lower() in suffixes]

    def folder_of(self, file: PurePath) -> PurePath:
        """The folder of a file, relative to the root if it is below it."""
        inside = self.root in file.parents
        return file.parent.relative_to(self.root) if inside else file.parent

    def nearest(self, stem: str, suffixes: Sequence[str],
                *to: PurePath) -> Optional[Path]:
        """The file of a name in the folder that is nearest to others.

        That is the one which shares most folder names with them; in a folder
        of another split it is none. Of several the least deep one counts.
        None if there is no such file, or several are as near.
        """
        found = [f for f in self.by_stem.get(_folded(stem), ())
                 if f.suffix.lower() in suffixes
                 and not any(self._apart(f, t) for t in to)]
        found = [f for f in found if f.stem == stem] or found
        if len(found) < 2:
            return found[0] if found else None
        near = [(sum(nearness(f, t) for t in to),
                 # beside them VOC has masks of the same name
                 not IMAGE_FOLDERS.isdisjoint(
                     part.lower() for part in self.folder_of(f).parts),
                 -len(f.parts)) for f in found]
        best = [f for f, n in zip(found, near) if n == max(near)]
        return best[0] if len({f.parent for f in best}) == 1 else None

    def _apart(self, *files: PurePath) -> bool:
        """Whether the folders of two files name different splits."""
        roles = {role_of(self.folder_of(f)) for f in files} - {None}
        return len(roles) == 2 and 'trainval' not in roles

    def named(self, name: str, to: Path) -> Optional[Path]:
        """The image that a file of labels names, perhaps on another machine.

        Args:
            name (str): Its path there, of Windows or not, or a URL.
            to (Path): The file of labels.
        """
        name = name.replace('\\', '/')
        texts = [name.partition('?')[0], name]  # of a URL
        for text in dict.fromkeys([*texts, *map(unquote, texts)]):
            path, suffix = PurePath(text), PurePath(text).suffix.lower()
            for folder in (to.parent, to.parent / 'images', self.root):
                if suffix in IMAGE_SUFFIXES and os.path.isfile(folder / path):
                    return folder / path
            found = None
            if suffix in IMAGE_SUFFIXES:
                found = self.nearest(path.stem, [suffix], to, path)
            elif '?' not in name:
                found = self.nearest(path.name, IMAGE_SUFFIXES, to, path)
            if found:
                return found
        return None


class Pair(NamedTuple):
    """An image and the file of its labels, which may be missing."""

    image: Path
    label: Optional[Path] = None


class Item(NamedTuple):
    """An image of ``width`` x ``height`` pixels with its boxes.

    ``boxes`` are class name, ``[x, y, w, h]`` in pixels, ``iscrowd``.
    """

    image: Path
    width: int
    height: int
    boxes: List[tuple]


class Split(NamedTuple):
    """One split, as COCO."""

    coco: dict  #: ``images``, ``annotations``, ``categories``.
    folder: Path  #: What its file names are relative to.
    #: The json that holds just that. None if it has to be written.
    path: Optional[Path] = None

    def paths(self) -> List[str]:
        """Of its images, '' for what has no name."""
        names = [i.get('file_name') if isinstance(i, dict) else None
                 for i in self.coco['images']]
        return [os.path.join(self.folder, name) if isinstance(name, str)
                else '' for name in names]


@dataclass
class Source:
    """A data set that was found."""

    #: ``'COCO'``, ``'Pascal VOC'``, ``'YOLO'``, ``'LabelMe'`` or ``'CVAT'``.
    format: str
    tree: Tree  #: Its files.
    classes: Tuple[str, ...] = ()  #: In the order of the source.
    #: By ``'train'``, ``'val'`` and, if the data names one, ``'test'``.
    splits: Dict[str, Split] = field(default_factory=dict)
    #: The files of labels, each with the images that it is for.
    labels: Dict[Path, List[Path]] = field(default_factory=dict)
    #: Images that were dropped, and why.
    dropped: Dict[Path, str] = field(default_factory=dict)
    #: What else was left out, with its place.
    messages: List[str] = field(default_factory=list)
    #: Images that EXIF turns, of which the labels do not say in which way they
    #: were seen.
    turned: List[Path] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The folder."""
        return self.tree.root

    def pair(self, label: Optional[Path], image: Optional[Path]) -> List[Pair]:
        """Take a file of labels; no pair if it has no image."""
        if label is not None:
            self.labels.setdefault(label, []).extend([image] if image else [])
        return [Pair(image, label)] if image else []

    def unique(self, pairs: Sequence[Pair]) -> List[Pair]:
        """Of several files of labels for one image, the nearest one.

        There is a message for the others.
        """
        best: Dict[Path, Pair] = {}
        for pair in pairs:
            other = best.setdefault(pair.image, pair)
            if pair.label and _fit(pair) > _fit(other):
                best[pair.image] = pair
        rest = [p for p in pairs if p.label != best[p.image].label]
        for pair in rest:
            self.labels[pair.label].remove(pair.image)
        if rest:
            self.messages.append(
                f'{len(rest)} images have labels in several files, of which '
                f'the nearest counts, not {first_names([p[1] for p in rest])}')
        return [*best.values()]

    def size_of(self, image: Path,
                *stated: Any) -> Optional[Tuple[int, int]]:
        """Width and height, as stated or else as the image has them.

        An image that cannot be read is dropped.
        """
        with suppress(OverflowError, TypeError, ValueError):
            width, height = map(float, stated)
            if min(width, height) >= 1 and max(width, height) < math.inf:
                return int(width), int(height)
        try:
            size, turned = size_and_turn(image)
            self.turned += [image] * turned
            return size
        except OSError as error:
            self.dropped[image] = f'the image cannot be read: {error}'
            return None

    def boxes(self, shapes: Iterable[tuple],
              size: Tuple[float, float]) -> List[tuple]:
        """Clip boxes to their image; there is a message for what has no area.

        Args:
            shapes (Iterable[tuple]): Place, class name, ``(x1, y1, x2, y2)``
                in pixels, ``iscrowd``.
            size (tuple[float, float]): Width and height of the image.

        Returns:
            list[tuple]: As in :class:`Item`.
        """
        found = []
        for place, name, (x1, y1, x2, y2), crowd in shapes:
            x1, x2 = (min(max(v, 0), size[0]) for v in (x1, x2))
            y1, y2 = (min(max(v, 0), size[1]) for v in (y1, y2))
            if x2 > x1 and y2 > y1:
                found.append((name, [x1, y1, x2 - x1, y2 - y1], crowd))
            else:
                self.messages.append(
                    f'{place}: box of {name} has no area inside the '
                    f'{size[0]:g}x{size[1]:g} image')
        return found

    def missing(self, place: Path, names: Sequence[str], count: int) -> None:
        """Say which of the images that a file lists do not exist.

        Raises:
            ValueError: If it is most of them.
        """
        if not names:
            return
        text = f'{place}: {len(names)} of the {count} images that it lists ' \
            f'do not exist: {", ".join(names[:3])}'
        if 2 * len(names) > count:
            raise ValueError(f'{text}; correct the list or the folder')
        self.messages.append(text)

    def fill(self, groups: Dict[str, List[Pair]],
             read: Callable[[Pair], Optional[Item]],
             classes: Sequence[str] = ()) -> 'Source':
        """Read the pairs of each split; ``read`` gives None to drop one.

        Without val, one in five of train becomes it. ``classes`` are the
        first ones; the other names follow, sorted.
        """
        items: Dict[str, List[Item]] = {}
        for split, pairs in groups.items():
            items[split] = [item for item in map(read, pairs) if item]
            if split == 'test' and not items[split]:
                del items[split]
                self.messages.append('test: left out, as none of its images '
                                     'can be used')
            elif not items[split]:
                raise ValueError(f'{self.root}: there is no image in the '
                                 f'{split} split')
        if 'val' not in items:
            items['train'], items['val'] = split_by_chance(items['train'])
        order = sorted(items, key=('train', 'val', 'test').index)
        return self.take({split: items[split] for split in order}, classes)

    def take(self, items: Dict[str, List[Item]],
             classes: Sequence[str]) -> 'Source':
        """Take the items of each split, whatever its name."""
        names = {box[0] for part in items.values() for i in part
                 for box in i.boxes}
        self.classes = tuple(dict.fromkeys([*classes, *sorted(names)]))
        for split, part in items.items():
            self.splits[split] = Split(
                to_coco(part, self.classes, self.root), self.root)
        return self


def _folded(stem: str) -> str:
    """The same for a name as macOS and Windows take it for the same."""
    return unicodedata.normalize('NFC', stem).casefold()


def _fit(pair: Pair) -> tuple:
    """The more, the rather a label is that of its image."""
    return (pair.label.stem == pair.image.stem, nearness(*pair),
            -len(pair.label.parts))


def nearness(file: PurePath, other: PurePath) -> int:
    """How many folder names two paths share."""
    shared = Counter(file.parent.parts) & Counter(other.parent.parts)
    return sum(shared.values())


def first_names(paths: Sequence[Path]) -> str:
    """The first of some paths, for a message."""
    return ', '.join(map(str, paths[:3])) + ', ...' * (len(paths) > 3)


def split_by_chance(items: Sequence) -> Tuple[list, list]:
    """The same random choice each time: what trains and what validates."""
    order = list(range(len(items)))
    if len(order) < 2:
        raise ValueError('one image cannot be split into train and val' if
                         order else 'there is no image to train on')
    random.Random(0).shuffle(order)
    count = max(1, round(len(order) * VAL_SHARE))
    return ([items[i] for i in sorted(order[count:])],
            [items[i] for i in sorted(order[:count])])


def to_coco(items: Sequence[Item], classes: Sequence[str],
            folder: Path) -> dict:
    """A COCO dictionary, file names relative to a folder; ids count from 1.

    Boxes are rounded to a hundredth of a pixel, so that the same data gives
    the same json whatever it came from.
    """
    ids = {name: i for i, name in enumerate(classes, 1)}
    images, annotations = [], []
    for image_id, item in enumerate(items, 1):
        images.append(dict(
            id=image_id, file_name=os.path.relpath(item.image, folder),
            width=item.width, height=item.height))
        for name, box, crowd in item.boxes:
            box = [round(v, 2) for v in box]
            annotations.append(dict(
                id=len(annotations) + 1, image_id=image_id,
                category_id=ids[name], bbox=box,
                area=round(box[2] * box[3], 2), iscrowd=crowd))
    categories = [dict(id=i, name=name) for name, i in ids.items()]
    return dict(images=images, annotations=annotations, categories=categories)
