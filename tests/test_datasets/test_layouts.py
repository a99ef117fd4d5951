# SPDX-License-Identifier: Apache-2.0
"""Folders as people have them: no image is lost or lands in a wrong split."""
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from trees import coco_json, voc_xml, write_image

from mmfasternet.datasets.readers import (
    account,
    drop_damaged,
    read_dataset,
    write_splits,
)

W, H = 64, 48
BOX = [16, 12, 32, 24]  # of the middle, in pixels
SHARES = '0.5 0.5 0.5 0.5'


def xml(name):
    return voc_xml(name, W, H, [('cat', *BOX)])


def write(path, text, encoding='utf-8'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def image(path):
    return write_image(path, W, H)


def names(source):
    """Names of the images by split, each with whether it has the box."""
    found = {}
    for split, part in source.splits.items():
        boxes = {}
        for a in part.coco['annotations']:
            boxes.setdefault(a['image_id'], []).append(a['bbox'])
        found[split] = sorted(
            Path(i['file_name']).stem for i in part.coco['images'])
        for i in part.coco['images']:
            assert (i['width'], i['height']) == (W, H)
            assert (part.folder / i['file_name']).is_file()
            assert boxes.get(i['id'], [BOX]) == [BOX]
            assert (i['id'] in boxes) == ('empty' not in i['file_name'])
    return found


def table(source):
    """Numbers found, used, dropped, left out; and the lines below them."""
    lines = account(source)
    rows = {}
    for line in lines[1:3]:
        name, *numbers = line.split()
        rows[name] = tuple(map(int, numbers))
        assert rows[name][0] == sum(rows[name][1:])
    return rows['images'], rows['labels'], lines[3:]


# ---------------------------------------------------------------- VOC's lists
def voc(root, **lists):
    for stems in lists.values():
        for stem in stems:
            image(root / f'JPEGImages/{stem}.png')
            write(root / f'Annotations/{stem}.xml',
                  xml(f'{stem}.png'))
    for name, stems in lists.items():
        write(root / f'ImageSets/Main/{name}.txt', '\n'.join(stems))
    return root


def in_splits(found):
    return {stem: split for split, stems in found.items() for stem in stems}


def test_images_of_a_test_list_are_for_testing(tmp_path):
    voc(tmp_path, train=list('abcde'), test=list('fg'))
    found = names(read_dataset(tmp_path))
    assert found['test'] == ['f', 'g']
    assert sorted(found['train'] + found['val']) == list('abcde')
    assert len(found['val']) == 1  # one in five


def test_trainval_is_split_where_there_is_no_train(tmp_path):
    voc(tmp_path, trainval=list('abcde'), test=list('fg'))
    found = names(read_dataset(tmp_path))
    assert found['test'] == ['f', 'g']
    assert sorted(found['train'] + found['val']) == list('abcde')


def test_all_four_lists_of_voc(tmp_path):
    voc(tmp_path, train=['a'], val=['b'], trainval=['a', 'b'], test=['c'])
    write(tmp_path / 'ImageSets/Main/cat_train.txt', 'a  1\nb -1')
    write(tmp_path / 'ImageSets/Segmentation/train.txt', 'c')
    image(tmp_path / 'SegmentationClass/a.png')  # a mask of the same name
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a'], val=['b'], test=['c'])
    images, labels, lines = table(source)
    assert images == (4, 3, 0, 1) and labels == (3, 3, 0, 0)
    assert 'SegmentationClass/a.png' in lines[0]


def test_years_of_voc_one_folder_down(tmp_path):
    for year in ('2007', '2012'):
        voc(tmp_path / f'VOC{year}', train=[f'{year}a', '1'],
            val=[f'{year}b'])
    source = read_dataset(tmp_path)
    assert names(source) == dict(
        train=['1', '1', '2007a', '2012a'], val=['2007b', '2012b'])
    files = [i['file_name'] for i in source.splits['train'].coco['images']]
    assert len(set(files)) == 4


def test_links_to_images_that_are_gone(tmp_path):
    """As of git-annex without the content."""
    root = yolo(tmp_path, 'train/a', 'train/b', 'val/c')
    (root / 'images/train/b.png').unlink()
    (root / 'images/train/b.png').symlink_to('nowhere.png')
    (root / 'images/train/d.png').symlink_to('d.png')
    source = read_dataset(root)
    assert names(source) == dict(train=['a'], val=['c'])
    assert table(source)[0] == (4, 2, 2, 0)


def test_what_no_list_names_is_left_out_and_said(tmp_path):
    voc(tmp_path, train=list('ab'), val=['c'], extra=['d'])
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a', 'b'], val=['c'])
    assert table(source)[0] == (4, 3, 0, 1)
    assert any('1 images in none of the splits' in m and 'd.png' in m
               for m in source.messages)


def test_only_a_test_list(tmp_path):
    """What is not for testing trains."""
    voc(tmp_path, test=['a'], other=list('bcdef'))
    (tmp_path / 'ImageSets/Main/other.txt').unlink()
    found = names(read_dataset(tmp_path))
    assert found['test'] == ['a'] and len(found['train']) == 4


def test_a_list_of_images_that_do_not_exist(tmp_path):
    voc(tmp_path, train=list('abc'), val=['d'])
    write(tmp_path / 'ImageSets/Main/train.txt', 'a\nb\nc\nnone')
    source = read_dataset(tmp_path)
    assert any('1 of the 4 images that it lists do not exist: none' in m
               for m in source.messages)
    write(tmp_path / 'ImageSets/Main/train.txt', 'a\nx\ny')
    with pytest.raises(ValueError, match='train.txt: 2 of the 3 images'):
        read_dataset(tmp_path)


@pytest.mark.parametrize('line', [
    'images/{}.png', './images/{}.png', 'data/images/{}.png', '{}.png', '{}',
    '/content/data/images/{}.png', 'images\\{}.png', '"images/{}.png"',
    './images/{0}.png ./labels/{0}.xml'
])
@pytest.mark.parametrize('suffix', ['.xml', '.txt'])
def test_lists_beside_the_images(line, suffix, tmp_path):
    for stem in 'abcd':
        image(tmp_path / f'images/{stem}.png')
        write(tmp_path / f'labels/{stem}{suffix}',
              xml(stem) if suffix == '.xml' else f'0 {SHARES}')
    if suffix == '.txt':
        write(tmp_path / 'classes.txt', 'cat')
    for split, stems in dict(train='ab', val='c', test='d').items():
        write(tmp_path / f'{split}.txt',
              '\n'.join(line.format(s) for s in stems))
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a', 'b'], val=['c'], test=['d'])
    assert table(source)[:2] == ((4, 4, 0, 0), (4, 4, 0, 0))


@pytest.mark.parametrize('train, val', [
    ('train.txt', 'dev.txt'), ('mine_train.txt', 'mine_val.txt'),
    ('autosplit_train.txt', 'autosplit_val.txt'), ('train.csv', 'valid.csv'),
    ('训练.txt', '验证集.txt')
])
def test_ways_to_name_lists(train, val, tmp_path):
    yolo(tmp_path, *'abc')
    write(tmp_path / train, './images/a.png\n')
    write(tmp_path / val, './images/b.png\n')
    # is not a list, whatever its name
    write(tmp_path / 'notes_test.txt', 'By hand.')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a'], val=['b'])
    assert table(source)[0] == (3, 2, 0, 1)


def test_lists_of_several_classes_name_an_image_once(tmp_path):
    voc(tmp_path, cat_train=['a', 'b'], dog_train=['b', 'c'], cat_val=['d'])
    assert names(read_dataset(tmp_path)) == dict(
        train=['a', 'b', 'c'], val=['d'])


def test_a_list_of_images_without_labels(tmp_path):
    """As the test split of VOC, whose labels are secret."""
    voc(tmp_path, train=['a', 'b'], val=['c'], test=['d', 'e'])
    for stem in 'de':
        (tmp_path / f'Annotations/{stem}.xml').unlink()
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a', 'b'], val=['c'])
    assert table(source)[:2] == ((5, 3, 0, 2), (3, 3, 0, 0))
    said, nothing = source.messages
    assert 'test.txt: 2 of the 2 images that it lists have no labels' in said
    assert nothing.endswith('test.txt: lists no image that can be used')
    write(tmp_path / 'ImageSets/Main/train.txt', 'd\ne')
    with pytest.raises(ValueError, match='train.txt: lists no image that can'):
        read_dataset(tmp_path)


def test_an_empty_list_is_said(tmp_path):
    voc(tmp_path, train=['a', 'b'])
    write(tmp_path / 'ImageSets/Main/val.txt', '\n')
    source = read_dataset(tmp_path)
    assert len(names(source)['val']) == 1
    assert source.messages == [
        f'{tmp_path}/ImageSets/Main/val.txt: lists no image that can be used']


# ------------------------------------------------------------ folders' names
def yolo(root, *stems):
    """``folder/name`` below images, with labels beside it."""
    for stem in stems:
        image(root / f'images/{stem}.png')
        if 'empty' not in stem:
            write(root / f'labels/{stem}.txt', f'0 {SHARES}')
    write(root / 'classes.txt', 'cat')
    return root


def test_folders_that_are_not_splits(tmp_path):
    yolo(tmp_path, 'train/a', 'val/b', 'test/c', 'hard/d', 'train-station/e',
         'train/station/f')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a', 'f'], val=['b'], test=['c'])
    images, labels, lines = table(source)
    assert images == labels == (6, 4, 0, 2)
    for what in ('images without a label or a split',
                 'labels of an image in no split'):
        line, = (line for line in lines if what in line)
        assert line.startswith(f'left out: 2 {what}: {tmp_path}/')
        assert '/hard/d.' in line and '/train-station/e.' in line


@pytest.mark.parametrize('train, val', [
    ('train2017', 'val2017'), ('Train', 'Validation'),
    ('images_train', 'images_valid'), ('mine_train', 'mine_val'),
    ('train_set', 'valid_set'), ('training', 'validation'),
    ('trainset', 'valset'), ('TrainImages', 'EvalImages'), ('train', 'dev'),
    ('训练集', '验证集'), ('3训练', '3验证')
])
def test_ways_to_name_splits(train, val, tmp_path):
    yolo(tmp_path, f'{train}/a', f'{val}/b')
    assert names(read_dataset(tmp_path)) == dict(train=['a'], val=['b'])


@pytest.mark.parametrize('both, test', [
    ('train_val', 'test'), ('trainval', 'test'), ('my-train+val', 'my-test')
])
def test_a_split_for_training_and_validation(both, test, tmp_path):
    yolo(tmp_path, f'{both}/a', f'{both}/b', f'{test}/c')
    found = names(read_dataset(tmp_path))
    assert found['test'] == ['c']
    assert sorted(found['train'] + found['val']) == ['a', 'b']


@pytest.mark.parametrize('layout', [
    'images/{}/{}.png labels/{}/{}', '{}/images/{}.png {}/labels/{}',
    '{}/{}.png {}/{}', 'images/{}/{}.png {}_labels/{}'
])
@pytest.mark.parametrize('suffix', ['.txt', '.xml'])
def test_an_image_has_no_labels_of_another_split(layout, suffix, tmp_path):
    """Of the same name; in VOC it is the image that is missing."""
    write(tmp_path / 'classes.txt', 'cat')
    for split in ('train', 'val'):
        for stem in ('a', 'empty'):
            picture, label = (tmp_path / part.format(split, stem)
                              for part in layout.split())
            alone = (split, stem) == ('train', 'empty')
            if suffix == '.txt' or not alone:
                image(picture)
            if suffix == '.xml' or not alone:
                write(label.with_suffix(suffix), f'0 {SHARES}' if
                      suffix == '.txt' else xml(f'{stem}.png'))
    source = read_dataset(tmp_path)
    boxes = {split: len(part.coco['annotations'])
             for split, part in source.splits.items()}
    images = {split: len(part.coco['images'])
              for split, part in source.splits.items()}
    assert boxes == dict(train=1, val=2)
    assert images == dict(train=2 if suffix == '.txt' else 1, val=2)
    assert table(source)[1] == ((3, 3, 0, 0) if suffix == '.txt' else
                                (4, 3, 0, 1))


def test_nothing_to_train_on(tmp_path):
    yolo(tmp_path, 'val/a', 'test/b')
    with pytest.raises(ValueError, match='no training split, only test, val'):
        read_dataset(tmp_path)


# ------------------------------------------------------------------- accounts
def test_every_file_is_accounted_for(tmp_path):
    yolo(tmp_path, 'train/a', 'train/empty', 'train/broken', 'val/b')
    (tmp_path / 'images/train/broken.png').write_bytes(b'')
    for name in ('train/a.gif', 'val/x.HEIC', 'val/y.avif'):
        write(tmp_path / 'images' / name, 'x')
    write(tmp_path / 'labels/train/alone.txt', f'0 {SHARES}')
    write(tmp_path / 'README.txt', 'By hand.')
    image(tmp_path / 'images/train/.ipynb_checkpoints/a-checkpoint.png')
    image(tmp_path / '__MACOSX/images/train/._a.png')
    write(tmp_path / 'labels/train/._a.txt', 'x')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a', 'empty'], val=['b'])
    images, labels, lines = table(source)
    assert images == (9, 3, 1, 5) and labels == (5, 2, 1, 2)
    text = '\n'.join(lines)
    for part in ('2 hidden copies: ', '3 images of a kind that is not read: ',
                 'a.gif', 'x.HEIC', 'y.avif',
                 '1 labels without an image: ', 'alone.txt',
                 '1 hidden copies of labels: '):
        assert part in text
    assert '...' not in text
    write(tmp_path / 'images/val/z.avif', 'x')
    line, = (line for line in account(read_dataset(tmp_path))
             if '4 images of a kind that is not read: ' in line)
    assert line.count('/images/') == 3 and line.endswith(', ...')


@pytest.mark.parametrize('folder', [
    '#recycle/images', '$Recycle.Bin', '.Trash-1000/files', 'lost+found',
    'images/@eaDir/a.png', '__MACOSX/images', 'images/.ipynb_checkpoints'
])
def test_waste_of_systems_is_not_used(folder, tmp_path):
    yolo(tmp_path, '#train/$a', '@train/b', 'val/c')
    image(tmp_path / folder / 'x.png')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['$a', 'b'], val=['c'])
    images, _, lines = table(source)
    assert images == (4, 3, 0, 1)
    assert lines == [f'left out: 1 hidden copies: {tmp_path}/{folder}/x.png']


