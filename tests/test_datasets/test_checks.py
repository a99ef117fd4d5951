# SPDX-License-Identifier: GPL-3.0-only
# GPL because it holds the checks against mmyolo's data set class.
"""Every bad input of the table, alone, and what reading it really does."""
import contextlib
import copy
import gc
import io
import json
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Callable, NamedTuple, Tuple

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.registry import DefaultScope, init_default_scope
from PIL import Image
from trees import coco_json, write_image

from mmfasternet.config import image_pipeline, load_config
from mmfasternet.datasets import digits, images
from mmfasternet.datasets.checks import SplitConfig, check_dataset
from mmfasternet.datasets.checks.config import check_config
from mmfasternet.registry import DATASETS

WIDTH, HEIGHT = 80, 60
COLOURS = dict(blue=(255, 0, 0), red=(0, 0, 255))  # BGR
SIZES = dict(train=4, val=3)


# ------------------------------------------------------- a good COCO folder
class Folder:
    """Two splits of noise with a blue and a red box, to be damaged."""

    def __init__(self, root):
        self.root, self.raw = root, {}
        self.classes, self.val_classes = ('blue', 'red'), None
        self.filter_cfg = dict(filter_empty_gt=False, min_size=32)
        self.img_scale = None
        rng = np.random.default_rng(0)
        self.train, self.val = (self.make(s, rng) for s in SIZES)
        self.truth = {s: truth(getattr(self, s)) for s in SIZES}

    def make(self, split, rng):
        (self.root / split).mkdir(parents=True)
        images = {}
        for i in range(1, SIZES[split] + 1):
            pixels = rng.integers(0, 120, (HEIGHT, WIDTH, 3), np.uint8)
            boxes = []
            for c, name in enumerate(COLOURS):
                # the blue one left, the red one right
                x, y = (rng.integers(2, 18, 2) + (38 * c, 20)).tolist()
                pixels[y:y + 16, x:x + 20] = COLOURS[name]
                boxes.append((name, x, y, 20, 16))
            images[f'{i}.png'] = WIDTH, HEIGHT, boxes
            self.write_image(split, f'{i}.png', pixels)
        return coco_json(images, dict(blue=10, red=20))

    def write_image(self, split, name, pixels):
        return write_image(self.root / split / name, WIDTH, HEIGHT, pixels)

    def path(self, index=0, split='train'):
        """The file of an image."""
        data = getattr(self, split)
        return self.root / split / data['images'][index]['file_name']

    def pixels(self, index=0, split='train'):
        return cv2.imread(str(self.path(index, split)))

    def rename(self, name, index=0, split='train'):
        """Let an entry name another file; the old one is gone."""
        self.path(index, split).unlink()
        getattr(self, split)['images'][index]['file_name'] = name
        return self.path(index, split)

    def save(self, name, edit=lambda image: image, **options):
        """Write the first image again by Pillow, which has more formats."""
        image = edit(Image.open(self.path()).convert('RGB'))
        image.save(self.rename(name), **options)

    def box(self, *bbox, **others):
        self.train['annotations'][0].update(others)
        if bbox:
            self.train['annotations'][0]['bbox'] = list(bbox)

    def scale_boxes(self, function):
        for a in self.train['annotations']:
            a['bbox'] = function(*a['bbox'])

    def ann_file(self, split):
        path = self.root / f'{split}.json'
        content = self.raw.get(split)
        if content is None:
            content = json.dumps(getattr(self, split))
        if isinstance(content, str):
            content = content.encode()
        if callable(content):
            if not os.path.lexists(path):
                content(path)
        elif not path.exists():
            path.write_bytes(content)
        return path

    def splits(self):
        return dict(
            train=SplitConfig(
                self.ann_file('train'), self.root / 'train', False,
                self.filter_cfg, self.img_scale),
            val=SplitConfig(
                self.ann_file('val'),
                self.root / 'val',
                True,
                dict(filter_empty_gt=True, min_size=999),  # not for a test
                classes=self.val_classes))

    def check(self, **options):
        return check_dataset(self.splits(), self.classes, **options)


def truth(data):
    """``(file, class, box)`` of every annotation."""
    names = {c['id']: c['name'] for c in data['categories']}
    files = {i['id']: i['file_name'] for i in data['images']}
    return sorted((files[a['image_id']], names[a['category_id']],
                   *map(float, a['bbox'])) for a in data['annotations'])


@pytest.fixture(scope='module', autouse=True)
def mmdets_scope():
    """Whatever another test left."""
    init_default_scope('mmdet')


@pytest.fixture(scope='module', autouse=True)
def quick_collections():
    """MMEngine collects garbage in every data set, 0.2 s here."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / 'data')


# ---------------------------------------------------------------- the table
class Bad(NamedTuple):
    make: Callable  # how a good folder becomes bad
    kind: str
    severity: str
    words: str  # of the message or an example
    also: Tuple[str, ...] = ()  # what follows from it


def first(key, **values):
    """Change the first entry of a list of the training split."""
    return lambda f: f.train[key][0].update(values)


def without(key, name, split='train'):
    return lambda f: getattr(f, split)[key][0].pop(name)


def raw(content):
    return lambda f: f.raw.update(train=content)


def raw_json(edit):
    """Another json in place of the training split."""
    return lambda f: f.raw.update(train=json.dumps(edit(f.train)))


def encoded(encoding):

    def make(f):
        f.train['categories'].append(dict(id=30, name='grün'))
        f.raw['train'] = json.dumps(
            f.train, ensure_ascii=False).encode(encoding)

    return make


def only_box(function):
    return lambda f: f.scale_boxes(function)


def append(key, split='train', **values):
    """Append a changed copy of the first entry."""

    def make(f):
        entries = getattr(f, split)[key]
        entries.append({**copy.deepcopy(entries[0]), **values})

    return make


def settings(**values):
    return lambda f: vars(f).update(values)


def content(function, name=None):
    """Replace the bytes of the first training image."""

    def make(f):
        data = f.path().read_bytes()
        path = f.rename(name) if name else f.path()
        path.write_bytes(function(data))

    return make


def in_place(function):
    """Replace the file of the first training image by something else."""

    def make(f):
        path = f.path()
        path.unlink()
        function(path)

    return make


def cut_jpeg(f):
    data = cv2.imencode('.jpg', f.pixels())[1].tobytes()
    f.rename('1.jpg').write_bytes(data[:len(data) // 2])


def move(name):
    """Move the file of the first image; the entry keeps its name."""

    def make(f):
        path = f.root / 'train' / name
        path.parent.mkdir(exist_ok=True)
        f.path().rename(path)

    return make


def entry_name(name):
    return lambda f: f.train['images'][0].update(file_name=name)


def resized(f):
    f.write_image('train', '1.png', cv2.resize(f.pixels(), (160, 120)))


def exif(value, edit=lambda image: image):

    def make(f):
        tags = Image.Exif()
        tags[0x112] = value
        f.save('1.jpg', edit, exif=tags, quality=95)

    return make


def pixels16(f):
    f.write_image('train', '1.png', f.pixels().astype(np.uint16) * 16)


def png_header(width, height):
    """A PNG that states a size and has hardly any pixels."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack(
            '>I', zlib.crc32(kind + data))

    return b'\x89PNG\r\n\x1a\n' + chunk(
        b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    ) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b'')


