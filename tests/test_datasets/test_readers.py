# SPDX-License-Identifier: Apache-2.0
"""One data set in every format gives the same COCO json."""
import json
import os
import struct

import mmcv
import pytest
import yaml
from PIL import Image
from trees import coco_json, voc_xml, write_image, yolo_txt

from mmfasternet.datasets.images import size_and_turn
from mmfasternet.datasets.readers import read_dataset, write_splits

NAMES = ('bird', 'cat')
# file: (width, height, [(class, x, y, w, h)]); one path has a space and an é
TRUTH = {
    'train/a b.png': (80, 60, [('cat', 10, 5, 30, 40), ('bird', 0, 0, 9, 7)]),
    'train/é.png': (33, 47, [('bird', 20, 30, 13, 17)]),
    'train/nothing.png': (64, 64, []),
    'val/c.png': (64, 48, [('cat', 1, 2, 3, 4)]),
}


def images(root, folder='images'):
    for name, (width, height, _) in TRUTH.items():
        write_image(root / folder / name, width, height)


def yolo(root, config=True, folder='images'):
    images(root, folder)
    for name, (width, height, boxes) in TRUTH.items():
        path = (root / folder.replace('images', 'labels') / name).with_suffix(
            '.txt')
        path.parent.mkdir(parents=True, exist_ok=True)
        if boxes:
            path.write_text(yolo_txt(width, height, boxes, NAMES) + '\n')
    if config:
        (root / 'data.yaml').write_text(
            yaml.safe_dump(
                dict(
                    path='.',
                    train='images/train',
                    val='images/val',
                    names=dict(enumerate(NAMES)))))
    else:
        (root / 'classes.txt').write_text('\n'.join(NAMES) + '\n')
    return root


def yolo_roboflow(root):
    """train/images, train/labels; and a yaml that points one folder up."""
    yolo(root)
    for split in ('train', 'val'):
        (root / split).mkdir()
        for kind in ('images', 'labels'):
            (root / kind / split).rename(root / split / kind)
    (root / 'data.yaml').write_text('train: ../train/images\n'
                                    'val: ../val/images\nnc: 2\n'
                                    f'names: {list(NAMES)}\n')
    return root


def yolo_lists(root):
    """Text files of paths, as darknet and COCO in Ultralytics have them."""
    yolo(root)
    for split in ('train', 'val'):
        (root / f'{split}.txt').write_text('\n'.join(
            f'./images/{name}' for name in TRUTH if name.startswith(split)))
    (root / 'data.yaml').write_text(
        f'train: train.txt\nval: val.txt\nnames: {list(NAMES)}\n')
    return root


def voc(root):
    images(root, 'flat')
    (root / 'JPEGImages').mkdir()
    (root / 'Annotations').mkdir()
    (root / 'ImageSets/Main').mkdir(parents=True)
    stems = dict(train=[], val=[])
    for name, truth in TRUTH.items():
        split, file = name.split('/')
        file = file.replace(' ', '_')  # lists separate columns by spaces
        (root / 'flat' / name).rename(root / 'JPEGImages' / file)
        (root / 'Annotations' / file).with_suffix('.xml').write_text(
            voc_xml(file, *truth))
        stems[split].append(file[:-4])
    for split, names in stems.items():
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))
    return root


def voc_folders(root):
    """xml beside the images, in folders train and val."""
    images(root, '.')
    for name, truth in TRUTH.items():
        (root / name).with_suffix('.xml').write_text(
            voc_xml(name.split('/')[1], *truth))
    return root


def coco(root):
    images(root)
    for split in ('train', 'val'):
        data = coco_json(
            {name.split('/')[1]: truth for name, truth in TRUTH.items()
             if name.startswith(split)}, dict(bird=1, cat=2), first_id=7)
        path = root / f'annotations/instances_{split}2017.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data))
        # captions of the same images, which have no categories
        (path.parent / f'captions_{split}2017.json').write_text(
            json.dumps(dict(images=data['images'], annotations=[])))
    return root


def boxes_of(source, tmp_path):
    """Splits as {file name: size and boxes}, through the written json."""
    found = {}
    for split, (path, folder) in write_splits(
            source, tmp_path / 'written').items():
        data = json.loads(path.read_text())
        names = {c['id']: c['name'] for c in data['categories']}
        assert tuple(names.values()) == source.classes == NAMES
        for image in data['images']:
            file = folder / image['file_name']
            assert file.is_file()
            boxes = [(names[a['category_id']], *a['bbox'])
                     for a in data['annotations']
                     if a['image_id'] == image['id']]
            found[split, file.name.replace(' ', '_')] = (
                image['width'], image['height'], boxes)
    return found


EXPECTED = {(n.split('/')[0], n.split('/')[1].replace(' ', '_')): v
            for n, v in TRUTH.items()}


@pytest.mark.parametrize('make, name', [
    (yolo, 'YOLO'),
    (lambda root: yolo(root, config=False), 'YOLO'),
    (yolo_roboflow, 'YOLO'),
    (yolo_lists, 'YOLO'),
    (voc, 'Pascal VOC'),
    (voc_folders, 'Pascal VOC'),
    (coco, 'COCO'),
], ids=['data.yaml', 'classes.txt', 'roboflow', 'lists', 'voc', 'voc folders',
        'coco'])
