# SPDX-License-Identifier: Apache-2.0
"""The tools that look inside, as a user runs them."""
import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import table_rows
from processes import run_script

from mmfasternet.analysis.inspection.statistics import Redundancy

VIS = 'tools/analysis_tools/vis_network.py'
LAYERS = 'tools/analysis_tools/layer_stats.py'


def run(monkeypatch, capsys, path, *words):
    """Exit status or message, and output, of a tool in this process."""
    spec = importlib.util.spec_from_file_location('tool', path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, 'argv', [path, *map(str, words)])
    spec.loader.exec_module(module)
    try:
        module.main()
        code = 0
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out


def cells(out, name):
    return [[cell.strip() for cell in line.strip('|').split('|')]
            for line in out.splitlines() if line.startswith(f'| {name}')
            and not line.startswith('| ---')]


def test_all_views_of_a_folder(small, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        noise = rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f'{i}.png'), noise)
    out = tmp_path / 'out'
    done = run_script(VIS, images, small.config, small.checkpoint,
                      '--out-dir', out)
    stages = ['backbone_stages_0', 'backbone_norm2', 'backbone_norm4',
              'backbone_norm6']
    names = {'erf.png', 'pconv.png'}
    for image in '01':
        names |= {f'{image}_features.png', f'{image}_cam.png'}
        for view in ('channels', 'redundancy'):
            names |= {f'{image}_{view}_{stage}.png' for stage in stages}
    assert {path.name for path in out.iterdir()} == names
    # each its own picture; what they show is tested in test_visualization
    assert len({cv2.imread(str(out / name)).tobytes() for name in names}) == \
        len(names)
    redundancy = cells(done.stdout, 'backbone')[:4]
    assert [row[1] for row in redundancy] == ['16', '32', '64', '128']
    assert all(0 < float(row[2]) <= 1 for row in redundancy)
    # a PConv per block and three in the head
    rows = [row for row in cells(done.stdout, 'b') if ' of ' in row[1]]
    assert [row[1] for row in rows[:4]] == [
        '4 of 16', '8 of 32', '16 of 64', '32 of 128']
    assert len(rows) == 7 and 'mean of 2 images' in done.stdout
    # patch embedding and one 3x3: 4 + 2 * 4
    assert cells(done.stdout, 'backbone.stages.0')[-1][-1] == '12'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('tool', VIS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_two_pictures_have_one_name(tool):
    for files, names in (
            (['a.png', 's/a.jpg', 's/a_2.png'], ['a', 'a_2', 'a_2_2']),
            (['a.png', 'a_2.png', 's/A.png'], ['a', 'a_2', 'A_3']),
            (['a.b.png', 'a_b.png'], ['a_b', 'a_b_2'])):
        assert [*tool.unique_names(files).values()] == names


def test_a_damaged_image_stops_no_other(small, monkeypatch, capsys, tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    for number, name in enumerate(('a', 'c')):
        shutil.copy(small.images[number], folder / f'{name}.png')
    (folder / 'b.png').write_bytes(b'no image')
    code, out = run(monkeypatch, capsys, VIS, folder, small.config, '--view',
                    'redundancy', 'cam', '--out-dir', tmp_path / 'out')
    assert code == 'error: 1 of 3 images were skipped, see above'
    assert 'channel redundancy, mean of 2 images' in out
    assert {path.name for path in (tmp_path / 'out').glob('*_cam.png')} == {
        'a_cam.png', 'c_cam.png'}


@pytest.fixture
def views(tool, tmp_path):
    args = SimpleNamespace(out_dir=tmp_path, target_layers=['a'])
    return tool.Views(None, args, None)


def test_tables_are_of_means_over_the_images(views, capsys):
    views.redundancies['a'] = [Redundancy(4, .5, .25, .1),
                               Redundancy(6, .7, .75, .3)]
    views.pconvs['b'] = [(8, 24, 1, 2, 3, .2, .4, .125),
                         (8, 24, 3, 4, 5, .4, .8, .375)]
    views.sum_up(2)
    redundancy, pconv = capsys.readouterr().out.split('\n\n')[:2]
    assert redundancy.startswith('channel redundancy, mean of 2 images\n')
    assert table_rows(redundancy) == [{
        'map': 'a', 'channels': '5', 'largest abs(r)': '0.600',
        'of at least 0.9': '50.0%', 'by chance': '0.200'}]
    assert table_rows(pconv) == [{
        'module': 'b', 'convolved': '8 of 32', 'rms before': '2',
        'rms after': '3', 'rms untouched': '4', 'abs(r) before': '0.30',
        'abs(r) after': '0.60', 'share in the 1x1': '25.0%'}]


def test_fields_are_means_over_the_images_of_a_size(
        views, tool, capsys, monkeypatch, tmp_path):
    """Of two of 32x16 one sees a pixel, and one a square of 5 around it."""
    one, five = torch.zeros(2, 16, 32)
    one[8, 16], five[6:11, 14:19] = 25, 1
    fields = iter([one, five])
    monkeypatch.setattr(tool.statistics, 'receptive_fields',
                        lambda *args: dict(a=next(fields)))
    for _ in range(2):
        views.erf('x', SimpleNamespace(inputs=None),
                  dict(a=torch.zeros(3, 16, 32)))
    views.sum_up(2)
    out = capsys.readouterr().out
    assert out.startswith('receptive field in pixels, mean of 2 image(s) of '
                          '32x16\n')
    # a half of all lies in the middle
    assert table_rows(out) == [{
        'map': 'a', '50% of it': '1', '95% of it': '5', 'all': '5'}]
    assert (tmp_path / 'erf.png').is_file()


def test_true_boxes_of_a_file(tool, tmp_path):
    """Without a crowd's, as MMDetection numbers the classes."""
    data = dict(
        images=[dict(id=7, file_name='sub/a.png', width=9, height=9)],
        annotations=[
            dict(id=i, image_id=7, category_id=category, iscrowd=crowd,
                 area=12, bbox=[1, 2, 3, 4])
            for i, (category, crowd) in enumerate(
                ((10, 0), (20, 0), (20, 1), (30, 0)))],
        categories=[dict(id=i, name=name)
                    for i, name in ((10, 'x'), (20, 'y'), (30, 'z'))])
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(data))
    # by its folders where two have its name
    data['images'] += [dict(data['images'][0], id=8, file_name='a.png'),
                       dict(data['images'][0], id=9, file_name='b/a.png')]
    (tmp_path / 'alike.json').write_text(json.dumps(data))
    truth = tool.Truth(tmp_path / 'alike.json', ())
    for file, number in (('x/sub/a.png', 7), ('x/b/a.png', 9), ('a.png', 8)):
        assert truth.id_of(file) == number
    assert truth.id_of('x/b.png') is None
    assert len(truth('x/sub/a.png')[0]) == 3 and not len(truth('b/a.png')[0])
    for classes, labels in ((('y', 'z'), [0, 1]), ((), [0, 1, 2])):
        boxes, found = tool.Truth(path, classes)('elsewhere/a.png')
        assert boxes.tolist() == len(labels) * [[1, 2, 4, 6]]
        assert found.tolist() == labels


def test_some_images_of_a_folder(tool, small, coco):
    args = SimpleNamespace(img=str(coco / 'val'), number=2, ann_file=None)
    images, truth = tool.inputs_of(args, small.cfg)
    assert [Path(path).name for path in images] == ['1.png', '2.png']
    assert truth is None
    args.ann_file = coco / 'annotations/val.json'
    images, truth = tool.inputs_of(args, small.cfg)
    assert [Path(path).name for path in images] == ['1.png', '2.png']
    boxes, labels = truth(images[1])
    assert len(boxes) == 1 and labels.tolist() == [0]  # blue


def test_any_backbone_and_any_layer(small, monkeypatch, capsys, tmp_path):
    """Stock YOLOv8 with the weights it starts from."""
    stock = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'
    smaller = ['--cfg-options'] + [
        f'test_dataloader.dataset.pipeline.{i}.scale=(128,128)'
        for i in (1, 2)]
    code, out = run(monkeypatch, capsys, VIS, small.images[0], stock,
                    '--out-dir', tmp_path, '--view', 'features', 'cam',
                    *smaller)
    assert code == 0 and 'pictures of 1 image' in out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'0_features.png', '0_cam.png'} | {
        f'0_channels_backbone_{stage}.png'
        for stage in ('stem', 'stage1', 'stage2', 'stage3', 'stage4')}
    code, out = run(
        monkeypatch, capsys, VIS, small.images[0], small.config, '--out-dir',
        tmp_path, '--target-layers', 'neck[0]', 'backbone.stages.2.blocks.0',
        '--view', 'redundancy')
    assert code == 0
    assert [row[0] for row in cells(out, '')[1:]] == [
        'neck[0]', 'backbone.stages.2.blocks.0']
    code, _ = run(monkeypatch, capsys, VIS, small.images[0], stock, '--view',
                  'pconv', '--out-dir', tmp_path, *smaller)
    assert 'has no partial convolution' in code


