# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from processes import run_script
from pycocotools.coco import COCO
from trees import voc_xml_of_corners


def write(root, name, objects):
    (root / 'Annotations' / f'{name}.xml').write_text(
        voc_xml_of_corners(f'{name}.jpg', 64, 48, objects))
    (root / 'JPEGImages' / f'{name}.jpg').touch()


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'voc'
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    write(root, 'a', [('dog', 1, 1, 11, 21, 0), ('cat', 5, 6, 5, 6, 0)])
    write(root, 'b', [('cat', 10, 10, 90, 40, 1)])
    (root / 'ImageSets/Main/train.txt').write_text('a\n')
    (root / 'ImageSets/Main/val.txt').write_text('b\n')
    return root


def convert(voc, *arguments, status=0):
    return run_script('tools/dataset_converters/voc2coco.py', voc,
                      voc.parent / 'coco', *arguments, status=status)


def test_conversion(voc):
    done = convert(voc)
    out = voc.parent / 'coco'
    train = json.loads((out / 'annotations/train.json').read_text())
    assert train['images'] == [
        dict(id=1, file_name='a.jpg', width=64, height=48)
    ]
    # pixels count from 1 in VOC, from 0 in COCO
    assert train['annotations'] == [
        dict(
            id=1,
            category_id=2,
            image_id=1,
            bbox=[0, 0, 10, 20],
            area=200,
            iscrowd=0)
    ]
    # the box without area is dropped, with its file and line, and counted
    assert 'a.xml:8: box of cat has no area' in done.stdout
    assert '1 boxes dropped' in done.stdout
    coco = COCO(str(out / 'annotations/val.json'))
    (annotation, ) = coco.anns.values()
    # clipped to the image; `difficult` is ignored by the evaluation
    assert annotation['bbox'] == [9, 9, 55, 30] and annotation['iscrowd'] == 1
    assert [c['name'] for c in coco.cats.values()] == ['cat', 'dog']
    assert (out / 'JPEGImages/a.jpg').exists()
    convert(voc)  # again, over its own output


@pytest.mark.parametrize('damage, words', [
    (lambda v: (v / 'Annotations/a.xml').write_text('<annotation>\n<size>'),
     'a.xml:2: broken xml'),
    (lambda v: (v / 'JPEGImages/b.jpg').unlink(), 'b.xml: no image b.*'),
    (lambda v: (v / 'Annotations/b.xml').unlink(), 'b.xml: no such'),
    (lambda v: (v / 'ImageSets/Main/val.txt').unlink(), 'val.txt: no such'),
    (lambda v: write(v, 'b', [('cat', 'x', 1, 5, 5, 0)]),
     "b.xml:5: <xmin> must be a number, got 'x'"),
])
def test_damage_is_one_clear_error(voc, damage, words):
    damage(voc)
    done = convert(voc, status=1)
    assert words in done.stderr and 'Traceback' not in done.stderr
    assert not (voc.parent / 'coco').exists()


def test_an_unknown_class_is_an_error(voc):
    done = convert(voc, '--classes', 'dog', status=1)
    assert "b.xml:4: unknown class 'cat'; --classes are dog" in done.stderr


def test_what_the_evaluation_must_not_see_is_left_out(voc):
    """A box that is there twice, and an image without a size or content."""
    (voc / 'Annotations/b.xml').rename(voc / 'Annotations/b 1.xml')
    (voc / 'JPEGImages/b.jpg').rename(voc / 'JPEGImages/b 1.jpg')
    write(voc, 'b 1', 2 * [('cat', 10, 10, 90, 40, 0)])
    write(voc, 'c', [('cat', 10, 10, 90, 40, 0)])
    text = (voc / 'Annotations/c.xml').read_text()
    (voc / 'Annotations/c.xml').write_text(text.replace('size>', 'other>'))
    (voc / 'ImageSets/Main/val.txt').write_text('b 1  1\nc -1\n')
    done = convert(voc, status=1)
    data = json.loads((voc.parent / 'coco/annotations/val.json').read_text())
    assert [i['file_name'] for i in data['images']] == ['b 1.jpg']
    assert [a['bbox'] for a in data['annotations']] == [[9, 9, 55, 30]]
    assert '1 boxes left out that are there twice' in done.stdout
    assert 'c.jpg: the image cannot be read' in done.stdout
    assert 'error: 1 images that cannot be read were left' in done.stderr


def test_lines_of_lists_and_folders_of_images(voc):
    """A name with its suffix or twice; images in folders of JPEGImages."""
    write(voc, 'c', [('cat', 10, 10, 40, 40, 0)])
    (voc / 'JPEGImages/day').mkdir()
    (voc / 'JPEGImages/a.jpg').rename(voc / 'JPEGImages/day/a.jpg')
    (voc / 'ImageSets/Main/train.txt').write_text(
        'a.jpg\nJPEGImages/c.jpg 1\na\n')
    (voc / 'ImageSets/Main/val.txt').write_text('Annotations/b.xml')
    convert(voc)
    out = voc.parent / 'coco'
    for split, names in dict(train=['day/a.jpg', 'c.jpg'],
                             val=['b.jpg']).items():
        data = json.loads((out / f'annotations/{split}.json').read_text())
        assert [i['file_name'] for i in data['images']] == names
        assert all((out / 'JPEGImages' / name).is_file() for name in names)


@pytest.mark.parametrize('damage, words', [
    (lambda v: (v / 'JPEGImages/b.jpg').rename(v / 'Annotations/b.jpg'),
     'Annotations/b.jpg is not in '),
    (lambda v: (v / 'ImageSets/Main/val.txt').write_text('\n'),
     'val.txt lists no image'),
])
def test_what_the_json_could_not_name(voc, damage, words):
    damage(voc)
    assert words in convert(voc, status=1).stderr
    assert not (voc.parent / 'coco').exists()
