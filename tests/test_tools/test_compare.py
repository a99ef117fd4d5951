# SPDX-License-Identifier: GPL-3.0-only
"""Comparisons: what is trained, and the tool as users run it."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from processes import run_script

from mmfasternet.analysis.comparison.runs import (
    Run,
    parse_detector,
    prepare,
)
from mmfasternet.config import load_config
from mmfasternet.config.recipe import with_model_of

STOCK = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'


def test_the_stock_network_stays_what_it_is():
    """mmyolo's own detector, and the one that is trained in its place."""
    init_default_scope('mmyolo')
    stock = load_config(STOCK)
    cfg = with_model_of(
        load_config('configs/yolov8_fasternet_n_bccd.py'), stock)
    stock.model.bbox_head.head_module.num_classes = 3
    stock.model.train_cfg.assigner.num_classes = 3
    torch.manual_seed(0)
    theirs, ours = (MODELS.build(c.model).eval() for c in (stock, cfg))
    assert type(ours) is not type(theirs)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 96)
    for a, b in zip(theirs(images), ours(images)):
        for x, y in zip(a, b):
            torch.testing.assert_close(x, y)
    assert cfg.train_cfg.max_epochs == 30


def test_mmyolos_detector_stays_if_it_is_asked_for():
    stock = load_config(STOCK)
    recipe = load_config('configs/yolov8_fasternet_n_bccd.py')
    for unmodified, kinds in (
        (False, ('mmfasternet.AnyBackboneYOLODetector',
                 'mmfasternet.SparseTaskAlignedAssigner')),
        (True, ('YOLODetector', 'BatchTaskAlignedAssigner'))):
        model = with_model_of(recipe, stock, unmodified).model
        assert (model.type, model.train_cfg.assigner.type) == kinds
        assert model.train_cfg.assigner.num_classes == 3
        assert model.bbox_head.head_module.num_classes == 3


def test_the_runs_of_a_comparison(tmp_path):
    """Of each seed all detectors, with their options and the recipe's data;
    without a recipe that of the first."""
    n, s, bccd = (f'configs/yolov8_fasternet_{name}.py'
                  for name in ('n', 's', 'n_bccd'))
    detectors = [f'A={n}', f'B={s},model.neck.deepen_factor=0.5']
    runs = prepare(detectors, bccd, [4, 2], tmp_path / 'a',
                   dict(max_epochs=5))
    assert [(run.name, run.seed) for run in runs] == [
        ('A', 4), ('B', 4), ('A', 2), ('B', 2)]
    for run in runs:
        cfg = run.settings
        assert cfg.randomness.seed == run.seed
        assert run.work_dir == tmp_path / f'a/{run.name}/seed_{run.seed}'
        assert (cfg.train_cfg.max_epochs, cfg.num_classes) == (5, 3)
        model = cfg.model
        assert (model.backbone.arch, model.neck.deepen_factor) == (
            ('n', 0.33) if run.name == 'A' else ('t0', 0.5))
    for run in prepare(detectors, None, [1], tmp_path / 'b', {}):
        assert (run.settings.train_cfg.max_epochs,
                run.settings.num_classes) == (500, 80)
    found = tmp_path / 'found.json'
    found.touch()
    with pytest.raises(ValueError, match='are for what is trained, and no'):
        prepare([str(found)], bccd, [1], tmp_path, {})


def test_runs_that_are_there(tmp_path):
    """Their seeds, of files their number."""
    for name, seed in (('x', 7), ('y', None)):
        (tmp_path / name).mkdir()
        (tmp_path / f'{name}/config.py').write_text(
            f'randomness = dict(seed={seed})')
        (tmp_path / f'{name}.json').write_text('[]')
    runs = prepare(
        [f'A={tmp_path}/{name}' for name in ('x', 'y', 'x.json')] +
        [f'B={tmp_path}/y.json'], None, [1], tmp_path, {})
    assert [(run.name, run.seed, run.file and run.file.name) for run in runs
            ] == [('A', 7, None), ('A', 2, None), ('A', 3, 'x.json'),
                  ('B', 1, 'y.json')]
    (tmp_path / 'y/other.py').touch()
    with pytest.raises(ValueError, match='it holds 2 configs'):
        prepare([f'A={tmp_path}/y'], None, [1], tmp_path, {})
    with pytest.raises(FileNotFoundError, match='not found: .*none.json'):
        prepare([f'A={tmp_path}/none.json'], None, [1], tmp_path, {})


