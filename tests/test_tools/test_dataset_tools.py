# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from processes import run_script

from mmfasternet.config import load_config

CONFIG = 'configs/yolov8_fasternet_n.py'
CHECK = 'tools/misc/check_dataset.py'
BROWSE = 'tools/analysis_tools/browse_dataset.py'


def load(path):
    spec = importlib.util.spec_from_file_location('tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def browse():
    return load(BROWSE)


def arguments(options):
    text = [f'{k}={v}' for k, v in options.items()]
    return ['--cfg-options', *(t.replace("'", '"') for t in text)]


def run_here(monkeypatch, path, *words):
    """Exit status of the tool, run in this process."""
    monkeypatch.setattr(sys, 'argv', [str(path), *map(str, words)])
    try:
        load(path).main()
    except SystemExit as end:
        return end.code
    return 0


# ------------------------------------------------------------ check_dataset
def test_check_prints_and_draws(coco_options, tmp_path):
    done = run_script(CHECK, CONFIG, '--out-dir', tmp_path / 'out',
                      *arguments(coco_options))
    assert done.stdout.splitlines()[-3:] == [
        'train: 5 images, 5 boxes: blue 2, red 3',
        'val: 5 images, 5 boxes: blue 2, red 3',
        'ready to train on: no findings'
    ]
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert report == dict(
        refused=False,
        findings=[],
        splits={
            split: dict(images=5, boxes=5, classes=dict(blue=2, red=3))
            for split in ('train', 'val')
        })
    for name in ('class_histogram.png', 'boxes.png'):
        assert splits_drawn(tmp_path / 'out' / name) == [True, True]


def splits_drawn(path):
    """Whether matplotlib's first and second colour are in a picture."""
    picture = cv2.imread(str(path)).astype(int)
    return [bool((np.abs(picture - bgr).max(2) < 3).any())
            for bgr in ((180, 119, 31), (14, 127, 255))]


@pytest.fixture
def damaged(coco, coco_options, tmp_path):
    """A copy with a missing image and another one that val has too."""
    root = tmp_path / 'damaged'
    shutil.copytree(coco, root)
    (root / 'train/1.png').unlink()
    shutil.copy(root / 'train/2.png', root / 'val/1.png')
    return {**coco_options, 'data_root': f'{root}/'}


def test_check_fails_if_something_is_refused(damaged, monkeypatch, capsys):
    options = arguments(damaged)
    assert run_here(monkeypatch, CHECK, CONFIG, *options) == 1
    # the first import of mmdet prints something before
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines[2].startswith('refused: train: image-missing (1): ')
    assert lines[3].startswith('note: train, val: leak (1): ')
    assert lines[4:] == ['not ready to train on: refused 1, note 1']
    # without a look at the pixels there is no leak
    assert run_here(monkeypatch, CHECK, CONFIG, '--no-images', *options) == 1
    assert 'leak' not in capsys.readouterr().out
    # and processes say the same
    assert run_here(monkeypatch, CHECK, CONFIG, '--workers', 2,
                    *options) == 1
    assert capsys.readouterr().out.splitlines() == lines


def test_check_draws_what_is_readable(damaged, monkeypatch, tmp_path):
    damaged = {**damaged, 'val_ann_file': 'annotations/none.json'}
    out = tmp_path / 'out'
    assert run_here(monkeypatch, CHECK, CONFIG, '--out-dir', out,
                    *arguments(damaged)) == 1
    report = json.loads((out / 'report.json').read_text())
    assert list(report['splits']) == ['train']
    for name in ('class_histogram.png', 'boxes.png'):
        assert splits_drawn(out / name) == [True, False]


@pytest.mark.parametrize('words, message', [
    (['configs/none.py'], 'config file not found'),
    ([CONFIG, '--cfg-options', 'epochs=1'], "nothing in"),
    ([CONFIG, '--workers', '-1'], 'must be 0 or more'),
])
def test_check_refuses_wrong_arguments(words, message, monkeypatch, capsys):
    status = run_here(monkeypatch, CHECK, *words)
    assert status not in (0, None)
    assert message in f'{status}{capsys.readouterr().err}'


# ----------------------------------------------------------- browse_dataset
def drawn(browse, monkeypatch, cfg, phase='train', stage2=False, number=5):
    """Images, boxes and names as they come to be drawn."""
    tiles = []
    monkeypatch.setattr(browse, 'draw', lambda *a: tiles.append(a))
    dataset = browse.build_dataset(cfg, phase, stage2)
    browse.set_random_seed(0)
    list(browse.draw_items(dataset, number))
    return tiles


def check_colours(tiles):
    """In the middle of each box is what its name says, in RGB."""
    for rgb, boxes, labels, _ in tiles:
        assert rgb.dtype == np.uint8 and rgb.shape[2] == 3
        for (x1, y1, x2, y2), (_, name) in zip(boxes, labels):
            red, _, blue = rgb[int(y1 + y2) // 2, int(x1 + x2) // 2].astype(
                int)
            assert (red > blue) == (name == 'red')
            assert abs(red - blue) > 60


def test_browse_shows_mosaics(browse, coco_options, monkeypatch):
    cfg = load_config(CONFIG, {**coco_options, 'mixup_prob': 0.0})
    tiles = drawn(browse, monkeypatch, cfg)
    assert len(tiles) == 5 and {t[0].shape for t in tiles} == {(64, 64, 3)}
    # an image has one box, a mosaic those of four
    assert max(len(boxes) for _, boxes, _, _ in tiles) > 1
    check_colours(tiles)


def test_browse_shows_what_follows_mosaic(browse, coco_options, monkeypatch):
    cfg = load_config(CONFIG, coco_options)
    tiles = drawn(browse, monkeypatch, cfg, stage2=True)
    assert {len(boxes) for _, boxes, _, _ in tiles} <= {0, 1}
    assert sum(len(boxes) for _, boxes, _, _ in tiles) >= 3
    check_colours(tiles)


def test_browse_shows_validation_in_the_letterbox(
        browse, coco, coco_options, monkeypatch):
    cfg = load_config(CONFIG, coco_options)
    tiles = drawn(browse, monkeypatch, cfg, 'val')
    check_colours(tiles)
    truth = json.loads((coco / 'annotations/val.json').read_text())
    expected = {}
    for a in truth['annotations']:
        x, y, w, h = (0.8 * side for side in a['bbox'])  # 80x60 in 64x64
        expected[f'{a["image_id"]}.png, 1 boxes'] = [
            x, y + 8, x + w, y + h + 8
        ]
    assert {t[3]: t[1][0] for t in tiles} == {
        k: pytest.approx(v, abs=0.01) for k, v in expected.items()
    }


def test_browse_takes_nested_data_sets_and_mmdetection(
        browse, coco, coco_options, monkeypatch):
    cfg = load_config(CONFIG, coco_options)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset = dict(
            type='ConcatDataset', datasets=[loader.dataset, loader.dataset])
    assert len(drawn(browse, monkeypatch, cfg, 'val', number=99)) == 10
    assert len(drawn(browse, monkeypatch, cfg, stage2=True, number=99)) == 10
    cfg = load_config(
        'configs/retinanet/retinanet_fasternet-t0_fpn_1x_coco.py')
    cfg.train_dataloader.dataset.update(
        data_root=f'{coco}/',
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('blue', 'red')))
    tiles = drawn(browse, monkeypatch, cfg)
    assert len(tiles) == 5 and all(len(t[1]) == 1 for t in tiles)
    check_colours(tiles)
    with pytest.raises(ValueError, match='no hook with a switch_pipeline'):
        browse.build_dataset(cfg, 'train', True)