@pytest.mark.parametrize('label, picture', [
    ('A', 'a'), ('a\u0308', 'ä'), ('ä', 'a\u0308'), ('가'.encode().decode(),
                                                   '\u1100\u1161')
])
def test_names_that_other_systems_take_for_the_same(label, picture, tmp_path):
    yolo(tmp_path, 'train/b', 'val/c')
    image(tmp_path / f'images/train/{picture}.png')
    write(tmp_path / f'labels/train/{label}.TXT', f'0 {SHARES}')
    source = read_dataset(tmp_path)
    assert names(source)['train'] == sorted([picture, 'b'])
    assert table(source)[:2] == ((3, 3, 0, 0), (3, 3, 0, 0))


def test_names_that_differ_in_case_only_are_two_where_both_are(tmp_path):
    yolo(tmp_path, 'train/EMPTY', 'train/b', 'val/c')
    image(tmp_path / 'images/train/empty.png')
    assert names(read_dataset(tmp_path))['train'] == ['EMPTY', 'b', 'empty']


def test_of_two_copies_the_less_deep_one_is_nearer(tmp_path):
    voc(tmp_path, train=['a', 'b'], val=['c'])
    shutil.copytree(tmp_path / 'JPEGImages', tmp_path / 'old/JPEGImages')
    shutil.copytree(tmp_path / 'JPEGImages', tmp_path / 'masks')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a', 'b'], val=['c'])
    assert all(i['file_name'].startswith('JPEG') for part in
               source.splits.values() for i in part.coco['images'])


def test_hidden_copies_of_xml_and_settings_of_programs(tmp_path):
    voc(tmp_path, train=['a'], val=['b'])
    write(tmp_path / 'Annotations/._a.xml', '\0\5\26\7')
    write(tmp_path / '__MACOSX/Annotations/._b.xml', '\0')
    write(tmp_path / '.idea/workspace.xml', '<project')
    write(tmp_path / '.vscode/settings.json', '// mine\n{}')
    write(tmp_path / 'tsconfig.json', '// mine\n{}')
    write(tmp_path / 'pom.xml', '<project/>')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a'], val=['b'])
    assert table(source)[1] == (5, 2, 0, 3)


def test_labels_of_a_second_format_are_left_out_and_said(tmp_path):
    voc(tmp_path, train=['a'], val=['b'])
    write(tmp_path / 'labels/a.txt', f'0 {SHARES}')
    write(tmp_path / 'labels/classes.txt', 'cat')
    images, labels, lines = table(read_dataset(tmp_path))
    assert labels == (3, 2, 0, 1)
    assert lines == ['left out: 1 labels of other formats than Pascal VOC: '
                     f'{tmp_path}/labels/a.txt']


def test_an_empty_file_of_names_says_nothing(tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'labels/classes.txt', '\n')
    assert read_dataset(root).classes == ('cat', )


def test_a_folder_that_is_hidden_itself(tmp_path):
    root = yolo(tmp_path / '.data/set', 'train/a', 'val/b')
    assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


