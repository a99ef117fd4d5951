# SPDX-License-Identifier: Apache-2.0
"""LabelMe: a json file for each image."""
import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from mmfasternet.datasets.images import IMAGE_SUFFIXES
from mmfasternet.datasets.readers.source import Item, Pair, Source, Tree
from mmfasternet.datasets.readers.splits import group

IGNORE = '__ignore__'  # what LabelMe's own converters leave out


def is_labelme(data: Any) -> bool:
    """Whether a json is one of LabelMe."""
    return isinstance(data, dict) and isinstance(data.get('shapes'), list)


def read_labelme(tree: Tree, jsons: Dict[Path, dict]) -> Source:
    """Read shapes as their boxes; those of one group are one object.

    Raises:
        ValueError: If a shape is broken, naming the file and the shape.
    """
    source, pairs = Source('LabelMe', tree), []
    for path, data in jsons.items():
        image = tree.named(str(data.get('imagePath')), path)
        if image is None or image.stem != path.stem:  # renamed since then
            image = tree.nearest(path.stem, IMAGE_SUFFIXES, path) or image
        pairs += source.pair(path, image)
    if not pairs:
        inside = any(data.get('imageData') for data in jsons.values())
        raise ValueError(
            f'{tree.root}: no json of LabelMe has its image, under imagePath '
            'or its own name' + inside * ': as imageData is not read, write '
            'the images beside them with labelme_export_json')
    return source.fill(group(source, pairs),
                       lambda pair: _read(pair, jsons[pair.label], source))


def _read(pair: Pair, data: dict, source: Source) -> Optional[Item]:
    shapes: List[dict] = data['shapes']
    size = source.size_of(
        pair.image, data.get('imageWidth'), data.get('imageHeight'))
    if size is None:
        return None
    objects: Dict[tuple, Tuple[float, ...]] = {}
    for number, shape in enumerate(shapes):
        place = f'{pair.label}: shape {number}'
        name, box = _corners(place, shape)
        if name == IGNORE:
            source.messages.append(f'{place}: {IGNORE} is no class')
            continue
        group_id = shape.get('group_id')
        key = (name, number, 'alone') if group_id is None else (
            name, group_id, 'group')
        other = objects.get(key, box)
        objects[key] = (*map(min, box[:2], other[:2]),
                        *map(max, box[2:], other[2:]))
    boxes = source.boxes(((pair.label, name, corners, 0)
                          for (name, *_), corners in objects.items()), size)
    return Item(pair.image, *size, boxes)


def _corners(place: str, shape: dict) -> Tuple[str, Tuple[float, ...]]:
    """Label and box of a shape, as x1, y1, x2, y2."""
    try:
        name, points = shape['label'], shape['points']
        name = '' if name is None else str(name).strip()
        xs, ys = zip(*((float(x), float(y)) for x, y in points))
    except (KeyError, OverflowError, TypeError, ValueError):
        name = ''
    if not name:
        raise ValueError(f'{place}: expected label and points, got '
                         f'{str(shape)[:80]}') from None
    if not all(map(math.isfinite, xs + ys)):
        raise ValueError(f'{place}: points must be numbers, got {points}')
    if shape.get('shape_type') == 'circle' and len(points) == 2:
        # its centre, and a point on it
        radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
        return name, (xs[0] - radius, ys[0] - radius, xs[0] + radius,
                      ys[0] + radius)
    return name, (min(xs), min(ys), max(xs), max(ys))