def test_browse_draws_boxes_and_names(browse):
    rgb = np.zeros((100, 160, 3), np.uint8)
    pixels = browse.draw(rgb, [[20, 30, 60, 70]], [(0, 'größer')], '1.png')
    assert pixels.shape == (200 + 26, 320, 3)  # twice
    colour = pixels[140 - 1, 80]  # the lower edge, enlarged
    assert colour.max() > 150
    for point in ((60, 80), (100, 40), (100, 119)):
        assert (pixels[point] == colour).all()
    assert (pixels[200:] < 128).any() and (pixels[-1] == 255).all()
    assert not pixels[100, 80].any() and not pixels[150:195, 130:].any()
    assert (pixels[48:58, 45:70] == colour).all(2).any()  # below the name
    # inside out or outside, boxes do not stop it
    tile = browse.draw(rgb, [[60, 70, 20, 30], [-9, -9, 999, 999]],
                       [(0, 'a'), (1, 'b')], '')
    assert tile.shape == pixels.shape
    # the name of the first one, at its corner as it is written
    assert (tile[127:137, 122:130] == colour).all(2).any()


def test_browse_writes_a_sheet(coco_options, tmp_path):
    done = run_script(BROWSE, CONFIG, '--number', 3, '--out',
                      tmp_path / 'a/b.png', *arguments(coco_options))
    assert '3 images of train in' in done.stdout
    sheet = Image.open(tmp_path / 'a/b.png')
    assert sheet.size == (2 * (320 + 8), 2 * (320 + 2 * 13 + 8))


