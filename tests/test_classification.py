# SPDX-License-Identifier: Apache-2.0
import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import (
    HOOKS,
    MODELS,
    PARAM_SCHEDULERS,
    DefaultScope,
    init_default_scope,
)
from mmengine.runner import Runner
from PIL import Image
from processes import run_script

from mmfasternet.compat import import_mmpretrain
from mmfasternet.config import load_config

pytest.importorskip('mmpretrain')
FOLDER = 'configs/classification/'
IMAGENET = sorted(
    path.name for path in Path(FOLDER).glob('fasternet-*_in1k.py'))
MEAN = np.array([123.675, 116.28, 103.53])  # RGB
STD = np.array([58.395, 57.12, 57.375])
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def scope():
    """The scope that the configs name, then whatever it was before."""
    before = DefaultScope.get_current_instance()
    import_mmpretrain()  # as custom_imports does before the scope is set
    init_default_scope('mmpretrain')
    yield
    init_default_scope(before.scope_name if before else 'mmyolo')


def python(code, **env):
    done = subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True,
                          env={
                              **os.environ,
                              **env
                          })
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Two folders of classes below train/ and val/, images of odd sizes."""
    root = tmp_path_factory.mktemp('folders')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                coarse = rng.integers(0, 255, (9, 6, 3), dtype=np.uint8)
                cv2.imwrite(
                    str(root / split / name / f'{i}.png'),
                    cv2.resize(coarse, (311 - 60 * i, 457)))
    return root


# ------------------------------------------------- mmpretrain, no torchvision

without_torchvision = pytest.mark.skipif(
    find_spec('torchvision') is not None, reason='torchvision is installed')


@without_torchvision
@pytest.mark.parametrize('first', ['mmfasternet.models', 'mmfasternet.compat'])
def test_no_torchvision_is_left_behind_and_a_use_of_it_says_so(first):
    """mmdet.models imports the half of mmpretrain that it can, if first."""
    out = python(f'''
import sys
from importlib.util import find_spec
import {first}
assert 'mmpretrain.datasets' not in sys.modules
from mmfasternet.compat import import_mmpretrain
import_mmpretrain()
import mmdet.models
assert not [name for name in sys.modules if name.startswith('torchvision')]
assert find_spec('torchvision') is None
try:
    import torchvision
except ModuleNotFoundError:
    print('gone')
from PIL import Image
from mmengine.registry import init_default_scope
from mmpretrain.models.utils.box_utils import boxes
from mmpretrain.datasets.transforms import processing
from mmpretrain.registry import HOOKS, METRICS, MODELS, TRANSFORMS, VISUALIZERS
for use in (
        lambda: TRANSFORMS.build(dict(type='MAERandomResizedCrop', size=9)),
        lambda: TRANSFORMS.build(dict(type='torchvision/RandomResizedCrop')),
        lambda: TRANSFORMS.build(dict(type='PackInputs'))(
            dict(img=Image.new('RGB', (9, 9)))),
        lambda: boxes.box_iou(1, 2), lambda: processing.InterpolationMode(3)):
    try:
        use()
    except ImportError as error:
        print(error)
for registry, name in (
        (MODELS, 'ImageClassifier'), (METRICS, 'Accuracy'),
        (HOOKS, 'SwitchRecipeHook'), (VISUALIZERS, 'UniversalVisualizer')):
    assert registry.get(name) is not None, name
''')
    lines = out.splitlines()
    assert 'gone' in lines
    refusals = re.findall('^(torchvision.*) is needed here', out, re.M)
    assert refusals == [
        'torchvision.transforms.RandomResizedCrop',
        'torchvision.transforms.RandomResizedCrop',
        'torchvision.transforms.functional.pil_to_tensor',
        'torchvision.ops.boxes.box_iou',
        'torchvision.transforms.transforms.InterpolationMode'
    ]


def test_a_torchvision_that_is_there_is_used(tmp_path):
    for name, text in {
            '__init__': 'from . import ops, transforms',
            'ops/__init__': 'from . import boxes',
            'ops/boxes': '',
            'transforms/__init__': 'class RandomResizedCrop: pass',
            'transforms/functional': '',
            'transforms/transforms': 'class InterpolationMode: pass'
    }.items():
        path = tmp_path / 'torchvision' / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    out = python(
        'from mmfasternet.compat import import_mmpretrain\n'
        'import_mmpretrain()\n'
        'import torchvision\n'
        'from mmpretrain.datasets.transforms import processing\n'
        'assert processing.torchvision is torchvision\n'
        'print(torchvision.__file__)',
        PYTHONPATH=str(tmp_path))
    assert str(tmp_path) in out


def test_worker_processes_load_a_data_set_of_mmpretrain(folders):
    """A spawned one starts with unpickling it, and here with nothing else."""
    out = python(f'''
from mmfasternet.compat import import_mmpretrain
import_mmpretrain()
from mmpretrain.datasets import CustomDataset
from torch.utils.data import DataLoader
dataset = CustomDataset(data_root='{folders}', data_prefix='train', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='PackInputs')])
for method in ('fork', 'spawn'):
    loader = DataLoader(dataset, num_workers=1, collate_fn=list,
                        multiprocessing_context=method)
    print(method, [sample['data_samples'].gt_label.item()
                   for batch in loader for sample in batch])
''')
    assert 'fork [0, 0, 1, 1]' in out and 'spawn [0, 0, 1, 1]' in out


# --------------------------------------------------------- head and classifier


@pytest.fixture(scope='module')
def batch():
    from mmpretrain.structures import DataSample
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (3, 3, 64, 64), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([7, 0, 3])
    return images, labels, dict(
        inputs=images,
        data_samples=[DataSample().set_gt_label(int(y)) for y in labels])


@pytest.fixture(scope='module')
def classifier(batch):
    """T0 of ten classes, and the logits that the backbone alone gives."""
    from mmfasternet.models import FasterNet
    cfg = load_config(f'{FOLDER}fasternet-t0_8xb512_in1k.py',
                      dict(num_classes=10))
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).eval()
    torch.manual_seed(0)
    backbone = FasterNet('t0', num_classes=10).eval()
    backbone.init_weights()
    rgb = batch[0].numpy()[:, ::-1].transpose(0, 2, 3, 1)
    images = torch.tensor((rgb - MEAN) / STD, dtype=torch.float32)
    with torch.no_grad():
        logits = backbone(images.permute(0, 3, 1, 2))
        # an untrained one's are all nearly zero
        scale = 2 / logits.std()
        backbone.head.weight *= scale
    model.backbone.load_state_dict(backbone.state_dict())
    return model, logits * scale


def test_predictions_are_the_softmax_of_the_backbones_logits(
        classifier, batch):
    model, logits = classifier
    samples = model.test_step(batch[2])
    expected = logits.double().exp()
    expected /= expected.sum(1, keepdim=True)
    assert expected.max() > 0.2  # not uniform
    torch.testing.assert_close(
        torch.stack([s.pred_score for s in samples]).double(),
        expected,
        rtol=1e-5,  # float32 against float64
        atol=1e-7)
    assert [s.pred_label.item() for s in samples] == \
        logits.argmax(1).tolist()


def test_the_loss_is_label_smoothed_cross_entropy(classifier, batch):
    model, logits = classifier
    data = model.data_preprocessor(batch[2], training=False)  # no mixup
    loss = model(**data, mode='loss')['loss']
    expected = F.cross_entropy(logits, batch[1], label_smoothing=0.1)
    # float32 rounding
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------- the ImageNet configs

# The paper's recipe (its Table 8) by variant; classifier sizes as counted for
# the authors' release.
RECIPE = ('parameters', 'batch', 'lr', 'decay', 'mixup', 'randaugment', 'clip',
          'drop_path')
RECIPES = {
    't0': (3905500, 4096, 0.004, 0.005, 0.05, None, None, 0.),
    't1': (7595368, 4096, 0.004, 0.01, 0.1, 3, None, 0.02),
    't2': (14982888, 4096, 0.004, 0.02, 0.1, 5, None, 0.05),
    's': (31181032, 4096, 0.004, 0.03, 0.3, 7, None, 0.1),
    'm': (53521464, 2048, 0.002, 0.05, 0.5, 7, 1., 0.2),
    'l': (93465192, 2048, 0.002, 0.05, 0.7, 7, 0.01, 0.3),
}


def test_there_is_one_config_per_published_variant():
    assert {name.split('_')[0] for name in IMAGENET} == \
        {f'fasternet-{arch}' for arch in RECIPES}


@pytest.mark.parametrize('config', IMAGENET)
def test_recipe_and_parameters_are_the_papers(config):
    arch, gpus, per_gpu = re.fullmatch(
        r'fasternet-(\w+)_(\d+)xb(\d+)_in1k.py', config).groups()
    recipe = dict(zip(RECIPE, RECIPES[arch]))
    cfg = load_config(FOLDER + config)
    pipelines = [
        cfg.train_dataloader.dataset.pipeline,
        cfg.custom_hooks[0].schedule[0].train_pipeline
    ]
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == recipe['parameters']
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.)
        for stage in model.backbone.stages[::2] for block in stage.blocks
    ]
    assert rates[0] == 0 and rates[-1] == pytest.approx(recipe['drop_path'])

    assert int(gpus) * int(per_gpu) == recipe['batch'] == \
        int(gpus) * cfg.train_dataloader.batch_size == \
        cfg.auto_scale_lr.base_batch_size
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=recipe['lr'], weight_decay=recipe['decay'])
    clip = cfg.optim_wrapper.clip_grad
    assert (clip and clip.max_norm) == recipe['clip']
    mixup, cutmix = model.data_preprocessor.batch_augments.augments
    assert (type(mixup).__name__, mixup.alpha) == ('Mixup', recipe['mixup'])
    assert (type(cutmix).__name__, cutmix.alpha) == ('CutMix', 1.)
    assert model.head.loss_module.label_smooth_val == 0.1
    for pipeline, size in zip(pipelines, (192, 224)):
        steps = {step.type: step for step in pipeline}
        assert steps['RandomResizedCrop'].scale == size
        level = steps['RandAugment'].magnitude_level \
            if 'RandAugment' in steps else None
        assert level == recipe['randaugment']
    # no EMA, and the last 20 of 300 epochs, counted from 1, at 224
    (hook, ) = cfg.custom_hooks
    assert hook.type == 'SwitchRecipeHook'
    assert [s.action_epoch for s in hook.schedule] == [281]
    assert cfg.train_cfg.max_epochs == 300


@pytest.mark.parametrize('config', IMAGENET)
def test_learning_rate_over_300_epochs(config):
    """20 epochs of warm-up, then a cosine, as the hook steps them."""
    cfg = load_config(FOLDER + config)
    peak, iterations = cfg.optim_wrapper.optimizer.lr, 5
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=peak)
    schedulers = []
    for scheduler in cfg.param_scheduler:
        cls = PARAM_SCHEDULERS.get(scheduler.pop('type'))
        if scheduler.pop('convert_to_iter_based', False):
            schedulers.append(
                cls.build_iter_from_epoch(
                    optimizer, **scheduler, epoch_length=iterations))
        else:
            schedulers.append(cls(optimizer, **scheduler))
    hook = HOOKS.build(cfg.default_hooks.param_scheduler)
    runner = SimpleNamespace(param_schedulers=schedulers)
    for epoch in range(300):
        for i in range(iterations):
            done = epoch + i / iterations
            expected = peak * (1e-6 / peak + (1 - 1e-6 / peak) * done /
                               (20 - 1 / iterations))
            if epoch >= 20:
                half = (1 + math.cos(math.pi * (epoch - 20) / 280)) / 2
                expected = 1e-5 + (peak - 1e-5) * half
            assert optimizer.param_groups[0]['lr'] == pytest.approx(expected)
            optimizer.step()
            hook.after_train_iter(runner, i)
        hook.after_train_epoch(runner)


@pytest.mark.parametrize('config', [
    pytest.param('fasternet-t0_8xb512_in1k.py', marks=pytest.mark.slow),
    'fasternet-t1_8xb512_in1k.py',  # the same and RandAugment
])
def test_it_trains_on_a_folder_of_images_and_switches_resolution(
        config, folders, tmp_path):
    cfg = load_config(
        FOLDER + config, {
            'dataset_type': 'CustomDataset',
            'data_root': f'{folders}/',
            'num_classes': 2,
            'train_batch_size_per_gpu': 2,
            'val_batch_size_per_gpu': 3,
            'train_num_workers': 0,
            'val_num_workers': 0,
            'max_epochs': 2,
            'last_epochs': 1,
            'optim_wrapper.type': 'OptimWrapper'
        })
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = f'{config}_{tmp_path.name}'
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1)
    runner = Runner.from_cfg(cfg)
    seen = []
    runner.model.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(
            (module.training, *args[0].shape[2:])))
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    images = [(train, size, size)
              for train, size in ((True, 192), (False, 224), (True, 224),
                                  (False, 224)) for _ in range(2)]
    assert seen == images
    assert [
        name for name, value in runner.model.named_parameters()
        if torch.equal(value, before[name]) or not value.isfinite().all()
    ] == []
    assert set(runner.test()) == {'accuracy/top1', 'accuracy/top2'}


@pytest.mark.parametrize('num_classes', [1000, 2])
def test_published_weights_start_it(num_classes, tmp_path):
    """Whole, or without the classifier where the classes are others."""
    from mmfasternet.models import FasterNet
    torch.manual_seed(0)
    published = FasterNet('t0', num_classes=1000)
    published.init_weights()
    path = str(tmp_path / 'authors.pth')
    torch.save(published.state_dict(), path)
    cfg = load_config(f'{FOLDER}fasternet-t0_8xb512_in1k.py',
                      dict(num_classes=num_classes, pretrained=path))
    model = MODELS.build(cfg.model)
    model.init_weights()
    loaded = model.backbone.state_dict()
    assert [
        name for name, value in published.state_dict().items()
        if not torch.equal(value, loaded[name])
    ] == ([] if num_classes == 1000 else ['head.weight', 'head.bias'])


def test_evaluation_sees_the_central_ninety_per_cent(folders):
    """At which the official accuracies are; PIL is what the authors used."""
    cfg = load_config(f'{FOLDER}fasternet-s_8xb512_in1k.py')
    from mmpretrain.datasets import CustomDataset
    dataset = CustomDataset(
        data_root=str(folders),
        data_prefix='val',
        pipeline=cfg.test_dataloader.dataset.pipeline)
    image = Image.open(folders / 'val' / 'cat' / '1.png')  # 251x457
    height = int(248 * 457 / 251)
    image = image.resize((248, height), Image.BICUBIC)
    left, top = 12, round((height - 224) / 2)
    expected = np.asarray(image.crop((left, top, left + 224, top + 224)))
    got = dataset[1]['inputs'].numpy()[::-1].transpose(1, 2, 0)  # to RGB
    np.testing.assert_array_equal(got, expected)
    assert cfg.test_evaluator == dict(
        type='Accuracy', _scope_='mmpretrain', topk=(1, 5))


# ------------------------------------------------------------------ the digits


def test_no_scan_is_in_both_splits_and_labels_are_right():
    from sklearn.datasets import load_digits

    from mmfasternet.classification import DigitsClassification
    digits = load_digits()
    truth = {}
    for scan, label in zip(digits.images, digits.target):
        truth.setdefault(scan.tobytes(), set()).add(int(label))
    splits = []
    for split in ('train', 'val'):
        dataset = DigitsClassification(split=split)
        assert dataset.metainfo['classes'] == tuple('0123456789')
        scans = []
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            image = info['img']
            assert image.dtype == np.uint8 and image.shape == (8, 8, 3)
            assert np.ptp(image, axis=2).max() == 0
            scans.append(np.round(image[..., 0] * (16 / 255)).tobytes())
            assert truth[scans[-1]] == {info['gt_label']}
        splits.append(set(scans))
    assert [len(split) for split in splits] == [1438, 359]
    assert not splits[0] & splits[1]


def test_an_unknown_split_is_refused():
    from mmfasternet.classification import DigitsClassification
    with pytest.raises(ValueError, match="'train' or 'val', got 'test'"):
        DigitsClassification(split='test')


@pytest.mark.slow
def test_the_digits_config_learns_to_read(tmp_path):
    """The whole training; the last epoch, not the best."""
    config = f'{FOLDER}fasternet-n_digits.py'
    run_script('tools/train.py', config, '--work-dir', tmp_path,
               '--cfg-options', 'randomness.seed=0')
    done = run_script('tools/test.py', config, tmp_path / 'epoch_15.pth',
                      '--work-dir', tmp_path)
    (top1, ) = re.findall(r'accuracy/top1: ([\d.]+)',
                          done.stdout + done.stderr)
    assert float(top1) > 97


@pytest.mark.parametrize('name', ['fasternet-n_digits.py', IMAGENET[0]])
def test_a_program_of_others_builds_what_inherits_us(name, folders, tmp_path):
    """MMEngine would look for mmpretrain's names among ours."""
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmfasternet::classification/{name}'\n"
                    f'data_root = {str(folders)!r}\n'
                    + ('' if 'digits' in name else
                       "num_classes = 2\ndataset_type = 'CustomDataset'\n"))
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    cfg.optim_wrapper.type = 'OptimWrapper'
    runner = Runner.from_cfg(cfg)
    inputs = runner.val_dataloader.dataset[0]['inputs']
    side = 64 if 'digits' in name else 224
    assert inputs.shape == (3, side, side)
    runner.train_dataloader.dataset[0]
    assert runner.val_evaluator.metrics[0].topk[0] == 1


# ------------------------------------------------------------ where things are


def test_missing_images_name_the_path_and_the_way_out():
    done = run_script('tools/train.py', f'{FOLDER}{IMAGENET[0]}',
                      '--cfg-options', 'data_root=data/no_imagenet/',
                      status=1)
    assert 'Traceback' not in done.stderr
    assert 'data/no_imagenet/train' in done.stderr
    assert f'{FOLDER}fasternet-n_digits.py' in done.stderr


def test_no_two_configs_share_a_basename():
    """`mim train` searches the whole package by basename."""
    names = [path.name for path in Path('configs').rglob('*.py')]
    assert len(names) == len(set(names))
