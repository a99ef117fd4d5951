# SPDX-License-Identifier: Apache-2.0
"""Detection data sets as people have them: COCO json, Pascal VOC, YOLO.

Everything becomes COCO json, which MMDetection reads. Boxes are rounded to a
hundredth of a pixel, so that the same data gives the same json whatever it
came from.
"""
import json
import math
import os
import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from xml.parsers import expat

import mmcv
import yaml
from PIL import ExifTags, Image

from mmfasternet.datasets.images import IMAGE_SUFFIXES

_SPLITS = dict(
    train=('train', 'training'),
    val=('val', 'valid', 'validation'),
    test=('test', 'testing'))
# Of the images without a split, one in five validates.
_VAL_SHARE = 0.2


class Labels(NamedTuple):
    """One split.

    Attributes:
        images (list[dict]): ``file_name`` relative to the root, ``width``,
            ``height`` in pixels.
        boxes (list[tuple]): Index into ``images``, class name, ``[x, y, w,
            h]`` in pixels, ``iscrowd``.
        dropped (list[str]): What was left out, with its place and reason.
    """
    images: List[dict]
    boxes: List[tuple]
    dropped: List[str]


class Source(NamedTuple):
    """A data set that was found.

    Attributes:
        format (str): ``'COCO'``, ``'Pascal VOC'`` or ``'YOLO'``.
        root (Path): What file names are relative to.
        classes (tuple[str]): In the order of the source.
        splits (dict[str, Labels]): By ``'train'`` and ``'val'``; empty for
            COCO, which needs no conversion.
        files (dict[str, tuple[Path, Path]]): For COCO, the json and the
            folder of the images of each split.
    """
    format: str
    root: Path
    classes: Tuple[str, ...]
    splits: Dict[str, Labels]
    files: Dict[str, Tuple[Path, Path]]


