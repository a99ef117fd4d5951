# SPDX-License-Identifier: Apache-2.0
import argparse
import ast
import inspect
import json
import operator
import re
import subprocess
import sys
from functools import reduce
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import skip_if_not_found_by_name
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mmfasternet import cli
from mmfasternet.config import (
    add_our_hooks,
    build_model,
    image_pipeline,
    load_config,
    prepare_launch,
    require_data,
    require_sound_data,
    use_split,
)

FAMILY = 'configs/_base_/yolov8_fasternet.py'


def find(cfg, key):
    """Every value of a key anywhere in a config."""
    if isinstance(cfg, dict):
        for name, value in cfg.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            yield from find(value, key)


OVERRIDES = dict(
    data_root='elsewhere/',
    classes=['cat', 'dog'],
    img_scale=[96, 64],
    train_batch_size_per_gpu=5,
    max_epochs=40,
    base_lr=0.125,
    total_batch_size=256)


def check_every_place(cfg):
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == 'elsewhere/'
        assert tuple(dataset.metainfo.classes) == ('cat', 'dog')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file.startswith('elsewhere/')
    model = cfg.model
    assert model.bbox_head.head_module.num_classes == 2
    assert model.train_cfg.assigner.num_classes == 2
    sizes = [
        *find(cfg.train_dataloader, 'scale'),
        *find(cfg.train_dataloader, 'img_scale'),
        *find(cfg.val_dataloader, 'scale'),
        *find(cfg.test_dataloader, 'scale'),
        *find(cfg.custom_hooks, 'scale'), cfg.img_scale
    ]
    assert len(sizes) > 6 and set(map(tuple, sizes)) == {(96, 64)}
    assert (48 * 2, 64) in set(map(tuple, find(cfg.tta_pipeline, 'scale')))
    assert set(map(tuple, find(cfg.train_dataloader, 'border'))) == {(-48,
                                                                      -32)}
    assert cfg.train_dataloader.batch_size == 5
    assert cfg.auto_scale_lr.base_batch_size == 256
    assert cfg.optim_wrapper.optimizer.lr == 0.125
    assert cfg.train_cfg.max_epochs == 40
    warmup, cosine = cfg.param_scheduler
    assert warmup.end == 3 and cosine.T_max == cosine.end == 40
    assert cfg.custom_hooks[1].switch_epoch == 30
    assert cfg.train_cfg.dynamic_intervals[0][0] == 30


@pytest.mark.parametrize('size', 'nsmlx')
def test_a_command_line_knob_reaches_every_place(size):
    check_every_place(
        load_config(f'configs/yolov8_fasternet_{size}.py', OVERRIDES))


def write(path, base, **values):
    path.write_text(f'_base_ = {base!r}  # é\n' + '\n'.join(
        f'{k} = {v!r}' for k, v in values.items()))
    return str(path)


@pytest.mark.parametrize('base', [
    str(Path('configs/yolov8_fasternet_s.py').resolve()),
    'mmfasternet::_base_/../yolov8_fasternet_s.py',
])
def test_a_knob_in_an_inheriting_config_reaches_every_place(base, tmp_path):
    """Also for MMEngine's own reading, which other programs use."""
    if '::' in base:
        skip_if_not_found_by_name()
    mine = write(tmp_path / 'mine.py', base, **OVERRIDES)
    for read in (load_config, Config.fromfile):
        cfg = read(mine)
        check_every_place(cfg)
        assert cfg.filename == mine
        assert cfg.model.backbone.arch == 't0'
        assert cfg.model.backbone.init_cfg.checkpoint == 'fasternet://auto'
    # the nearer to the user wins: the command line, his config, ours
    child = write(tmp_path / 'child.py', './mine.py', max_epochs=20,
                  pretrained=None)
    cfg = Config.fromfile(child)
    assert cfg.train_cfg.max_epochs == 20
    assert cfg.model.backbone.init_cfg.checkpoint is None
    cfg = load_config(child, dict(max_epochs=7))
    assert cfg.train_cfg.max_epochs == cfg.max_epochs == 7
    assert Config.fromfile(child).train_cfg.max_epochs == 20


def test_a_program_of_others_runs_what_inherits_us(tmp_path, coco,
                                                   coco_options):
    """MMEngine would look for mmyolo's names among ours."""
    skip_if_not_found_by_name()
    path = write(
        tmp_path / 'mine.py', 'mmfasternet::_base_/../yolov8_fasternet_n.py',
        **coco_options, close_mosaic_epochs=1)
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.epoch == 1
    # with what tools/train.py would have it do
    for name in ('results.csv', 'results.png', 'pr_curves.png'):
        assert (tmp_path / name).is_file(), name
    # as tools/test.py --tta of mmdet does it
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    runner = Runner.from_cfg(cfg)
    assert len(runner.test_dataloader.dataset[0]['inputs']) == 6


def hooks_of(cfg):
    hooks = [h['type'] for h in cfg.default_hooks.values() if 'type' in h]
    return {name for name in hooks if name.startswith('mmfasternet.')}


@pytest.mark.parametrize('config', sorted(
    str(path) for path in Path('configs').rglob('*.py')))
