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

    Images stand in ``images`` or at the top of the folder.

    Raises:
        ValueError: If an xml is broken, naming file and line.
    """
    source, pairs, subsets, names = Source('CVAT', tree), [], {}, []
    elements: Dict[Pair, Tuple[Xml, List[ET.Element]]] = {}
    for path in paths:
        xml, missing = Xml(path), []
        if xml.root.find('track') is not None:
            raise ValueError(f'{path} has tracks of a video: export it from '
                             'CVAT as "CVAT for images"')
        names += [label.findtext('name', '').strip()
                  for label in xml.root.iter('label')]
        source.pair(path, None)  # counts though none of its images is there
        listed = xml.root.findall('image')
        for element in listed:
            name, subset = element.get('name', ''), element.get('subset', '')
            image = tree.named(f'{subset}/{name}', path) or tree.named(
                name, path)
            if image is None:
                missing.append(name)
                continue
            # of several jobs each may have some of its boxes
            elements.setdefault(Pair(image, path), (xml, []))[1].append(
                element)
            subsets[image] = subset
            pairs += source.pair(path, image)
        source.missing(path, missing, len(listed))
    return source.fill(
        group(source, pairs, subsets),
        lambda pair: _read(pair, *elements[pair], source),
        [name for name in names if name])


def _read(pair: Pair, xml: Xml, elements: List[ET.Element],
          source: Source) -> Optional[Item]:
    size = source.size_of(
        pair.image, elements[0].get('width'), elements[0].get('height'))
    if size is None:
        return None
    shapes = []
    for shape in (s for element in elements for s in element):
        name = shape.get('label', '').strip()
        if not name:
            raise xml.error(shape, f'{shape.tag} has no label')
        corners = _corners(xml, shape)
        place = f'{xml.path}:{xml.lines[shape]}'
        if corners is not None:
            shapes.append((place, name, corners, 0))
        elif shape.tag != 'tag':
            source.messages.append(f'{place}: {shape.tag} of {name} is not a '
                                   'box')
    return Item(pair.image, *size, source.boxes(shapes, size))


def _numbers(xml: Xml, element: ET.Element, *keys: str) -> List[float]:
    """Attributes that must be numbers."""
    return [xml.to_number(element, k, element.get(k, '')) for k in keys]


def _corners(xml: Xml, shape: ET.Element) -> Optional[Tuple[float, ...]]:
    """x1, y1, x2, y2 of a shape, turned as it is; None for lines, points."""
    if shape.tag == 'polygon':
        points = [xml.to_number(shape, 'points', v)
                  for v in re.split('[,;]', shape.get('points', ''))]
        if len(points) % 2:
            raise xml.error(shape, 'points must be pairs of x and y')
        return (min(points[::2]), min(points[1::2]),
                max(points[::2]), max(points[1::2]))
    # the middle, and half of the width and the height
    if shape.tag == 'box':
        x1, y1, x2, y2 = _numbers(xml, shape, 'xtl', 'ytl', 'xbr', 'ybr')
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        w, h = abs(x2 - x1) / 2, abs(y2 - y1) / 2
    elif shape.tag == 'mask':
        x, y, w, h = _numbers(xml, shape, 'left', 'top', 'width', 'height')
        x, y, w, h = x + w / 2, y + h / 2, w / 2, h / 2
    elif shape.tag == 'ellipse':
        x, y, w, h = _numbers(xml, shape, 'cx', 'cy', 'rx', 'ry')
    else:
        return None
    angle = math.radians(
        xml.to_number(shape, 'rotation', shape.get('rotation') or '0'))
    c, s = abs(math.cos(angle)), abs(math.sin(angle))
    dx, dy = w * c + h * s, w * s + h * c
    if shape.tag == 'ellipse':  # reaches less far than its box
        dx, dy = math.hypot(w * c, h * s), math.hypot(w * s, h * c)
    return x - dx, y - dy, x + dx, y + dy