def test_links_are_followed_once(tmp_path):
    yolo(tmp_path / 'disk', 'train/a', 'val/b')
    root = tmp_path / 'set'
    root.mkdir()
    for name in ('images', 'labels', 'classes.txt'):
        (root / name).symlink_to(tmp_path / 'disk' / name)
    (root / 'again').symlink_to(tmp_path / 'disk/images')
    (tmp_path / 'disk/images/train/up').symlink_to(root)
    source = read_dataset(root)
    assert sorted(sum(names(source).values(), [])) == ['a', 'b']
    # nor does a folder have what is in the one above it
    write(root / 'data.yaml',
          'train: images/train\nval: images/val\nnames: [cat]')
    (tmp_path / 'disk/images/train/all').symlink_to(tmp_path / 'disk/images')
    assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


# ------------------------------------------------------------------- encoding
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'gbk'])
def test_encodings(encoding, tmp_path):
    root = yolo(tmp_path / 'yolo', 'train/a', 'val/b')
    write(root / 'classes.txt', '猫和狗', encoding)
    write(root / 'labels/train/a.txt', f'0 {SHARES}\r\n', encoding)
    assert read_dataset(root).classes == ('猫和狗', )
    write(root / 'data.yaml', 'train: images/train\nval: images/val\n'
          'names: [猫和狗]', encoding)
    assert read_dataset(root).classes == ('猫和狗', )
    for start in ('', f'<?xml version="1.0" encoding="{encoding}"?>\n',
                  '<?xml version="1.0" encoding="UTF-8"?>\n'):
        root = voc(tmp_path / 'voc', train=['a'], val=['b'])
        write(root / 'Annotations/a.xml',
              start + xml('图.png').replace('cat', '猫和狗'),
              encoding)
        source = read_dataset(root)
        assert set(source.classes) == {'cat', '猫和狗'}
    root = coco(tmp_path / 'coco', encoding=encoding, name='猫和狗')
    files = write_splits(read_dataset(root), root)
    for path, _ in files.values():  # as mmdet reads it
        data = json.loads(path.read_bytes().decode('utf-8'))
        assert data['categories'][1]['name'] == '猫和狗'


def test_an_xml_that_says_another_encoding_than_it_has(tmp_path):
    """As programs of .NET write it."""
    root = voc(tmp_path, train=['a'], val=['b'])
    text = '<?xml version="1.0" encoding="utf-16"?>\n' + xml('a.png')
    for end in ('', ' '):  # as UTF-16, one of them has an odd half
        write(root / 'Annotations/a.xml', text + end)
        assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


@pytest.mark.parametrize('encoding, text', [
    ('latin-1', 'grün\nweiß\n'), ('cp1251', 'кошка\nСобака\n'),
    ('shift-jis', 'りんご\n猫\n'),
    # of the rows of rare characters of GB 2312 the first
    ('gbk', b'\xd8\xc1'.decode('gbk'))
])
def test_text_in_no_known_encoding_names_the_file(encoding, text, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'classes.txt', text, encoding)
    with pytest.raises(ValueError, match='classes.txt: the text is neither'):
        read_dataset(root)


@pytest.mark.parametrize('name', ['啊', '座', '\u300a'])
def test_the_ends_of_what_is_common_in_gbk(name, tmp_path):
    """The first and the last of the common characters of GB 2312, 0xB0A1 and
    0xD7F9, and of its punctuation, 0xA1B6."""
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'classes.txt', name, 'gbk')
    assert read_dataset(root).classes == (name, )


@pytest.mark.skipif(os.name != 'posix', reason='names are bytes on Unix')
def test_names_that_are_not_utf8(tmp_path):
    """Of an archive that was packed in Chinese Windows."""
    root = yolo(tmp_path, 'train/a', 'val/b')
    name = os.fsdecode('文件'.encode('gbk'))
    for kind, suffix in (('images', 'png'), ('labels', 'txt')):
        folder = root / kind / 'train'
        (folder / f'a.{suffix}').rename(folder / f'{name}.{suffix}')
    path, folder = write_splits(read_dataset(root), root)['train']
    data = json.loads(path.read_text(encoding='utf-8'))
    assert [i['file_name'] for i in data['images']] == [
        f'images/train/{name}.png']
    assert (folder / data['images'][0]['file_name']).is_file()


# ----------------------------------------------------------------------- COCO
def coco(root, splits=('train', 'val'), encoding='utf-8', name='cat'):
    """As Roboflow exports it: category 0 is what the others are."""
    for split in splits:
        stems = ['a', 'b', 'c'] if split in ('', 'train') else ['d']
        for stem in stems:
            image(root / split / f'{split}{stem}.png')
        data = dict(
            images=[
                dict(id=i, file_name=f'{split}{s}.png', width=W, height=H)
                for i, s in enumerate(stems)
            ],
            annotations=[
                dict(id=i + 1, image_id=i, category_id=1, bbox=BOX, area=768,
                     iscrowd=0) for i, _ in enumerate(stems)
            ],
            categories=[
                dict(id=0, name='animals', supercategory='none'),
                dict(id=1, name=name, supercategory='animals')
            ])
        write(root / split / '_annotations.coco.json',
              json.dumps(data, ensure_ascii=False), encoding)
    return root


def test_roboflows_coco(tmp_path):
    source = read_dataset(coco(tmp_path, ('train', 'valid', 'test')))
    assert source.classes == ('cat', )
    assert names(source) == dict(
        train=['traina', 'trainb', 'trainc'], val=['validd'], test=['testd'])


def test_a_category_that_is_used_stays(tmp_path):
    root = coco(tmp_path)
    path = root / 'val/_annotations.coco.json'
    data = json.loads(path.read_text())
    data['annotations'][0]['category_id'] = 0
    path.write_text(json.dumps(data))
    assert read_dataset(root).classes == ('animals', 'cat')
    # nor is a class left out because another one is called after it
    root = coco(tmp_path / 'flat')
    for path in root.rglob('*.json'):
        data = json.loads(path.read_text())
        data['categories'] = [
            dict(id=1, name='cat', supercategory='cat'),
            dict(id=2, name='dog', supercategory='animal')]
        path.write_text(json.dumps(data))
    assert read_dataset(root).classes == ('cat', 'dog')


def test_roboflows_only_class_has_the_name_of_what_it_is(tmp_path, prepare):
    root = coco(tmp_path / 'd', name='animals')
    assert read_dataset(root).classes == ('animals', )
    status, out = prepare(root, tmp_path / 'mine.py')
    assert status == 0, out


@pytest.mark.parametrize('splits', [('', ), ('train', 'val')])
@pytest.mark.parametrize('change, words', [
    (lambda d: d['annotations'][0].pop('bbox'), "no 'bbox' of type list"),
    (lambda d: d['annotations'][0].update(bbox='1 2 3 4'), "no 'bbox' of"),
    (lambda d: d['annotations'][0].pop('image_id'), "no 'image_id'"),
    (lambda d: d['annotations'][0].pop('category_id'), "no 'category_id'"),
    (lambda d: d['annotations'][0].update(category_id=[1]), 'category_id'),
    (lambda d: d['annotations'].append('cat'), 'not json objects'),
    (lambda d: d['images'][0].update(width='64'), "no 'width' of type int"),
    (lambda d: d['images'][0].pop('width'), '1 images without width or heig'),
    (lambda d: [i.update(height=None) for i in d['images']],
     'images without width or height: written'),
    (lambda d: d['images'][0].pop('id'), "no 'id' of type int"),
    (lambda d: d['images'][0].pop('file_name'), "no 'file_name' of type str"),
    (lambda d: d['images'].append(3), 'not json objects'),
    (lambda d: d['categories'][1].pop('name'), "no 'name' of type str"),
    (lambda d: d['categories'][1].pop('id'), "no 'id' of type int"),
    (lambda d: d['categories'][1].update(name=[1]), "no 'name' of type str"),
    (lambda d: d['categories'][1].update(supercategory={}), 'mine.py: size'),
    (lambda d: d['images'][0].update(file_name=None), "no 'file_name' of ty"),
    (lambda d: [i.pop('file_name') for i in d['images']], "no 'file_name' of"),
    (lambda d: d['annotations'][0].update(iscrowd='0'), "'iscrowd' is text"),
    (lambda d: d.update(annotations={}), 'categories must be lists'),
    (lambda d: d['annotations'][0].update(category_id=9), 'category-unknown'),
    (lambda d: d['annotations'][0].update(image_id=9), 'image-unknown'),
    (lambda d: d['annotations'][0].pop('area'), '1 boxes without area or is'),
    (lambda d: d['annotations'][0].update(area=None), '1 boxes without area'),
    (lambda d: d['annotations'][0].update(area=0), '1 boxes without area or'),
    (lambda d: d['annotations'][0].update(iscrowd=None), '1 boxes without ar'),
    (lambda d: d.pop('annotations'), 'categories must be lists'),
    (lambda d: d.pop('categories'), 'categories must be lists'),
    (lambda d: [i.update(file_name=f'https://x.y/{i["file_name"]}?v=1%20')
                for i in d['images']], 'left out\n  images'),
    (lambda d: [a.pop('iscrowd') for a in d['annotations']],
     ' boxes without area or iscrowd: written'),
    (lambda d: d['annotations'][0].pop('id'), 'annotations numbered from 1'),
    (lambda d: [a.update(id='x') for a in d['annotations']],
     'annotations numbered from 1'),
    (lambda d: [a.update(id=7) for a in d['annotations']],
     'annotations numbered from 1'),
    (lambda d: [i.update(file_name='C:\\me\\' + i['file_name'])
                for i in d['images']], 'left out\n  images'),
    (lambda d: [i.update(file_name='/content/' + i['file_name'])
                for i in d['images']], 'left out\n  images'),
])
def test_one_json_is_judged_as_several(splits, change, words, tmp_path,
                                       prepare):
    root = coco(tmp_path / 'd', splits)
    path = next(root.rglob('*.json')) if splits == ('', ) else \
        root / 'train/_annotations.coco.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    status, out = prepare(root, tmp_path / 'mine.py')
    assert words in out
    assert ('refused: ' in out or 'must be' in out) == (status != 0)
    assert (status == 0) == (tmp_path / 'mine.py').exists()