def test_every_format_gives_the_same_boxes(make, name, tmp_path):
    root = tmp_path / 'my data é'
    root.mkdir()
    source = read_dataset(make(root))
    assert source.format == name
    assert boxes_of(source, tmp_path) == EXPECTED


def test_the_yaml_itself_may_be_given(tmp_path):
    source = read_dataset(yolo(tmp_path / 'd') / 'data.yaml')
    assert boxes_of(source, tmp_path) == EXPECTED


def test_outlines_become_their_boxes(tmp_path):
    root = yolo(tmp_path / 'd')
    (root / 'labels/val/c.txt').write_text('1 0.25 0.5 0.5 0.25 0.75 1.0\n')
    (found, ) = read_dataset(root).splits['val'].coco['annotations']
    assert found['bbox'] == [16, 12, 32, 36] and found['category_id'] == 2


def test_without_splits_one_in_five_validates_and_always_the_same(tmp_path):
    root = tmp_path / 'd'
    (root / 'images').mkdir(parents=True)
    (root / 'labels').mkdir()
    (root / 'classes.txt').write_text('cat\n')
    for i in range(10):
        Image.new('RGB', (40 + i, 40)).save(root / f'images/{i}.jpg')
        (root / f'labels/{i}.txt').write_text(f'0 0.5 0.5 0.{i}1 0.5')
    first, second = read_dataset(root).splits, read_dataset(root).splits
    assert first == second
    sizes = {s: len(v.coco['images']) for s, v in first.items()}
    assert sizes == dict(train=8, val=2)
    names = [i['file_name'] for v in first.values() for i in v.coco['images']]
    assert sorted(names) == [f'images/{i}.jpg' for i in range(10)]
    for split in first.values():  # every box stayed with its image
        files = {i['id']: i for i in split.coco['images']}
        for box in split.coco['annotations']:
            image = files[box['image_id']]
            share = int(image['file_name'][7]) / 10 + 0.01
            assert box['bbox'][2] == pytest.approx(
                image['width'] * share, abs=0.01)


def test_one_coco_json_is_split(tmp_path):
    root = coco(tmp_path / 'd')
    for path in (root / 'annotations').glob('*_val2017.json'):
        path.unlink()
    (path, ) = (root / 'annotations').glob('instances_*.json')
    data = json.loads(path.read_text())
    data['annotations'][0]['iscrowd'] = 1
    path.write_text(json.dumps(data))
    source = read_dataset(root)
    assert source.classes == NAMES
    crowds, files = [], []
    for path, folder in write_splits(source, tmp_path).values():
        part = json.loads(path.read_text())
        names = {i['id']: i['file_name'] for i in part['images']}
        files += [os.path.relpath(folder / n, root) for n in names.values()]
        for box in part['annotations']:
            crowds.append(box['iscrowd'])
            truth = TRUTH[f'train/{names[box["image_id"]]}'][2]
            assert (NAMES[box['category_id'] - 1], *box['bbox']) in truth
    assert sorted(files) == sorted(
        f'images/{name}' for name in TRUTH if name.startswith('train'))
    assert sorted(crowds) == [0, 0, 1]  # and none is lost


def test_labels_follow_the_order_of_the_file(tmp_path):
    """pycocotools numbers classes in it, whatever their ids."""
    root = coco(tmp_path / 'd')
    for path in (root / 'annotations').glob('instances_*.json'):
        data = json.loads(path.read_text())
        data['categories'].reverse()
        path.write_text(json.dumps(data))
    assert read_dataset(root).classes == NAMES[::-1]


def test_rotation_counts_as_opencv_reads_it(tmp_path):
    """Cameras store a flag; mmcv turns some of them, PIL none."""
    image = Image.new('RGB', (30, 20))
    exif = image.getexif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        for suffix in ('jpg', 'png', 'webp', 'tif'):
            path = tmp_path / f'x.{suffix}'
            image.save(path, exif=exif)
            height, width = mmcv.imread(path).shape[:2]
            assert size_and_turn(path)[0] == (width, height)


@pytest.mark.filterwarnings('error')
def test_the_size_of_what_pillow_takes_for_an_attack(tmp_path):
    path = tmp_path / 'x.bmp'
    Image.new('1', (1, 1)).save(path)
    for side in (10_000, 20_000):
        data = bytearray(path.read_bytes())
        data[18:26] = struct.pack('<ii', side, side)
        path.write_bytes(data)
        assert size_and_turn(path)[0] == (side, side)


def broken_yolo(text):

    def make(root):
        yolo(root)
        (root / 'labels/val/c.txt').write_text(text)

    return make


def changed(path, text, make=yolo):

    def change(root):
        make(root)
        (root / path).write_text(text)

    return change


def emptied(root):
    yolo(root)
    (root / 'images/val/c.png').write_bytes(b'')