def test_a_run_is_trained_to_its_end_and_tested_once(tmp_path, monkeypatch):
    called = []

    def note(command, check):
        python, path, *words = command
        called.append((python == sys.executable, path.name, *words, check))

    monkeypatch.setattr(subprocess, 'run', note)
    config, work_dir = tmp_path / 'a.py', tmp_path / 'a'
    load_config('configs/yolov8_fasternet_n.py', dict(
        max_epochs=7, data_root='there/')).dump(config)
    work_dir.mkdir()
    run = Run('A', 1, config, work_dir)
    (work_dir / 'epoch_6.pth').touch()
    run.train(['--amp'])
    assert called.pop() == (
        True, 'train.py', str(config), '--work-dir', str(work_dir),
        '--resume', '--amp', True)
    with pytest.raises(FileNotFoundError, match='epoch_7.pth not found: the'):
        run.detections()
    last, found = work_dir / 'epoch_7.pth', work_dir / 'val.bbox.json'
    last.touch()
    run.train()
    assert not called and run.checkpoint() == last
    for age, stale in ((None, True), (-9, False), (9, True)):
        if age is not None:  # of the file, in seconds before the checkpoint
            found.touch()
            os.utime(found, 2 * (last.stat().st_mtime - age, ))
        assert run.detections() == found
        prefix = str(work_dir / 'val')
        assert called == stale * [(
            True, 'test.py', str(config), str(last), '--work-dir', prefix,
            '--json-prefix', prefix, True)]
        called.clear()
    assert run.val('annotations') == Path(
        'there/annotations/instances_val2017.json')
    assert run.val('images') == Path('there/val2017')
    # a file of detections
    run = Run('B', 1, file=tmp_path / 'b.json')
    run.train()
    assert (run.detections(), run.val('images'), run.log()) == (
        tmp_path / 'b.json', None, [])
    assert not called


def test_what_stands_for_a_detector():
    assert parse_detector('A=x/b.py,model.n=2,arch=t0') == (
        'A', 'x/b.py', {'model.n': 2, 'arch': 't0'})
    assert parse_detector('x/b.py,m.n=2')[0] == 'b,m.n=2'
    for path, name in (
            ('runs/lr_0.01', 'lr_0.01'), ('runs/a/', 'a'), (
                'a/val.bbox.json', 'val.bbox'), ('.', Path.cwd().name)):
        assert parse_detector(path)[0] == name
    with pytest.raises(ValueError, match='is not .NAME=.CONFIG'):
        parse_detector('A=x.py,nothing')


def test_one_name_for_two_and_other_settings_are_refused(tmp_path):
    n, s = (f'configs/yolov8_fasternet_{size}.py' for size in 'ns')
    with pytest.raises(ValueError, match=f'call one NAME={s}'):
        prepare([f'A={n}', f'A={s}'], None, [1], tmp_path, {})
    prepare([n], None, [1], tmp_path, {})
    prepare([n], None, [1], tmp_path, {})  # again, the same
    with pytest.raises(ValueError, match='a training run with other settings'):
        prepare([n], None, [1], tmp_path, dict(max_epochs=7))
    # what was there is what is there
    config = tmp_path / 'yolov8_fasternet_n' / 'seed_1.py'
    assert load_config(str(config)).train_cfg.max_epochs == 500


def test_two_detectors_are_no_seeds_of_one(tmp_path):
    """Whose files are called alike, as tools/test.py calls them."""
    files = [tmp_path / name / 'val.bbox.json' for name in 'ab']
    for file in files:
        file.parent.mkdir()
        file.write_text('[]')
    with pytest.raises(ValueError, match='two are called val.bbox: call one '
                       f'NAME={files[1]}'):
        prepare([*map(str, files)], None, [1], tmp_path, {})
    runs = prepare([f'A={file}' for file in files], None, [1], tmp_path, {})
    assert [(run.name, run.seed) for run in runs] == [('A', 1), ('A', 2)]
    with pytest.raises(ValueError, match='two are called A'):
        prepare([f'A={files[0]}', 'A=configs/yolov8_fasternet_n.py'], None,
                [1], tmp_path, {})