def read_dataset(path: Path) -> Source:
    """Recognise and read a data set.

    Args:
        path (Path): A folder, or the ``data.yaml`` of a YOLO data set.

    Returns:
        Source: Its classes and splits. Without splits of its own, one image
        in five validates, by a fixed random choice.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If it is none of the formats, or its labels are broken;
            with file and line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'no such file or folder: {path}')
    if path.is_file():
        if path.suffix not in ('.yaml', '.yml'):
            raise ValueError(f'{path} is a file: give the folder of the data '
                             'set, or the data.yaml of a YOLO one')
        return read_yolo(path.parent, path)
    for candidate in sorted(path.glob('*.y*ml')):
        if re.search(r'^names\s*:', candidate.read_text(), re.MULTILINE):
            return read_yolo(path, candidate)
    jsons = _coco_files(path)
    if jsons:
        return _read_coco(path, jsons)
    if next(path.rglob('*.xml'), None):
        return read_voc(path)
    if next(path.rglob('labels'), None):
        return read_yolo(path)
    raise ValueError(
        f'{path}: no labels found. Looked for a *.yaml with names (YOLO), '
        '*.json with images, annotations and categories (COCO) in it or one '
        'folder below, *.xml (Pascal VOC), and a folder labels (YOLO)')


# ------------------------------------------------------------ COCO
def _coco_files(root: Path) -> Dict[Path, dict]:
    found = {}
    for path in sorted([*root.glob('*.json'), *root.glob('*/*.json')]):
        if path.name.startswith('mmfasternet_'):
            continue  # ours, of an earlier run
        try:
            data = json.loads(path.read_bytes())
        except (ValueError, UnicodeDecodeError) as error:
            raise ValueError(f'{path} is no json: {error}') from None
        if isinstance(data, dict) and {'images', 'annotations', 'categories'
                                       } <= set(data):
            found[path] = data
    return found


def _read_coco(root: Path, jsons: Dict[Path, dict]) -> Source:
    roles: Dict[str, List[Path]] = {}
    for path in jsons:
        roles.setdefault(_split_of(path.relative_to(root)) or '',
                         []).append(path)
    for role, paths in roles.items():
        # beside captions and keypoints of the same images
        instances = [p for p in paths if p.stem.startswith('instances_')]
        roles[role] = instances or paths
    chosen = {role: paths[0] for role, paths in roles.items()}
    many = [paths for paths in roles.values() if len(paths) > 1]
    if many:
        raise ValueError(f'{root}: which of {", ".join(map(str, many[0]))} '
                         'is it? Move the others away')
    if 'train' not in chosen and '' in chosen:
        chosen['train'] = chosen['']
    if 'train' not in chosen:
        raise ValueError(f'{root}: none of {", ".join(map(str, jsons))} is '
                         'the training split, by its name or its folder\'s')
    chosen.setdefault('val', chosen.get('test'))
    # in the order of the file, which decides the labels
    classes = tuple(
        str(c['name']) for c in jsons[chosen['train']]['categories'])
    if chosen['val'] is not None:
        files = {
            split: (chosen[split],
                    _image_folder(root, chosen[split], jsons[chosen[split]]))
            for split in ('train', 'val')
        }
        return Source('COCO', root, classes, {}, files)
    path = chosen['train']
    folder = _image_folder(root, path, jsons[path])
    names = {c['id']: str(c['name']) for c in jsons[path]['categories']}
    images = [
        dict(
            file_name=os.path.relpath(folder / image['file_name'], root),
            width=image['width'],
            height=image['height']) for image in jsons[path]['images']
    ]
    index = {image['id']: i for i, image in enumerate(jsons[path]['images'])}
    boxes = [(index[a['image_id']], names[a['category_id']], a['bbox'],
              a.get('iscrowd', 0)) for a in jsons[path]['annotations']]
    return Source('COCO', root, classes,
                  _split_by_chance(Labels(images, boxes, [])), {})


def _image_folder(root: Path, path: Path, data: dict) -> Path:
    """The folder in which most of the first images are."""
    names = [str(image.get('file_name')) for image in data['images'][:50]]
    split = _split_of(path.relative_to(root)) or 'train'
    candidates = [path.parent, root]
    for word in (*_SPLITS[split], 'images', 'JPEGImages'):
        for base in (root, root / 'images'):
            candidates += sorted(base.glob(f'{word}*'))
    found = {
        folder: sum((folder / name).is_file() for name in names)
        for folder in candidates if folder.is_dir()
    }
    best = max(found, key=found.get)
    if not found[best]:
        raise ValueError(
            f'{path}: none of its first images ({", ".join(names[:3])}) is in '
            f'{", ".join(str(f) for f in found)}')
    return best


def _split_of(relative: Path) -> Optional[str]:
    """The split that a path names; its last part counts most."""
    for part in reversed(relative.with_suffix('').parts):
        words = re.split(r'[^a-z]+', part.lower())
        for split, names in _SPLITS.items():
            if any(name in words for name in names):
                return split
    return None


# ------------------------------------------------------------ Pascal VOC
class _Annotation:
    """One xml file whose errors name the file and the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = {}
        parser = expat.ParserCreate()
        builder = ET.TreeBuilder()

        def start(tag, attributes):
            element = builder.start(tag, attributes)
            self.lines[element] = parser.CurrentLineNumber

        def refuse(*_):
            raise ValueError(f'{path}:{parser.CurrentLineNumber}: entities '
                             'are not allowed')

        parser.StartElementHandler = start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.EntityDeclHandler = refuse  # they can grow without limit
        try:
            parser.Parse(path.read_bytes(), True)
        except FileNotFoundError:
            raise FileNotFoundError(f'{path}: no such annotation') from None
        except expat.ExpatError as error:
            raise ValueError(f'{path}:{error.lineno}: broken xml: '
                             f'{expat.ErrorString(error.code)}') from error
        self.root = builder.close()

    def error(self, element: ET.Element, text: str) -> ValueError:
        return ValueError(f'{self.path}:{self.lines[element]}: {text}')

    def text(self, parent: ET.Element, name: str) -> str:
        element = parent.find(name)
        if element is None or not (element.text or '').strip():
            raise self.error(parent, f'<{parent.tag}> has no <{name}>')
        return element.text.strip()

    def number(self, parent: ET.Element, name: str) -> float:
        text = self.text(parent, name)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(
                parent.find(name), f'<{name}> must be a number, got {text!r}')
        return value


