# SPDX-License-Identifier: Apache-2.0
"""Labels as COCO, Pascal VOC and YOLO write them.

Boxes are (class, x, y, width, height) in pixels, with x and y from 0.
"""
import cv2
import numpy as np


def write_image(path, width, height, pixels=None):
    """Of black pixels unless others are given; any name will do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.zeros((height, width, 3), np.uint8)
    # cv2.imwrite does not take every name on every system
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1])
    return path


def coco_json(images, categories, first_id=1):
    """What a COCO json holds, of {file name: (width, height, boxes)} and
    {class: id}."""
    entries, annotations = [], []
    for image_id, (name, (width, height, boxes)) in enumerate(
            images.items(), first_id):
        entries.append(
            dict(id=image_id, file_name=name, width=width, height=height))
        annotations += [
            dict(
                id=len(annotations) + i,
                image_id=image_id,
                category_id=categories[kind],
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=0) for i, (kind, x, y, w, h) in enumerate(boxes, 1)
        ]
    return dict(
        images=entries,
        annotations=annotations,
        categories=[dict(id=i, name=name) for name, i in categories.items()])


def voc_xml(name, width, height, boxes):
    """An annotation of VOC, whose pixels count from 1."""
    return voc_xml_of_corners(
        name, width, height,
        [(kind, x + 1, y + 1, x + w + 1, y + h + 1, 0)
         for kind, x, y, w, h in boxes])


def voc_xml_of_corners(name, width, height, objects):
    """The same of (class, xmin, ymin, xmax, ymax, difficult) as they are."""
    objects = ''.join(
        f'<object><name>{kind}</name><difficult>{difficult}</difficult>\n'
        f'<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>'
        f'<ymax>{y2}</ymax></bndbox>\n</object>\n'
        for kind, x1, y1, x2, y2, difficult in objects)
    return (f'<annotation>\n<filename>{name}</filename>\n<size><width>{width}'
            f'</width><height>{height}</height></size>\n{objects}'
            '</annotation>')


def yolo_txt(width, height, boxes, classes):
    """Lines of class and box as shares of the image."""
    return '\n'.join(
        f'{list(classes).index(kind)} {(x + w / 2) / width:.6f} '
        f'{(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}'
        for kind, x, y, w, h in boxes)
