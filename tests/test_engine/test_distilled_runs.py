# SPDX-License-Identifier: GPL-3.0-only
"""Training runs with a teacher: begun, resumed, tested without it."""
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import assert_equal, free_ports
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmfasternet.checkpoint import CheckpointError, load_model_weights
from mmfasternet.config import (
    build_model,
    load_config,
    require_data,
    require_sound_data,
)
from mmfasternet.datasets import MixedSampler, UnlabelledImages
from mmfasternet.datasets.checks.config import check_config
from mmfasternet.engine import DistillationHook
from mmfasternet.engine.optimizers.cpu_amp_optim_wrapper import has_bfloat16

STOCK = 'mmyolo::yolov8/yolov8_{}_syncbn_fast_8xb16-500e_coco.py'
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """Weights of a YOLOv8s for blue and red, and of a YOLOv8n for others."""
    folder = tmp_path_factory.mktemp('teacher')
    init_default_scope('mmyolo')
    for size, classes in (('s', ('blue', 'red')), ('n', ('red', 'blue'))):
        torch.manual_seed(0)
        cfg = load_config(STOCK.format(size)).model
        cfg.bbox_head.head_module.num_classes = 2
        cfg.pop('train_cfg')
        model = MODELS.build(cfg)
        model.init_weights()
        torch.save(
            dict(meta=dict(dataset_meta=dict(classes=classes)),
                 state_dict=model.state_dict()), folder / f'{size}.pth')
    return folder


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """Seven images without labels, in two folders."""
    folder = tmp_path_factory.mktemp('photographs')
    (folder / 'inner').mkdir()
    rng = np.random.default_rng(1)
    for i in range(7):
        path = folder / ('inner' if i % 2 else '') / f'{i}.png'
        cv2.imwrite(str(path), rng.integers(0, 255, (50, 70, 3), np.uint8))
    return folder


@pytest.fixture(scope='module')
def options(coco_options, teacher):
    return dict(
        coco_options,
        teacher=STOCK.format('s'),
        teacher_checkpoint=str(teacher / 's.pth'))


def config(options, work_dir, **more):
    cfg = load_config('configs/yolov8_fasternet_n.py', {**options, **more})
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name + str(len(list(work_dir.iterdir())))
    cfg.randomness = dict(seed=0)
    cfg.val_evaluator = cfg.test_evaluator = dict(
        type='mmdet.CocoMetric', ann_file=cfg.val_evaluator.ann_file,
        metric='bbox')
    return cfg


def train(cfg, amp=False):
    if amp:
        cfg.optim_wrapper.type = 'mmfasternet.CPUAmpOptimWrapper'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def log_of(work_dir):
    return ''.join(p.read_text() for p in Path(work_dir).glob('*/*.log'))


def saved(work_dir, epoch):
    return torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=False)


# ------------------------------------------------------------ a training run
def test_a_resumed_run_ends_with_the_same_bits_and_needs_no_teacher_after(
        options, photographs, teacher, tmp_path, coco):
    """Widths differ, so there are layers between student and teacher. In
    mixed precision where the CPU has it."""
    amp = has_bfloat16()
    more = dict(unlabelled_data_prefix=str(photographs), max_epochs=2,
                close_mosaic_epochs=1, val_interval=1)
    for name in ('whole', 'parts'):
        (tmp_path / name).mkdir()
    train(config(options, tmp_path / 'whole', **more), amp)
    whole = saved(tmp_path / 'whole', 2)

    shutil.copy(tmp_path / 'whole' / 'epoch_1.pth', tmp_path / 'parts')
    cfg = config(options, tmp_path / 'parts', **more)
    cfg.resume, cfg.load_from = True, str(tmp_path / 'parts' / 'epoch_1.pth')
    train(cfg, amp)
    parts = saved(tmp_path / 'parts', 2)
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'distillation'):
        assert_equal(whole[key], parts[key], key)
    first = saved(tmp_path / 'whole', 1)
    moved = [not torch.equal(a, b) for a, b in zip(
        first['distillation'].values(), whole['distillation'].values())]
    assert moved == [True] * 3

    # of the best only its weights are kept
    best, = (tmp_path / 'whole').glob('best_*.pth')
    assert 'distillation' not in torch.load(best, weights_only=False)
    # all losses, and all images without labels, were there
    log = log_of(tmp_path / 'whole')
    assert 'only features' not in log and 'scores and boxes' in log
    assert 'tensors of neck and head begin as those of the teacher' in log
    # what was trained is a detector like any other
    plain = load_config('configs/yolov8_fasternet_n.py',
                        dict(classes=['blue', 'red']))
    assert list(whole['state_dict']) == list(build_model(plain).state_dict())

    # the config beside it needs neither weights nor config of the teacher
    path = tmp_path / 'whole' / 'yolov8_fasternet_n.py'
    text = path.read_text().replace(options['teacher'], 'no/such.py')
    path.write_text(text.replace(str(teacher), '/no/such/folder'))
    cfg = load_config(str(path))
    load_model_weights(build_model(cfg), tmp_path / 'whole' / 'epoch_2.pth',
                       ('blue', 'red'))
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'test'), 'test'
    cfg.load_from = str(tmp_path / 'whole' / 'epoch_2.pth')
    assert 'coco/bbox_mAP' in Runner.from_cfg(cfg).test()


