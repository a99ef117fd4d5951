# SPDX-License-Identifier: GPL-3.0-only
"""From labels in any format to a trained detector, as the README says."""
import argparse
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from processes import run_script
from trees import voc_xml, yolo_txt

from mmfasternet.config import load_config, require_data
from mmfasternet.models import FasterNet


def boxes_of(coco, split):
    """{file name: boxes} of a split of the COCO-shaped folder."""
    data = json.loads((coco / f'annotations/{split}.json').read_text())
    names = {c['id']: c['name'] for c in data['categories']}
    return {
        image['file_name']:
        [(names[a['category_id']], *a['bbox']) for a in data['annotations']
         if a['image_id'] == image['id']]
        for image in data['images']
    }


def to_voc(coco, root):
    """The same with an xml beside each image."""
    for split in ('train', 'val'):
        shutil.copytree(coco / split, root / split)
        for name, boxes in boxes_of(coco, split).items():
            (root / split / name).with_suffix('.xml').write_text(
                voc_xml(name, 80, 60, boxes))
    return root


def to_yolo(coco, root):
    for split in ('train', 'val'):
        shutil.copytree(coco / split, root / 'images' / split)
        (root / 'labels' / split).mkdir(parents=True)
        for name, boxes in boxes_of(coco, split).items():
            (root / 'labels' / split / name).with_suffix('.txt').write_text(
                yolo_txt(80, 60, boxes, ('blue', 'red')))
    (root / 'data.yaml').write_text('train: images/train\nval: images/val\n'
                                    'names: [blue, red]\n')
    return root


@pytest.fixture
def prepare(monkeypatch, capsys):

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv',
                            ['tools/prepare.py', *map(str, arguments)])
        runpy.run_path('tools/prepare.py', run_name='__main__')
        return capsys.readouterr().out

    return call


SMALL = ('--model', 'n', '--epochs', '1', '--img-scale', '64',
         '--batch-size', '2')


@pytest.mark.parametrize('make', [None, to_voc, to_yolo],
                         ids=['coco', 'voc', 'yolo'])
def test_every_format_gives_the_same_config_and_labels(make, coco, prepare,
                                                       tmp_path):
    root = make(coco, tmp_path / 'my data') if make else coco
    config = tmp_path / 'mine.py'
    out = prepare(root, config, '--letter', 's')
    assert f'next: python tools/train.py {config}' in out
    assert 'teacher' not in out
    cfg = load_config(str(config))
    require_data(cfg, 'train', 'val')
    assert tuple(cfg.classes) == ('blue', 'red')
    assert cfg.model.backbone.arch == 't0'
    assert cfg.img_scale == (96, 96)  # 80 pixels, up to a multiple of 32
    boxes = {}
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        path = dataset.data_root + dataset.ann_file
        data = json.loads(Path(path).read_text())
        names = {c['id']: c['name'] for c in data['categories']}
        files = {i['id']: i['file_name'] for i in data['images']}
        boxes[split] = sorted(
            (files[a['image_id']].split('/')[-1], names[a['category_id']],
             *a['bbox']) for a in data['annotations'])
    for split in ('train', 'val'):
        data = json.loads((coco / f'annotations/{split}.json').read_text())
        names = {c['id']: c['name'] for c in data['categories']}
        assert boxes[split] == sorted(
            (f'{a["image_id"]}.png', names[a['category_id']], *a['bbox'])
            for a in data['annotations'])


def test_the_three_commands_of_the_readme(coco, tmp_path):
    root = to_yolo(coco, tmp_path / 'data')
    config = tmp_path / 'mine.py'
    done = run_script('tools/prepare.py', root, config, *SMALL)
    commands = re.findall(r'(?:next|then): python (.*)', done.stdout)
    assert [c.split()[0] for c in commands] == [
        'tools/train.py', 'tools/test.py']
    train, test = (c.split() for c in commands)
    work_dir = tmp_path / 'work_dirs/mine'
    run_script(*train, '--work-dir', work_dir)
    test[-1] = test[-1].replace('work_dirs/mine', str(work_dir))
    done = run_script(*test, '--work-dir', tmp_path / 'test')
    assert 'bbox_mAP_copypaste' in done.stdout + done.stderr