def test_a_size_that_a_json_lacks_is_that_of_the_image(tmp_path):
    root = coco(tmp_path / 'd', ('train', 'val'))
    for path in root.rglob('*.json'):
        data = json.loads(path.read_text())
        for image in data['images']:
            del image['width'], image['height']
        path.write_text(json.dumps(data))
    source = read_dataset(root)
    assert not source.turned
    for split in source.splits.values():
        for image in split.coco['images']:
            with Image.open(split.folder / image['file_name']) as file:
                assert (image['width'], image['height']) == file.size
                assert file.width != file.height
    split = source.splits['train']
    path = split.folder / split.coco['images'][0]['file_name']
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as file:
        size = file.size
        file.save(path, exif=exif)
    source = read_dataset(root)
    image = source.splits['train'].coco['images'][0]
    assert (image['height'], image['width']) == size
    assert source.turned == [path]  # the labels may be of the other form


def test_images_of_another_split_are_not_taken_for_missing_ones(tmp_path):
    for split in ('train', 'val'):
        for stem in 'abc':
            image(tmp_path / f'images/{split}/{stem}.png')
        write(tmp_path / f'annotations/{split}.json', json.dumps(coco_json(
            {f'{stem}.png': (W, H, [('cat', *BOX)]) for stem in 'abc'},
            dict(cat=1))))
    (tmp_path / 'images/train/a.png').unlink()
    source = read_dataset(tmp_path)
    assert {split: part.folder.name for split, part in source.splits.items()
            } == dict(train='train', val='val')
    assert not drop_damaged(source)[f'{tmp_path}/images/train/a.png'].digest
    assert names(source) == dict(train=['b', 'c'], val=['a', 'b', 'c'])
    assert table(source)[0] == (5, 5, 0, 0)


@pytest.mark.parametrize('named, there', [
    ('A.PNG', 'a.png'), ('ä.png', 'a\u0308.png'), ('a%20b.png', 'a b.png'),
    ('a%20b.png', 'a%20b.png'), ('x\\a.png', 'a.png'), ('a.1', 'a.1.png'),
    ('https://x.y/d/a.png?X-Amz=1&a=/b', 'a.png'),
    ('/data/local-files/?d=mine/a.png', 'a.png')
])
def test_ways_to_name_an_image(named, there, tmp_path):
    for split, name in (('train', named), ('val', 'b.png')):
        write(tmp_path / f'annotations/{split}.json', json.dumps(coco_json(
            {name: (W, H, [('cat', *BOX)])}, dict(cat=1))))
    image(tmp_path / 'images' / there)
    image(tmp_path / 'images/b.png')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=[Path(there).stem], val=['b'])
    assert table(source)[0] == (2, 2, 0, 0)


def test_an_image_that_is_listed_twice_is_in_one_split(tmp_path):
    """As of two annotators."""
    root = coco(tmp_path, ('', ))
    path = root / '_annotations.coco.json'
    data = json.loads(path.read_text())
    for key, extra in (('images', {}), ('annotations', dict(image_id=10))):
        data[key] += [dict(e, id=e['id'] + 10, **{
            k: e[k] + v for k, v in extra.items()}) for e in data[key]]
    path.write_text(json.dumps(data))
    found = names(read_dataset(root))
    assert sorted(map(len, found.values())) == [2, 4]
    assert not {*found['train']} & {*found['val']}


@pytest.mark.parametrize('splits', [['train'], ['train', 'val']])
@pytest.mark.parametrize('form', [str, float])
@pytest.mark.parametrize('key', ['image_id', 'category_id'])
def test_ids_in_two_forms(splits, form, key, tmp_path):
    """VIA refers to the image 1 by '1', pandas by 1.0."""
    wanted = {}
    for split in splits:
        images = {f'{split}{i}.png': (W, H, [('cat', *BOX)])
                  for i in range(5)}
        for name in images:
            image(tmp_path / split / name)
        data = coco_json(images, dict(dog=0, cat=1))
        wanted[split] = len(images)
        for annotation in data['annotations']:
            annotation[key] = form(annotation[key])
        write(tmp_path / f'{split}.json', json.dumps(data))
    found = read_dataset(tmp_path)
    if len(splits) == 1:
        wanted = dict(train=4, val=1)
    assert {k: len(v) for k, v in names(found).items()} == wanted
    for part in found.splits.values():
        ids = [{i['id'] for i in part.coco[key]}
               for key in ('images', 'categories')]
        for annotation in part.coco['annotations']:
            assert type(annotation['image_id']) is int
            assert annotation['image_id'] in ids[0]
            assert annotation['category_id'] == 1 and 1 in ids[1]


def test_a_json_for_each_image(tmp_path):
    for i in range(9):
        image(tmp_path / f'{i}.png')
        write(tmp_path / f'{i}.json', json.dumps(coco_json(
            {f'{i}.png': (W, H, [('cat', *BOX)])}, dict(cat=1))))
    with pytest.raises(ValueError, match='9 json files of one split.*join') \
            as error:
        read_dataset(tmp_path)
    assert '7.json' not in str(error.value)


def test_a_json_that_is_not_used_is_counted(tmp_path):
    root = coco(tmp_path, ('train', 'val', 'test'))
    for split, name in (('train', 'train_small'), ('train', 'day')):
        shutil.copy(root / split / '_annotations.coco.json',
                    root / f'{name}.json')
    path = root / 'test/_annotations.coco.json'
    data = json.loads(path.read_text())
    del data['annotations']  # as of those that only the organisers have
    path.write_text(json.dumps(data))
    source = read_dataset(root)
    assert names(source) == dict(
        train=['traina', 'trainb', 'trainc'], val=['vald'])
    images, labels, lines = table(source)
    assert images == (5, 4, 0, 1) and labels == (5, 2, 0, 3)
    assert '2 files in none of the splits test, train, val: ' \
        f'{root}/day.json, {root}/train_small.json' in source.messages[0]
    assert any('train_small.json' in line and '_annotations.coco.json' in line
               for line in lines)
    assert 'test: left out, as it has no boxes' in source.messages[-1]


# ------------------------------------------------------------ Darknet and CVAT
def test_cvats_yolo(tmp_path):
    for split, stem in (('train', 'a'), ('train', 'c'), ('valid', 'b')):
        folder = tmp_path / f'obj_{split}_data'
        image(folder / f'{stem}.png')
        write(folder / f'{stem}.txt', f'0 {SHARES}')
    write(tmp_path / 'obj.names', 'cat\n')
    write(tmp_path / 'obj.data', 'classes = 1\nnames = data/obj.names')
    write(tmp_path / 'train.txt',
          'data/obj_train_data/a.png\ndata/obj_train_data/c.png\n')
    write(tmp_path / 'valid.txt', 'data/obj_valid_data/b.png\n')
    source = read_dataset(tmp_path)
    assert source.format == 'YOLO' and source.classes == ('cat', )
    assert names(source) == dict(train=['a', 'c'], val=['b'])


def test_darknets_data_file_names_the_lists(tmp_path):
    for stem in 'abc':
        image(tmp_path / f'obj/{stem}.png')
        write(tmp_path / f'obj/{stem}.txt', f'0 {SHARES}')
    write(tmp_path / 'my.names', 'cat\n')
    write(tmp_path / 'obj.data', 'classes = 1\ntrain  = data/day.txt\n'
          'valid = data/night.txt\nnames = data/my.names\nbackup = backup/')
    write(tmp_path / 'day.txt', 'data/obj/a.png\ndata/obj/b.png')
    write(tmp_path / 'night.txt', 'data/obj/c.png')
    source = read_dataset(tmp_path)
    assert names(source) == dict(train=['a', 'b'], val=['c'])
    assert table(source)[:2] == ((3, 3, 0, 0), (3, 3, 0, 0))