def test_every_config_has_our_hooks(config):
    """So that any program that builds its runner trains as ours does."""
    expected = {
        f'mmfasternet.{name}Hook'
        for name in ('ProgressBar', 'Results', 'EvaluationFigures',
                     'NonFiniteLoss', 'Interrupt', 'Resume')
    }
    if 'yolov8' in config:
        expected.add('mmfasternet.LevelAssignmentHook')
    if 'classification' in config and not find_spec('mmpretrain'):
        pytest.skip('needs mmpretrain')
    cfg = Config.fromfile(config, import_custom_modules=False)
    assert hooks_of(cfg) == expected
    if 'strategy' in cfg:
        assert cfg.runner_type == 'mmfasternet.FlexibleRunner'
    before = cfg.default_hooks.to_dict()
    add_our_hooks(cfg)
    assert cfg.default_hooks.to_dict() == before


def test_configs_of_others_get_our_hooks():
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    cfg.default_hooks.resume = None  # not wanted
    cfg.custom_hooks = [dict(type='mmfasternet.ResultsHook')]
    add_our_hooks(cfg)
    assert hooks_of(cfg) == {
        f'mmfasternet.{name}Hook'
        for name in ('ProgressBar', 'EvaluationFigures', 'NonFiniteLoss',
                     'Interrupt')
    }
    assert 'resume' not in cfg.default_hooks
    cfg = Config(dict())
    add_our_hooks(cfg)
    assert len(hooks_of(cfg)) == 6


