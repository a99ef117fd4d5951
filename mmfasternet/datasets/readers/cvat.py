# SPDX-License-Identifier: Apache-2.0
"""CVAT's own xml, "CVAT for images": one file for many images."""
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from mmfasternet.datasets.readers.source import Item, Pair, Source, Tree
from mmfasternet.datasets.readers.splits import group
from mmfasternet.datasets.readers.voc import Xml


def cvat_files(tree: Tree) -> List[Path]:
    """The xml files whose root is ``annotations``."""
    found = []
    for path in tree.having(('.xml', )):
        with path.open('rb') as file:
            start = file.read(2000).replace(b'\0', b'')  # of UTF-16
        if re.search(rb'<annotations\s*>', start):
            found.append(path)
    return found


def read_cvat(tree: Tree, paths: List[Path]) -> Source:
    """Read boxes and, as their boxes, outlines, ellipses and masks.

    Args:
        tree (Tree): The folder; images stand in ``images`` or at its top.
        paths (list[Path]): Of :func:`cvat_files`.

    Raises:
        ValueError: If an xml is broken, naming file and line.
    """
    source, pairs = Source('CVAT', tree), []
    elements: Dict[Path, Tuple[Xml, ET.Element]] = {}
    subsets, names = {}, []
    for path in paths:
        xml = Xml(path)
        if xml.root.find('track') is not None:
            raise ValueError(f'{path} has tracks of a video: export it from '
                             'CVAT as "CVAT for images"')
        names += [label.findtext('name', '').strip()
                  for label in xml.root.iter('label')]
        source.labels[path], missing = [], []
        for element in xml.root.findall('image'):
            image = tree.named(element.get('name', ''), path)
            if image is None:
                missing.append(element.get('name', ''))
                continue
            elements[image] = xml, element
            subsets[image] = element.get('subset', '')
            source.labels[path].append(image)
            pairs.append(Pair(image, path))
        source.missing(path, missing, len(missing) + len(source.labels[path]))
    return source.fill(
        group(source, pairs, subsets),
        lambda pair: _read(pair.image, *elements[pair.image], source),
        tuple(dict.fromkeys(filter(None, names))) or None)


def _read(image: Path, xml: Xml, element: ET.Element,
          source: Source) -> Item:
    width, height = (_number(xml, element, k) for k in ('width', 'height'))
    shapes = []
    for shape in element.iterfind('*[@label]'):
        corners = _corners(xml, shape)
        place = f'{xml.path}:{xml.lines[shape]}'
        if corners is not None:
            shapes.append((place, shape.get('label'), corners, 0))
        elif shape.tag != 'tag':
            source.messages.append(
                f'{place}: {shape.tag} of {shape.get("label")} is not a box')
    return Item(image, int(width), int(height),
                source.boxes(shapes, (width, height)))


def _number(xml: Xml, element: ET.Element, key: str) -> float:
    return xml.to_number(element, key, element.get(key, ''))


def _corners(xml: Xml, shape: ET.Element) -> Optional[Tuple[float, ...]]:
    """x1, y1, x2, y2 of a shape, turned as it is; None for lines, points."""
    if shape.tag == 'box':
        x1, y1, x2, y2 = (
            _number(xml, shape, k) for k in ('xtl', 'ytl', 'xbr', 'ybr'))
    elif shape.tag == 'mask':
        x1, y1, w, h = (_number(xml, shape, k)
                        for k in ('left', 'top', 'width', 'height'))
        x2, y2 = x1 + w, y1 + h
    elif shape.tag == 'ellipse':
        x, y, rx, ry = (
            _number(xml, shape, k) for k in ('cx', 'cy', 'rx', 'ry'))
        x1, y1, x2, y2 = x - rx, y - ry, x + rx, y + ry
    elif shape.tag == 'polygon':
        points = [xml.to_number(shape, 'points', v)
                  for v in re.split('[,;]', shape.get('points', ''))]
        return (min(points[::2]), min(points[1::2]),
                max(points[::2]), max(points[1::2]))
    else:
        return None
    angle = math.radians(float(shape.get('rotation') or 0))
    c, s = abs(math.cos(angle)), abs(math.sin(angle))
    w, h = (x2 - x1) / 2, (y2 - y1) / 2
    # an ellipse reaches less far than its box
    dx, dy = (math.hypot(w * c, h * s), math.hypot(w * s, h * c)) if \
        shape.tag == 'ellipse' else (w * c + h * s, w * s + h * c)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - dx, y - dy, x + dx, y + dy
