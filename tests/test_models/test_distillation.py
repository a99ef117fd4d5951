# SPDX-License-Identifier: GPL-3.0-only
"""A detector that learns from another: losses, inputs, what is refused."""
import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mmfasternet.checkpoint.layouts.detectors import read_detector
from mmfasternet.config import build_model, load_config
from mmfasternet.datasets import yolov5_collate
from mmfasternet.models.detectors.teacher import (
    InputChange,
    Teacher,
    flatten,
)
from mmfasternet.models.losses import (
    box_imitation,
    feature_imitation,
    score_imitation,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import ultralytics_reference as reference  # noqa: E402

STOCK = 'mmyolo::yolov8/yolov8_{}_syncbn_fast_8xb16-500e_coco.py'
OPTIONS = dict(
    teacher=STOCK.format('s'), teacher_checkpoint='x.pth', classes=['a', 'b'])


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmyolo')
    torch.manual_seed(0)


def student(**options):
    cfg = load_config('configs/yolov8_fasternet_n.py', {
        **OPTIONS,
        **options
    })
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


@pytest.fixture(scope='module')
def taught():
    """The n detector, and YOLOv8s as its teacher."""
    init_default_scope('mmyolo')
    torch.manual_seed(0)
    model = student()
    teacher = model.build_teacher(2)
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    model.set_teacher(teacher, with_head=True)
    return model


# ------------------------------------------------------------ losses
def test_features_lose_one_minus_their_correlation():
    a, b = torch.randn(2, 3, 5, 4, 6)
    expected = [
        1 - np.corrcoef(a[:, c].flatten(), b[:, c].flatten())[0, 1]
        for c in range(5)
    ]
    loss = feature_imitation(a, b).item()
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)
    # neither scale nor offset of a channel counts
    scale = torch.rand(5, 1, 1) + 0.5
    assert feature_imitation(a * scale - 3, a).item() < 1e-6
    assert feature_imitation(a, torch.zeros_like(a)).isfinite()


def test_scores_and_boxes_lose_their_divergence():
    a, b = torch.randn(2, 2, 7, 3).double().unbind(0)
    bins_a, bins_b = torch.randn(2, 2, 7, 4, 16).double().unbind(0)
    best = b.sigmoid().amax(-1)
    expected = kl_divergence(Bernoulli(logits=b), Bernoulli(logits=a))
    assert score_imitation(a, b).item() == pytest.approx(
        (expected.sum() / best.sum()).item(), rel=1e-5)
    sides = kl_divergence(Categorical(logits=bins_b),
                          Categorical(logits=bins_a)).mean(-1)
    assert box_imitation(bins_a, bins_b, b).item() == pytest.approx(
        ((sides * best).sum() / best.sum()).item(), rel=1e-5)
    # where the teacher sees less than one object the sum is not divided
    faint = b - 9
    expected = kl_divergence(Bernoulli(logits=faint), Bernoulli(logits=a))
    best = faint.sigmoid().amax(-1)
    assert best.sum() < 0.1
    assert score_imitation(a, faint).item() == pytest.approx(
        expected.sum().item(), rel=1e-4)
    assert box_imitation(bins_a, bins_b, faint).item() == pytest.approx(
        (sides * best).sum().item(), rel=1e-4)
    assert abs(score_imitation(b, b).item()) < 1e-6
    assert abs(box_imitation(bins_b, bins_b, b).item()) < 1e-6


# ------------------------------------------------------------ the teacher
def preprocessor(**kwargs):
    return MODELS.build(dict(type='YOLOv5DetDataPreprocessor', **kwargs))


@pytest.mark.parametrize('ours', [
    dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
         bgr_to_rgb=True), dict(bgr_to_rgb=False)])
@pytest.mark.parametrize('theirs', [
    dict(mean=[0., 0., 0.], std=[255.] * 3, bgr_to_rgb=True),
    dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]),
    dict(bgr_to_rgb=True)])
def test_the_teacher_gets_images_as_its_own_preprocessor_makes_them(
        ours, theirs):
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)

    def processed(module):
        data = dict(inputs=images.clone(),
                    data_samples=dict(bboxes_labels=torch.zeros(0, 6)))
        return module(data, training=True)['inputs'].float()

    ours, theirs = preprocessor(**ours), preprocessor(**theirs)
    change = InputChange.between(ours, theirs).to('cpu')
    torch.testing.assert_close(
        change(processed(ours)), processed(theirs), rtol=1e-5, atol=1e-4)