@pytest.fixture(scope='module')
def idle(options, tmp_path_factory):
    """A training run that is about to begin."""
    cfg = config(options, tmp_path_factory.mktemp('idle'))
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    return runner


def test_other_classes_give_features_only_and_it_says_so(
        options, teacher, idle, monkeypatch):
    cfg = load_config('configs/yolov8_fasternet_n.py',
                      dict(options, teacher=STOCK.format('n')))
    monkeypatch.setattr(idle, 'model', MODELS.build(cfg.model))
    said = []
    monkeypatch.setattr(idle.logger, 'info', said.append)
    hook = DistillationHook(str(teacher / 'n.pth'))
    hook.before_run(idle)
    hook.before_train(idle)
    assert "only features are imitated, because its classes are others, or " \
        "in another order: ('red', 'blue') instead of ('blue', 'red')" in \
        said[0]
    # n's neck takes from FasterNet-n what it takes from CSPDarknet: all fits
    # but the layers of the classes, a weight and a bias on each level
    own = idle.model.state_dict()
    total = sum(k.startswith(('neck.', 'bbox_head.')) for k in own)
    kept = ', '.join(f'bbox_head.head_module.cls_preds.{name}' for name in (
        '0.2.weight', '0.2.bias', '1.2.weight', '1.2.bias'))
    assert said[1] == f'{total - 6} of {total} tensors of neck and head ' \
        f'begin as those of the teacher; not {kept}, ...'
    theirs = torch.load(teacher / 'n.pth', weights_only=False)['state_dict']
    name = 'neck.downsample_layers.1.conv.weight'
    assert torch.equal(own[name], theirs[name])
    name = 'bbox_head.head_module.cls_preds.1.2.weight'
    assert not torch.equal(own[name], theirs[name])
    assert not idle.model.teacher.with_head


def test_load_from_is_not_overwritten(idle, options):
    hook = DistillationHook(options['teacher_checkpoint'])
    hook.before_run(idle)
    hook.after_load_checkpoint(idle, {})  # not to resume
    before = {k: v.clone() for k, v in idle.model.state_dict().items()}
    hook.before_train(idle)
    assert_equal(before, dict(idle.model.state_dict()))
    hook = DistillationHook(options['teacher_checkpoint'])
    hook.before_run(idle)
    hook.before_train(idle)
    moved = [k for k, v in idle.model.state_dict().items()
             if not torch.equal(v, before[k])]
    assert moved and all('neck' in k or 'head' in k for k in moved)


@pytest.mark.parametrize('change, words', [
    (lambda t: t.pop('neck.top_down_layers.0.final_conv.conv.weight'),
     'final_conv.conv.weight: not in the file'),
    (lambda t: t.update({'neck.more': torch.zeros(1)}), 'not in the model'),
    (lambda t: t['backbone.stem.conv.weight'].fill_(float('nan')), 'NaN'),
])
def test_a_teacher_that_fits_in_part_is_refused(change, words, idle, teacher,
                                                tmp_path):
    data = torch.load(teacher / 's.pth', weights_only=False)
    change(data['state_dict'])
    torch.save(data, tmp_path / 'part.pth')
    with pytest.raises(CheckpointError) as error:
        DistillationHook(str(tmp_path / 'part.pth')).before_run(idle)
    assert words in str(error.value) and 'part.pth' in str(error.value)


