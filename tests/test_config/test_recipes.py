# SPDX-License-Identifier: GPL-3.0-only
"""What the family's recipe is made of, against mmyolo's YOLOv8, and what of
one goes with another model."""
import pytest

from mmfasternet.config import load_config
from mmfasternet.config.recipe import with_model_of

# after ours, which makes mmyolo importable
from mmdet.datasets import CocoDataset  # isort: skip

SAME = (
    'train_pipeline', 'train_pipeline_stage2', 'test_pipeline',
    'train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator',
    'test_evaluator', 'custom_hooks', 'tta_model', 'tta_pipeline', 'train_cfg',
    'env_cfg')
# of our own, and of mmyolo's, which are not in the other
LEFT_OUT = 'YOLOv5MixUp', 'mmdet.Albu'


def bare(node):
    """Without what only says where names are looked for."""
    if isinstance(node, dict):
        return {key: bare(value) for key, value in node.items()
                if key != '_scope_'}
    if isinstance(node, (list, tuple)):
        return [bare(value) for value in node if not (
            isinstance(value, dict) and value.get('type') in LEFT_OUT)]
    return node


@pytest.fixture(scope='module')
def recipes():
    """Ours and mmyolo's."""
    return [load_config(path) for path in (
        'configs/yolov8_fasternet_n.py',
        'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py')]


@pytest.mark.parametrize('part', SAME)
def test_what_stays_as_in_mmyolo(part, recipes):
    ours, theirs = (bare(cfg[part]) for cfg in recipes)
    if 'dataloader' in part:
        assert ours['dataset'].pop('metainfo') == dict(
            classes=[*CocoDataset.METAINFO['classes']])
        theirs['dataset'].pop('batch_shapes_cfg', None)  # None
    if part == 'train_dataloader':
        assert ours.pop('collate_fn') == dict(
            type='mmfasternet.yolov5_collate')
        assert theirs.pop('collate_fn') == dict(type='yolov5_collate')
    elif 'dataloader' in part:
        sizes = [(x.pop('batch_size'), x.pop('num_workers'))
                 for x in (ours, theirs)]
        assert sizes == [(16, 4), (1, 2)]
    assert ours == theirs


def test_mixup_is_there_for_those_who_want_it(recipes):
    """In the place and with the images that mmyolo's recipes for larger
    models have it."""
    theirs = load_config(
        'mmyolo::yolov8/yolov8_m_syncbn_fast_8xb16-500e_coco.py')
    found, = (step for step in recipes[0].train_pipeline
              if step.type == 'YOLOv5MixUp')
    wanted, = (step for step in theirs.train_pipeline
               if step.type == 'YOLOv5MixUp')
    assert (found.prob, wanted.prob) == (0, .1)
    kinds = [[step.type for step in mixup.pre_transform]
             for mixup in (found, wanted)]
    assert kinds[0] == kinds[1]


def test_how_it_learns(recipes):
    """AdamW without decay of norms and biases; the rate warms up from a
    hundredth and falls to 0. The clipping of gradients is mmyolo's."""
    ours, theirs = recipes
    assert bare(ours.optim_wrapper) == dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
        paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0),
        clip_grad=dict(max_norm=10.0))
    assert theirs.optim_wrapper.clip_grad == ours.optim_wrapper.clip_grad
    assert bare(ours.param_scheduler) == [
        dict(type='LinearLR', start_factor=0.01, begin=0, end=3,
             convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=0, T_max=500, end=500,
             eta_min=0, convert_to_iter_based=True)]
    checkpoint = ours.default_hooks.checkpoint
    assert (checkpoint.interval, checkpoint.max_keep_ckpts,
            checkpoint.save_best) == (10, 2, 'coco/bbox_mAP')
    assert ours.model.backbone.init_cfg == dict(
        type='Pretrained', checkpoint=None,
        scratch=dict(type='Kaiming', layer='Conv2d'))
    assert ours.auto_scale_lr == dict(enable=False, base_batch_size=8 * 16)


def test_images_are_normalised_as_on_imagenet(recipes):
    """As the published weights of FasterNet were trained: torchvision's
    0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 of 255, of RGB."""
    found = recipes[0].model.data_preprocessor
    assert found.mean == pytest.approx(
        [255 * x for x in (.485, .456, .406)], abs=1e-3)
    assert found.std == pytest.approx(
        [255 * x for x in (.229, .224, .225)], abs=1e-3)
    assert found.bgr_to_rgb


TAUGHT = dict(
    affine_scale=0.2, unlabelled_data_prefix='photographs',
    teacher='mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py',
    teacher_checkpoint='s.pth')


def test_what_a_teacher_brings_into_a_config():
    taught = load_config('configs/yolov8_fasternet_n.py', TAUGHT)
    theirs = load_config(TAUGHT['teacher']).model
    theirs.pop('train_cfg')  # its own training is over
    assert bare(taught.model.teacher) == bare(theirs)
    assert taught.model.teacher._scope_ == 'mmyolo'
    assert taught.default_hooks.distillation == dict(
        type='mmfasternet.DistillationHook', checkpoint='s.pth',
        classes=CocoDataset.METAINFO['classes'])
    # none of the images of another split is one without labels
    for prefix, folder in (({}, 'val2017/'),
                           (dict(test_data_prefix='t/'), 't/')):
        cfg = load_config('configs/yolov8_fasternet_n.py', dict(
            TAUGHT, test_ann_file='t.json', **prefix))
        *_, last = cfg.train_dataloader.dataset.unlabelled.listed
        assert last == ['t.json', folder]


def test_teacher_and_images_without_labels_stay_with_their_detector():
    plain = load_config('configs/yolov8_fasternet_n.py')
    taught = load_config('configs/yolov8_fasternet_n.py', TAUGHT)
    cfg = with_model_of(taught, plain)
    assert 'teacher' not in cfg.model
    assert 'distillation' not in cfg.default_hooks
    # the recipe's own, as it is without a teacher
    loader = cfg.train_dataloader
    assert loader.dataset == taught.train_dataloader.dataset.labelled
    assert loader.sampler == plain.train_dataloader.sampler
    cfg = with_model_of(plain, taught)
    assert cfg.model.teacher == taught.model.teacher
    assert cfg.default_hooks.distillation == taught.default_hooks.distillation
    data = cfg.train_dataloader.dataset
    assert data.labelled == plain.train_dataloader.dataset
    assert data.unlabelled.pipeline == data.labelled.pipeline
    assert data.unlabelled.data_prefix.img == 'photographs'
    assert cfg.train_dataloader.sampler.type == 'mmfasternet.MixedSampler'
    # and nothing of it is left in what it was taken from
    assert 'distillation' not in plain.default_hooks
    assert 'unlabelled' not in plain.train_dataloader.dataset