@pytest.mark.parametrize('make, words', [
    (broken_yolo('2 0.5 0.5 0.1 0.1'), r'c.txt:1: class 2, but there are 2 '
     'names, 0 to 1'),
    (broken_yolo('-1 0.5 0.5 0.1 0.1'), 'c.txt:1: class -1'),
    (broken_yolo('\n0.5 0.5 0.5 0.1 0.1'), 'c.txt:2: class 0.5'),
    (broken_yolo('cat 0.5 0.5 0.1 0.1'), 'c.txt:1: expected numbers, got'),
    (broken_yolo('1 0.5 0.5 0.1'), 'c.txt:1: expected a class and x, y'),
    (broken_yolo('1 32 24 10 10'), 'coordinates are shares of the image size'),
    (broken_yolo('1 nan 0.5 0.1 0.1'), 'coordinates are shares'),
    (changed('data.yaml', 'names: ['), 'data.yaml is not YAML'),
    (changed('data.yaml', 'names: 3'), 'names must be a list'),
    (changed('data.yaml', 'names: {1: a, 2: b}'), 'numbered 0, 1, 2'),
    (changed('data.yaml', 'names: [a]\nnc: 2'), 'nc is 2, but there are 1'),
    (changed('data.yaml', 'names: [a]'), 'there is no train'),
    (changed('data.yaml', 'names: [a]\ntrain: nowhere'),
     "'nowhere' is neither .*/nowhere"),
    (changed('Annotations/c.xml', '<annotation>', voc), 'c.xml:1: broken xml'),
    (changed('Annotations/c.xml', '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
             voc), 'c.xml:1: entities are not allowed'),
    (changed('annotations/instances_val2017.json', '{"images": [', coco),
     'instances_val2017.json is not json'),
    (changed('annotations/instances_train.json', json.dumps(
        dict(images=[], annotations=[], categories=[])), coco),
     'of one split, .*instances_train.json.*_train2017.json.*: which is'),
    (lambda root: root.mkdir(), 'no labels found. Looked for'),
])
def test_broken_labels_name_the_place(make, words, tmp_path):
    root = tmp_path / 'd'
    make(root)
    with pytest.raises(ValueError, match=words):
        read_dataset(root)


def test_of_two_files_of_a_split_the_whole_one_is_taken(tmp_path):
    """Captions have no categories; these names do not say what they are."""
    root = coco(tmp_path / 'd')
    for path in [*(root / 'annotations').iterdir()]:
        kind, split = path.stem.removesuffix('2017').split('_')
        (path.parent / split).mkdir(exist_ok=True)
        path.rename(path.parent / split / (
            'a.json' if kind == 'instances' else 'b.json'))
    assert boxes_of(read_dataset(root), tmp_path) == EXPECTED


def test_unreadable_images_and_empty_boxes_are_counted(tmp_path):
    root = yolo(tmp_path / 'd')
    (root / 'images/train/é.png').write_bytes(b'')
    (root / 'labels/val/c.txt').write_text('0 0.5 0.5 0 0.1\n')
    source = read_dataset(root)
    assert len(source.splits['train'].coco['images']) == 2
    assert 'the image cannot be read' in source.dropped[
        root / 'images/train/é.png']
    (message, ) = source.messages
    assert 'c.txt:1: box of bird has no area' in message


def test_coco_is_copied_only_to_be_cleaned(tmp_path):
    root = coco(tmp_path / 'd')
    paths = {s: root / f'annotations/instances_{s}2017.json'
             for s in ('train', 'val')}
    good = dict(id=3, image_id=7, category_id=1, bbox=[1, 2, 3, 4], area=9.5,
                iscrowd=0)
    data = json.loads(paths['train'].read_text())
    data.update(info=dict(year=2026), annotations=[good])
    paths['train'].write_text(json.dumps(data))
    paths['val'].write_text(json.dumps(data))
    found = write_splits(read_dataset(root), tmp_path / 'b')
    assert {s: path for s, (path, _) in found.items()} == paths
    assert not (tmp_path / 'b').exists()
    damaged = dict(data, annotations=[
        dict(good, id=0),
        dict(good, id=1, bbox=[5, 5, 0, 9]),
        dict(good, id=2, bbox=[5, 5, 9, -1]), good,
        dict(good, id=4, category_id=2)
    ])
    paths['val'].write_text(json.dumps(damaged))
    source = read_dataset(root)
    assert source.messages == [
        'val: 2 boxes without an area left out',
        'val: 1 boxes left out that are there twice',
        'val: annotations numbered from 1'
    ]
    path, _ = write_splits(source, tmp_path / 'b')['val']
    assert json.loads(path.read_text()) == dict(
        data, annotations=[dict(good, id=1), dict(good, id=2, category_id=2)])


def test_a_folder_that_links_to_itself_ends(tmp_path):
    root = yolo(tmp_path / 'd', config=False)
    (root / 'images/train/again').symlink_to(root)
    assert boxes_of(read_dataset(root), tmp_path) == EXPECTED


def test_nothing_there():
    with pytest.raises(FileNotFoundError, match='no such file or folder: no'):
        read_dataset('no/where')