@pytest.mark.parametrize('change, words', [
    (lambda root: ['--img-scale', '100'], 'must be a multiple of 32, got 100'),
    (lambda root: (root / 'data.yaml').write_text('names: [a]') and [],
     'there is no train'),
    (lambda root: (root / 'mine.py').touch() or [], 'mine.py exists; --force'),
    (lambda root: shutil.rmtree(root / 'images/val') or [],
     "'images/val' is neither"),
    (lambda root: (root / 'annotations').touch() or [],
     'cannot write .*mmfasternet_train.json'),
    (lambda root: ['--epochs', '0'], '2'),
    (lambda root: ['--batch-size', '-1'], '2'),
])
def test_a_mistake_writes_no_config(change, words, coco, prepare, tmp_path):
    root = to_yolo(coco, tmp_path / 'data')
    options = change(root)
    existed = (root / 'mine.py').exists()
    with pytest.raises(SystemExit, match=words):
        prepare(root, root / 'mine.py', *options)
    assert (root / 'mine.py').exists() == existed


@pytest.mark.parametrize('name', ['file/mine.py', 'folder.py'])
def test_a_config_that_cannot_be_written(name, coco, prepare, tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'folder.py').mkdir()
    with pytest.raises(SystemExit, match=f'cannot write .*{name}: .*place'):
        prepare(coco, tmp_path / name, '--force', '--model', 's')
    assert (tmp_path / 'file').is_file()


def test_a_test_split_is_written_into_the_config(coco, prepare, tmp_path):
    root = to_yolo(coco, tmp_path / 'data')
    for kind in ('images', 'labels'):
        (root / kind / 'test').mkdir()
        (root / kind / 'train' / ('5.png' if kind == 'images' else
                                  '5.txt')).rename(
            root / kind / 'test' / ('9.png' if kind == 'images' else '9.txt'))
    with (root / 'data.yaml').open('a') as file:
        file.write('test: images/test\n')
    config = tmp_path / 'mine.py'
    out = prepare(root, config, '--model', 'lite_n')
    assert '--split test' in out
    assert 'give its weights as --teacher-checkpoint' in out
    cfg = load_config(str(config))
    assert cfg.model.bbox_head.head_module.cls_convs == (0, 1)
    assert cfg.test_ann_file == 'annotations/mmfasternet_test.json'
    data = json.loads((root / cfg.test_ann_file).read_text())
    assert [i['file_name'] for i in data['images']] == ['images/test/9.png']
    assert cfg.test_data_prefix == ''
    train = json.loads((root / cfg.train_ann_file).read_text())
    assert len(train['images']) == 4


def to_coco(coco, root):
    return shutil.copytree(coco, root)


@pytest.mark.parametrize('make, file, share', [
    (to_yolo, 'images/train/5.png', 0), (to_yolo, 'images/train/5.png', 0.5),
    (to_voc, 'train/5.png', 0), (to_voc, 'train/5.png', 0.5),
    (to_coco, 'train/5.png', 0.5), (to_coco, 'train/5.png', None)
])
def test_a_damaged_image_is_named_and_counted_and_the_rest_done(
        make, file, share, coco, prepare, tmp_path, capsys):
    """Empty, cut off, or listed only."""
    root = make(coco, tmp_path / 'data')
    damaged = root / file
    data = damaged.read_bytes()
    damaged.unlink()
    if share is not None:
        damaged.write_bytes(data[:int(share * len(data))])
    config = tmp_path / 'mine.py'
    with pytest.raises(SystemExit, match='error: 1 images that cannot be'):
        prepare(root, config)
    out = capsys.readouterr().out
    assert f'dropped: {damaged}: the image cannot be read' in out
    assert f'next: python tools/train.py {config}' in out
    cfg = load_config(str(config))
    data = json.loads((root / cfg.train_ann_file).read_text())
    assert len(data['images']) == 4
    assert '5' not in {Path(i['file_name']).stem for i in data['images']}
    assert {a['image_id'] for a in data['annotations']} <= {
        i['id'] for i in data['images']}