def test_it_is_a_part_of_nothing_and_its_layers_are_in_no_checkpoint(taught):
    cfg = load_config('configs/yolov8_fasternet_n.py',
                      dict(classes=['a', 'b']))
    plain = MODELS.build(cfg.model)
    assert cfg.model.type == 'mmfasternet.AnyBackboneYOLODetector'
    assert 'teacher' not in cfg.model
    assert 'distillation' not in cfg.default_hooks
    assert list(taught.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(taught.state_dict(), strict=True)
    taught.load_state_dict(plain.state_dict(), strict=True)
    extra = {name for name, _ in taught.named_parameters()} - {
        name for name, _ in plain.named_parameters()
    }
    assert extra == {f'projections.{i}.weight' for i in range(3)}
    taught.train()
    assert not any(m.training for m in taught.teacher.model.modules())
    assert not any(p.requires_grad for p in taught.teacher.model.parameters())
    # who only tests builds no layers for it
    cfg = load_config('configs/yolov8_fasternet_n.py', OPTIONS)
    assert len(build_model(cfg).projections) == 0
    assert 'teacher' in cfg.model


def test_a_config_of_ones_own_as_teacher(tmp_path):
    """The copy in a work directory holds all of it, and its modules."""
    base = Path('configs/yolov8_fasternet_s.py').resolve()
    (tmp_path / 'teacher.py').write_text(
        f"_base_ = '{base}'\nclasses = ('x', 'y')\n"
        "custom_imports = dict(imports=['colorsys', 'mmfasternet.models'])\n")
    cfg = load_config('configs/yolov8_fasternet_n.py',
                      dict(OPTIONS, teacher=str(tmp_path / 'teacher.py')))
    cfg.dump(str(tmp_path / 'copy.py'))
    (tmp_path / 'teacher.py').unlink()
    cfg = load_config(str(tmp_path / 'copy.py'))
    assert cfg.custom_imports.imports == [
        'mmfasternet.models', 'mmfasternet.datasets', 'mmfasternet.engine',
        'colorsys']
    assert cfg.model.teacher.backbone.arch == 't0'
    assert cfg.model.backbone.arch == 'n'
    assert tuple(cfg.classes) == ('a', 'b')  # neither got the other's
    assert tuple(cfg.default_hooks.distillation.classes) == ('x', 'y')
    widths = [p.out_channels for p in MODELS.build(cfg.model).projections]
    assert widths == [128, 256, 512]


def test_without_a_teacher_its_module_is_not_even_imported():
    done = subprocess.run([
        sys.executable, '-c', 'import sys\n'
        'from mmfasternet.config import load_config\n'
        "load_config('configs/yolov8_fasternet_n.py')\n"
        "print('mmfasternet.config.distillation' in sys.modules)"
    ], capture_output=True, text=True)
    assert done.stdout.split() == ['False'], done.stderr


def randomise(model):
    """Values that a wrong assignment or a wrong eps cannot hide behind."""
    for name, value in model.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.1, 0.5)
        elif value.dim() == 1 and value.is_floating_point():
            value.normal_(0.4, 0.4)
    return model.eval()


def test_ultralytics_weights_as_a_teacher_give_equal_outputs(tmp_path):
    stock = randomise(reference.stock(2))
    torch.save(stock.state_dict(), tmp_path / 'best.pt')
    found = read_detector(str(tmp_path / 'best.pt'))
    assert (found.num_classes, found.stock_size, found.classes) == (2, 'n',
                                                                    None)
    model = student(teacher=STOCK.format('n')).build_teacher(2)
    assert set(found.tensors) == {
        k for k in model.state_dict() if 'tracked' not in k
    } | {k for k in found.tensors if 'tracked' in k}
    model.load_state_dict(found.tensors, strict=True)
    images = torch.rand(1, 3, 64, 96)
    same = InputChange(False, torch.ones(3, 1, 1), torch.zeros(3, 1, 1))
    out = Teacher(model.double().eval(), True, InputChange(
        *[x.double() if isinstance(x, torch.Tensor) else x for x in same]))(
            images.double())
    with torch.no_grad():
        boxes, scores = stock.double()(images.double())
    torch.testing.assert_close(out.scores.sigmoid(), scores, rtol=0,
                               atol=1e-10)
    sides = out.bins.softmax(-1) @ torch.arange(16.).double()
    width = (boxes[..., 2] - boxes[..., 0])[:, :96]  # of stride 8
    torch.testing.assert_close(
        8 * (sides[..., 0] + sides[..., 2])[:, :96], width)