def read_voc(root: Path,
             splits: Optional[Sequence[str]] = None,
             classes: Optional[Sequence[str]] = None) -> Source:
    """Read a Pascal VOC data set.

    Args:
        root (Path): The folder. Images stand in ``JPEGImages`` or beside
            their xml.
        splits (Sequence[str], optional): Names of ``ImageSets/Main/*.txt``.
            Defaults to None: train and val if they are there, else the
            folders' names, else a fixed random choice.
        classes (Sequence[str], optional): The class names; any other is an
            error. Defaults to None, all that occur, sorted.

    Raises:
        FileNotFoundError: If an annotation, image or split is missing.
        ValueError: If an xml is broken, naming file and line.
    """
    lists = root / 'ImageSets' / 'Main'
    if splits is None and all((lists / f'{s}.txt').is_file()
                              for s in ('train', 'val')):
        splits = ('train', 'val')
    if splits is not None:
        found = {}
        for split in splits:
            file = lists / f'{split}.txt'
            if not file.is_file():
                raise FileNotFoundError(f'{file}: no such split')
            stems = [
                line.split()[0] for line in file.read_text().split('\n')
                if line.strip()
            ]
            found[split] = _voc_labels(root, [
                root / 'Annotations' / f'{stem}.xml' for stem in stems
            ], classes)
    else:
        found = _grouped(
            sorted(root.rglob('*.xml')), root,
            lambda paths: _voc_labels(root, paths, classes))
    names = classes or sorted(
        {box[1] for labels in found.values() for box in labels.boxes})
    return Source('Pascal VOC', root, tuple(names), found, {})


def _voc_labels(root: Path, paths: Sequence[Path],
                classes: Optional[Sequence[str]]) -> Labels:
    labels = Labels([], [], [])
    for path in paths:
        source = _Annotation(path)
        image = _voc_image(source)
        size = source.root.find('size')
        if size is None:
            raise source.error(source.root, 'there is no <size>')
        width, height = (source.number(size, 'width'),
                         source.number(size, 'height'))
        labels.images.append(
            dict(
                file_name=os.path.relpath(image, root),
                width=int(width),
                height=int(height)))
        for element in source.root.iter('object'):
            name = source.text(element, 'name')
            box = element.find('bndbox')
            if box is None:
                raise source.error(element, '<object> has no <bndbox>')
            # VOC counts pixels from 1
            x1, y1, x2, y2 = (
                min(max(source.number(box, key) - 1, 0), limit)
                for key, limit in (('xmin', width), ('ymin', height),
                                   ('xmax', width), ('ymax', height)))
            if x2 <= x1 or y2 <= y1:
                labels.dropped.append(
                    f'{source.path}:{source.lines[box]}: box of {name} has '
                    f'no area inside the {width:g}x{height:g} image')
                continue
            if classes and name not in classes:
                raise source.error(
                    element.find('name'), f'unknown class {name!r}; '
                    f'--classes are {", ".join(classes)}')
            difficult = element.findtext('difficult', '0').strip() == '1'
            labels.boxes.append((len(labels.images) - 1, name,
                                 [x1, y1, x2 - x1, y2 - y1], int(difficult)))
    return labels


def _voc_image(annotation: _Annotation) -> Path:
    path = annotation.path
    folders = [path.parent.parent / 'JPEGImages', path.parent,
               path.parent.parent / 'images']
    named = annotation.root.findtext('filename', '').strip()
    for folder in folders:
        if named and Path(named).stem == path.stem and \
                (folder / Path(named).name).is_file():
            return folder / Path(named).name
        images = [
            p for p in sorted(folder.glob(f'{_escape(path.stem)}.*'))
            if p.suffix.lower() in IMAGE_SUFFIXES
        ]
        if images:
            return images[0]
    raise FileNotFoundError(
        f'{path}: no image {path.stem}.* in {folders[0]} or beside it')


def _escape(name: str) -> str:
    return re.sub(r'([*?\[])', r'[\1]', name)


# ------------------------------------------------------------ YOLO
def read_yolo(root: Path, config: Optional[Path] = None) -> Source:
    """Read a YOLO data set: a text file per image, one object per line.

    Args:
        root (Path): The folder.
        config (Path, optional): Its ``data.yaml`` as Ultralytics has it.
            Defaults to None: images and labels stand in folders of these
            names, and the class names in ``classes.txt`` or ``obj.names``.

    Raises:
        ValueError: If the yaml or a label is broken, naming file and line.
    """
    if config is not None:
        names, folders = _yolo_config(config)
    else:
        names, folders = _yolo_names(root), {}
    if folders:
        images = {
            split: sorted({p
                           for entry in entries for p in _images_in(entry)})
            for split, entries in folders.items()
        }
        found = {
            split: _yolo_labels(root, paths, names)
            for split, paths in images.items()
        }
        if 'val' not in found:
            found = _split_by_chance(found['train'])
    else:
        found = _grouped(
            list(_images_in(root)), root,
            lambda paths: _yolo_labels(root, paths, names))
    empty = [split for split, labels in found.items() if not labels.images]
    if empty:
        raise ValueError(f'{config or root}: there is no image in the '
                         f'{empty[0]} split')
    return Source('YOLO', root, names, found, {})