def test_the_models_are_those_of_the_configs():
    """A new size is offered at once; its memory has to be measured."""
    tool = runpy.run_path('tools/prepare.py')
    sizes = 'nsmlx'
    assert tool['models']() == [*sizes, *(f'lite_{size}' for size in sizes)]
    assert {*sizes} == {*tool['GB_PER_IMAGE']}
    assert tool['gb_per_image']('lite_s') == tool['gb_per_image']('s')


@pytest.mark.parametrize('images, size, batch, epochs', [
    (20, 'n', 1, 40), (205, 'n', 8, 30), (205, 'x', 8, 30),
    (5000, 's', 8, 30)
])
def test_proposals_suit_the_set(images, size, batch, epochs, monkeypatch):
    """On CPU: 25 iterations an epoch or more, about 800 in all."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    propose = runpy.run_path('tools/prepare.py')['propose']
    args = argparse.Namespace(img_scale=None, epochs=None, batch_size=None)
    values = propose(dict(images=images, side=500), size, args)
    assert values['batch'] == batch and values['epochs'] == epochs
    assert values['scale'] == (320, 320)
    assert values['warmup'] * 10 <= epochs and values['close'] < epochs


def test_the_batch_fits_into_half_of_the_memory(monkeypatch):
    """Images of 320 pixels, 0.5 GB: 0.8 * 0.5 / (2 * 0.18 / 4) is 4.4."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    propose = runpy.run_path('tools/prepare.py')['propose']
    size = dict(SC_PHYS_PAGES=10**9 // 4096, SC_PAGE_SIZE=4096)
    monkeypatch.setattr(os, 'sysconf', size.get)
    args = argparse.Namespace(img_scale=None, epochs=None, batch_size=None)
    assert propose(dict(images=205, side=500), 'n', args)['batch'] == 4


@pytest.mark.parametrize('images, size, free, side, expected', [
    # the CPU: 5,000 images are 625 iterations, of which 800 are wanted
    (5000, 's', None, 900, dict(
        scale=(320, 320), batch=8, epochs=30, close=10, warmup=3,
        val_interval=3, log_interval=50)),
    (60, 'n', None, 90, dict(
        scale=(96, 96), batch=2, epochs=30, close=10, warmup=3,
        val_interval=3, log_interval=6)),
    # a GPU of 8 GB: 0.8 * 8 / (2 * 0.3) is 10.7, and for n 17.8
    (5000, 's', 8e9, 900, dict(
        scale=(640, 640), batch=8, epochs=50, close=10, warmup=3,
        val_interval=5, log_interval=50)),
    (5000, 'n', 8e9, 900, dict(
        scale=(640, 640), batch=16, epochs=50, close=10, warmup=3,
        val_interval=5, log_interval=50)),
    (100, 'n', 8e9, 300, dict(
        scale=(320, 320), batch=4, epochs=300, close=10, warmup=3,
        val_interval=30, log_interval=5)),
])
def test_all_of_a_proposal(images, size, free, side, expected, monkeypatch):
    tool = runpy.run_path('tools/prepare.py')
    memory = dict(SC_PHYS_PAGES=10**7, SC_PAGE_SIZE=4096)
    monkeypatch.setattr(os, 'sysconf', memory.get)
    monkeypatch.setattr(os, 'cpu_count', lambda: 12)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: free is not None)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (free, 10**12))
    train = tool['statistics'](dict(
        images=[dict(width=side, height=9), dict(width=9, height=side),
                dict(width=9, height=9)], annotations=[1, 2]))
    assert train == dict(images=3, boxes=2, side=side)
    args = argparse.Namespace(img_scale=None, epochs=None, batch_size=None)
    assert tool['propose'](dict(train, images=images), size, args) == dict(
        expected, workers=8)