@pytest.mark.parametrize('options, words', [
    (dict(teacher='mmyolo::yolov5/yolov5_n-p6-v62_syncbn_fast_8xb16-300e_'
          'coco.py'), 'the teacher has levels of strides (8, 16, 32, 64)'),
    (dict(teacher='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'),
     'which is not a detector of mmyolo'),
    (dict(teacher='configs/no_such.py'), 'no_such.py'),
    (dict(teacher_checkpoint=None), 'needs teacher_checkpoint'),
    (dict(teacher=None), 'needs teacher'),
    (dict(teacher=None, teacher_checkpoint=None,
          unlabelled_data_prefix='more/'), 'needs teacher'),
    (dict(teacher=3), "teacher must be text or None"),
])
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        student(**options)
    assert words in str(error.value)


def test_only_the_head_of_yolov8_learns():
    cfg = load_config('configs/yolov8_fasternet_n.py', OPTIONS)
    other = load_config('mmyolo::rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_'
                        'coco.py').model
    with pytest.raises(ValueError, match='only detectors with the head of Y'):
        MODELS.build(dict(
            type='mmfasternet.DistilledYOLODetector',
            teacher=cfg.model.teacher,
            **{k: other[k] for k in ('backbone', 'neck', 'bbox_head')}))


def test_what_is_not_there_yet_is_named():
    model = student()
    with pytest.raises(RuntimeError, match='no teacher to learn from: the ho'):
        model.loss(torch.randn(1, 3, 64, 64), samples([0], 1))
    plain = MODELS.build(dict(
        type='mmfasternet.DistilledYOLODetector',
        **{k: v for k, v in load_config(
            'configs/yolov8_fasternet_n.py', dict(classes=['a', 'b'])
        ).model.items() if k != 'type'}))
    with pytest.raises(ValueError, match='was built without a teacher'):
        plain.build_teacher()
    # and trains as the one that it extends
    assert list(plain.loss(torch.randn(1, 3, 64, 64), samples([0], 1))) == [
        'loss_cls', 'loss_bbox', 'loss_dfl']


def test_a_teacher_has_the_classes_of_its_weights_or_of_its_config():
    model = student()
    for asked, expected in ((2, 2), (7, 7), (None, 80)):
        with torch.device('meta'):
            head = model.build_teacher(asked).bbox_head.head_module
        assert head.num_classes == expected


def test_another_detector_of_mmyolo_teaches_features():
    model = student(teacher='mmyolo::rtmdet/rtmdet_tiny_syncbn_fast_8xb32-'
                    '300e_coco.py')
    model.set_teacher(model.build_teacher(), with_head=False)
    losses = model.loss(torch.randn(2, 3, 64, 64), samples([0, 1]))
    assert 'loss_teacher_features' in losses
    assert 'loss_teacher_scores' not in losses


# ------------------------------------------------------------ a batch
def samples(labelled, count=2):
    """One box of class 0 in each image that has labels."""
    rows = [[i, 0, 8, 8, 40, 48] if i in labelled else [i, -1, 0, 0, 0, 0]
            for i in range(count)]
    return dict(
        bboxes_labels=torch.tensor(rows).float(),
        img_metas=[dict(batch_input_shape=(64, 64))] * count)


def test_every_parameter_of_the_student_learns(taught):
    taught.train()
    images = torch.randn(2, 3, 64, 64)
    losses = taught.loss(images, samples([0, 1]))
    assert list(losses) == [
        'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_teacher_features',
        'loss_teacher_scores', 'loss_teacher_boxes'
    ]
    taught.zero_grad()
    sum(v for k, v in losses.items() if 'teacher' in k).backward()
    assert all(p.grad is not None for p in taught.parameters())
    assert all(p.grad is None for p in taught.teacher.model.parameters())


