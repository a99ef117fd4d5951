# SPDX-License-Identifier: Apache-2.0
import ast
import inspect
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import skip_if_not_found_by_name
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mmfasternet.config import (
    add_our_hooks,
    load_config,
    require_data,
    require_sound_data,
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


@pytest.mark.parametrize('letter', 'nsmlx')
def test_a_command_line_knob_reaches_every_place(letter):
    check_every_place(
        load_config(f'configs/yolov8_fasternet_{letter}.py', OVERRIDES))


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


def test_a_derived_name_that_would_change_nothing_is_refused(tmp_path):
    """Every name of the family file that no program reads by itself."""
    base = str(Path('configs/yolov8_fasternet_n.py').resolve())
    text = Path(FAMILY).read_text()
    after = ast.parse(text[text.index('bind_knobs('):].partition(')\n')[2])
    read = {*inspect.signature(Runner).parameters, 'auto_scale_lr',
            'tta_model', 'tta_pipeline'}
    derived = {node.targets[0].id for node in after.body} - read
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
    text = copy.read_text()
    assert '\nmax_epochs = 500\n' in text
    copy.write_text(
        text.replace('\nmax_epochs = 500\n', '\nmax_epochs = 5\n'))
    with pytest.raises(ValueError, match=r'max_epochs is 5 in .*copy\.py, but '
                       'what follows from it stands there as for 500.*or '
                       r'here train_cfg\.max_epochs'):
        load_config(str(copy))
    base = str(Path('configs/yolov8_fasternet_n.py').resolve())
    copy.write_text(f'_base_ = {base!r}\nif True:\n    base_lr = 1.0\n')
    with pytest.raises(ValueError, match='or no line `base_lr = '):
        load_config(str(copy))


def test_options_parsed_from_the_command_line(tmp_path):
    import argparse
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


@pytest.mark.parametrize('options, words', [
    (dict(classes='cat'), r"classes must be a sequence.*\('cat',\)"),
    (dict(img_scale=320), 'img_scale must be a sequence like'),
    (dict(img_scale=[320, 320, 3]), 'img_scale must be 2 numbers'),
    (dict(max_epochs='ten'), 'max_epochs must be a number like 500'),
    (dict(max_epoch=10), 'did you mean max_epochs'),
    ({'modle.backbone.arch': 't1'}, 'did you mean model'),
])
def test_a_wrong_option_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        load_config('configs/yolov8_fasternet_n.py', options)


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
    assert load_config(config, {place: 'x'}).get(option) != 'x'
    assert load_config(config, dict(work_dir='here')).work_dir == 'here'


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