def huge(f):
    side = 8200
    f.train['images'][0].update(width=side, height=side)
    big = np.zeros((side, side, 3), np.uint8)
    big[:HEIGHT, :WIDTH] = f.pixels()
    f.write_image('train', '1.png', big)


def in_val(name, function=lambda pixels: pixels):
    """Put the first training image into the validation split as well."""

    def make(f):
        append('images', 'val', id=99, file_name=name)(f)
        boxes = f.train['annotations'][:2]
        f.val['annotations'] += [
            {**b, 'id': 90 + i, 'image_id': 99} for i, b in enumerate(boxes)
        ]
        f.write_image('val', name, function(f.pixels()))

    return make


def jpeg(pixels):
    return cv2.imdecode(cv2.imencode('.jpg', pixels, [1, 50])[1], 1)


def yolo_boxes(x, y, w, h):
    return [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT]


def corners(f):
    f.train['annotations'] += [
        {**a, 'id': a['id'] + 8, 'bbox': [1, 2, 3, 4]}
        for a in f.train['annotations'][:4]
    ]
    f.scale_boxes(lambda x, y, w, h: [x, y, x + w, y + h])


def reverse_val_categories(f):
    f.val['categories'].reverse()


def other_val_ids(f):
    for c in f.val['categories']:
        c['id'] += 1
    for a in f.val['annotations']:
        a['category_id'] += 1


VOC = '<annotation><filename>1.jpg</filename></annotation>'
INF, NAN = float('inf'), float('nan')
OUT = 'the boxes are left out'