def test_what_was_asked_for_is_written(coco, prepare, tmp_path):
    root, labels = to_yolo(coco, tmp_path / 'data'), tmp_path / 'labels'
    config = tmp_path / 'mine.py'
    config.touch()
    prepare(root, config, '--force', '--model', 's', '--epochs', 7,
            '--img-scale', 96, '--batch-size', 3, '--out-dir', labels)
    cfg = load_config(str(config))
    assert (cfg.model.backbone.arch, cfg.max_epochs, cfg.img_scale) == (
        't0', 7, (96, 96))
    assert [cfg[name] for name in (
        'train_batch_size_per_gpu', 'val_batch_size_per_gpu',
        'total_batch_size')] == [3, 3, 3]
    assert (cfg.close_mosaic_epochs, cfg.warmup_epochs, cfg.val_interval,
            cfg.log_interval) == (2, 1, 1, 1)
    assert sorted(labels.rglob('*.json')) == [
        labels / f'annotations/mmfasternet_{s}.json' for s in ('train', 'val')]
    assert not (root / 'annotations').exists()
    require_data(cfg, 'train', 'val')


@pytest.fixture(scope='module')
def yolov8n(tmp_path_factory):
    """Weights of mmyolo's, for the classes of the COCO-shaped folder."""
    from mmengine.hub import get_config
    from mmengine.registry import MODELS, init_default_scope
    init_default_scope('mmyolo')
    cfg = get_config(f'mmyolo::{YOLOV8N}').model
    cfg.bbox_head.head_module.num_classes = 2
    path = tmp_path_factory.mktemp('teacher') / 'best.pth'
    torch.save(
        dict(meta=dict(dataset_meta=dict(classes=('blue', 'red'))),
             state_dict=MODELS.build(cfg).state_dict()), path)
    return path


YOLOV8N = 'yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'


def test_a_teacher_and_images_without_labels(coco, prepare, yolov8n,
                                             tmp_path):
    (tmp_path / 'more').mkdir()
    shutil.copy(coco / 'train/1.png', tmp_path / 'more/new.png')
    out = prepare(coco, tmp_path / 'mine.py', *SMALL, '--teacher-checkpoint',
                  yolov8n, '--unlabelled', tmp_path / 'more')
    assert f'teacher: mmyolo::{YOLOV8N}, its classes are the same' in out
    assert f'unlabelled: 1 images in {tmp_path}/more' in out
    cfg = load_config(str(tmp_path / 'mine.py'))
    require_data(cfg, 'train', 'val')
    assert cfg.model.type == 'mmfasternet.DistilledYOLODetector'
    assert cfg.default_hooks.distillation.checkpoint == str(yolov8n)
    images = cfg.train_dataloader.dataset.unlabelled
    folder = Path(images.data_root) / images.data_prefix.img
    assert folder.resolve() == (tmp_path / 'more').resolve()
    # also a config of one's own, of other classes
    data = torch.load(yolov8n)
    data['meta']['dataset_meta']['classes'] = ('cat', 'dog')
    torch.save(data, tmp_path / 'other.pth')
    out = prepare(coco, tmp_path / 'mine.py', *SMALL, '--force', '--teacher',
                  f'mmyolo::{YOLOV8N}', '--teacher-checkpoint',
                  tmp_path / 'other.pth')
    assert "others, so only features are learnt: ('cat', 'dog')" in out


@pytest.mark.parametrize('arguments, words', [
    (['--teacher', f'mmyolo::{YOLOV8N}'], '--teacher needs --teacher-check'),
    (['--unlabelled', '.'], '--unlabelled needs --teacher-checkpoint'),
    (['--teacher-checkpoint', 'no/such.pt'], 'no/such.pt'),
    (['--teacher-checkpoint', 'FASTERNET'], 'give its config as --teacher'),
    (['--teacher-checkpoint', 'YOLOV8N', '--teacher', 'no/such.py'],
     'no/such.py'),
    (['--teacher-checkpoint', 'YOLOV8N', '--unlabelled', 'no/such'],
     'no such file or folder: no/such'),
])
def test_a_mistaken_teacher_writes_no_config(arguments, words, coco, prepare,
                                             yolov8n, tmp_path):
    torch.save(FasterNet('n').state_dict(), tmp_path / 'backbone.pth')
    files = dict(YOLOV8N=yolov8n, FASTERNET=tmp_path / 'backbone.pth')
    with pytest.raises(SystemExit, match=words):
        prepare(coco, tmp_path / 'mine.py', *SMALL,
                *(files.get(a, a) for a in arguments))
    assert not (tmp_path / 'mine.py').exists()