def test_labelimg_keeps_all_in_one_folder(tmp_path):
    for stem in 'abcde':
        image(tmp_path / f'shots/{stem}.png')
        write(tmp_path / f'shots/{stem}.txt', f'0 {SHARES}')
    write(tmp_path / 'shots/classes.txt', 'cat\n')
    source = read_dataset(tmp_path)
    assert sorted(sum(names(source).values(), [])) == list('abcde')
    assert table(source)[:2] == ((5, 5, 0, 0), (5, 5, 0, 0))


def test_roboflows_darknet(tmp_path):
    for split, stem in (('train', 'a'), ('valid', 'b'), ('test', 'c')):
        image(tmp_path / split / f'{stem}.png')
        write(tmp_path / split / f'{stem}.txt', f'0 {SHARES}')
        write(tmp_path / split / '_darknet.labels', 'cat\n')
    write(tmp_path / 'README.roboflow.txt', 'x')
    assert names(read_dataset(tmp_path)) == dict(
        train=['a'], val=['b'], test=['c'])
    write(tmp_path / 'test/_darknet.labels', 'dog\n')
    with pytest.raises(ValueError, match='the class names differ between'):
        read_dataset(tmp_path)


CVAT = '''<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><job><labels><label><name>cat</name></label><label><name>a dog</name>
</label></labels></job></meta>{}</annotations>'''
CVAT_IMAGE = ('<image id="0" name="{}.png" subset="{}" width="64" '
              'height="48">\n{}</image>')
CVAT_BOX = '<box label="cat" xtl="16" ytl="12" xbr="48" ybr="36"/>'


def cvat(root, *parts):
    for name, _, _ in parts:
        image(root / f'images/{name}.png')
    write(root / 'annotations.xml', CVAT.format('\n'.join(
        CVAT_IMAGE.format(*part) for part in parts)))
    return root


def test_cvats_xml(tmp_path):
    root = cvat(tmp_path, ('sub/a', 'Train', CVAT_BOX),
                ('b', 'Validation', CVAT_BOX), ('c', 'Train', CVAT_BOX))
    source = read_dataset(root)
    assert source.format == 'CVAT' and source.classes == ('cat', 'a dog')
    assert names(source) == dict(train=['a', 'c'], val=['b'])
    assert table(source)[:2] == ((3, 3, 0, 0), (1, 1, 0, 0))


@pytest.mark.parametrize('shape, box', [
    ('<polygon label="cat" points="10.5,30;20,12;30,20"/>',
     [10.5, 12, 19.5, 18]),
    ('<ellipse label="cat" cx="30" cy="20" rx="10" ry="5"/>',
     [20, 15, 20, 10]),
    ('<ellipse label="cat" cx="30" cy="20" rx="10" ry="5" rotation="90"/>',
     [25, 10, 10, 20]),
    ('<ellipse label="cat" cx="30" cy="20" rx="9" ry="9" rotation="45"/>',
     [21, 11, 18, 18]),
    ('<box label="new" xtl="1" ytl="2" xbr="4" ybr="6"/>', [1, 2, 3, 4]),
    ('<mask label="cat" left="3" top="4" width="5" height="6" rle="0, 30"/>',
     [3, 4, 5, 6]),
    # a square of 20 pixels, on its corner: its diagonal
    ('<box label="cat" xtl="20" ytl="14" xbr="40" ybr="34" rotation="45"/>',
     [15.86, 9.86, 28.28, 28.28]),
    ('<box label="cat" xtl="-5" ytl="14" xbr="70" ybr="34"/>',
     [0, 14, 64, 20]),
    ('<box label=" cat " xtl="48" ytl="36" xbr="16" ybr="12"/>', BOX),
])
def test_shapes_of_cvat(shape, box, tmp_path):
    root = cvat(tmp_path, ('a', 'train', shape), ('b', 'val', ''))
    (found, ) = read_dataset(root).splits['train'].coco['annotations']
    assert found['bbox'] == box


@pytest.mark.parametrize('shape, words', [
    ('<points label="cat" points="1,2"/>', 'xml:5: points of cat is not a '),
    ('<polyline label="cat" points="1,2;3,4"/>', 'xml:5: polyline of cat is '),
    ('<box label="cat" xtl="70" ytl="1" xbr="80" ybr="9"/>',
     'xml:5: box of cat has no area inside the 64x48 image'),
])
def test_shapes_of_cvat_that_are_not_boxes(shape, words, tmp_path):
    source = read_dataset(
        cvat(tmp_path, ('a', 'train', shape), ('b', 'val', CVAT_BOX)))
    assert words in source.messages[0]


@pytest.mark.parametrize('size', [
    '', 'width="" height=""', 'width="0" height="0"', 'width="64"',
    'width="nan" height="inf"', 'width="64.0" height="48.0"'
])
def test_a_size_that_cvat_does_not_say(size, tmp_path):
    root = cvat(tmp_path, ('a', 'train', CVAT_BOX), ('b', 'val', CVAT_BOX))
    text = (root / 'annotations.xml').read_text()
    write(root / 'annotations.xml',
          text.replace('width="64" height="48"', size))
    assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


def test_subsets_of_cvat_with_images_of_the_same_name(tmp_path):
    root = cvat(tmp_path, ('Train/a', 'Train', CVAT_BOX),
                ('Validation/a', 'Validation', CVAT_BOX))
    text = (root / 'annotations.xml').read_text()
    write(root / 'annotations.xml',
          re.sub('name="[A-Z][a-z]+/', 'name="', text))
    source = read_dataset(root)
    assert names(source) == dict(train=['a'], val=['a'])
    assert table(source)[0] == (2, 2, 0, 0)


def test_two_jobs_of_cvat_on_one_image(tmp_path):
    other = '<box label="a dog" xtl="1" ytl="2" xbr="4" ybr="6"/>'
    root = cvat(tmp_path, ('a', 'train', CVAT_BOX), ('b', 'val', CVAT_BOX),
                ('a', 'train', other))
    found = read_dataset(root).splits['train'].coco
    assert len(found['images']) == 1
    assert [a['bbox'] for a in found['annotations']] == [BOX, [1, 2, 3, 4]]


def test_an_image_has_the_labels_of_one_file(tmp_path):
    """The first of two tasks of CVAT, the nearer of two folders of VOC."""
    root = cvat(tmp_path / 'cvat', ('a', 'train', CVAT_BOX),
                ('b', 'val', CVAT_BOX))
    text = (root / 'annotations.xml').read_text()
    write(root / 'second.xml', text.replace('xtl="16"', 'xtl="20"'))
    source = read_dataset(root)
    assert names(source) == dict(train=['a'], val=['b'])
    assert table(source)[1] == (2, 1, 0, 1)
    assert '2 images have labels in several files' in source.messages[0]
    voc(tmp_path / 'voc/set', train=['a'], val=['b'])
    for folder in ('0ld', 'set/Annotations_of_me'):
        write(tmp_path / f'voc/{folder}/a.xml',
              xml('a.png').replace('17', '20'))
    source = read_dataset(tmp_path / 'voc')
    assert names(source) == dict(train=['a'], val=['b'])
    assert table(source)[1] == (4, 2, 0, 2)


@pytest.mark.parametrize('content, words', [
    (CVAT.format('<track id="0"/>'), 'has tracks of a video: export it'),
    (CVAT.format(CVAT_IMAGE.format('x', '', '')), '1 of the 1 images that it'),
    (CVAT.format(CVAT_IMAGE.format('a', '', '<box label="cat" xtl="x"/>')),
     "annotations.xml:5: xtl must be a number, got 'x'"),
    (CVAT.format(CVAT_IMAGE.format(
        'a', '', '<polygon label="cat" points=""/>')),
     'annotations.xml:5: points must be a number'),
    (CVAT.format(CVAT_IMAGE.format(
        'a', '', '<polygon label="cat" points="1,2;3,4;5"/>')),
     'annotations.xml:5: points must be pairs of x and y'),
    (CVAT.format(CVAT_IMAGE.format('a', '', CVAT_BOX.replace('cat', ' '))),
     'annotations.xml:5: box has no label'),
    (CVAT.format(CVAT_IMAGE.format(
        'a', '', CVAT_BOX.replace('label="cat"', ''))),
     'annotations.xml:5: box has no label'),
    (CVAT.format('<image>')[:-3], 'broken xml'),
])
def test_broken_xml_of_cvat(content, words, tmp_path):
    image(tmp_path / 'images/a.png')
    write(tmp_path / 'annotations.xml', content)
    with pytest.raises(ValueError, match=words):
        read_dataset(tmp_path)