def _yolo_config(path: Path) -> Tuple[Tuple[str, ...], Dict[str, List[Path]]]:
    try:
        spec = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no YAML: {error}') from None
    names = spec.get('names') if isinstance(spec, dict) else None
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(f'{path}: names must be numbered 0, 1, 2, ..., '
                             f'got {sorted(names)}')
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f'{path}: names must be a list or numbered, got '
                         f'{names!r}')
    if spec.get('nc', len(names)) != len(names):
        raise ValueError(f'{path}: nc is {spec["nc"]}, but there are '
                         f'{len(names)} names')
    base = path.parent / str(spec.get('path') or '')
    folders = {}
    for split in ('train', 'val'):
        entries = spec.get(split) or (split == 'val' and spec.get('test'))
        if entries:
            folders[split] = [
                _existing(path, base, entry) for entry in (
                    entries if isinstance(entries, list) else [entries])
            ]
    if 'train' not in folders:
        raise ValueError(f'{path}: there is no train')
    return tuple(map(str, names)), folders


def _existing(config: Path, base: Path, entry: str) -> Path:
    """An entry of data.yaml, relative to its path or to the file itself.

    Exports of Roboflow say ``../train/images`` where ``train/images`` is
    meant.
    """
    tried = [base / entry, config.parent / entry,
             config.parent / re.sub(r'^(\.\./)+', '', str(entry))]
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise ValueError(f'{config}: {entry!r} is neither '
                     f'{" nor ".join(map(str, dict.fromkeys(tried)))}')


def _yolo_names(root: Path) -> Tuple[str, ...]:
    for name in ('classes.txt', 'obj.names', 'labels/classes.txt'):
        if (root / name).is_file():
            lines = (root / name).read_text(encoding='utf-8').splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    raise ValueError(f'{root}: YOLO labels have numbers only; write the class '
                     'names, one per line, into classes.txt there, or give '
                     'the data.yaml')


def _images_in(entry: Path) -> Iterator[Path]:
    if entry.is_file():  # a list of paths
        for line in entry.read_text(encoding='utf-8').splitlines():
            if line.strip():
                yield entry.parent / line.strip()
        return
    for folder, folders, files in os.walk(entry):  # follows no links
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(folder) / name


def _yolo_labels(root: Path, paths: Sequence[Path],
                 names: Sequence[str]) -> Labels:
    labels = Labels([], [], [])
    for path in paths:
        try:
            width, height = image_size(path)
        except OSError as error:
            labels.dropped.append(f'{path}: the image cannot be read: {error}')
            continue
        labels.images.append(
            dict(
                file_name=os.path.relpath(path, root),
                width=width,
                height=height))
        # the last folder `images` of the path is `labels` for the text
        text = Path(
            re.sub(r'(.*/|^)images/', r'\1labels/',
                   path.with_suffix('.txt').as_posix()))
        if not text.is_file():
            continue  # nothing to see in that image
        for number, line in enumerate(
                text.read_text(encoding='utf-8').splitlines(), 1):
            if line.strip():
                _yolo_line(labels, f'{text}:{number}', line, names, width,
                           height)
    return labels


def _yolo_line(labels: Labels, place: str, line: str, names: Sequence[str],
               width: int, height: int) -> None:
    try:
        label, *values = map(float, line.split())
    except ValueError:
        raise ValueError(f'{place}: expected numbers, got {line!r}') from None
    if label not in range(len(names)):
        raise ValueError(f'{place}: class {label:g}, but there are '
                         f'{len(names)} names, 0 to {len(names) - 1}')
    if len(values) == 4:
        cx, cy, w, h = values
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    elif len(values) >= 6 and len(values) % 2 == 0:  # an outline
        x1, y1 = min(values[::2]), min(values[1::2])
        x2, y2 = max(values[::2]), max(values[1::2])
    else:
        raise ValueError(
            f'{place}: expected a class and x, y, width, height or an outline '
            f'of three or more points, got {len(values) + 1} numbers')
    # a rounding error beyond the edge is common, pixels instead are not
    if not all(-0.5 < v < 1.5 for v in (x1, y1, x2, y2)):
        raise ValueError(f'{place}: coordinates are shares of the image size, '
                         f'0 to 1, got {line.strip()!r}')
    x1, x2 = (min(max(v, 0), 1) * width for v in (x1, x2))
    y1, y2 = (min(max(v, 0), 1) * height for v in (y1, y2))
    if x2 <= x1 or y2 <= y1:
        labels.dropped.append(f'{place}: box of {names[int(label)]} has no '
                              'area inside the image')
        return
    labels.boxes.append((len(labels.images) - 1, names[int(label)],
                         [x1, y1, x2 - x1, y2 - y1], 0))



