# SPDX-License-Identifier: Apache-2.0
import cv2
import pytest
from processes import run_script
from trees import voc_xml_of_corners, write_image

from mmfasternet.datasets.readers import read_voc_lists

TOOL = 'tools/dataset_converters/voc2007_photographs.py'


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'VOC2007'
    for folder in ('Annotations', 'JPEGImages'):
        (root / folder).mkdir(parents=True)
    for name, objects in {
            '000002': [('person', 2, 1, 104, 208, 0), ('dog', 1, 1, 9, 9, 0)],
            '000001': [('dog', 11, 21, 52, 62, 0)],
            '000003': [('person', 1, 1, 9, 9, 1)],
            '000009': [('person', 1, 1, 9, 9, 0)],
    }.items():
        write_image(root / f'JPEGImages/{name}.jpg', 104, 208)
        (root / f'Annotations/{name}.xml').write_text(
            voc_xml_of_corners(f'{name}.jpg', 104, 208, objects))
    (tmp_path / 'list.csv').write_text(
        'voc2007_id,split\n000002,train\n000001,train\n000003,val\n')
    return root


def boxes(source, split):
    coco = source.splits[split].coco
    names = {c['id']: c['name'] for c in coco['categories']}
    return [(names[a['category_id']], *a['bbox'], a['iscrowd'])
            for a in coco['annotations']]


def test_images_and_boxes_are_scaled_and_listed(voc, tmp_path):
    out = tmp_path / 'out'
    run_script(TOOL, voc, out, '--list', tmp_path / 'list.csv')
    # in the order of the list, of which the files' names are
    assert (out / 'ImageSets/Main/train.txt').read_text() == '0000\n0001\n'
    assert (out / 'ImageSets/Main/val.txt').read_text() == '0002\n'
    assert cv2.imread(str(out / 'JPEGImages/0001.jpg')).shape == (416, 208, 3)
    source = read_voc_lists(out, ['train', 'val'], None)
    # twice as large; x, y, width, height as mmdet reads VOC, which counts
    # pixels from 1
    assert boxes(source, 'train') == [
        ('person', 2, 0, 205, 415, 0),
        ('dog', 0, 0, 17, 17, 0),
        ('dog', 20, 40, 83, 83, 0),
    ]
    assert boxes(source, 'val') == [('person', 0, 0, 17, 17, 1)]


def test_people(voc, tmp_path):
    out, chosen = tmp_path / 'out', tmp_path / 'list.csv'
    chosen.write_text(chosen.read_text() + '000009,val\n')
    run_script(TOOL, voc, out, '--people', '--list', chosen)
    source = read_voc_lists(out, ['train', 'val'], None)
    assert boxes(source, 'train') == [('person', 2, 0, 205, 415, 0)]
    assert boxes(source, 'val') == [('person', 0, 0, 17, 17, 0)]
    assert (out / 'ImageSets/Main/val.txt').read_text() == '0003\n'


def test_another_folder(voc, tmp_path):
    done = run_script(
        TOOL, tmp_path, tmp_path / 'out', '--list', tmp_path / 'list.csv',
        status=1)
    assert 'Annotations/000002.xml: no such annotation' in done.stderr