# -------------------------------------------------------------------- LabelMe
def shape(points, kind='rectangle', label='cat', **others):
    return dict(label=label, points=points, shape_type=kind, **others)


def labelme(root, *shapes, folder=''):
    for stem in ('train/a', 'val/b'):
        image(root / folder / f'{stem}.png')
        write(root / f'{stem}.json', json.dumps(dict(
            version='5.2.1',
            shapes=shapes,
            imagePath=f'{stem[-1]}.png' if not folder else
            f'..\\..\\{folder}\\{stem}.png'.replace('/', '\\'),
            imageData=None,
            imageHeight=H,
            imageWidth=W)))
    return root


def test_what_labelme_ignores_is_no_class(tmp_path):
    box = [[16, 12], [48, 36]]
    source = read_dataset(labelme(
        tmp_path, shape(box), shape([[1, 1], [9, 9]], label='__ignore__')))
    assert source.classes == ('cat', )
    assert names(source) == dict(train=['a'], val=['b'])
    assert source.messages == [
        f'{tmp_path}/{stem}.json: shape 1: __ignore__ is no class'
        for stem in ('train/a', 'val/b')]


def test_labelme(tmp_path):
    whole = shape([[48, 36], [16, 12]])
    for folder in ('', 'pictures'):
        source = read_dataset(labelme(tmp_path / f'x{folder}', whole,
                                      folder=folder))
        assert source.format == 'LabelMe' and source.classes == ('cat', )
        assert names(source) == dict(train=['a'], val=['b'])
        assert table(source)[:2] == ((2, 2, 0, 0), (2, 2, 0, 0))


@pytest.mark.parametrize('shapes, boxes', [
    ([shape([[10, 30], [20, 12], [30, 20]], 'polygon')], [[10, 12, 20, 18]]),
    ([shape([[30, 20], [33, 24]], 'circle')], [[25, 15, 10, 10]]),
    ([shape([['30', '20'], ['33', '24']], 'circle', ' cat ')],
     [[25, 15, 10, 10]]),
    # two parts of one object, and another object
    ([shape([[1, 2], [5, 6]], group_id=1), shape([[8, 9], [20, 30]],
                                                 group_id=1),
      shape([[1, 2], [5, 6]], group_id=2)],
     [[1, 2, 19, 28], [1, 2, 4, 4]]),
    ([shape([[-9, 5], [99, 30]])], [[0, 5, 64, 25]]),
    ([shape([[5, 5]], 'point'), shape([[1, 2], [5, 6]], group_id=None)],
     [[1, 2, 4, 4]]),
])
def test_shapes_of_labelme(shapes, boxes, tmp_path):
    source = read_dataset(labelme(tmp_path, *shapes))
    found = source.splits['val'].coco['annotations']
    assert [a['bbox'] for a in found] == boxes
    assert len(source.messages) == 2 * ("'point'" in str(shapes))


@pytest.mark.parametrize('broken', [
    dict(points=[[1, 2], [3, 4]]), dict(label='cat'),
    shape([['x', 2], [3, 4]]), shape([]), shape([1, 2, 3]),
    shape([[float('nan'), 2], [3, 4]]), 'cat', shape([[1, 2]], label=None),
    shape([[1, 2], [5, 6]], label=' '), shape([[10**400, 2], [3, 4]])
])
def test_broken_shapes_of_labelme_name_the_place(broken, tmp_path):
    with pytest.raises(ValueError, match=r'train/a.json: shape 0: '):
        read_dataset(labelme(tmp_path, broken))


def test_a_json_of_labelme_that_was_renamed_with_its_image(tmp_path):
    """The path in it is that of before, and of another image now."""
    for stem in 'abcde':
        image(tmp_path / f'{stem}.png')
        write(tmp_path / f'{stem}.json', json.dumps(dict(
            shapes=[shape([[1, 2], [5, 6]], label=stem)], imagePath='a.png')))
    source = read_dataset(tmp_path)
    assert sum(len(s.coco['images']) for s in source.splits.values()) == 5
    for split in source.splits.values():
        for i, a in zip(split.coco['images'], split.coco['annotations']):
            assert i['id'] == a['image_id']
            assert source.classes[a['category_id'] - 1] == Path(
                i['file_name']).stem


def test_the_size_and_the_image_in_a_json_of_labelme(tmp_path):
    """The checks compare the size with that of the image."""
    path = labelme(tmp_path, shape([[1, 2], [5, 6]])) / 'val/b.json'
    data = json.loads(path.read_text())
    for stated, size in ((dict(imageWidth=640, imageHeight=480), (640, 480)),
                         (dict(imageWidth=10**400), (W, H)),
                         (dict(imageWidth=0, imageHeight=None), (W, H))):
        write(path, json.dumps({**data, **stated}))
        (found, ) = read_dataset(tmp_path).splits['val'].coco['images']
        assert (found['width'], found['height']) == size
    for name in ('train/a', 'val/b'):
        (tmp_path / f'{name}.png').unlink()
    write(path, json.dumps({**data, 'imageData': 'aGk='}))
    with pytest.raises(ValueError, match='own name: as imageData is not read'):
        read_dataset(tmp_path)


# ------------------------------------------------------------------------ VOC
def test_an_xml_that_names_its_image_otherwise(tmp_path):
    """The own name counts; another one does if there is none of its own."""
    root = voc(tmp_path, train=['a', 'x'], val=['b'])
    (root / 'JPEGImages/x.png').rename(root / 'JPEGImages/IMG_7.png')
    write(root / 'Annotations/x.xml', xml('C:\\IMG_7.png'))
    write(root / 'Annotations/a.xml', xml('b.png'))
    assert names(read_dataset(root)) == dict(train=['IMG_7', 'a'], val=['b'])


@pytest.mark.parametrize('size', [
    '', '<size/>', '<size><width>0</width><height>0</height></size>',
    '<size><width>64</width></size>',
    '<size><width>None</width><height>48</height></size>',
    '<size><width/><height> </height></size>',
    '<size><width>inf</width><height>-1</height></size>'
])
def test_an_xml_without_a_size(size, tmp_path):
    root = voc(tmp_path, train=['a'], val=['b'])
    text = re.sub('<size>.*</size>', size, xml('a.png'))
    write(root / 'Annotations/a.xml', text)
    assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


def test_corners_of_voc_in_any_order(tmp_path):
    root = voc(tmp_path, train=['a'], val=['b'])
    text = xml('a.png')
    for axis in 'xy':
        text = text.replace(f'{axis}min', '?').replace(
            f'{axis}max', f'{axis}min').replace('?', f'{axis}max')
    write(root / 'Annotations/a.xml', text)
    assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


def test_an_xml_that_names_its_image_without_suffix(tmp_path):
    root = voc(tmp_path, train=['a'], val=['b'])
    (root / 'JPEGImages/a.png').rename(root / 'JPEGImages/v1.5.png')
    write(root / 'Annotations/a.xml', xml('v1.5'))
    assert names(read_dataset(root)) == dict(train=['v1.5'], val=['b'])


def test_an_xml_without_an_image_is_left_out(tmp_path):
    root = voc(tmp_path, train=['a', 'c', 'd', 'e'], val=['b'])
    (root / 'JPEGImages/c.png').unlink()
    shutil.rmtree(root / 'ImageSets')
    source = read_dataset(root)
    assert sorted(sum(names(source).values(), [])) == ['a', 'b', 'd', 'e']
    assert table(source)[1] == (5, 4, 0, 1)