BAD = {
    # --- the annotation file
    'annotation file missing': Bad(
        raw(lambda path: None),
        'annotation-unreadable', 'refused', 'No such file'),
    'annotation file is a folder': Bad(
        raw(lambda path: path.mkdir()),
        'annotation-unreadable', 'refused', 'Is a directory'),
    'annotation file links to itself': Bad(
        raw(lambda path: path.symlink_to(path)),
        'annotation-unreadable', 'refused', 'Too many levels'),
    'Pascal VOC xml': Bad(
        raw(VOC), 'annotation-not-json', 'refused', 'voc2coco.py'),
    'YOLO labels': Bad(
        raw('0 0.5 0.5 0.1 0.2\n1 0.25 0.5 0.1 0.1\n'),
        'annotation-not-json', 'refused', 'labels of YOLO'),
    'empty annotation file': Bad(
        raw(' \n'), 'annotation-not-json', 'refused', 'empty file'),
    'json cut off': Bad(
        lambda f: f.raw.update(train=json.dumps(f.train)[:-300]),
        'annotation-not-json', 'refused', 'it is cut off'),
    'json with a comment': Bad(
        lambda f: f.raw.update(train='// mine\n' + json.dumps(f.train)),
        'annotation-not-json', 'refused', 'line 1 column 1'),
    'json of brackets': Bad(
        raw('[' * 100000),
        'annotation-not-json', 'refused', 'too deeply nested'),
    'Latin-1': Bad(
        encoded('latin-1'), 'annotation-encoding', 'refused', 'not UTF-8'),
    'UTF-16': Bad(
        encoded('utf-16'), 'annotation-encoding', 'refused', 'not UTF-8'),
    'byte order mark': Bad(
        encoded('utf-8-sig'), 'annotation-encoding', 'refused',
        'without BOM'),
    'a list': Bad(
        raw_json(lambda d: [d]), 'annotation-not-coco', 'refused', "'list'"),
    'detections': Bad(
        raw_json(lambda d: [dict(image_id=1, bbox=[1, 2, 3, 4], score=1)]),
        'annotation-not-coco', 'refused', 'detections, not annotations'),
    'LabelMe': Bad(
        raw_json(lambda d: dict(version='5', shapes=[], imagePath='1.png')),
        'annotation-not-coco', 'refused', 'LabelMe'),
    'no images': Bad(
        lambda f: f.train.pop('images'),
        'annotation-not-coco', 'refused', "no list 'images'"),
    'no annotations': Bad(
        lambda f: f.train.pop('annotations'),
        'annotation-not-coco', 'refused', "no list 'annotations'"),
    'no categories': Bad(
        lambda f: f.train.pop('categories'),
        'annotation-not-coco', 'refused', "no list 'categories'"),
    'annotations by id': Bad(
        lambda f: f.train.update(
            annotations={a['id']: a for a in f.train['annotations']}),
        'annotation-not-coco', 'refused', "no list 'annotations'"),
    # --- its entries
    'image without file_name': Bad(
        without('images', 'file_name'),
        'images-entry', 'refused', "no 'file_name' of type str"),
    'width is text': Bad(
        first('images', width='80'),
        'images-entry', 'refused', "no 'width' of type int or float"),
    'image id is a list': Bad(
        first('images', id=[1]), 'images-entry', 'refused', "no 'id'"),
    'annotation without area': Bad(
        without('annotations', 'area'),
        'annotations-entry', 'refused', 'width * height'),
    'annotation without category_id': Bad(
        without('annotations', 'category_id'),
        'annotations-entry', 'refused', "no 'category_id'"),
    'annotation is text': Bad(
        lambda f: f.train['annotations'].append('cat'),
        'annotations-entry', 'refused', 'not json objects'),
    'category without name': Bad(
        without('categories', 'name'),
        'categories-entry', 'refused', "no 'name'"),
    'val annotation without iscrowd': Bad(
        without('annotations', 'iscrowd', 'val'),
        'annotations-entry', 'refused', 'the evaluation fails with KeyError'),
    # --- ids
    'image id of another file': Bad(
        first('images', id=2), 'image-id-twice', 'refused', 'image 2: 1.png',
        ('image-unknown', )),
    'image listed twice': Bad(
        append('images'), 'image-twice', 'dropped', 'image 1: 1.png'),
    'file under two ids': Bad(
        append('images', id=77), 'file-name-twice', 'note', '1.png',
        ('image-background', )),
    'annotation id twice': Bad(
        first('annotations', id=2), 'annotation-id-twice', 'refused', '[2]'),
    'annotation ids from 0 in val': Bad(
        lambda f: f.val['annotations'][0].update(id=0),
        'annotation-id-zero', 'note', 'counts as missed'),
    'annotation ids are names in val': Bad(
        lambda f: f.val['annotations'][0].update(id='a1'),
        'id-types', 'refused', 'ValueError'),
    'image ids of two types in val': Bad(
        lambda f: [f.val['images'][0].update(id='1')] +
        [a.update(image_id='1') for a in f.val['annotations'][:2]],
        'id-types', 'refused', 'TypeError'),
    'image_id is text': Bad(
        first('annotations', image_id='1'), 'image-unknown', 'dropped',
        'text in one place, numbers in the other'),
    'image_id of no image': Bad(
        first('annotations', image_id=99), 'image-unknown', 'dropped',
        'image_id 99'),
    'category_id of no category': Bad(
        first('annotations', category_id=99), 'category-unknown', 'dropped',
        'annotation 1 of 1.png'),
    'categories from 0, boxes from 1': Bad(
        lambda f: [c.update(id=i) for i, c in enumerate(
            f.train['categories'])] + [
                a.update(category_id=a['category_id'] // 10)
                for a in f.train['annotations']],
        'category-unknown', 'refused', 'by one too high',
        ('class-no-boxes', 'category-ids-differ')),
    'category_id is text': Bad(
        first('annotations', category_id='10'), 'category-unknown', 'dropped',
        'text in one place'),
    'category id twice': Bad(
        first('categories', id=20), 'category-id-twice', 'refused', 'blue',
        ('category-unknown', 'class-no-boxes', 'category-ids-differ')),
    # --- classes and categories
    'classes of COCO': Bad(
        settings(classes=('person', 'car')), 'class-none', 'refused',
        "categories are ['blue', 'red']", ('class-excluded', 'no-boxes')),
    'class in other letters': Bad(
        settings(classes=('blue', 'Red ')), 'class-missing', 'refused',
        "'Red ' (did you mean 'red'?)", ('class-excluded', 'class-no-boxes')),
    'class misspelt': Bad(
        settings(classes=('blue', 'red', 'gren')), 'class-missing', 'refused',
        "'gren'", ('class-no-boxes', )),
    'class that is nowhere, in the middle': Bad(
        settings(classes=('blue', 'green', 'red')), 'class-order', 'refused',
        "'red' is learned and drawn as 'green'",
        ('class-missing', 'class-no-boxes')),
    'classes in another order': Bad(
        settings(classes=('red', 'blue')), 'class-order', 'refused',
        "the order of the file is ('blue', 'red')"),
    'categories of val in another order': Bad(
        reverse_val_categories, 'class-order', 'refused',
        "'red' is learned and drawn as 'blue'"),
    'one class without its comma': Bad(
        settings(classes='blue'), 'classes-string', 'refused', "('blue',)",
        ('class-excluded', )),
    'class listed twice': Bad(
        settings(classes=('blue', 'red', 'red')), 'classes-twice', 'refused',
        "['red']"),
    'classes differ between the splits': Bad(
        settings(val_classes=('red', 'blue')), 'classes-differ', 'refused',
        'a label means one thing in one split', ('class-order', )),
    'category name twice': Bad(
        append('categories', id=5), 'category-twice', 'refused', 'blue',
        ('category-ids-differ', )),
    'category name twice that is no class': Bad(
        lambda f: [d['categories'].extend(
            dict(id=i, name='white') for i in (8, 9))
                   for d in (f.train, f.val)],
        'category-twice', 'note', 'white', ('class-excluded', )),
    'category that is no class': Bad(
        settings(classes=('blue', )), 'class-excluded', 'dropped',
        '4 boxes are left out [red]'),
    'category that is no class, no boxes': Bad(
        lambda f: [d['categories'].append(dict(id=9, name='white'))
                   for d in (f.train, f.val)],
        'class-excluded', 'note', '[white]'),
    'category in one split only': Bad(
        append('categories', id=5, name='white'), 'categories-differ', 'note',
        'white', ('class-excluded', )),
    'category ids differ': Bad(
        other_val_ids, 'category-ids-differ', 'note', 'harmless'),
    'class without boxes': Bad(
        lambda f: f.train.update(
            annotations=[a for a in f.train['annotations']
                         if a['category_id'] == 10]),
        'class-no-boxes', 'note', 'nothing is learned for it'),
    # --- boxes
    'box of three numbers': Bad(
        lambda f: f.box(5, 6, 20), 'box-format', 'refused',
        'not four numbers'),
    'box with text': Bad(
        lambda f: f.box('5', 6, 20, 16), 'box-format', 'refused',
        "annotation 1 of 1.png: ['5', 6, 20, 16]"),
    'box is null': Bad(
        first('annotations', bbox=None), 'box-format', 'refused',
        "no 'bbox' of type list"),
    'NaN': Bad(
        lambda f: f.box(5, 6, NAN, 16), 'box-not-finite', 'dropped',
        '[5, 6, nan, 16]'),
    'infinite corner': Bad(
        lambda f: f.box(-INF, 6, 20, 16), 'box-not-finite', 'dropped', OUT),
    'infinite width': Bad(
        lambda f: f.box(5, 6, INF, 16), 'box-not-finite', 'clipped',
        'reach to the border of the image'),
    'negative width': Bad(
        lambda f: f.box(25, 6, -20, 16), 'box-no-area', 'dropped', OUT),
    'no height': Bad(
        lambda f: f.box(5, 6, 20, 0), 'box-no-area', 'dropped', OUT),
    'wholly outside': Bad(
        lambda f: f.box(80, 6, 20, 16), 'box-outside', 'dropped', OUT),
    'wholly outside, before the image': Bad(
        lambda f: f.box(-20, 6, 20, 16), 'box-outside', 'dropped', OUT),
    'partly outside': Bad(
        lambda f: f.box(70, 6, 20, 16), 'box-beyond-image', 'clipped',
        'they reach into a neighbour'),
    'partly outside, before the image': Bad(
        lambda f: f.box(5, -6, 20, 16), 'box-beyond-image', 'clipped',
        'clips the boxes'),
    'thinner than a pixel': Bad(
        lambda f: f.box(5, 6, 0.9, 16), 'box-tiny', 'dropped', OUT),
    'area of 0': Bad(
        first('annotations', area=0), 'box-area', 'dropped', OUT),
    'ignored': Bad(
        first('annotations', ignore=1), 'box-ignore', 'dropped',
        'training leaves the boxes out'),
    'crowd': Bad(
        first('annotations', iscrowd=1), 'crowd', 'dropped',
        'nothing is learned from the boxes'),
    'crowd in val': Bad(
        lambda f: f.val['annotations'][0].update(iscrowd=1), 'crowd', 'note',
        'the evaluation ignores'),
    'negative width in val': Bad(
        lambda f: f.val['annotations'][0].update(bbox=[25, 6, -20, 16]),
        'box-no-area', 'dropped', 'counts each as an object never found'),
    'fractions': Bad(
        only_box(yolo_boxes), 'box-fractions', 'refused', 'files of YOLO',
        ('box-tiny', 'no-boxes')),
    'corners': Bad(
        corners, 'box-corners', 'refused', 'write width and height',
        ('box-beyond-image', )),
    'boxes twice in val': Bad(
        append('annotations', 'val', id=77), 'box-twice', 'refused',
        'the AP is too low'),
    'boxes twice': Bad(
        append('annotations', id=77), 'box-twice', 'note',
        'the object counts twice'),
    'boxes nearly twice': Bad(
        lambda f: f.train['annotations'].append(dict(
            copy.deepcopy(f.train['annotations'][0]), id=77,
            bbox=[f.train['annotations'][0]['bbox'][0] + 1,
                  *f.train['annotations'][0]['bbox'][1:]])),
        'box-nearly-twice', 'note', 'labelled twice'),
    'boxes vanish in the network input': Bad(
        settings(img_scale=(8, 8)), 'box-below-2-pixels', 'note',
        'cut the images into tiles'),
    # --- images as stated
    'image below min_size': Bad(
        lambda f: [f.train['images'][0].update(height=31)] +
        [a.update(bbox=[5, 6, 20, 16]) for a in f.train['annotations'][:2]],
        'image-small', 'dropped', 'min_size=32'),
    'image without width': Bad(
        first('images', width=0), 'image-no-size', 'dropped', 'image 1:',
        ('image-small', 'box-outside')),
    'image without boxes': Bad(
        lambda f: f.train['annotations'].__delitem__(slice(2)),
        'image-background', 'note', 'used as background'),
    'image without boxes, filtered': Bad(
        lambda f: [f.train['annotations'].__delitem__(slice(2)),
                   f.filter_cfg.update(filter_empty_gt=True)],
        'image-empty', 'dropped', 'filter_empty_gt=True'),
    'empty split': Bad(
        lambda f: f.train.update(images=[], annotations=[]),
        'split-empty', 'refused', 'need at least one array'),
    'split empty after filtering': Bad(
        lambda f: [i.update(height=31) for i in f.train['images']],
        'split-empty', 'refused', 'no image is left',
        ('image-small', 'box-outside', 'box-beyond-image')),
    'no box at all': Bad(
        lambda f: f.train.update(annotations=[]),
        'no-boxes', 'refused', 'nothing is learned'),
    'no box at all in val': Bad(
        lambda f: f.val.update(annotations=[]),
        'no-boxes', 'refused', 'every AP is -1'),
    # --- image files
    'image missing': Bad(
        lambda f: f.path().unlink(), 'image-missing', 'refused',
        'No such file'),
    'image folder missing': Bad(
        lambda f: (f.root / 'train').rename(f.root / 'images'),
        'image-folder', 'refused', 'no such folder'),
    'backslash in file_name': Bad(
        entry_name('sub\\1.png'), 'image-missing', 'refused',
        'write / instead of \\'),
    'folder in file_name too': Bad(
        entry_name('train/1.png'), 'image-missing', 'refused',
        '(1.png is there)'),
    'file_name in other letters': Bad(
        entry_name('1.PNG'), 'image-missing', 'refused', '(1.png is there)'),
    'another suffix': Bad(
        entry_name('1.jpg'), 'image-missing', 'refused', '(1.png is there)'),
    'image is a folder': Bad(
        in_place(os.mkdir), 'image-missing', 'refused', 'Is a directory'),
    'image links to itself': Bad(
        in_place(lambda path: path.symlink_to(path)), 'image-missing',
        'refused', 'Too many levels'),
    'image is a pipe': Bad(
        in_place(os.mkfifo), 'image-missing', 'refused',
        'Is not a plain file'),
    'image of no bytes': Bad(
        content(lambda data: b''), 'image-broken', 'refused',
        'the file is empty'),
    'PNG cut off': Bad(
        content(lambda data: data[:len(data) // 2]), 'image-broken',
        'refused', 'cannot be decoded'),
    'JPEG cut off': Bad(
        cut_jpeg, 'image-broken', 'refused', 'cannot be decoded'),
    'text called png': Bad(
        content(lambda data: b'<html>404</html>'), 'image-broken', 'refused',
        'not an image'),
    'wide image of 1.2 gigapixels': Bad(
        content(lambda data: png_header(40000, 30000)), 'image-broken',
        'refused', '40000x30000 is more than the 1073741824 pixels'),
    'high image of 1.2 gigapixels': Bad(
        content(lambda data: png_header(30000, 40000)), 'image-broken',
        'refused', '30000x40000 is more than the 1073741824 pixels'),
    'image resized after labelling': Bad(
        resized, 'image-size', 'refused', '80x60 stated, 160x120 loaded'),
    'EXIF turns the image': Bad(
        exif(6), 'image-turned', 'refused', '80x60 stated, 60x80 loaded'),
    'EXIF turns by 180 degrees': Bad(
        exif(3), 'image-orientation', 'note', 'browse_dataset.py'),
    'PNG called jpg': Bad(
        content(bytes, '1.jpg'), 'image-misnamed', 'note', '1.jpg'),
    '16 bits': Bad(pixels16, 'image-16-bit', 'note', 'the upper 8'),
    'CMYK': Bad(
        lambda f: f.save('1.jpg', lambda i: i.convert('CMYK')),
        'image-cmyk', 'note', 'colours shift'),
    'grayscale': Bad(
        lambda f: f.save('1.png', lambda i: i.convert('L')),
        'image-grayscale', 'note', '3 equal channels'),
    'alpha channel': Bad(
        lambda f: f.save('1.png', lambda i: i.convert('RGBA')),
        'image-alpha', 'note', 'it is left out'),
    '67 megapixels': Bad(huge, 'image-huge', 'note', 'cut them into tiles'),
    'training image in val': Bad(
        in_val('other.png'), 'leak', 'note', 'other.png = '),
    'training image in val in another format': Bad(
        in_val('other.bmp'), 'leak', 'note', 'other.bmp = '),
    'training image in val as JPEG': Bad(
        in_val('other.jpg', jpeg), 'leak-alike', 'note', 'other.jpg = '),
}  # yapf: disable


@pytest.mark.parametrize('name', BAD)
def test_bad_input(folder, name):
    bad = BAD[name]
    bad.make(folder)
    report = folder.check()
    assert {f.kind for f in report.findings} == {bad.kind, *bad.also}, report
    findings = [f for f in report.findings if f.kind == bad.kind]
    assert {f.severity for f in findings} == {bad.severity}
    assert any(bad.words in str(f) for f in findings), report
    assert report.refused == any(f.severity == 'refused'
                                 for f in report.findings)
    assert report.refused or bad.severity != 'refused'
    worst_first = ['refused', 'dropped', 'clipped', 'note']
    found = [worst_first.index(f.severity) for f in report.findings]
    assert found == sorted(found)


# ------------------------------------------------------------------ reality
LOAD = [
    dict(type='mmyolo.LoadImageFromFile', backend_args=None),
    dict(type='mmyolo.LoadAnnotations', with_bbox=True)
]


def real_dataset(folder, split, pipeline=LOAD):
    value = folder.splits()[split]
    with contextlib.redirect_stdout(io.StringIO()):
        return DATASETS.build(
            dict(
                type='mmyolo.YOLOv5CocoDataset',
                ann_file=str(value.ann_file),
                data_prefix=dict(img=str(value.image_folder)),
                metainfo=dict(classes=value.classes or folder.classes),
                filter_cfg=value.filter_cfg,
                test_mode=value.test_mode,
                pipeline=pipeline))


def real_count(folder, split):
    dataset = real_dataset(folder, split)
    boxes = [
        i for n in range(len(dataset))
        for i in dataset.get_data_info(n)['instances'] if not i['ignore_flag']
    ]
    return len(dataset), len(boxes)


def learned(folder, split):
    """What a detector would learn: boxes, names, and what is in them."""
    dataset = real_dataset(folder, split)
    boxes = []
    for n in range(len(dataset)):
        item = dataset[n]
        file = os.path.relpath(item['img_path'], folder.root / split)
        for (x1, y1, x2, y2), label in zip(
                item['gt_bboxes'].tensor.tolist(), item['gt_bboxes_labels']):
            name = dataset.metainfo['classes'][label]
            height, width = item['img'].shape[:2]
            seen = item['img'][min(int(y1 + y2) // 2, height - 1),
                               min(int(x1 + x2) // 2, width - 1)]
            if np.abs(seen - COLOURS.get(name, (-999, ) * 3)).max() > 60:
                name = f'not {name}'
            boxes.append((file, name, x1, y1, x2 - x1, y2 - y1))
    return sorted(boxes)


def perfect_ap(folder):
    """The AP of a detector that learned the training labels perfectly."""
    labels = real_dataset(folder, 'train')
    rows = {c['id']: c['name'] for c in folder.train['categories']}
    label_of = {rows[i]: n for i, n in labels.cat2label.items()}
    dataset = real_dataset(folder, 'val')
    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric(ann_file=str(folder.ann_file('val')))
        metric.dataset_meta = dataset.metainfo
        for n in range(len(dataset)):
            info = dataset.get_data_info(n)
            found = [(x, y, x + w, y + h, 0.9, label_of[name])
                     for file, name, x, y, w, h in folder.truth['val']
                     if info['img_path'].endswith(file) and name in label_of]
            # and, faintly, the last class, as every detector does
            found.append((0, 0, 5, 5, 0.01, len(folder.classes) - 1))
            found = torch.tensor(found, dtype=torch.float64)
            predictions = dict(
                bboxes=found[:, :4],
                scores=found[:, 4],
                labels=found[:, 5].long())
            metric.process({}, [
                dict(
                    img_id=info['img_id'],
                    ori_shape=(HEIGHT, WIDTH),
                    pred_instances=predictions)
            ])
        return metric.evaluate(len(dataset))['coco/bbox_mAP']


def harm(folder):
    """What training and evaluation suffer: exceptions, wrong boxes, AP."""
    found = []
    for split in SIZES:
        try:
            if learned(folder, split) != folder.truth[split]:
                found.append(f'other boxes are learned of {split}')
        except Exception as error:
            found.append(error)
    try:
        ap = perfect_ap(folder)
        # one class of two lost would cost 0.5; 1 is what is expected
        if ap != pytest.approx(1, abs=0.01):
            found.append(f'AP {ap}')
    except Exception as error:
        found.append(error)
    return found


def healthy(folder):
    return harm(folder) == []


def test_a_good_folder_is_healthy_and_has_no_finding(folder):
    assert str(folder.check()) == (
        'train: 4 images, 8 boxes: blue 4, red 4\n'
        'val: 3 images, 6 boxes: blue 3, red 3\n'
        'ready to train on: no findings')
    assert healthy(folder)


# Reading these does not fail: half a JPEG may be painted grey, and a pipe
# waits for ever.
@pytest.mark.parametrize(
    'name', [n for n, bad in BAD.items()
             if bad.severity == 'refused' and n != 'image is a pipe'])
def test_what_is_refused_fails_or_learns_something_wrong(folder, name):
    BAD[name].make(folder)
    found = harm(folder)
    assert found
    said = ' '.join(f.message for f in folder.check().findings
                    if f.severity == 'refused')
    errors = {type(e).__name__ for e in found if isinstance(e, Exception)}
    # exceptions if and only if the messages say so
    named = set(re.findall(r'[A-Z]\w+Error', said))
    assert named <= errors
    if re.search(r'reading (it|them)|fails|stops', said):
        assert errors or 'or finds nothing' in said
    elif not BAD[name].kind.startswith('annotation-'):
        # that one is the evaluation's, of a label without a category
        assert errors <= named | {'IndexError'}


@pytest.mark.parametrize(
    'name', [n for n, bad in BAD.items() if bad.severity != 'refused'])
def test_what_is_left_is_what_the_data_set_class_leaves(folder, name):
    BAD[name].make(folder)
    report = folder.check(images=False)
    for split in SIZES:
        summary = report.summaries[split]
        assert (summary.images, summary.boxes) == real_count(folder, split)
    left = sum(s.boxes for s in report.summaries.values())
    images = sum(s.images for s in report.summaries.values())
    dropped = BAD[name].severity == 'dropped'
    assert dropped <= (left < 14 or images < 7 or name == 'image listed twice')


@pytest.mark.parametrize('bbox', [(70, 6, 20, 16), (5, 6, INF, 16)])
def test_clipped_boxes_end_at_the_image_or_only_at_the_mosaic(folder, bbox):
    folder.box(*bbox)
    folder.train['annotations'] = folder.train['annotations'][:1]
    cfg = load_config('configs/yolov8_fasternet_n.py',
                      dict(img_scale=(WIDTH, WIDTH)))
    resize = [t for t in cfg.train_pipeline_stage2 if 'Resize' in t['type']]
    dataset = real_dataset(folder, 'train', [*LOAD, *scoped(resize)])
    ((x1, _, x2, _), ) = dataset[0]['gt_bboxes'].tensor.tolist()
    assert (x1, x2) == (bbox[0], WIDTH)
    mosaic = [t for t in cfg.train_pipeline if t['type'] == 'Mosaic']
    dataset = real_dataset(folder, 'train', [*LOAD, *scoped(mosaic)])
    np.random.seed(0)
    boxes = torch.cat([dataset[0]['gt_bboxes'].tensor for _ in range(10)])
    widths = boxes[:, 2] - boxes[:, 0]
    assert widths.max() >= min(bbox[2], WIDTH) > WIDTH - bbox[0] or (
        bbox[2] == INF and widths.max() > WIDTH)
    assert boxes.min() >= 0 and boxes.max() <= 2 * WIDTH


def scoped(pipeline):
    """The same transforms with mmyolo as their scope."""
    if isinstance(pipeline, list):
        return [scoped(p) for p in pipeline]
    if isinstance(pipeline, dict):
        pipeline = {k: scoped(v) for k, v in pipeline.items()}
        if '.' not in pipeline.get('type', '.'):
            pipeline['type'] = f'mmyolo.{pipeline["type"]}'
    return pipeline


def test_boxes_below_two_pixels_are_left_out_by_the_augmentation(folder):
    folder.img_scale = (32, 30)
    for i, a in enumerate(folder.train['annotations']):
        a['bbox'][2] = 4.6 if i % 2 else 5.6  # the limit is 2 * 80 / 32 = 5
    report = folder.check()
    (finding, ) = report.findings
    assert (finding.kind, finding.count) == ('box-below-2-pixels', 4)
    affine = dict(
        type='mmyolo.YOLOv5RandomAffine',
        max_rotate_degree=0.,
        max_translate_ratio=0.,
        scaling_ratio_range=(1., 1.),
        max_shear_degree=0.)
    resize = [
        dict(type='mmyolo.YOLOv5KeepRatioResize', scale=(32, 30)),
        dict(type='mmyolo.LetterResize', scale=(32, 30))
    ]
    dataset = real_dataset(folder, 'train', [*LOAD, *resize, affine])
    left = sum(len(dataset[n]['gt_bboxes']) for n in range(len(dataset)))
    assert left == 8 - finding.count
    # and the sizes for the scatter plot are those of the network input
    assert report.summaries['train'].sizes[0] == pytest.approx([2.24, 6.4])


@pytest.mark.parametrize('count, refused', [(9, False), (10, True)])
def test_few_boxes_say_nothing_of_how_they_are_written(count, refused,
                                                       folder):
    """All could be corners, and would leave their image as x, y, w, h."""
    corners(folder)
    del folder.train['annotations'][count:]
    kinds = {finding.kind for finding in folder.check().findings}
    assert ('box-corners' in kinds) == refused
    assert 'box-beyond-image' in kinds


# ------------------------------------------------------------------ limits
def box(*bbox):
    return lambda f: f.box(*bbox)


def beside(dx, dy, **values):
    """A copy of the first box of 20 x 16, moved."""

    def make(f):
        x, y, w, h = f.train['annotations'][0]['bbox']
        append('annotations', id=77, bbox=[x + dx, y + dy, w, h],
               **values)(f)

    return make


def between(count):
    """Boxes of the same class, sorted between one and another of it."""

    def make(f):
        first = f.train['annotations'][0]
        x = first['bbox'][0]
        f.train['annotations'] = [
            dict(first, id=i, bbox=bbox) for i, bbox in enumerate((
                [x, 6, 20, 16], [x + 1, 6, 20, 16],
                *([x + .1 * i, 30, 5, 5 * i] for i in range(1, count + 1))))]

    return make


def sized(**size):

    def make(f):
        f.train['images'][0].update(size)
        for a in f.train['annotations'][:2]:
            a['bbox'] = [a['bbox'][0] % 9, 6, 20, 16]

    return make


@pytest.mark.parametrize('make, kind, expected', [
    # a pixel beyond an image of 80 x 60 is rounding
    (box(61, 6, 20, 16), 'box-beyond-image', False),
    (box(61.01, 6, 20, 16), 'box-beyond-image', True),
    (box(5, 45, 20, 16), 'box-beyond-image', False),
    (box(5, 45.01, 20, 16), 'box-beyond-image', True),
    (box(-1, -1, 20, 16), 'box-beyond-image', False),
    (box(-1.01, 6, 20, 16), 'box-beyond-image', True),
    (box(5, -1.01, 20, 16), 'box-beyond-image', True),
    (box(5, 6, 1, 1), 'box-tiny', False),
    (box(5, 6, 20, 0.99), 'box-tiny', True),
    (box(5, 6, 20, -1), 'box-no-area', True),
    (sized(height=32), 'image-small', False),
    (sized(width=31), 'image-small', True),
    # (20 - d) / (20 + d) is 0.9 at d = 1.053, (16 - d) / (16 + d) at 0.842
    (beside(1.05, 0), 'box-nearly-twice', True),
    (beside(1.06, 0), 'box-nearly-twice', False),
    (beside(0, 0.84), 'box-nearly-twice', True),
    (beside(0, 0.85), 'box-nearly-twice', False),
    (beside(1, 0, category_id=20), 'box-nearly-twice', False),
    *((between(count), 'box-nearly-twice', count < 3) for count in range(4)),
    # a box as large as its image, in files of YOLO
    (only_box(lambda *bbox: [0, 0, 1, 1]), 'box-fractions', True),
    (only_box(lambda *bbox: [0, 0, 1, 1.01]), 'box-fractions', False),
    (beside(0, 0), 'box-twice', True),
    (beside(0, 0, category_id=20), 'box-twice', False),
    (beside(0, 0, image_id=2), 'box-twice', False),
])
def test_where_a_limit_is(folder, make, kind, expected):
    make(folder)
    report = folder.check(images=False)
    assert (kind in {f.kind for f in report.findings}) == expected, report


@pytest.mark.parametrize('number, severity', [(18, 'refused'),
                                              (19, 'note')])
def test_one_box_in_twenty_may_be_there_twice_in_val(folder, number,
                                                     severity):
    first = folder.val['annotations'][0]
    rows = [dict(first, id=i + 1, bbox=[2 * i, i, 20, 16])
            for i in range(number)]
    folder.val['annotations'] = [*rows, dict(rows[-1], id=99)]
    found, = (f for f in folder.check(images=False).findings
              if f.kind == 'box-twice')
    assert (found.count, found.severity) == (1, severity)


def test_of_many_images_some_are_looked_for(folder):
    """One in two of 250, of which three are named."""
    folder.train['images'] += [
        dict(folder.train['images'][0], id=i, file_name=f'no_{i}.png')
        for i in range(100, 346)]
    found, = (f for f in folder.check(images=False).findings
              if f.kind == 'image-missing')
    # the first four are there, and every second one is taken
    assert found.count == 123 and len(found.examples) == 3
    assert 'cannot be opened, 125 of 250 were looked for: ' in found.message
    assert str(found).endswith('; ...]')


# -------------------------------------------------------------- good inputs
def non_ascii(f):
    for i, image in enumerate(f.train['images']):
        f.path(i).rename(f.root / 'train' / f'a b é 图 {i}.png')
        image['file_name'] = f'a b é 图 {i}.png'


def text_ids(f):
    for image in f.val['images']:
        image['id'] = f'image {image["id"]}'
    for a in f.val['annotations']:
        a.update(image_id=f'image {a["image_id"]}', id=str(a['id']))


def category_ids_from_0(f):
    for data in (f.train, f.val):
        for c, category in enumerate(data['categories']):
            category['id'] = c
        for a in data['annotations']:
            a['category_id'] = a['category_id'] // 10 - 1


def turned_and_labelled_so(f):
    exif(6, lambda image: image.transpose(Image.Transpose.ROTATE_90))(f)


def plain_images(f):
    """Two walls of another brightness, in light from the same side."""
    light = np.linspace(0, 9, WIDTH).astype(np.uint8)[None, :, None]
    light = np.tile(light, (HEIGHT, 1, 3))
    f.write_image('train', '1.png', 90 + light)
    f.write_image('val', '1.png', 150 + light)


def class_file(f):
    path = f.root / 'classes.txt'
    path.write_text('blue\nred\n')
    f.classes = str(path)


@pytest.mark.parametrize('make', [
    non_ascii, text_ids, category_ids_from_0, turned_and_labelled_so,
    class_file, plain_images,
    lambda f: f.train['images'][0].update(
        file_name=str(f.root / 'train/1.png')),
    lambda f: f.box(area=0.5),
    settings(classes=['blue', 'red']),
])
def test_what_looks_odd_and_is_fine(folder, make):
    make(folder)
    assert folder.check().findings == []
    if make is turned_and_labelled_so:  # files end in .jpg now
        folder.truth['train'] = learned(folder, 'train')
        assert len(folder.truth['train']) == 8
    if make in (non_ascii, text_ids, category_ids_from_0):
        for split in SIZES:
            folder.truth[split] = truth(getattr(folder, split))
        assert healthy(folder)


def test_a_turned_size_needs_a_flag_to_be_one_that_was_turned(folder):
    folder.train['images'][0].update(width=HEIGHT, height=WIDTH)
    kinds = {finding.kind for finding in folder.check().findings}
    assert 'image-size' in kinds and 'image-turned' not in kinds


@pytest.mark.parametrize('height, told', [(HEIGHT, 5), (WIDTH, 9)])
def test_the_size_tells_of_a_quarter_turn_but_not_of_a_square(
        folder, height, told):
    """Of the eight orientations of EXIF the last four exchange the sides; the
    second to fourth mirror and turn within them."""
    folder.train['images'][0].update(width=WIDTH, height=height)
    for orientation in range(1, 10):  # there is no ninth
        exif(orientation, lambda image: image.resize((WIDTH, height)))(folder)
        kinds = [finding.kind for finding in folder.check().findings]
        assert kinds == ([] if orientation in (1, 9) else [
            'image-orientation' if orientation < told else 'image-turned'
        ]), orientation


def test_what_is_left_out_is_not_counted(folder):
    folder.box(5, 6, 0, 16)
    summary = folder.check().summaries['train']
    assert (summary.boxes, summary.classes) == (7, dict(blue=3, red=4))
    assert len(summary.sizes) == 7


def thumb(correlation, contrast=100):
    """A picture of that correlation with `thumb(1)`."""
    first = np.tile([1, -1], 128)
    other = np.tile([1, 1, -1, -1], 64)
    pixels = 128 + contrast * (
        correlation * first + (1 - correlation**2)**.5 * other)
    return images.Picture(thumb=pixels.round().astype(np.uint8).tobytes())


def test_pictures_look_alike_from_a_correlation_on():
    train = dict(a=thumb(0.975), b=thumb(1), c=thumb(0))
    found = images.look_alikes(train, dict(
        twin=thumb(0.999), near=thumb(0.96), none=thumb(-1)))
    assert found == dict(twin='b', near='a')
    assert images.look_alikes(dict(b=thumb(1)), dict(
        x=thumb(0.975), y=thumb(0.965))) == dict(x='b')
    # walls have no picture
    for contrast, alike in ((5, dict(x='b')), (3, {})):
        assert images.look_alikes(
            dict(b=thumb(1, contrast)), dict(x=thumb(1))) == alike


def test_pictures_of_equal_bytes_and_other_sizes_differ(tmp_path):
    found = [images.inspect_image(str(write_image(
        tmp_path / f'{width}.png', width, 64 // width))).digest
        for width in (4, 8, 16)]
    assert len({*found}) == 3


def test_a_pair_is_enough_and_the_name_tells_what_is_evaluated(folder):
    for data in (folder.train, folder.val):
        data['annotations'][0]['iscrowd'] = 1
    pairs = {name: value[:2] for name, value in folder.splits().items()}
    report = check_dataset(pairs)  # classes are the categories
    assert [(f.split, f.kind, f.severity) for f in report.findings] == [
        ('train', 'crowd', 'dropped'), ('val', 'crowd', 'note')
    ]
    assert list(report.summaries['val'].classes) == ['blue', 'red']


@pytest.mark.parametrize('names, alike', [
    (('Red', ' red', 'blue'), ["'Red'", "' red'"]),
    (('stop sign', 'StopSign', 'red'), ["'stop sign'", "'StopSign'"]),
    (('red', 'reds', 'blue'), []),
])
def test_classes_that_differ_in_case_or_spaces_only(folder, names, alike):
    for data in (folder.train, folder.val):
        data['categories'] = [dict(id=10 * i, name=name)
                              for i, name in enumerate(names, 1)]
    folder.classes = names
    found = [f for f in folder.check().findings if f.kind == 'class-alike']
    assert [f.split for f in found] == ['train', 'val'] * bool(alike)
    assert all(list(f.examples) == alike for f in found)


@pytest.mark.parametrize('key', ['width', 'area', 'bbox'])
def test_a_number_that_no_float_holds(folder, key):
    if key == 'bbox':
        folder.box(10**400, 6, 20, 16)
    else:
        part = 'images' if key == 'width' else 'annotations'
        dict(folder.train)[part][0][key] = -10**400
    (finding, *_) = folder.check().findings
    assert finding.severity == 'refused' and finding.count == 1


def test_names_that_cannot_be_printed_do_not_stop_the_report(folder):
    folder.rename('a\udcff.png')
    report = folder.check()
    assert 'a\\udcff.png' in str(report).encode().decode()
    assert json.loads(json.dumps(report.to_dict()))['refused']


# ---------------------------------------------------------------- processes
@pytest.mark.parametrize('workers', [1, 3])
def test_processes_find_what_one_finds(folder, workers):
    folder.path(0).unlink()
    content(lambda data: data[:99])(vars_at(folder, 1))
    in_val('other.png')(vars_at(folder, 2))
    serial = folder.check(workers=0)
    # OpenCV has threads now, which a forked process would wait for
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (999, 999))
    threads = cv2.getNumThreads()
    assert folder.check(workers=workers).to_dict() == serial.to_dict()
    assert cv2.getNumThreads() == threads
    assert {f.kind for f in serial.findings} == {
        'image-missing', 'image-broken', 'leak'
    }


def vars_at(folder, index):
    """The folder with another image as its first."""
    view = copy.copy(folder)
    view.train = dict(folder.train)
    view.train['images'] = folder.train['images'][index:]
    view.train['annotations'] = folder.train['annotations'][2 * index:]
    return view


def die(path):
    os._exit(1)


def test_a_process_that_dies_is_reported(folder, monkeypatch):
    monkeypatch.setattr(images, 'inspect_image', die)
    report = folder.check(workers=2)
    (finding, ) = report.findings
    assert (finding.kind, finding.severity) == ('check-crashed', 'refused')
    assert 'after 0 of 7 images' in str(finding) and 'train/1.png' in str(
        finding)


def test_what_is_inspected_can_be_spawned():
    import pickle
    assert pickle.loads(pickle.dumps(
        images.inspect_image)) is images.inspect_image
    broken = images.Picture(broken='x')
    assert pickle.loads(pickle.dumps(broken)) == broken


def test_a_terminal_gets_a_progress_bar(folder, monkeypatch, capsys):
    report = folder.check()
    assert capsys.readouterr().err == ''
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    assert folder.check(workers=2).to_dict() == report.to_dict()
    err = capsys.readouterr().err
    assert 'images' in err and '100%' in err
    folder.check(progress=False)
    assert capsys.readouterr().err == ''


def test_a_jpeg_that_opencv_paints_grey_is_cut_off_too(folder, monkeypatch):
    cut_jpeg(folder)
    monkeypatch.setattr(images.cv2, 'imdecode',
                        lambda *_: np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (finding, ) = [f for f in folder.check(workers=0).findings
                   if f.kind == 'image-broken']
    assert finding.examples[0].startswith(str(folder.path()))


# ------------------------------------------------------------------- config
def findings_of(cfg, **options):
    report = check_config(cfg, **options)
    return {f.kind: f for f in report.findings}


@pytest.fixture
def cfg(coco_options):
    return load_config('configs/yolov8_fasternet_n.py', coco_options)


def test_config(cfg):
    report = check_config(cfg)
    assert report.findings == []
    assert report.summaries['train'].classes == dict(blue=2, red=3)
    # 24 of 80 pixels in 64 of 64
    assert report.summaries['train'].sizes[0] == pytest.approx([19.2, 19.2])


RETINANET = 'configs/retinanet/retinanet_fasternet-t0_fpn_1x_coco.py'


@pytest.mark.parametrize('scale', [(96, 64), (64, 96), (64, 64)])
@pytest.mark.parametrize('config', [
    'configs/yolov8_fasternet_n.py', RETINANET])
def test_sizes_are_those_in_the_input_of_the_network(config, scale,
                                                     coco_options):
    """As the test pipeline makes them of 80x60, whichever is longer."""
    if config == RETINANET:
        data = dict(data_root=coco_options['data_root'],
                    ann_file='annotations/val.json',
                    data_prefix=dict(img='val/'),
                    metainfo=dict(classes=('blue', 'red')))
        cfg = load_config(config)
        for loader in (cfg.train_dataloader, cfg.val_dataloader,
                       cfg.test_dataloader):
            loader.dataset.update(data)
            for step in loader.dataset.pipeline:
                if step.type == 'Resize':
                    step.scale = scale
    else:
        cfg = load_config(config, dict(coco_options, img_scale=list(scale)))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        sample = image_pipeline(cfg)(
            np.zeros((HEIGHT, WIDTH, 3), np.uint8), '')['data_samples']
    report = check_config(cfg, images=False)
    for split in ('train', 'val'):
        # the image has whole pixels, the boxes have not
        assert report.summaries[split].sizes[0] == pytest.approx(
            24 * np.array(sample.scale_factor), rel=0.03)


def test_config_without_images_looks_for_some(cfg):
    cfg.val_dataloader.dataset.data_prefix.img = 'annotations/'
    finding = findings_of(cfg, images=False)['image-missing']
    assert (finding.split, finding.count) == ('val', 5)
    cfg.val_dataloader.dataset.data_prefix.img = 'nowhere/'
    assert 'image-folder' in findings_of(cfg, images=False)


def test_sample_of_many_images(folder):
    """Without decoding, about a hundred are looked for."""
    folder.train['images'] += [
        dict(id=i, file_name=f'{i}.png', width=WIDTH, height=HEIGHT)
        for i in range(5, 401)
    ]
    (folder.root / 'train').rename(folder.root / 'gone')
    (folder.root / 'train').mkdir()
    (finding, ) = [f for f in folder.check(images=False).findings
                   if f.kind == 'image-missing']
    assert finding.count == 100
    assert ', 100 of 400 were looked for' in finding.message


def test_config_of_nested_data_sets(cfg):
    leaf = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset',
            datasets=[leaf, {**leaf, 'ann_file': 'annotations/none.json'}]))
    report = check_config(cfg)
    assert list(report.summaries) == ['train[0]', 'val']
    (finding, ) = report.findings
    assert (finding.split, finding.kind) == ('train[1]',
                                             'annotation-unreadable')


def test_config_whose_evaluator_reads_another_file(cfg, coco):
    other = coco / 'annotations/train.json'
    cfg.val_evaluator.ann_file = str(other)
    finding = findings_of(cfg)['evaluator-file']
    assert finding.severity == 'note' and str(other) in finding.examples
    cfg.val_evaluator.ann_file = 'data/coco/none.json'
    finding = findings_of(cfg)['evaluator-file']
    assert finding.severity == 'refused'
    assert 'No such file' in finding.message
    assert check_config(cfg, phases=('test', )).findings == []
    cfg.test_evaluator = cfg.val_evaluator
    finding = findings_of(cfg, phases=('train', 'test'))['evaluator-file']
    assert finding.split == 'test'


def test_config_whose_evaluator_lists_other_images(cfg, coco, tmp_path):
    """As after an override of the data set alone."""
    data = json.loads((coco / 'annotations/val.json').read_text())
    data['images'] = data['images'][:3]
    data['annotations'] = data['annotations'][:3]
    path = tmp_path / 'few.json'
    path.write_text(json.dumps(data))
    for phase in ('val', 'test'):
        report = check_config(cfg, images=False, phases=(phase, ))
        assert report.findings == []
        cfg[f'{phase}_dataloader'].dataset.ann_file = str(path)
        report = check_config(cfg, images=False, phases=(phase, ))
        (finding, ) = report.findings
        assert (finding.kind, finding.severity) == ('evaluator-file',
                                                    'refused')
        assert f'set {phase}_evaluator.ann_file as well' in finding.message


def test_each_json_is_read_once(cfg, monkeypatch):
    read = []
    parse = json.loads
    monkeypatch.setattr(json, 'loads', lambda text: read.append(text)
                        or parse(text))
    cfg.val_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=cfg.val_dataloader.dataset)
    check_config(cfg, images=False, phases=('train', 'val', 'test'))
    assert len(read) == 2 and read[0] != read[1]


@pytest.mark.parametrize('key, value, words', [
    ('num_classes', 80, 'not the 2 of'), ('num_classes', [2], 'not the 2 of'),
    ('reg_max', 1, '2 or more'), ('reg_max', 0, '2 or more'),
    ('reg_max', [16], '2 or more'), ('reg_max', 1.5, '2 or more'),
])
def test_config_whose_head_cannot_be_trained(cfg, key, value, words):
    cfg.model.bbox_head.head_module[key] = value
    finding = findings_of(cfg)[key.replace('_', '-')]
    assert finding.severity == 'refused'
    assert f'{key}={value}' in str(finding) and words in str(finding)
    # to predict with distances instead of distributions is all right
    kinds = {f.kind for f in check_config(
        cfg, images=False, phases=['test']).findings}
    assert 'reg-max' not in kinds


def test_config_with_classes_of_the_data_set_class(coco):
    cfg = load_config(
        'configs/retinanet/retinanet_fasternet-t0_fpn_1x_coco.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f'{coco}/'
        loader.dataset.ann_file = 'annotations/train.json'
        loader.dataset.data_prefix.img = 'train/'
    report = check_config(cfg)
    (finding, *_) = [f for f in report.findings if f.kind == 'class-none']
    assert "'person'" in str(finding)  # of COCO, which the config leaves


@pytest.mark.parametrize('change, words', [
    (dict(type='mmdet.XMLDataset'), 'does not read plain COCO json'),
    (dict(type='mmdet.LVISV1Dataset'), 'does not read plain COCO json'),
    (dict(type='nowhere.MyDataset'), 'does not read plain COCO json'),
    (dict(data_root='s3://bucket/'), 'not on this machine'),
])
def test_config_that_cannot_be_checked_says_so(cfg, change, words):
    cfg.train_dataloader.dataset.update(change)
    report = check_config(cfg)
    (finding, ) = report.findings
    assert (finding.kind, finding.severity) == ('not-checked', 'note')
    assert words in finding.message and list(report.summaries) == ['val']


@pytest.mark.parametrize('key, value, words', [
    ('ann_file', 3, 'ann_file must be of type str, got 3'),
    ('data_root', ['a'], 'data_root must be of type str'),
    ('data_prefix', 3, 'data_prefix must be of type dict or str, got 3'),
    ('metainfo', 3, 'metainfo must be of type dict, got 3'),
    ('metainfo', dict(classes=3), 'metainfo.classes must be of type list or'),
    ('filter_cfg', 3, 'filter_cfg must be of type dict, got 3'),
    ('filter_cfg', dict(min_size='x'), 'min_size must be of type int or fl'),
    ('type', None, ' has no type; it has .*ann_file'),
    ('type', 3, 'type must be of type str or type, got 3'),
])
def test_config_with_a_value_of_a_wrong_kind(cfg, key, value, words):
    cfg.train_dataloader.dataset[key] = value
    with pytest.raises(ValueError, match=f'^dataset.*{words}'):
        check_config(cfg)
    cfg.train_dataloader.dataset = 'coco'
    with pytest.raises(ValueError, match="dataset must be a dict, got 'coco'"):
        check_config(cfg)


def test_digits_are_checked_once_they_are_there(tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SPLITS, 'train', 20)
    monkeypatch.setitem(digits.SPLITS, 'val', 20)
    cfg = load_config('configs/yolov8_fasternet_n_digits.py',
                      dict(data_root=f'{tmp_path}/digits/'))
    report = check_config(cfg, images=False)
    assert [(f.kind, f.split, f.severity) for f in report.findings] == [
        ('not-checked', 'train', 'note'), ('not-checked', 'val', 'note')]
    assert not any(tmp_path.iterdir())  # a look writes nothing
    DATASETS.get('mmfasternet.DigitsDataset').write_if_missing(
        cfg.data_root)
    report = check_config(cfg, images=False)
    assert report.findings == []
    assert report.summaries['train'].images == 20
    assert Path(tmp_path, 'digits/train/0020.jpg').is_file()