def image_size(path: Path) -> Tuple[int, int]:
    """Width and height as training reads it, turned by EXIF or not.

    Args:
        path (Path): The image.

    Raises:
        OSError: If it is missing or no image.
    """
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    if turned:  # in which formats that counts depends on OpenCV's version
        loaded = mmcv.imread(path)
        if loaded is None:
            raise OSError('it cannot be decoded')
        height, width = loaded.shape[:2]
    return width, height


# ------------------------------------------------------------ splits
def _grouped(paths: Sequence[Path], root: Path, read) -> Dict[str, Labels]:
    """Read by the splits that folders name, or split by chance."""
    groups: Dict[str, List[Path]] = {}
    for path in paths:
        split = _split_of(path.parent.relative_to(root))
        groups.setdefault(split or '', []).append(path)
    if 'train' not in groups:
        return _split_by_chance(read(paths))
    if 'val' not in groups and 'test' not in groups:
        return _split_by_chance(read(groups['train']))
    return dict(
        train=read(groups['train']),
        val=read(groups.get('val') or groups['test']))


def _split_by_chance(labels: Labels) -> Dict[str, Labels]:
    order = list(range(len(labels.images)))
    if len(order) < 2:
        raise ValueError('one image cannot be split into train and val')
    random.Random(0).shuffle(order)
    count = max(1, round(len(order) * _VAL_SHARE))
    chosen = dict(val=sorted(order[:count]), train=sorted(order[count:]))
    split = {}
    for name in ('train', 'val'):
        place = {old: new for new, old in enumerate(chosen[name])}
        split[name] = Labels(
            [labels.images[i] for i in chosen[name]],
            [(place[i], *rest) for i, *rest in labels.boxes if i in place],
            labels.dropped if name == 'train' else [])
    return split


# ------------------------------------------------------------ writing
def clean_coco(source: Path, path: Path) -> List[str]:
    """Write a copy of a COCO json without what spoils its evaluation.

    A box without an area is left out of training, but the evaluation counts
    it as an object that is never found, and takes an annotation whose id is 0
    for no annotation.

    Args:
        source (Path): The json.
        path (Path): Where to, if there is anything to clean.

    Returns:
        list[str]: What was done; empty if nothing was, and written.
    """
    data = json.loads(source.read_bytes())
    done = []
    kept = [a for a in data['annotations'] if not _is_empty(a.get('bbox'))]
    if len(kept) < len(data['annotations']):
        done.append(f'{len(data["annotations"]) - len(kept)} boxes without '
                    'an area left out')
    if any(a.get('id') == 0 for a in kept):
        kept = [dict(a, id=i) for i, a in enumerate(kept, 1)]
        done.append('annotations numbered from 1')
    if done:
        _write_json(dict(data, annotations=kept), path)
    return done


def _is_empty(box: object) -> bool:
    """Whether it is a box, but one without width or height."""
    return isinstance(box, list) and len(box) == 4 and all(
        isinstance(v, (int, float)) for v in box) and min(box[2:]) <= 0


def write_coco(labels: Labels, classes: Sequence[str], path: Path) -> None:
    """Write a split as COCO json, complete or not at all.

    Args:
        labels (Labels): The split.
        classes (Sequence[str]): Category names; ids count from 1.
        path (Path): Where to; its folder is made.
    """
    ids = {name: i for i, name in enumerate(classes, 1)}
    annotations = []
    for i, (image, name, box, crowd) in enumerate(labels.boxes, 1):
        box = [round(v, 2) for v in box]
        annotations.append(
            dict(
                id=i,
                image_id=image + 1,
                category_id=ids[name],
                bbox=box,
                area=round(box[2] * box[3], 2),
                iscrowd=crowd))
    data = dict(
        images=[dict(id=i, **im) for i, im in enumerate(labels.images, 1)],
        annotations=annotations,
        categories=[dict(id=i, name=n) for n, i in ids.items()])
    _write_json(data, path)


def _write_json(data: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')  # renamed only when complete
    partial.write_text(json.dumps(data, ensure_ascii=False), encoding='utf-8')
    partial.replace(path)