@pytest.mark.parametrize('options, processes, weights', [
    ({}, 1, (1, 0.5, 1.5)), ({}, 4, (1, 0.5, 1.5)),
    (dict(feature_weight=3., score_weight=5., box_weight=7.), 1, (3, 5, 7))])
def test_the_losses_are_weighted_and_count_all_images(
        options, processes, weights, taught, monkeypatch):
    """Twice the mean of the batch of two, as YOLOv8's are a sum over it."""
    cfg = load_config('configs/yolov8_fasternet_n.py', OPTIONS)
    model = MODELS.build(dict(cfg.model, **options)).train()
    model.load_state_dict(taught.state_dict())
    model.set_teacher(taught.teacher.model, with_head=True)
    monkeypatch.setattr(
        'mmfasternet.models.detectors.distilled_yolo_detector.get_world_size',
        lambda: processes)
    images = torch.randn(2, 3, 64, 64)
    losses = model.loss(images, samples([0, 1]))
    features = model.extract_feat(images)
    scores, _, bins = model.bbox_head(features)
    wanted = model.teacher(images)
    expected = [
        sum(feature_imitation(p(x), y) for p, x, y in zip(
            model.projections, features, wanted.features)),
        score_imitation(flatten(scores), wanted.scores),
        box_imitation(torch.cat(bins, 1), wanted.bins, wanted.scores)
    ]
    for name, loss, weight in zip(('features', 'scores', 'boxes'), expected,
                                  weights):
        torch.testing.assert_close(
            losses[f'loss_teacher_{name}'], 2 * processes * weight * loss)


def test_amp_gives_the_same_within_its_precision(taught):
    taught.train()
    images = torch.randn(2, 3, 64, 64)
    full = copy.deepcopy(taught).loss(images, samples([0, 1]))
    with torch.autocast('cpu', torch.bfloat16):
        half = copy.deepcopy(taught).loss(images, samples([0, 1]))
    for name in full:
        assert half[name].dtype == torch.float32
        if 'teacher' in name:
            assert half[name].item() == pytest.approx(full[name].item(), 0.1)


def test_unlabelled_images_are_not_background(taught):
    """The loss of the labels is that of the images which have some."""
    model = copy.deepcopy(taught).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # else the images would depend on each other
    images = torch.randn(3, 3, 64, 64)
    mixed = model.loss(images, samples([0, 2], 3))
    alone = model.loss(images[[0, 2]], samples([0, 1]))
    for name in ('loss_cls', 'loss_bbox', 'loss_dfl'):
        torch.testing.assert_close(mixed[name], alone[name])
    # as background it would cost something
    other = model.loss(images, dict(
        samples([0, 2], 3),
        bboxes_labels=samples([0, 2], 3)['bboxes_labels'][[0, 2]]))
    assert other['loss_cls'] > mixed['loss_cls'] * 1.01

    model.zero_grad()
    none = model.loss(images[:2], samples([]))
    own = none['loss_cls'] + none['loss_bbox'] + none['loss_dfl']
    assert own.item() == 0
    own.backward()
    head = model.bbox_head.head_module
    assert all(p.grad is not None for p in head.cls_preds.parameters())


def test_collate_marks_the_images_without_labels():
    data = []
    for unlabelled in (False, True):
        sample = DetDataSample(metainfo=dict(unlabelled=True)
                               if unlabelled else {})
        count = 0 if unlabelled else 2
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.ones(count, 4)),
            labels=torch.zeros(count).long())
        data.append(dict(inputs=torch.zeros(3, 8, 8).byte(),
                         data_samples=sample))
    rows = yolov5_collate(data)['data_samples']['bboxes_labels']
    assert rows[:, :2].tolist() == [[0, 0], [0, 0], [1, -1]]


def test_priors_stand_as_those_of_the_head(taught):
    maps = torch.arange(12.).view(1, 2, 2, 3), torch.zeros(1, 2, 1, 1)
    assert flatten(maps)[0].tolist() == [[0, 6], [1, 7], [2, 8], [3, 9],
                                         [4, 10], [5, 11], [0, 0]]
