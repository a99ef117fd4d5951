# SPDX-License-Identifier: GPL-3.0-only
"""FasterNet in MMYOLO's own configs, by one dict."""
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from mmfasternet.config import load_config

# a config of MMYOLO, and what else its backbone has to give
CONFIGS = {
    'yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco': '',
    'yolov5/yolov5_n-p6-v62_syncbn_fast_8xb16-300e_coco': '',
    'yolov5/ins_seg/yolov5_ins_n-v61_syncbn_fast_8xb16-300e_coco_instance':
    '',
    'yolov6/yolov6_n_syncbn_fast_8xb32-300e_coco': '',
    'yolov6/yolov6_v3_n_syncbn_fast_8xb32-300e_coco':
    ', out_indices=(0, 1, 2, 3)',
    'yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco': '',
    'yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco': '',
    'yolox/yolox_tiny_fast_8xb8-300e_coco': '',
    'ppyoloe/ppyoloe_s_fast_8xb32-300e_coco': '',
    'rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco': '',
    'rtmdet/rtmdet-ins_s_syncbn_fast_8xb32-300e_coco': '',
}
MINE = """
_base_ = 'mmyolo::{}.py'
custom_imports = dict(
    imports=['mmfasternet.models'], allow_failed_imports=False)
model = dict(
    type='mmfasternet.AnyBackboneYOLODetector',
    backbone=dict(_delete_=True, type='mmfasternet.FasterNet', arch='t0'{}))
"""


SIZE = (128, 128)  # of which P6 needs a multiple of 64


def swapped(name, tmp_path, options=None):
    """The config that inherits one, and the model of the one inherited."""
    mine = tmp_path / 'mine.py'
    mine.write_text(
        MINE.format(name, CONFIGS[name] if options is None else options))
    cfg = load_config(str(mine))
    init_default_scope(cfg.default_scope)
    return cfg, load_config(f'mmyolo::{name}.py').model