def test_browse_leaves_out_what_cannot_be_read(damaged, tmp_path, monkeypatch,
                                               capsys):
    """A missing image, one that is empty, one that is none."""
    folder = Path(damaged['data_root']) / 'val'
    missing, empty, text, *others = sorted(folder.glob('*.png'))
    missing.unlink()
    empty.write_bytes(b'')
    text.write_text('none')
    words = (CONFIG, '-p', 'val', '-n', 99, '--out', tmp_path / 'x.png',
             *arguments(damaged))
    status = run_here(monkeypatch, BROWSE, *words)
    if others:
        assert status == 'error: 3 that cannot be read were left out, see ' \
            'above'
        assert Image.open(tmp_path / 'x.png').size[0] > 0
    for path in others:
        path.unlink()
    status = run_here(monkeypatch, BROWSE, *words)
    assert status == 'error: none of the images can be read, see above'
    assert capsys.readouterr().out.count('left out: ') >= 6


@pytest.mark.parametrize('words, name', [
    (['-p', 'val', '-n', 2], 'browse_val'),
    (['--stage2', '--show-number', 2], 'browse_train_stage2'),
    (['-n', 2], 'browse_train')])
def test_browse_draws_what_was_asked_for(words, name, coco_options, tmp_path,
                                         monkeypatch, capsys):
    browse, config = Path(BROWSE).resolve(), Path(CONFIG).resolve()
    monkeypatch.chdir(tmp_path)
    for options, folder in (
        ({}, 'work_dirs/yolov8_fasternet_n'), (dict(work_dir='x'), 'x')):
        assert run_here(monkeypatch, browse, config, *words, *arguments(
            dict(coco_options, **options))) == 0
        picture = f'{folder}/{name}.png'
        assert f'2 images of {name.split("_")[1]} in {picture}' in \
            capsys.readouterr().out
        assert Path(picture).is_file()


def test_browse_repeats_with_a_seed(coco_options, tmp_path, monkeypatch):
    sheets = []
    for seed in (0, 0, 1):
        out = tmp_path / f'{len(sheets)}.png'
        assert run_here(monkeypatch, BROWSE, CONFIG, '--out', out, '--seed',
                        seed, *arguments(coco_options)) == 0
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


@pytest.mark.parametrize('words, message', [
    ([CONFIG, '--number', '0'], '--number must be 1 or more'),
    ([CONFIG, '--phase', 'val', '--stage2'], '--stage2 is for --phase train'),
    ([CONFIG], 'train data not found'),
])
def test_browse_refuses_wrong_arguments(words, message, monkeypatch, capsys):
    if len(words) == 1:
        words = [*words, '--cfg-options', 'data_root=/none/']
    status = run_here(monkeypatch, BROWSE, *words)
    assert status not in (0, None)
    assert message in f'{status}{capsys.readouterr().err}'


def test_browse_is_for_detection(monkeypatch, tmp_path):
    pytest.importorskip('sklearn')
    if importlib.util.find_spec('mmpretrain') is None:
        pytest.skip('mmpretrain is not installed')
    status = run_here(monkeypatch, BROWSE,
                      'configs/classification/fasternet-n_digits.py', '--out',
                      tmp_path / 'a.png')
    assert 'it is not one for detection' in str(status)
