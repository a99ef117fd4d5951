# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: an xml file for each image."""
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import List, Optional, Sequence
from xml.parsers import expat

from mmfasternet.datasets.files import decode
from mmfasternet.datasets.images import IMAGE_SUFFIXES
from mmfasternet.datasets.readers.source import Item, Pair, Source, Tree
from mmfasternet.datasets.readers.splits import (
    find_listed,
    group,
    lines_of,
)


class Xml:
    """An xml file whose errors name the file and the line."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, {}
        # with the encoding known, what the file says of it is not asked
        parser = expat.ParserCreate('utf-8')
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
            parser.Parse(self._text().encode(), True)
        except FileNotFoundError:
            raise FileNotFoundError(f'{path}: no such annotation') from None
        except expat.ExpatError as error:
            raise ValueError(f'{path}:{error.lineno}: broken xml: '
                             f'{expat.ErrorString(error.code)}') from error
        self.root = builder.close()

    def _text(self) -> str:
        data = self.path.read_bytes()
        named = re.match(rb'<\?xml[^>]*encoding=["\']([\w.-]+)', data)
        if named:
            try:
                text = data.decode(named[1].decode())
                if text.startswith('<?xml'):
                    return text
            except (LookupError, UnicodeDecodeError):
                pass  # it says something else than it is
        return decode(data, self.path)

    def error(self, element: ET.Element, text: str) -> ValueError:
        """An error at an element."""
        return ValueError(f'{self.path}:{self.lines[element]}: {text}')

    def text(self, parent: ET.Element, name: str) -> str:
        """The text of a child that must be there."""
        element = parent.find(name)
        if element is None or not (element.text or '').strip():
            raise self.error(parent, f'<{parent.tag}> has no <{name}>')
        return element.text.strip()

    def number(self, parent: ET.Element, name: str) -> float:
        """The number in a child that must be there."""
        return self.to_number(parent.find(name), f'<{name}>',
                              self.text(parent, name))

    def to_number(self, element: ET.Element, name: str, text: str) -> float:
        """A finite number, or the error of an element."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(element,
                             f'{name} must be a number, got {text!r}')
        return value


def read_voc(tree: Tree) -> Source:
    """Read the xml files of a folder.

    Images stand in ``JPEGImages`` or ``images`` or beside their xml; splits
    are named by ``ImageSets/Main/*.txt`` or by folders.

    Raises:
        ValueError: If an xml is broken, naming file and line.
    """
    source, pairs = Source('Pascal VOC', tree), []
    for path in tree.having(('.xml', )):
        image = _image_of(tree, path)
        # others are of another program
        if image or Xml(path).root.tag == 'annotation':
            pairs += source.pair(path, image)
    if not pairs:
        raise ValueError(f'{tree.root}: no xml file has an image of its name '
                         'in JPEGImages or images or beside it')
    return source.fill(group(source, pairs),
                       lambda pair: _read(pair, None, source))


def read_voc_lists(root: Path, splits: Sequence[str],
                   classes: Optional[Sequence[str]]) -> Source:
    """Read the splits of a Pascal VOC folder that are asked for.

    Args:
        root (Path): The folder.
        splits (Sequence[str]): Names of ``ImageSets/Main/*.txt``.
        classes (Sequence[str], optional): The class names; any other is an
            error. Defaults to None, all that occur, sorted.

    Raises:
        FileNotFoundError: If an annotation, image or split is missing.
        ValueError: If an xml is broken, naming file and line, or a split is
            empty.
    """
    source, items = Source('Pascal VOC', Tree(root)), {}
    for split in splits:
        file = root / 'ImageSets' / 'Main' / f'{split}.txt'
        if not file.is_file():
            raise FileNotFoundError(f'{file}: no such split')
        paths = dict.fromkeys(
            _annotation(line, file, source.tree) for line in lines_of(file))
        if not paths:
            raise ValueError(f'{file} lists no image')
        items[split] = []
        for path in paths:
            image = _image_of(source.tree, path)
            if image is None:
                raise FileNotFoundError(
                    f'{path}: no image {path.stem}.* in {root / "JPEGImages"} '
                    'or beside it')
            item = _read(Pair(image, path), classes, source)
            items[split] += [item] if item else []
    return source.take(items, classes or ())


def _annotation(line: str, file: Path, tree: Tree) -> Path:
    """The xml that a line of a list means."""
    # a mark may stand behind the name, which may have spaces
    found = find_listed(line, file, tree) or Path(
        re.sub(r'\s+-?[01]$', '', line))
    if found.suffix.lower() == '.xml':
        return found
    return tree.nearest(found.stem, ('.xml', ), found) or \
        tree.root / 'Annotations' / f'{found.stem}.xml'


def _image_of(tree: Tree, path: Path) -> Optional[Path]:
    """The image of the xml's name, or else of the name in it."""
    return tree.nearest(path.stem, IMAGE_SUFFIXES, path) or tree.named(
        Xml(path).root.findtext('filename', '').strip(), path)


def _read(pair: Pair, classes: Optional[Sequence[str]],
          source: Source) -> Optional[Item]:
    xml = Xml(pair.label)
    # without it mmdet reads the image, too
    size = source.size_of(pair.image, xml.root.findtext('size/width'),
                          xml.root.findtext('size/height'))
    if size is None:
        return None
    boxes: List[tuple] = []
    for element in xml.root.iter('object'):
        name = xml.text(element, 'name')
        box = element.find('bndbox')
        if box is None:
            raise xml.error(element, '<object> has no <bndbox>')
        # VOC counts pixels from 1; any two corners name a box
        xs, ys = ([xml.number(box, f'{axis}{end}') - 1
                   for end in ('min', 'max')] for axis in 'xy')
        corners = min(xs), min(ys), max(xs), max(ys)
        difficult = element.findtext('difficult', '0').strip() == '1'
        found = source.boxes([(f'{xml.path}:{xml.lines[box]}', name, corners,
                               int(difficult))], size)
        if found and classes and name not in classes:
            raise xml.error(
                element.find('name'), f'unknown class {name!r}; --classes are '
                f'{", ".join(classes)}')
        boxes += found
    return Item(pair.image, *size, boxes)