def batch(has_masks):
    """Two images of 128 x 128 with three objects."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (2, 3, *SIZE), dtype=torch.uint8, generator=generator)
    samples = dict(
        bboxes_labels=torch.tensor([[0, 1, 4., 6, 60, 70],
                                    [1, 2, 9, 9, 50, 80],
                                    [1, 0, 70, 20, 120, 60]]),
        img_metas=[dict(batch_input_shape=SIZE)] * 2)
    if has_masks:
        samples['masks'] = torch.zeros(3, 32, 32)
        for mask, (_, _, *box) in zip(samples['masks'],
                                      samples['bboxes_labels']):
            x1, y1, x2, y2 = (int(v / 4) for v in box)
            mask[y1:y2, x1:x2] = 1
    return images, samples


@pytest.mark.parametrize('name', CONFIGS)
def test_it_builds_trains_an_iteration_and_predicts(name, tmp_path):
    cfg, stock = swapped(name, tmp_path)
    has_masks = 'ins' in name
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    detector.init_weights()

    # neck and head are the stock ones, layer by layer
    with torch.device('meta'):
        expected = MODELS.build(stock).state_dict()
    own = {
        k.replace('neck.neck.', 'neck.'): v.shape
        for k, v in detector.state_dict().items()
        if not k.startswith(('backbone.', 'neck.projections', 'neck.extra'))
    }
    assert own == {
        k: v.shape
        for k, v in expected.items() if not k.startswith('backbone.')
    }

    images, samples = batch(has_masks)
    image = images.float() / 255
    detector.train()
    # by which PPYOLOE and YOLOv6 choose the assigner
    MessageHub.get_current_instance().update_info('epoch', 0)
    if 'rtmdet-ins' in name:
        with pytest.raises(NotImplementedError,
                           match='mmyolo cannot train.*configs/rtmdet'):
            detector.loss(image, samples)
    else:
        optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
        for _ in range(2):  # the heads of some begin with weights of zero
            optimizer.step()
            optimizer.zero_grad()
            # of which mmyolo changes the boxes in place
            losses = detector.loss(image, batch(has_masks)[1])
            total = sum(v.sum() for k, v in losses.items() if 'loss' in k)
            assert total.isfinite() and total > 0
            total.backward()
        # one without a gradient stops DistributedDataParallel
        assert [k for k, p in detector.named_parameters()
                if p.requires_grad and p.grad is None] == []
        learns = [detector.backbone.patch_embed.proj,
                  *(p.conv for p in detector.neck.projections),
                  *(p.conv for p in detector.neck.extra)]
        assert all(layer.weight.grad.abs().max() > 0 for layer in learns)

    detector.eval()
    metainfo = dict(
        img_shape=SIZE,
        ori_shape=SIZE,
        scale_factor=(1., 1.),
        pad_param=np.zeros(4),
        batch_input_shape=SIZE)
    with torch.no_grad():
        results = detector.predict(
            image, [DetDataSample(metainfo=metainfo) for _ in images])
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert found.bboxes.isfinite().all() and found.bboxes.shape[1] == 4
        assert (found.labels < 80).all() and 'scores' in found
        assert not has_masks or found.masks.shape[1:] == SIZE


@pytest.mark.parametrize('name, options, words', [
    ('yolov6/yolov6_v3_n_syncbn_fast_8xb32-300e_coco', '',
     r'3 levels of strides \(8, 16, 32\), but model.neck.in_channels has 4: '
     r'\(128, 256, 512, 1024\). Choose model.backbone.out_indices'),
    ('yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco',
     ', out_indices=(0, 1, 2)',
     r'level 0 of model.backbone has stride 4, but .*featmap_strides\[0\] is '
     '8. Change model.backbone.out_indices'),
    ('yolox/yolox_tiny_fast_8xb8-300e_coco', '), neck=dict(out_channels=128',
     'model.neck.out_channels is 128, but model.bbox_head.head_module.'
     'in_channels is 256'),
    ('yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco',
     '), neck=dict(out_channels=[64, 128, 128]',
     r'model.neck.out_channels is \[64, 128, 128\], but '
     r'.*head_module.in_channels is \[128, 256, 512\]'),
    ('rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco',
     '), neck=dict(widen_factor=0.5',
     'model.neck.widen_factor is 0.5, but .*widen_factor is 0.375'),
    ('ppyoloe/ppyoloe_s_fast_8xb32-300e_coco',
     '), train_cfg=dict(initial_assigner=dict(num_classes=3)',
     r'train_cfg.initial_assigner.num_classes is 3, but .* is 80'),
])
def test_a_mismatch_is_named_for_each(name, options, words, tmp_path):
    cfg, _ = swapped(name, tmp_path, options)
    with pytest.raises(ValueError, match=words):
        MODELS.build(cfg.model)


@pytest.mark.parametrize('arch, widths', [
    ('n', (64, 128, 256)), ('t0', (80, 160, 320)), ('t1', (128, 256, 512))])
@pytest.mark.parametrize('name', [
    'yolov6/yolov6_n_syncbn_fast_8xb32-300e_coco',
    'ppyoloe/ppyoloe_s_fast_8xb32-300e_coco',
    'yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco',
])
def test_a_neck_of_free_widths_takes_the_backbones(name, arch, widths,
                                                   tmp_path):
    """With ``in_channels=None``, without a convolution between."""
    cfg, _ = swapped(name, tmp_path, '), neck=dict(in_channels=None')
    cfg.model.backbone.arch = arch
    with torch.device('meta'):
        detector = MODELS.build(cfg.model)
    convolutions = [m for m in detector.neck.modules()
                    if isinstance(m, torch.nn.Conv2d)]
    assert not hasattr(detector.neck, 'projections')
    assert {c.in_channels for c in convolutions} >= {widths[-1]}
    outs = detector(torch.zeros(1, 3, 64, 64, device='meta'), mode='tensor')
    assert len(outs[0]) == 3