@pytest.mark.parametrize('path', [
    'mmyolo::yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco.py',
    'mmyolo::yolov6/yolov6_n_syncbn_fast_8xb32-400e_coco.py',
    'mmyolo::yolox/yolox_tiny_fast_8xb8-300e_coco.py',
    'configs/retinanet/retinanet_fasternet-t0_fpn_1x_coco.py'])
def test_any_model_gets_the_classes_of_the_recipe(path):
    recipe = load_config('configs/yolov8_fasternet_n.py',
                         dict(classes=['cat', 'dog', 'cow']))
    model = with_model_of(recipe, load_config(path)).model.to_dict()
    text = repr(model)
    assert set(re.findall(r"'num_classes': (\d+)", text)) == {'3'}


def test_a_recipe_of_mmdet_has_the_classes_of_its_data_set():
    recipe = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    other = load_config('configs/yolov8_fasternet_n.py', dict(classes=['x']))
    head = with_model_of(recipe, other).model.bbox_head.head_module
    assert head.num_classes == 80  # those of COCO


def run(*arguments, status=0):
    return run_script('tools/analysis_tools/compare.py', *arguments,
                      status=status)


def test_result_files_are_compared_without_training(coco, tmp_path):
    ann_file = coco / 'annotations/val.json'
    truth = json.loads(ann_file.read_text())
    right = [dict(a, score=.9) for a in truth['annotations']]
    files = {}
    for name, detections in dict(
            all=right, most=right[1:], foreign=[dict(right[0], image_id=99)]
    ).items():
        files[name] = tmp_path / f'{name}.json'
        files[name].write_text(json.dumps(detections))
    options = ['--ann-file', ann_file, '--work-dir', tmp_path / 'report',
               '--samples', 50]
    run(f'All={files["all"]}', f'Most={files["most"]}', *options)
    report = (tmp_path / 'report/report.md').read_text()
    assert re.search(r'\| All +\| +1 \| +1\.000 \|', report)
    lost, low, high = map(float, re.search(
        r'\| Most +\| +(-0\.\d+) \(([-+]\d\.\d+) to ([-+]\d\.\d+)\)',
        report).groups())
    # one of three objects of one of two classes: 67 of 101 recalls are left
    assert lost == pytest.approx((67 / 101 - 1) / 2, abs=5e-4)
    assert low <= lost <= high
    page = (tmp_path / 'report/report.html').read_text()
    title = report.splitlines()[0].removeprefix('# ')
    assert title and f'<title>{title}</title>' in page
    # one file: its pictures are in it, and nothing is fetched
    assert page.count('src="data:image/png') == report.count('.png)') >= 3
    assert not re.search(r'(src|href)="(?!data:)', page)

    done = run(files['foreign'], *options, status=1)
    assert 'image_id 99' in done.stderr
    assert 'Traceback' not in done.stderr
    done = run(files['all'], '--work-dir', tmp_path, status=1)
    assert '--ann-file' in done.stderr


@pytest.mark.slow
def test_configs_are_trained_and_compared(coco_options, tmp_path):
    """Stock YOLOv8 and ours, two seeds; the second time nothing is done."""
    options = [f'{k}={v}'.replace(' ', '') for k, v in coco_options.items()]
    arguments = [
        f'Stock={STOCK}', 'Ours=configs/yolov8_fasternet_n.py', '--recipe',
        'configs/yolov8_fasternet_n.py', '--seeds', 1, 2, '--work-dir',
        tmp_path, '--samples', 20, '--runs', 2, '--backends', 'onnxruntime',
        '--cfg-options', *options
    ]
    run(*arguments)
    report = (tmp_path / 'report.md').read_text()
    for name, parameters in (('Stock', '3.01'), ('Ours', '2.72')):
        assert re.search(rf'\| {name} +\| +{re.escape(parameters)} \|', report)
    for name in ('learning', 'pareto', 'pr_curves', 'confusion_2',
                 'disagreements'):
        assert cv2.imread(str(tmp_path / f'{name}.png')).shape[1] >= 500
    made = (tmp_path / 'Ours/seed_2/epoch_1.pth').stat().st_mtime_ns
    run(*arguments)
    assert (tmp_path / 'Ours/seed_2/epoch_1.pth').stat().st_mtime_ns == made