def test_a_teacher_that_is_not_there_is_named(idle):
    with pytest.raises(FileNotFoundError, match='teacher_checkpoint: .*no/s'):
        DistillationHook('no/such.pth').before_run(idle)


def test_a_checkpoint_of_another_size_is_named(idle, teacher):
    with pytest.raises(CheckpointError, match='which is YOLOv8n'):
        DistillationHook(str(teacher / 'n.pth')).before_run(idle)


def test_classes_without_names_are_taken_from_its_config(idle, teacher,
                                                         tmp_path):
    data = torch.load(teacher / 's.pth', weights_only=False)
    torch.save(data['state_dict'], tmp_path / 'plain.pth')
    for classes, with_head in ((['blue', 'red'], True), (None, False),
                               (['blue'], False), (['red', 'blue'], False)):
        hook = DistillationHook(str(tmp_path / 'plain.pth'), classes)
        hook.before_run(idle)
        assert hook._with_head == with_head, classes


@pytest.mark.parametrize('saved', [
    {}, dict(distillation={}), dict(distillation=3),
    dict(distillation={'0.weight': torch.zeros(3, 3, 1, 1)})])
def test_a_run_with_another_teacher_is_not_resumed(saved, idle, monkeypatch):
    monkeypatch.setattr(idle, '_resume', True)
    with pytest.raises(CheckpointError, match='without a teacher, or with'):
        DistillationHook('x.pth').after_load_checkpoint(idle, saved)


def test_another_model_is_refused(idle, monkeypatch):
    monkeypatch.setattr(idle, 'model', torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match='DistilledYOLODetector'):
        DistillationHook('x.pth').before_run(idle)


# ------------------------------------------------------------ images
def test_each_batch_has_labelled_and_other_images(monkeypatch):
    class Data:
        def __init__(self, *sizes):
            self.datasets = [range(size) for size in sizes]

    def epoch(sampler, number):
        sampler.set_epoch(number)
        indices = list(sampler)
        assert len(indices) == len(sampler)
        return indices

    sampler = MixedSampler(Data(10, 25), seed=3)
    seen = set()
    for number in range(3):
        indices = epoch(sampler, number)
        assert sorted(i for i in indices if i < 10) == list(range(10))
        others = [i for i in indices if i >= 10]
        assert len(others) == 10
        seen |= set(others)
        for start in range(0, 20, 4):
            assert sum(i < 10 for i in indices[start:start + 4]) == 2
    assert seen == set(range(10, 35))  # 30 turns of 25 images
    assert epoch(sampler, 1) == epoch(MixedSampler(Data(10, 25), seed=3), 1)
    # fewer than those with labels: all of them
    few = epoch(MixedSampler(Data(10, 3), seed=3), 0)
    assert sorted(few) == list(range(13))
    # in the middle of each third of the others
    assert [i for i, index in enumerate(few) if index >= 10] == [2, 6, 10]
    # two processes share both kinds evenly
    shares = []
    for rank in range(2):
        monkeypatch.setattr('mmfasternet.datasets.unlabelled.get_dist_info',
                            lambda rank=rank: (rank, 2))
        shares.append(epoch(MixedSampler(Data(10, 25), seed=3), 0))
    assert [sum(i < 10 for i in share) for share in shares] == [5, 5]
    assert len(set(shares[0]) | set(shares[1])) == 20


def test_the_last_epochs_are_without_mosaic_for_both(options, photographs):
    cfg = load_config('configs/yolov8_fasternet_n.py', dict(
        options, unlabelled_data_prefix=str(photographs)))
    init_default_scope('mmyolo')
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    first = [d.pipeline for d in loader.dataset.datasets]
    hook = PipelineSwitchHook(0, cfg.train_pipeline_stage2)
    hook.before_train_epoch(SimpleNamespace(
        epoch=0, train_dataloader=loader,
        logger=SimpleNamespace(info=lambda text: None)))
    second = [d.pipeline for d in loader.dataset.datasets]
    assert 'Mosaic' in str(first[1]) and 'Mosaic' not in str(second[1])
    assert second[0] is second[1]
    rows = [loader.dataset[i]['data_samples'].get('unlabelled', False)
            for i in range(len(loader.dataset))]
    assert rows == [False] * 5 + [True] * 7