# ------------------------------------------------------------------ data.yaml
@pytest.mark.parametrize('text, classes', [
    ("names: {'0': cat}", ('cat', )),
    ('names: {0: cat}\nnc: "1"', ('cat', )),
    # as texts, 10 comes before 2
    (f'names: { {i: f"c{i}" for i in range(12)} }',
     tuple(f'c{i}' for i in range(12))),
    ('names: [no, yes]', ('no', 'yes')),
    ('names: [1, 2.50, null]\nnc: 3', ('1', '2.50', 'null')),
    ('"names": [cat]', ('cat', )),
    ('names:\n  0: cat\nval: images/val\ntest:\n', ('cat', )),
    ('names: [a b, "c: d"]\ndownload: !!python/name:os.system',
     ('a b', 'c: d')),
    ('NAMES: [cat]\nvalid: images/val', ('cat', )),
    ('names: [cat]\nValidation: images/val\nval:', ('cat', )),
])
def test_names_in_yaml(text, classes, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    val = '' if 'images/val' in text else '\nval: images/val'
    write(root / 'data.yaml', f'train: images/train{val}\n{text}')
    source = read_dataset(root)
    assert source.classes == classes
    assert names(source) == dict(train=['a'], val=['b'])


def test_a_data_set_in_a_folder_of_its_own(tmp_path):
    """As an archive unpacks; of two of them one must be chosen."""
    root = yolo(tmp_path / 'My data.v1', 'train/a', 'val/b')
    (root / 'classes.txt').unlink()
    spec = 'train: ../images/train\nval: ../images/val\nnames: [dog]'
    write(root / 'data.yaml', spec)
    source = read_dataset(tmp_path)
    assert source.classes == ('dog', ) and source.root == tmp_path
    assert names(source) == dict(train=['a'], val=['b'])
    write(tmp_path / 'other/data.yaml', spec)
    with pytest.raises(ValueError, match='or give the data.yaml'):
        read_dataset(tmp_path)


def test_names_of_classes_in_a_file(tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    (root / 'classes.txt').rename(root / 'Classes.txt')
    source = read_dataset(root)
    assert source.classes == ('cat', ) and table(source)[1] == (2, 2, 0, 0)
    write(root / 'Classes.txt', 'cat\ndog\ncat')
    with pytest.raises(ValueError, match='Classes.txt: names has one twice'):
        read_dataset(root)


def test_labels_without_any_image(tmp_path):
    """As Label Studio exports what it has from a server."""
    root = yolo(tmp_path, 'train/a', 'val/b')
    shutil.rmtree(root / 'images')
    (root / 'images/train').mkdir(parents=True)
    with pytest.raises(ValueError, match='labels, but no image .*copy the im'):
        read_dataset(root)
    write(root / 'data.yaml', 'names: [cat]\ntrain: images/train')
    with pytest.raises(ValueError, match='data.yaml: train: no image in .*/im'
                                         'ages/train'):
        read_dataset(root)


def test_which_yaml(tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    spec = 'train: images/train\nval: images/val\nnames: [{}]'
    write(root / 'backup.yaml', spec.format('old'))
    assert read_dataset(root).classes == ('old', )
    write(root / 'another.yml', spec.format('new'))
    with pytest.raises(ValueError, match='which of .*another.yml, .*backup'):
        read_dataset(root)
    write(root / 'data.yaml', spec.format('cat'))
    write(root / 'conda.yaml', 'dependencies: [python]')
    assert read_dataset(root).classes == ('cat', )
    write(root / 'dataset.yaml', spec.format('dog'))
    assert read_dataset(root).classes == ('cat', )
    (root / 'data.yaml').unlink()
    assert read_dataset(root).classes == ('dog', )


@pytest.mark.parametrize('text, words', [
    ('names: [cat]\ntrain: [[x]]', 'train must be a path or a list of paths'),
    ('names: [cat]\ntrain: {a: b}', 'train must be a path or a list of'),
    ('names: [[cat]]\ntrain: .', 'names must be a list or numbered'),
    ('names: {a: {b: c}}\ntrain: .', 'names must be numbered 0, 1, 2'),
    ('names: [cat]\nnc: two\ntrain: .', 'nc is two, but there are 1 names'),
    ('names: [cat, cat]\ntrain: .', 'names has one twice: cat, cat'),
    ('nc: 1\ntrain: .', 'names must be a list or numbered, got None'),
    ('names: [cat]\ntrain: /a/b/images', "'/a/b/images' is neither"),
])
def test_wrong_values_in_yaml(text, words, tmp_path):
    write(yolo(tmp_path, 'train/a', 'val/b') / 'data.yaml', text)
    with pytest.raises(ValueError, match=f'data.yaml: {words}'):
        read_dataset(tmp_path)


def test_a_path_of_windows_in_double_quotes(tmp_path):
    write(tmp_path / 'data.yaml', 'names: [cat]\ntrain: "C:\\Users"')
    with pytest.raises(ValueError, match=r'(?s)data.yaml is not YAML \(a path '
                       'of Windows must be without quotes.*line 2'):
        read_dataset(tmp_path)


@pytest.mark.parametrize('entry', [
    'images\\{}', '.\\images\\{}', '/content/drive/My Drive/d/images/{}',
    'C:\\Users\\me\\d\\images\\{}', 'd/images/{}', '../d/images/{}'
])
@pytest.mark.parametrize('name', ['data.yaml', 'Data.YAML', 'data.YML'])
def test_yaml_of_another_machine(entry, name, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / name, f'path: {entry[:9]}\ntrain: {entry.format("train")}\n'
          f'val: {entry.format("val")}\nnames: [dog]')
    for path in (root, root / name):
        source = read_dataset(path)
        assert names(source) == dict(train=['a'], val=['b'])
        assert source.classes == ('dog', )


def test_the_path_in_a_yaml_may_be_from_here(tmp_path, monkeypatch):
    """YOLOv5: yolov5/data/x.yaml says ../datasets/x, from yolov5; of
    Ultralytics it counts from the file."""
    root = yolo(tmp_path / 'datasets/x', 'train/a', 'val/b')
    text = 'path: ../datasets/x\ntrain: images/train\nval: images/val\n' \
        'names: [dog]'
    assert names(read_dataset(write(tmp_path / 'yolov5/x.yaml', text))) == \
        dict(train=['a'], val=['b'])
    config = write(tmp_path / 'yolov5/data/x.yaml', text)
    with pytest.raises(ValueError, match='neither a folder nor a file'):
        read_dataset(config)
    monkeypatch.chdir(tmp_path / 'yolov5')
    source = read_dataset(Path('data/x.yaml'))
    assert names(source) == dict(train=['a'], val=['b'])
    assert source.classes == ('dog', )
    for split in source.splits.values():
        assert all(os.path.samefile(Path(p).parents[2], root)
                   for p in split.paths())


@pytest.mark.parametrize('orientation, said', [(1, 0), (3, 0), (6, 1)])
def test_labels_that_do_not_say_how_a_turned_image_was_seen(
        orientation, said, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    picture = Image.new('RGB', (W, H))
    exif = picture.getexif()
    exif[0x112] = orientation
    (root / 'images/train/a.png').unlink()
    picture.save(root / 'images/train/a.jpg', exif=exif)
    _, _, lines = table(read_dataset(root))
    assert ['look at 1 images' in line and 'a.jpg' in line
            for line in lines] == [True] * said


def test_yaml_with_a_test_split(tmp_path):
    root = yolo(tmp_path, 'train/a', 'train/x', 'val/b', 'test/c')
    spec = 'train: images/train\nval: images/val\nnames: [cat]\ntest: {}'
    write(root / 'data.yaml', spec.format('images/test'))
    assert names(read_dataset(root)) == dict(
        train=['a', 'x'], val=['b'], test=['c'])
    # as Roboflow writes it whether there is one or not
    write(root / 'data.yaml', spec.format('../none/images'))
    source = read_dataset(root)
    assert names(source) == dict(train=['a', 'x'], val=['b'])
    assert "test is '../none/images', which is not there" in source.messages[0]
    # nor is one without images a reason to stop
    write(root / 'data.yaml', spec.format('images/later'))
    (root / 'images/later').mkdir()
    source = read_dataset(root)
    assert names(source) == dict(train=['a', 'x'], val=['b'])
    assert source.messages[0].startswith('test: left out, as none of its im')
    write(root / 'data.yaml',
          'train: images/train\ntest: images/test\nnames: [cat]')
    found = names(read_dataset(root))
    assert found['test'] == ['c'] and len(found['val']) == 1


def test_yaml_lists_of_images_that_do_not_exist(tmp_path):
    root = yolo(tmp_path, 'train/a', 'train/x', 'val/b')
    write(root / 'data.yaml',
          'train: train.txt\nval: images/val\nnames: [cat]')
    write(root / 'train.txt',
          'images/train/a.png\nimages/train/x.png\nimages/train/none.png')
    (root / 'train.txt').rename(root / 'mine.txt')  # no name of a split
    (root / 'data.yaml').write_text(
        (root / 'data.yaml').read_text().replace('train.txt', 'mine.txt'))
    assert table(read_dataset(root))[1:] == ((3, 3, 0, 0), [])
    (root / 'mine.txt').rename(root / 'train.txt')
    (root / 'data.yaml').write_text(
        (root / 'data.yaml').read_text().replace('mine.txt', 'train.txt'))
    source = read_dataset(root)
    assert names(source) == dict(train=['a', 'x'], val=['b'])
    assert 'train.txt: 1 of the 3 images that it lists do not exist: ' \
        'images/train/none.png' in source.messages[0]
    write(root / 'train.txt',
          'images/train/a.png\nimages/train/y.png\nimages/train/z.png')
    with pytest.raises(ValueError, match='2 of the 3 images that it lists'):
        read_dataset(root)
    # a half is not most of them
    write(root / 'train.txt', 'images/train/a.png\nimages/train/y.png')
    assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


def test_images_outside_of_the_folder(tmp_path):
    yolo(tmp_path / 'disk', 'train/a', 'val/b')
    write(tmp_path / 'mine/data.yaml', f'path: {tmp_path}/disk\n'
          'train: images/train\nval: images/val\nnames: [cat]')
    source = read_dataset(tmp_path / 'mine')
    assert names(source) == dict(train=['a'], val=['b'])
    assert table(source)[0] == (2, 2, 0, 0)


def test_boxes_are_clipped_to_the_image(tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'labels/val/b.txt', '0 0.98 0.5 0.1 0.2')
    (box, ) = read_dataset(root).splits['val'].coco['annotations']
    assert box['bbox'] == pytest.approx([59.52, 19.2, 4.48, 9.6])


@pytest.mark.parametrize('points', [
    '0.1 0.2', '0.1 0.2 0.7 0.8', '0.1 0.2 2 0.7 0.8 1', ''])
def test_keypoints_are_not_an_outline(points, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'data.yaml', 'train: images/train\nval: images/val\n'
          'names: [cat]\nkpt_shape: [2, 3]')
    write(root / 'labels/val/b.txt', f'0 {SHARES} {points}')
    assert names(read_dataset(root)) == dict(train=['a'], val=['b'])


@pytest.mark.parametrize('line, box', [
    ('0 0.02 0.5 0.1 0.2', [0, 19.2, 4.48, 9.6]),
    ('0 0.5 0.02 0.1 0.2', [28.8, 0, 6.4, 5.76]),
    ('0 0.5 0.98 0.1 0.2', [28.8, 42.24, 6.4, 5.76]),
    ('0 0.5 0.5 1.9 0.2', [0, 19.2, 64, 9.6]),
    # drawn from the right, from below: Label Studio
    ('0 0.5 0.5 -0.3 0.2', [22.4, 19.2, 19.2, 9.6]),
    ('0 0.5 0.5 0.3 -0.2', [22.4, 19.2, 19.2, 9.6]),
    # hundredths of a pixel, and the area of what is written
    ('0 0.5 0.5 0.3331 0.7777', [21.34, 5.34, 21.32, 37.33]),
])
def test_what_is_written_of_a_box(line, box, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'labels/val/b.txt', line)
    data = read_dataset(root).splits['val'].coco
    assert data == dict(
        images=[dict(id=1, file_name='images/val/b.png', width=W, height=H)],
        annotations=[
            dict(id=1, image_id=1, category_id=1, bbox=box,
                 area=round(box[2] * box[3], 2), iscrowd=0)],
        categories=[dict(id=1, name='cat')])


@pytest.mark.parametrize('line, words', [
    ('0 0.0 0.5 1.0 0.1', 'coordinates are shares'),
    ('0 1.0 0.5 1.0 0.1', 'coordinates are shares'),
    ('0 0.1 0.1 0.2 0.2 0.3', 'outline of three or more points, got 6 numb'),
    ('0 0.1 0.1 0.2 0.2 0.3 0.3 0.4', 'three or more points, got 8 numbers'),
    ('0 0.5 0.5 0.1 0.1 0.3 0.3 2', 'keypoints need kpt_shape'),
    ('0 0.5 0.5 0.1 0.1 0.3 0.3 2 0.4 0.4 2', 'keypoints need kpt_shape'),
    ('1 0.5 0.5 0.1 0.1', 'class 1, but there are 1 names, 0 to 0'),
])
def test_lines_that_are_no_object(line, words, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'labels/val/b.txt', f'\n{line}')
    with pytest.raises(ValueError, match=f'b.txt:2: .*{words}'):
        read_dataset(root)


@pytest.mark.parametrize('line', [
    '0 0.5 0.5 0 0.1', '0 0.5 0.5 0.1 0', '0 1.2 0.5 0.1 0.1'])
def test_a_box_without_an_area_is_said_with_the_size(line, tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'labels/val/b.txt', line)
    assert read_dataset(root).messages == [
        f'{root}/labels/val/b.txt:1: box of cat has no area inside the 64x48 '
        'image']


@pytest.mark.parametrize('count, validate', [
    (2, 1), (3, 1), (7, 1), (8, 2), (12, 2), (13, 3)])
def test_one_in_five_validates(count, validate, tmp_path):
    root = yolo(tmp_path, *(f'all/{i:02}' for i in range(count)))
    found = names(read_dataset(root))
    assert len(found['val']) == validate
    assert len(found['train']) == count - validate


def test_the_choice_stays_the_same_from_release_to_release(tmp_path):
    """What validated must not train when somebody prepares it again."""
    root = yolo(tmp_path, *(f'all/{i}' for i in range(10)))
    # the first of Python's random.Random(0).shuffle of ten numbers
    assert names(read_dataset(root))['val'] == ['7', '8']


def test_an_image_may_be_called_test(tmp_path):
    """Its labels are not a list, whatever numbers they have."""
    root = yolo(tmp_path, 'all/a', 'all/test')
    write(root / 'labels/all/test.txt', f'0.0 {SHARES}')
    assert sorted(sum(names(read_dataset(root)).values(), [])) == ['a', 'test']


def test_a_test_split_without_labels_is_left_out(tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b', 'test/empty')
    source = read_dataset(root)
    assert names(source) == dict(train=['a'], val=['b'])
    assert 'test: left out, as it has no boxes' in source.messages[-1]
    assert table(source)[0] == (3, 2, 0, 1)


def test_one_image_and_none(tmp_path):
    root = yolo(tmp_path / 'one', 'all/a')
    with pytest.raises(ValueError, match='one image cannot be split'):
        read_dataset(root)
    (root / 'images/all/a.png').write_bytes(b'')
    with pytest.raises(ValueError, match='no image in the train split'):
        read_dataset(root)


@pytest.mark.parametrize('missing, words', [
    (1, '1 of the 4 images that it lists do not exist: none0'),
    (2, '2 of the 4 images that it lists do not exist: none0, none1'),
])
def test_up_to_half_of_a_list_may_be_missing(missing, words, tmp_path):
    root = yolo(tmp_path, *(f'x/{s}' for s in 'abcd'), 'val/e')
    lines = list('abcd')[missing:] + [f'none{i}' for i in range(missing)]
    write(root / 'train.txt', '\n'.join(lines))
    write(root / 'val.txt', 'e')
    source = read_dataset(root)
    assert names(source)['train'] == list('abcd')[missing:]
    assert any(line.endswith(words) for line in source.messages)


def test_of_many_that_are_missing_or_left_out_three_are_named(tmp_path):
    root = yolo(tmp_path, *(f'x/{s}' for s in 'abcdefg'), 'val/h')
    write(root / 'train.txt', 'a\nb\nc\nd\nn1\nn2\nn3\nn4')
    write(root / 'val.txt', 'h')
    for end in ('', ', ...'):
        source = read_dataset(root)
        missing, left = sorted(source.messages)
        assert missing.endswith('do not exist: n1, n2, n3')
        assert left.startswith(f'{3 + bool(end)} images in none of the splits '
                               f'train, val: {root}/images/x/')
        assert left.count('.png') == 3 and left.endswith(f'.png{end}')
        image(root / 'images/x/i.png')


def test_boxes_that_are_there_twice(tmp_path):
    root = yolo(tmp_path, 'train/a', 'val/b')
    write(root / 'labels/val/b.txt', f'0 {SHARES}\n0 {SHARES}\n')
    source = read_dataset(root)
    assert source.messages == ['val: 1 boxes left out that are there twice']
    assert names(source) == dict(train=['a'], val=['b'])


# -------------------------------------------------------- a second preparation
def test_a_second_preparation_changes_nothing_of_the_first(tmp_path):
    root = yolo(tmp_path, 'one/a', 'one/b', 'two/c', 'two/d')
    for name, train, val in (('fold1', 'one', 'two'), ('fold2', 'two', 'one')):
        write(root / f'{name}.yaml',
              f'train: images/{train}\nval: images/{val}\nnames: [cat]')

    def files(name):
        source = read_dataset(root / f'{name}.yaml')
        return write_splits(source, root / 'annotations')

    def images(found):
        return {
            split: [i['file_name']
                    for i in json.loads(path.read_text())['images']]
            for split, (path, _) in found.items()
        }

    first = files('fold1')
    before = images(first)
    second = files('fold2')
    assert images(first) == before
    assert images(second) == dict(train=before['val'], val=before['train'])
    assert files('fold1') == first and files('fold2') == second
    assert sorted(os.listdir(root / 'annotations')) == [
        'mmfasternet_train.json', 'mmfasternet_train_2.json',
        'mmfasternet_val.json', 'mmfasternet_val_2.json'
    ]


@pytest.fixture
def prepare(monkeypatch, capsys):
    """Exit status and output of the tool."""
    import runpy
    import sys

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv',
                            ['tools/prepare.py', *map(str, arguments)])
        status = 0
        try:
            runpy.run_path('tools/prepare.py', run_name='__main__')
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().out + str(status)

    return call