@pytest.mark.parametrize('words, message', [
    (['none.jpg', '{config}'], 'no such file or folder: none.jpg'),
    (['{config}', '{config}'], 'cannot be read as an image'),
    (['{image}', '{config}', 'none.pth'], 'checkpoint not found'),
    (['{image}', '{config}', '--target-layers', 'body'],
     "no module 'body'"),
])
def test_a_mistake_is_one_message(words, message, small, monkeypatch, capsys,
                                  tmp_path):
    words = [w.format(config=small.config, image=small.images[0])
             for w in words]
    code, _ = run(monkeypatch, capsys, VIS, *words, '--out-dir', tmp_path)
    assert code.startswith('error: ') and message in code


def test_levels_of_true_boxes_and_of_detections(small, coco, monkeypatch,
                                                capsys, tmp_path):
    """Each image has one object, 24 px wide: at 64 px 24 * 64 / 80."""
    words = [coco / 'val', small.config, small.checkpoint, '--view', 'levels',
             '--out-dir', tmp_path]
    code, out = run(monkeypatch, capsys, VIS, *words, '--ann-file',
                    coco / 'annotations/val.json')
    assert code == 0, code
    rows = cells(out, '')
    assert rows[0][-3:] == ['stride 8', 'stride 16', 'stride 32']
    assert [row[1] for row in rows[1:]] == ['5', '0', '0', '0']
    found = int(rows[1][2])
    assert 0 <= found <= 5
    if found:
        assert sum(map(float, rows[1][3:])) == pytest.approx(1, abs=0.015)
    code, out = run(monkeypatch, capsys, VIS, *words, '--score-thr', '0')
    assert code == 0 and 'detections of at least 0 in 5 image(s)' in out
    count = sum(int(row[1]) for row in cells(out, '')[1:])
    assert count > 5
    code, _ = run(monkeypatch, capsys, VIS, *words, '--ann-file', 'none.json')
    assert code == 'error: annotations not found: none.json'
    code, _ = run(monkeypatch, capsys, VIS, small.images[0], *words[1:],
                  '--ann-file', coco / 'annotations/val.json')
    assert 'val.json has none of the images in' in code


def test_layer_statistics_of_a_step(coco_options, monkeypatch, capsys,
                                    tmp_path):
    options = [f'{k}={v}'.replace(' ', '').replace("'", '"')
               for k, v in coco_options.items()]
    code, out = run(monkeypatch, capsys, LAYERS,
                    'configs/yolov8_fasternet_n.py', '--out-dir', tmp_path,
                    '--cfg-options', *options)
    assert code == 0, code
    with (tmp_path / 'layers.csv').open() as file:
        rows = {row['name']: row for row in csv.DictReader(file)}
    # a batch norm that starts with weight 1 and bias 0
    norm = rows['backbone.stages.2.blocks.0.mlp.1']
    assert float(norm['mean']) == pytest.approx(0, abs=1e-4)
    assert float(norm['std']) == pytest.approx(1, abs=1e-3)
    assert norm['kind'] == 'BatchNorm2d'
    # the whole backbone learns
    for name, row in rows.items():
        if name.startswith('backbone') and row['kind'] == 'Conv2d':
            assert float(row['weight_grad']) > 0
    assert 'backbone.stages.2' in out and '2 images' in out
    assert cv2.imread(str(tmp_path / 'layers.png')).shape[2] == 3