def test_images_with_labels_are_not_among_those_without(options, coco,
                                                        photographs):
    """Also where one folder holds all: of train, and of val."""
    cfg = load_config('configs/yolov8_fasternet_n.py', dict(
        options, unlabelled_data_prefix='.'))
    leaf = cfg.train_dataloader.dataset.unlabelled
    shutil.copy(next(photographs.glob('*.png')), coco / 'new.png')
    try:
        init_default_scope('mmyolo')
        leaf.pop('type'), leaf.pop('_scope_')
        data = UnlabelledImages(**dict(leaf, pipeline=[]))
        paths = [info['img_path'] for info in data.load_data_list()]
        assert [Path(path).name for path in paths] == ['new.png']
    finally:
        (coco / 'new.png').unlink()
    with pytest.raises(FileNotFoundError, match='have labels'):
        UnlabelledImages(**dict(leaf, pipeline=[]))


def test_the_check_of_the_data_knows_them(options, photographs, coco,
                                          tmp_path):
    def check(folder, **kwargs):
        return check_config(load_config('configs/yolov8_fasternet_n.py', dict(
            options, unlabelled_data_prefix=str(folder))), **kwargs)

    report = check(photographs, workers=0)
    assert not report.refused, str(report)
    assert {'train', 'val'} == set(report.summaries)
    assert 'note: unlabelled: unlabelled (7)' in str(report)
    # the same pixels as an image of val under another name, and a broken one
    shutil.copy(coco / 'val/1.png', tmp_path / 'copy.png')
    report = check(tmp_path, workers=0)
    assert any(f.kind == 'leak' for f in report.findings)
    (tmp_path / 'broken.png').write_bytes(b'no image')
    report = check(tmp_path, workers=0)
    assert report.refused
    assert any(f.kind == 'image-broken' and f.split == 'unlabelled'
               for f in report.findings)
    # of another detector they would be background
    cfg = load_config('configs/yolov8_fasternet_n.py', dict(
        options, unlabelled_data_prefix=str(photographs)))
    cfg.model.pop('teacher')
    assert 'count as background' in str(check_config(cfg, images=False))
    (tmp_path / 'empty').mkdir()
    cfg = load_config('configs/yolov8_fasternet_n.py', dict(
        options, unlabelled_data_prefix=str(tmp_path / 'empty')))
    with pytest.raises(ValueError, match='no image in the folder'):
        require_sound_data(cfg, 'train', 'val')
    cfg = load_config('configs/yolov8_fasternet_n.py', dict(
        options, unlabelled_data_prefix='/no/such'))
    with pytest.raises(FileNotFoundError, match='/no/such'):
        require_data(cfg, 'train')


# ------------------------------------------------------------ processes
@pytest.mark.slow
def test_two_processes_resume_with_the_same_bits(options, photographs,
                                                 tmp_path):
    cfg = config(options, tmp_path, max_epochs=2, val_interval=1,
                 unlabelled_data_prefix=str(photographs))
    cfg.dump(str(tmp_path / 'two.py'))
    port, = free_ports(1)
    for extra in ([], ['--resume']):
        done = subprocess.run(
            [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node',
             '2', '--master_port', str(port), 'tools/train.py',
             str(tmp_path / 'two.py'), '--launcher', 'pytorch', '--work-dir',
             str(tmp_path / 'work'), *extra],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        if not extra:
            whole = saved(tmp_path / 'work', 2)
            (tmp_path / 'work' / 'epoch_2.pth').unlink()
            (tmp_path / 'work' / 'last_checkpoint').unlink()
            assert (tmp_path / 'work' / 'epoch_1.pth').is_file()
    parts = saved(tmp_path / 'work', 2)
    for key in ('state_dict', 'optimizer', 'distillation'):
        assert_equal(whole[key], parts[key], key)