def test_a_program_that_knows_nothing_of_us_reads_it_right(tmp_path):
    done = subprocess.run([
        sys.executable, '-c', 'from mmengine.config import Config\n'
        'import sys\n'
        'cfg = Config.fromfile(sys.argv[1], import_custom_modules=False)\n'
        'print(cfg.model.bbox_head.head_module.num_classes,\n'
        '      cfg.train_cfg.max_epochs, cfg.test_pipeline[1]["scale"])',
        Path('configs/yolov8_fasternet_n_bccd.py').resolve()
    ], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ['3 30 (320, 320)'], done.stderr


def test_other_kinds_of_files_and_placeholders(tmp_path):
    base = str(Path('configs/yolov8_fasternet_n.py').resolve())
    (tmp_path / 'mine.yml').write_text(
        f'_base_: {base}\nmax_epochs: 40\nimg_scale: [96, 64]\n')
    cfg = Config.fromfile(tmp_path / 'mine.yml')
    assert cfg.train_cfg.max_epochs == 40
    assert tuple(cfg.test_pipeline[1].scale) == (96, 64)
    mine = write(tmp_path / 'mine.py', base, data_root='{{ fileDirname }}/x/')
    assert Config.fromfile(mine).train_dataloader.dataset.data_root == \
        f'{tmp_path}/x/'


def test_a_knob_that_cannot_be_known_in_time_is_refused(tmp_path):
    base = str(Path('configs/yolov8_fasternet_n.py').resolve())
    mine = tmp_path / 'mine.py'
    for value in ('10 * 3', '_base_.warmup_epochs', '{{_base_.arch}}'):
        mine.write_text(f'_base_ = {base!r}\nmax_epochs = {value}\n')
        with pytest.raises(ValueError, match=r'max_epochs in .*mine\.py must '
                           'be written out'):
            Config.fromfile(mine)


def test_a_config_may_load_another(tmp_path):
    """What the command line says of it counts, and only of it."""
    base, mine = tmp_path / 'base.py', tmp_path / 'mine.py'
    base.write_text(f'''
_base_ = []
import mmfasternet.config.knobs
other = mmfasternet.config.load_config(
    {str(Path('configs/yolov8_fasternet_n.py').resolve())!r},
    dict(max_epochs=60)).max_epochs
max_epochs = 1
mmfasternet.config.knobs.bind_knobs(globals())
doubled = 2 * max_epochs
''')
    mine.write_text("_base_ = 'base.py'\n")
    cfg = load_config(str(mine), dict(max_epochs=5))
    assert (cfg.other, cfg.max_epochs, cfg.doubled) == (60, 5, 10)


def test_a_derived_name_that_would_change_nothing_is_refused(tmp_path):
    """Every name of the family file that no program reads by itself."""
    base = str(Path('configs/yolov8_fasternet_n.py').resolve())
    text = Path(FAMILY).read_text()
    after = ast.parse(text[text.index('bind_knobs('):].partition(')\n')[2])
    read = {*inspect.signature(Runner).parameters, 'auto_scale_lr',
            'tta_model', 'tta_pipeline'}
    derived = {node.targets[0].id for node in after.body
               if isinstance(node, ast.Assign)} - read
    assert {'num_classes', 'metainfo', 'neck_channels'} < derived
    mine = tmp_path / 'mine.py'
    for name in derived:
        mine.write_text(f'_base_ = {base!r}\n{name} = [1, 2, 3]\n')
        with pytest.raises(ValueError, match=rf'{name} in .*mine\.py would '
                           r'change nothing.*Assign \w+'):
            Config.fromfile(mine)
    # a name that the file uses is its own
    mine.write_text(f"_base_ = {base!r}\nclasses = ('cat', 'dog')\n"
                    "metainfo = dict(classes=classes, palette=[(1, 2, 3)])\n"
                    'test_dataloader = dict(dataset=dict(metainfo=metainfo))')
    cfg = Config.fromfile(mine)
    assert cfg.test_dataloader.dataset.metainfo.palette == [(1, 2, 3)]


def test_a_knob_changed_where_it_no_longer_counts_is_refused(tmp_path):
    copy = tmp_path / 'copy.py'
    load_config('configs/yolov8_fasternet_n.py').dump(copy)
    load_config(str(copy))
    text, changed = re.subn(r'(?m)^max_epochs ?= ?500$', 'max_epochs = 5',
                            copy.read_text())
    assert changed == 1
    copy.write_text(text)
    with pytest.raises(ValueError, match=r'max_epochs is 5 in .*copy\.py, but '
                       'what follows from it stands there as for 500.*or '
                       r'here train_cfg\.max_epochs'):
        load_config(str(copy))
    base = str(Path('configs/yolov8_fasternet_n.py').resolve())
    copy.write_text(f'_base_ = {base!r}\nif True:\n    base_lr = 1.0\n')
    with pytest.raises(ValueError, match='or no line `base_lr = '):
        load_config(str(copy))


# one needs the other
TEACHER = dict(
    teacher='mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py',
    teacher_checkpoint='x.pth',
    unlabelled_data_prefix='x')
# every knob: a value, and where it must be seen
KNOBS = dict(
    teacher=(TEACHER['teacher'], {
        'model.type': 'mmfasternet.DistilledYOLODetector'}),
    teacher_checkpoint=('x.pth', {
        'default_hooks.distillation.checkpoint': 'x.pth'}),
    # without those that are listed elsewhere, of all splits
    unlabelled_data_prefix=('x', {
        'train_dataloader.dataset.type': 'mmfasternet.WithUnlabelled',
        'train_dataloader.sampler.type': 'mmfasternet.MixedSampler',
        'train_dataloader.dataset.unlabelled.data_root': 'data/coco/',
        'train_dataloader.dataset.unlabelled.data_prefix.img': 'x',
        'train_dataloader.dataset.unlabelled.listed': [
            ['annotations/instances_train2017.json', 'train2017/'],
            ['annotations/instances_val2017.json', 'val2017/']]}),
    dataset_type=('CocoDataset', dict.fromkeys([
        'train_dataloader.dataset.type', 'val_dataloader.dataset.type',
        'test_dataloader.dataset.type'], 'CocoDataset')),
    data_root=('x/', dict.fromkeys([
        'train_dataloader.dataset.data_root',
        'val_dataloader.dataset.data_root',
        'test_dataloader.dataset.data_root'], 'x/') | {
            'val_evaluator.ann_file':
            'x/annotations/instances_val2017.json',
            'test_evaluator.ann_file':
            'x/annotations/instances_val2017.json'}),
    train_ann_file=('x.json', {
        'train_dataloader.dataset.ann_file': 'x.json'}),
    train_data_prefix=('x', {
        'train_dataloader.dataset.data_prefix.img': 'x'}),
    val_ann_file=('x.json', {
        'val_dataloader.dataset.ann_file': 'x.json',
        'test_dataloader.dataset.ann_file': 'x.json',
        'val_evaluator.ann_file': 'data/coco/x.json',
        'test_evaluator.ann_file': 'data/coco/x.json'}),
    val_data_prefix=('x', {
        'val_dataloader.dataset.data_prefix.img': 'x',
        'test_dataloader.dataset.data_prefix.img': 'x'}),
    test_ann_file=('x.json', {}),  # test_another_split_is_tested
    test_data_prefix=('x', {}),
    classes=(('a', 'b', 'c'), dict.fromkeys([
        'model.bbox_head.head_module.num_classes',
        'model.train_cfg.assigner.num_classes'], 3) | dict.fromkeys([
            'train_dataloader.dataset.metainfo.classes',
            'val_dataloader.dataset.metainfo.classes',
            'test_dataloader.dataset.metainfo.classes'], ('a', 'b', 'c'))),
    # and more in check_every_place
    img_scale=((96, 64), {
        'test_pipeline.1.scale': (96, 64),
        'train_pipeline.2.img_scale': (96, 64),
        'train_pipeline.4.pre_transform.2.img_scale': (96, 64),
        'custom_hooks.1.switch_pipeline.2.scale': (96, 64)}),
    train_batch_size_per_gpu=(3, {'train_dataloader.batch_size': 3}),
    train_num_workers=(0, {
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False}),
    val_batch_size_per_gpu=(3, dict.fromkeys([
        'val_dataloader.batch_size', 'test_dataloader.batch_size'], 3)),
    val_num_workers=(0, {
        'val_dataloader.num_workers': 0,
        'test_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'test_dataloader.persistent_workers': False}),
    # with mosaic, in the image that mixup adds, and in the last epochs
    affine_scale=(0.25, dict.fromkeys([
        'train_dataloader.dataset.pipeline.3.scaling_ratio_range',
        'train_dataloader.dataset.pipeline.4.pre_transform.3.'
        'scaling_ratio_range',
        'custom_hooks.1.switch_pipeline.4.scaling_ratio_range'],
        (0.75, 1.25))),
    mixup_prob=(0.5, {'train_dataloader.dataset.pipeline.4.prob': 0.5}),
    flip_prob=(0.25, {
        'train_dataloader.dataset.pipeline.6.prob': 0.25,
        'custom_hooks.1.switch_pipeline.6.prob': 0.25}),
    max_epochs=(40, {
        'train_cfg.max_epochs': 40,
        'train_cfg.dynamic_intervals': [(30, 1)],
        'param_scheduler.1.T_max': 40,
        'param_scheduler.1.end': 40,
        'custom_hooks.1.switch_epoch': 30}),
    close_mosaic_epochs=(20, {
        'train_cfg.dynamic_intervals': [(480, 1)],
        'custom_hooks.1.switch_epoch': 480}),
    warmup_epochs=(5, {'param_scheduler.0.end': 5}),
    base_lr=(0.125, {'optim_wrapper.optimizer.lr': 0.125}),
    total_batch_size=(32, {'auto_scale_lr.base_batch_size': 32}),
    weight_decay=(0.25, {'optim_wrapper.optimizer.weight_decay': 0.25}),
    val_interval=(3, {
        'train_cfg.val_interval': 3, 'default_hooks.checkpoint.interval': 3}),
    log_interval=(7, {'default_hooks.logger.interval': 7}),
    tensorboard=(True, {
        'visualizer.vis_backends.1.type': 'TensorboardVisBackend'}),
    pretrained=('x.pth', {'model.backbone.init_cfg.checkpoint': 'x.pth'}),
    arch=('t1', {'model.backbone.arch': 't1'}),
    deepen_factor=(0.5, {'model.neck.deepen_factor': 0.5}),
    widen_factor=(0.5, {
        'model.neck.widen_factor': 0.5,
        'model.bbox_head.head_module.widen_factor': 0.5}),
    last_stage_out_channels=(768, {
        'model.neck.out_channels': [256, 512, 768],
        'model.bbox_head.head_module.in_channels': [256, 512, 768]}),
    strides=([4, 8, 16], {
        'model.bbox_head.head_module.featmap_strides': [4, 8, 16],
        'model.bbox_head.prior_generator.strides': [4, 8, 16]}),
    head_module=('mmfasternet.YOLOv8PConvHeadModule', {
        'model.bbox_head.head_module.type':
        'mmfasternet.YOLOv8PConvHeadModule'}),
    initial_distance=(4., {
        'model.bbox_head.head_module.initial_distance': 4.}),
    tal_topk=(13, {'model.train_cfg.assigner.topk': 13}))


def at(node, path):
    """What stands at a dotted place, None where there is none."""
    for name in path.split('.'):
        if isinstance(node, (list, tuple)):
            node = node[int(name)] if int(name) < len(node) else None
        else:
            node = (node or {}).get(name)
    return node


@pytest.fixture(scope='module')
def plain():
    return load_config(FAMILY)


def test_all_knobs_are_tested(plain):
    assert set(KNOBS) == set(plain.knobs)


@pytest.mark.parametrize('name', KNOBS)
def test_a_knob_is_seen_in_every_place(name, plain, tmp_path):
    """From a config that inherits ours, and from the command line."""
    value, places = KNOBS[name]
    values = {**(TEACHER if name in TEACHER else {}), name: value}
    mine = write(tmp_path / 'mine.py', str(Path(FAMILY).resolve()), **values)
    for cfg in (load_config(mine), load_config(FAMILY, values)):
        assert cfg[name] == value
        for place, expected in places.items():
            assert at(cfg, place) == expected, place
    for place, expected in places.items():
        assert at(plain, place) != expected, place


WHOLE = [
    'img_scale', 'train_batch_size_per_gpu', 'train_num_workers',
    'val_batch_size_per_gpu', 'val_num_workers', 'max_epochs',
    'close_mosaic_epochs', 'total_batch_size', 'val_interval',
    'log_interval', 'last_stage_out_channels', 'strides', 'tal_topk'
]
ZERO = [
    'train_num_workers', 'val_num_workers', 'affine_scale', 'mixup_prob',
    'flip_prob', 'close_mosaic_epochs', 'warmup_epochs', 'weight_decay'
]
NUMBERS = {
    *WHOLE, *ZERO, 'base_lr', 'deepen_factor', 'widen_factor',
    'initial_distance'
}


@pytest.mark.parametrize('name', sorted(KNOBS))
def test_a_value_that_means_nothing_is_refused_by_name(name, plain):
    """The same for every number: what one can type and no run can have."""
    old = plain.knobs[name]
    wrong = [{}, True if name != 'tensorboard' else 1]
    if name in NUMBERS:
        wrong += [-1, 'ten', float('nan'), float('inf')]
        wrong += [0] if name not in ZERO else []
        wrong += [2.5] if name in WHOLE else []
        wrong += [None] if name != 'initial_distance' else []
    if name in ('mixup_prob', 'flip_prob', 'affine_scale'):
        wrong += [1.5]
    if name in ('train_num_workers', 'widen_factor', 'deepen_factor',
                'img_scale', 'initial_distance'):
        wrong += [10**9]
    if isinstance(old, str):
        wrong += [None, 7, ['x']]
    if name in ('pretrained', 'test_ann_file', 'test_data_prefix', *TEACHER):
        wrong = [7, True, ['x'], 0]
    if name == 'classes':
        wrong = ['cat', 7, None, [], [0, 1], [['a']]]
    for value in wrong:
        if isinstance(old, (list, tuple)) and name in NUMBERS and isinstance(
                value, (int, float)):
            value = [value] * len(old)
        with pytest.raises(ValueError, match=f'{name} (must|cannot) be'):
            load_config(FAMILY, {name: value})


def test_the_edges_that_mean_something_are_taken(plain):
    for options, place, expected in (
        (dict(warmup_epochs=0), 'param_scheduler.0.type',
         'CosineAnnealingLR'),
        (dict(warmup_epochs=0.5), 'param_scheduler.0.end', 0.5),
        (dict(max_epochs=1), 'param_scheduler.0.end', 1),
        (dict(max_epochs=1), 'custom_hooks.1.switch_epoch', 0),
        (dict(close_mosaic_epochs=0), 'custom_hooks.1.switch_epoch', 500),
        (dict(close_mosaic_epochs=10**9), 'custom_hooks.1.switch_epoch', 0),
        # all priors of 8 x 8, 4 x 4 and 2 x 2
        (dict(tal_topk=10**9, img_scale=[64, 64]),
         'model.train_cfg.assigner.topk', 84),
        (dict(affine_scale=0), 'train_pipeline.3.scaling_ratio_range',
         (1, 1)),
    ):
        assert at(load_config(FAMILY, options), place) == expected


def test_a_run_at_the_edges_ends(coco_options, tmp_path):
    """Every knob at its least, or far beyond what there is."""
    cfg = load_config(
        FAMILY,
        dict(
            coco_options, train_batch_size_per_gpu=10**9, img_scale=[32, 32],
            val_batch_size_per_gpu=10**9, affine_scale=0, flip_prob=0,
            mixup_prob=1, close_mosaic_epochs=0, warmup_epochs=0,
            weight_decay=0, val_interval=10**9, log_interval=10**9,
            tal_topk=10**9, total_batch_size=1))
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1
    assert (tmp_path / 'results.csv').is_file()


def test_another_split_is_tested(coco_options):
    options = dict(coco_options, test_ann_file='annotations/train.json')
    cfg = load_config(FAMILY, options)
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/val.json'
    use_split(cfg, 'test')
    # of another split nothing is asked
    cfg.train_dataloader.dataset.ann_file = 'none.json'
    require_data(cfg, 'test')
    require_sound_data(cfg, 'test')
    root = coco_options['data_root']
    dataset = cfg.test_dataloader.dataset
    assert dataset.ann_file == 'annotations/train.json'
    assert dataset.data_prefix.img == 'val/'  # as nothing else was given
    assert cfg.test_evaluator.ann_file == f'{root}annotations/train.json'
    assert cfg.val_evaluator.ann_file == f'{root}annotations/val.json'
    assert cfg.val_dataloader.dataset.ann_file == 'annotations/val.json'
    cfg = load_config(FAMILY, dict(options, test_data_prefix='train/'))
    use_split(cfg, 'test')
    assert cfg.test_dataloader.dataset.data_prefix.img == 'train/'
    # as prepare writes it where names begin at the root
    other = load_config(FAMILY, dict(options, test_data_prefix=''))
    use_split(other, 'test')
    assert other.test_dataloader.dataset.data_prefix.img == ''
    use_split(cfg, 'val')
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator
    with pytest.raises(ValueError, match='names no test split'):
        use_split(load_config(FAMILY, coco_options), 'test')


def test_every_evaluator_of_another_split_gets_its_file(coco_options):
    cfg = load_config(
        FAMILY, dict(coco_options, test_ann_file='annotations/train.json'))
    cfg.val_evaluator = [cfg.val_evaluator, dict(type='DumpResults')]
    use_split(cfg, 'test')
    coco, dump = cfg.test_evaluator
    assert coco.ann_file.endswith('/annotations/train.json')
    assert 'ann_file' not in dump
    cfg.val_dataloader.dataset = dict(
        type='ConcatDataset', datasets=2 * [cfg.val_dataloader.dataset])
    with pytest.raises(ValueError, match='joins several data sets'):
        use_split(cfg, 'test')
    use_split(cfg, 'val')
    assert cfg.test_dataloader == cfg.val_dataloader


# ------------------------------------------------------------------ launching
@pytest.fixture
def started(monkeypatch):
    """What groups of processes were started with, where there is no GPU."""
    backends = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'init_process_group',
                        backends.append)
    return backends


@pytest.mark.parametrize('launcher', ['none', 'pytorch', 'slurm', 'mpi'])
def test_with_a_gpu_mmengine_starts_the_processes(launcher, started,
                                                  monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(model=1))
    prepare_launch(cfg, launcher)
    assert cfg.to_dict() == dict(model=1, launcher=launcher)
    assert not started


def test_without_a_gpu_pytorch_joins_them_by_gloo(started):
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False,
                   device_ids=None)
    cfg = Config(dict(strategy=dict(type='DDPStrategy')))
    prepare_launch(cfg, 'pytorch')
    assert started == ['gloo'] and cfg.model_wrapper_cfg == wrapper
    assert cfg.strategy == dict(type='DDPStrategy')
    cfg = Config(dict(model_wrapper_cfg=dict(type='Mine'), strategy=dict(
        type='FSDPStrategy', model_wrapper=dict(use_orig_params=True))))
    prepare_launch(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg == dict(type='Mine')
    assert cfg.strategy.model_wrapper == dict(
        use_orig_params=True, device_id='cpu')


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_other_launchers_need_a_gpu(launcher, started):
    with pytest.raises(ValueError, match=f'--launcher {launcher} needs a CU'):
        prepare_launch(Config(dict()), launcher)
    assert not started


def test_one_process_alone_is_not_joined(started):
    cfg = Config(dict())
    prepare_launch(cfg, 'none')
    assert not started and 'model_wrapper_cfg' not in cfg


@pytest.mark.parametrize('rank, looks', [
    ({}, True), (dict(RANK='0'), True), (dict(RANK='1'), False),
    (dict(SLURM_PROCID='1'), False), (dict(SLURM_PROCID='0'), True),
    (dict(RANK='0', SLURM_PROCID='1'), True),
])
def test_one_process_looks_at_the_data_for_all(rank, looks, coco_options,
                                               monkeypatch):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in rank.items():
        monkeypatch.setenv(name, value)
    cfg = load_config(FAMILY, dict(coco_options, classes=['red', 'green']))
    if looks:
        with pytest.raises(ValueError, match='cannot be used'):
            require_sound_data(cfg, 'val')
    else:
        require_sound_data(cfg, 'val')


def test_a_model_that_is_none_is_named():
    with pytest.raises(ValueError, match='has no `model`: it is not a compl'):
        build_model(Config(dict(model='none')))
    cfg = load_config(FAMILY)
    cfg.model.backbone.type = 'Nothing'
    with pytest.raises(ValueError, match="cannot be built: '?Nothing is not"):
        build_model(cfg)


def test_images_in_memory_go_through_the_test_pipeline(coco_options):
    cfg = load_config(FAMILY, coco_options)
    image = np.arange(40 * 64 * 3, dtype=np.uint8).reshape(40, 64, 3)
    packed = image_pipeline(cfg)(image, 'a.png')
    assert packed['inputs'].shape == (3, 64, 64)
    # as wide as asked for, so it is in the middle as it is
    assert (packed['inputs'][:, 12:52].numpy() == image.transpose(
        2, 0, 1)).all()
    sample = packed['data_samples']
    assert sample.ori_shape == (40, 64) and sample.img_path == 'a.png'
    cfg.test_dataloader.dataset.pipeline[1:-1] = []  # neither do they resize
    packed = image_pipeline(cfg)(image, None)
    assert packed['inputs'].shape == (3, 40, 64)
    sample = packed['data_samples']
    assert (sample.img_shape, sample.img_id) == ((40, 64), 0)
    del cfg.test_dataloader['dataset']
    with pytest.raises(ValueError, match='has no test_dataloader, whose'):
        image_pipeline(cfg)


@pytest.mark.parametrize('length', [57, 58])
def test_a_long_value_is_shortened_in_an_error(length):
    """Quotes are two more; from 60 on it is cut at 56."""
    with pytest.raises(ValueError) as error:
        load_config(FAMILY, dict(max_epochs=length * 'x'))
    assert str(error.value).endswith(
        f"'{57 * 'x'}'" if length == 57 else f"'{55 * 'x'} ...")


def test_a_loader_that_is_none_is_named():
    cfg = Config(dict(train_dataloader=3), filename=FAMILY)
    with pytest.raises(ValueError, match=f'train_dataloader of {FAMILY} must '
                       'be a dict, got 3'):
        require_data(cfg, 'train')


def test_a_data_set_class_that_does_not_exist_is_named(coco_options):
    cfg = load_config(FAMILY, dict(coco_options, dataset_type='Nothing'))
    with pytest.raises(ValueError, match="type 'Nothing' of .* is not known"):
        require_data(cfg, 'train')


def test_an_evaluator_of_other_images_is_refused(coco_options):
    """Its AP would be nearly 0 whatever the detector finds."""
    root = coco_options['data_root']
    other = f'{root}annotations/other.json'
    data = json.loads(Path(f'{root}annotations/val.json').read_text())
    for image in data['images']:
        image['file_name'] = f'other_{image["file_name"]}'
    Path(other).write_text(json.dumps(data))
    cfg = load_config(FAMILY, {
        **coco_options, 'val_evaluator.ann_file': other})
    with pytest.raises(ValueError, match='evaluator-file.*other.json'):
        require_sound_data(cfg, 'val')


def test_options_parsed_from_the_command_line(tmp_path):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args([
        '--cfg-options', 'img_scale=(320,320)', "classes=('RBC','WBC')",
        'model.backbone.arch=t2', 'max_epochs=5'
    ]).cfg_options
    cfg = load_config('configs/yolov8_fasternet_n.py', options)
    assert cfg.model.backbone.arch == 't2'
    assert cfg.num_classes == 2 and cfg.img_scale == (320, 320)
    # no run can stay in warm-up: a tenth of the epochs, at least one
    assert cfg.param_scheduler[0].end == 1


@pytest.mark.parametrize('name, text, words', [
    ('x.py', 'x = (', 'SyntaxError'),
    ('x.py', 'x = 1 / 0', 'ZeroDivisionError'),
    ('x.py', '_base_ = "./x.py"', 'inherits itself'),
    ('x.py', '_base_ = "mmnothing::a/b.py"', 'mmnothing'),
    ('x.py', b'\xff\xfe', 'UnicodeDecodeError'),
    ('x.json', '{"a": ', 'JSONDecodeError'),
    ('x.yml', 'a: [', 'ParserError'),
    ('x.txt', 'hello', 'Only py/yml/yaml/json'),
])
def test_a_config_that_cannot_be_read_is_one_error(name, text, words,
                                                   tmp_path):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf'{path}.* {words}'):
        load_config(str(path))


def test_a_config_that_was_moved_names_its_base(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('_base_ = "../configs/yolov8_fasternet_n.py"')
    with pytest.raises(FileNotFoundError, match=f'{path} inherits .*configs/'
                       'yolov8_fasternet_n.py, which does not exist'):
        load_config(str(path))


@pytest.mark.parametrize('options', [
    {'max_epochs.x': 3}, {'custom_hooks.7.x': 1}, {'custom_hooks.x': 1},
    {'img_scale.0': 64}, {'val_dataloader.dataset.pipeline.0': 5},
    {'model.backbone.arch.x': 1}, {'': 1}, {'.': 1}
], ids=str)
def test_an_option_that_fits_nowhere_is_one_error(options):
    with pytest.raises(ValueError, match=f'--cfg-options {next(iter(options))}'
                       '.*yolov8_fasternet_n.py'):
        load_config('configs/yolov8_fasternet_n.py', options)


@pytest.mark.parametrize('typed', ['max_epochs', '=', 'x=[1,', 'a b'])
def test_options_that_are_no_pairs_are_an_error_of_the_parser(typed, capsys):
    parser = argparse.ArgumentParser()
    cli.add_cfg_options(parser)
    try:
        parser.parse_args(['--cfg-options', *typed.split()])
    except SystemExit as end:
        assert end.code == 2
        assert '--cfg-options' in capsys.readouterr().err
    else:
        assert typed == '='  # an empty name, which load_config refuses


@pytest.mark.parametrize('options, words', [
    (dict(classes='cat'), r"classes must be a sequence.*\('cat',\)"),
    (dict(img_scale=320), 'img_scale must be a sequence like'),
    (dict(img_scale=[320, 320, 3]), 'img_scale must be 2 numbers'),
    (dict(max_epochs='ten'), 'max_epochs must be a number like 500'),
    (dict(max_epoch=10), 'did you mean max_epochs'),
    ({'modle.backbone.arch': 't1'}, 'did you mean model'),
    # in dicts of which only the known names are read
    ({'model.test_cfg.score_th': .3}, "'score_th'; did you mean score_thr"),
    ({'model.test_cfg.score_threshold': .3}, 'did you mean score_thr'),
    ({'model.test_cfg.nms.iou_thr': .3}, 'did you mean iou_threshold'),
    ({'auto_scale_lr.enabled': True}, 'did you mean enable'),
    ({'optim_wrapper.clip_grad.max_norms': 3}, 'did you mean max_norm'),
    ({'default_hooks.checkpoint.interva': 5}, 'did you mean interval'),
    ({'default_hooks.loger.interval': 5}, 'did you mean logger'),
    # what follows from a knob
    (dict(num_classes=2), 'num_classes would change nothing: it follows from '
     'classes'),
    (dict(switch_epoch=2), 'follows from close_mosaic_epochs'),
    (dict(resume='epoch_3.pth'), "resume is True or False, got 'epoch_3.pth'"),
])
def test_a_wrong_option_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        load_config('configs/yolov8_fasternet_n.py', options)


def test_a_new_option_is_no_mistake():
    options = {'model.test_cfg.min_bbox_size': 2,
               'optim_wrapper.paramwise_cfg.flat_decay_mult': 0.,
               'model.test_cfg.score_factor': 1,
               'model.backbone.mid_channels': 3,
               'train_dataloader.prefetch_factor': 4}
    cfg = load_config('configs/yolov8_fasternet_n.py', options)
    for key, value in options.items():
        assert reduce(operator.getitem, key.split('.'), cfg) == value


def test_a_whole_number_is_one():
    cfg = load_config('configs/yolov8_fasternet_n.py', dict(
        max_epochs=10.0, img_scale=(96.0, 64), initial_distance=2))
    for value in (cfg.train_cfg.max_epochs, *cfg.img_scale,
                  *cfg.test_dataloader.dataset.pipeline[1].scale):
        assert type(value) is int
    assert cfg.knobs.max_epochs == 10 and cfg.img_scale == (96, 64)
    assert cfg.model.bbox_head.head_module.initial_distance == 2


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'gbk'])
def test_a_config_of_another_encoding_is_named(encoding, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('max_epochs = 3  # \u8bad\u7ec3', encoding=encoding)
    with pytest.raises(ValueError, match=f'{path}.*Save it as UTF-8 without'):
        load_config(str(path))


def test_a_list_in_the_place_of_a_tuple_is_one():
    """The command line has lists, and mmyolo's resize takes none."""
    place = 'test_dataloader.dataset.pipeline'
    cfg = load_config('configs/yolov8_fasternet_n.py', {
        f'{place}.1.scale': [96, 64],
        'optim_wrapper.optimizer.betas': [.8, .9]})
    steps = cfg.test_dataloader.dataset.pipeline
    assert steps[1].scale == (96, 64) and steps[2].scale == (640, 640)
    assert cfg.optim_wrapper.optimizer.betas == [.8, .9]


@pytest.mark.parametrize('root, file, path', [
    ('data/mine', 'val.json', 'data/mine/val.json'),
    ('data/mine/', 'val.json', 'data/mine/val.json'),
    ('data/mine', '/other/val.json', '/other/val.json'),
    ('', 'val.json', 'val.json')])
def test_data_set_and_evaluator_read_one_file(root, file, path):
    cfg = load_config('configs/yolov8_fasternet_n.py',
                      dict(data_root=root, val_ann_file=file))
    assert cfg.val_evaluator.ann_file == path
    assert cfg.test_evaluator.ann_file == path


@pytest.mark.parametrize('config, option, place', [
    ('configs/retinanet/retinanet_fasternet-t0_fpn_1x_coco.py', 'data_root',
     'train_dataloader.dataset.data_root'),
    ('configs/rtmdet/rtmdet_fasternet-t0_8xb32-300e_coco.py', 'max_epochs',
     'train_cfg.max_epochs'),
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'data_root',
     'train_dataloader.dataset.data_root'),
    ('a written copy', 'max_epochs', 'train_cfg.max_epochs'),
])
def test_an_option_that_would_change_nothing_is_refused(
        config, option, place, tmp_path):
    if config == 'a written copy':
        config = str(tmp_path / 'copy.py')
        load_config('configs/yolov8_fasternet_n.py').dump(config)
    with pytest.raises(ValueError, match=f'written out: name those places '
                       f'instead, e.g. {place}=') as error:
        load_config(config, {option: 7})
    assert option in str(error.value)
    other = 'x' if option == 'data_root' else 9
    assert load_config(config, {place: other}).get(option) != other
    assert load_config(config, dict(work_dir='here')).work_dir == 'here'


def test_a_teacher_that_teaches_nobody_is_refused(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(
        "_base_ = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'\n"
        "teacher = 'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py'\n"
        "teacher_checkpoint = 's.pth'\n")
    with pytest.raises(ValueError, match='mine.py would teach nobody'):
        load_config(str(config))
    config.write_text(config.read_text().replace(
        'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py',
        str(Path('configs/yolov8_fasternet_n.py').resolve())))
    assert load_config(str(config)).model.teacher


def test_a_missing_config_is_named():
    with pytest.raises(FileNotFoundError, match='no/such.py'):
        load_config('no/such.py')


@pytest.mark.parametrize('options, words', [
    (dict(classes=['red', 'green']), r"refused: val: class-missing.*'green'"),
    (dict(classes=['red', 'blue']), 'class-order.*learned and drawn as'),
    (dict(img_scale=[100, 64]), r'multiples of 32.*got \(100, 64\)'),
])
def test_what_would_end_in_an_ap_of_zero_is_refused(options, words,
                                                    coco_options):
    good = load_config('configs/yolov8_fasternet_s.py', coco_options)
    require_sound_data(good, 'train', 'val')
    cfg = load_config('configs/yolov8_fasternet_s.py',
                      dict(coco_options, **options))
    with pytest.raises(ValueError, match=words):
        require_sound_data(cfg, 'val')


def test_what_is_left_out_of_the_data_is_printed(coco_options, capsys):
    require_sound_data(load_config(FAMILY, dict(
        coco_options, classes=['blue'])), 'val')
    assert 'dropped: val: class-excluded' in capsys.readouterr().out
    # a note is no reason to say anything
    cfg = load_config(FAMILY, coco_options)
    other = Path(cfg.val_evaluator.ann_file).with_name('same.json')
    other.write_bytes(Path(cfg.val_evaluator.ann_file).read_bytes())
    cfg.val_evaluator.ann_file = str(other)
    require_sound_data(cfg, 'val')
    assert capsys.readouterr().out == ''


def test_missing_data_names_the_path_and_the_way_out(tmp_path):
    cfg = load_config('configs/yolov8_fasternet_s.py',
                      dict(data_root=f'{tmp_path}/coco/'))
    with pytest.raises(FileNotFoundError) as error:
        require_data(cfg, 'train', 'val')
    for words in (f'{tmp_path}/coco/annotations/instances_train2017.json',
                  'train_dataloader.dataset.ann_file', 'cocodataset.org',
                  'configs/yolov8_fasternet_n_digits.py'):
        assert words in str(error.value)
    (tmp_path / 'coco/annotations').mkdir(parents=True)
    (tmp_path / 'coco/annotations/instances_train2017.json').touch()
    with pytest.raises(FileNotFoundError, match='data_prefix.img'):
        require_data(cfg, 'train')


def test_data_that_need_not_be_there(tmp_path):
    """It is on another machine, or is written when training begins."""
    for config, root in (('yolov8_fasternet_n', 's3://bucket/'),
                         ('yolov8_fasternet_n_digits', f'{tmp_path}/none/')):
        cfg = load_config(f'configs/{config}.py', dict(data_root=root))
        require_data(cfg, 'train', 'val', 'test')
        cfg.train_dataloader.dataset.update(
            type='YOLOv5CocoDataset', data_root=f'{tmp_path}/')
        with pytest.raises(FileNotFoundError, match='train data not found'):
            require_data(cfg, 'train')
