# SPDX-License-Identifier: GPL-3.0-only
"""The deploy form against mmyolo's own forward pass and decoding."""
import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import features, noise, randomise_for
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.checkpoint import read_checkpoint, save_checkpoint
from mmfasternet.config import load_config
from mmfasternet.deploy import deploy_form
from mmfasternet.deploy.detector_folding import ScaleBias

PHOTOS = sorted(Path('data/bccd/JPEGImages').glob('*.jpg'))[:2]
TINY = dict(
    arch=dict(
        _delete_=True,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        drop_path_rate=0.1))
WIDTHS = [32, 64, 128]  # of the outputs of TINY


def photos(height=128, width=160):
    if not PHOTOS:
        return noise(height, width)
    import cv2
    return torch.stack([
        torch.from_numpy(cv2.resize(cv2.imread(str(path)), (width, height)))
        for path in PHOTOS
    ]).permute(0, 3, 1, 2).contiguous()


def build(scale='n', **model):
    init_default_scope('mmyolo')
    torch.manual_seed(0)
    cfg = load_config(f'configs/yolov8_fasternet_{scale}.py',
                      dict(pretrained=None, classes=['a', 'b', 'c']))
    # which takes the `_delete_` out of what it is given
    cfg.merge_from_dict(copy.deepcopy(dict(model=model)))
    if cfg.model.bbox_head.head_module.type == 'YOLOv8HeadModule':
        del cfg.model.bbox_head.head_module['initial_distance']  # not mmyolo's
    return MODELS.build(cfg.model)


@torch.no_grad()
def expected(detector, batch):
    """What ``YOLOv8Head.predict_by_feat`` has before NMS."""
    head = detector.bbox_head
    logits, distances = features(detector, batch)
    priors = head.prior_generator.grid_priors(
        [x.shape[2:] for x in logits], logits[0].dtype, logits[0].device)
    strides = torch.cat([
        points.new_full((len(points), ), stride)
        for points, stride in zip(priors, head.featmap_strides)
    ])

    def flat(maps):
        return torch.cat(
            [x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], 1)

    boxes = head.bbox_coder.decode(
        torch.cat(priors)[None], flat(distances), strides)
    return boxes, flat(logits).sigmoid()


def assert_near(got, wanted, tolerance):
    """Within ``tolerance`` of the greatest coordinate or score; a relative
    error of its own says nothing of a coordinate that passes zero."""
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def has_norms(module):
    return any(
        isinstance(m, (_BatchNorm, nn.GroupNorm)) for m in module.modules())


@pytest.fixture(scope='module')
def detector():
    return randomise_for(build(), noise())


@pytest.mark.parametrize('scale', 'nsmlx')
def test_equals_the_detector(scale):
    batch = photos() if scale in 'ns' else noise()
    model = randomise_for(build(scale), batch)
    wanted = expected(model, batch)
    assert wanted[1].std() > 0.05 and wanted[1].max() < 1
    deployed = deploy_form(model)
    got = deployed(batch)
    height, width = batch.shape[2:]
    count = sum(height * width // stride**2 for stride in (8, 16, 32))
    assert [x.shape for x in got] == [(2, count, 4), (2, count, 3)]
    assert_near(got, wanted, 1e-4)
    model.double()
    assert_near(deploy_form(model)(batch), expected(model, batch), 1e-12)
    # and everything is folded into layers that PyTorch has
    leaves = {type(m) for m in deployed.modules() if not [*m.children()]}
    assert leaves <= {
        nn.Conv2d, nn.GELU, nn.ReLU, nn.SiLU, nn.MaxPool2d, nn.Upsample,
        nn.ModuleDict, nn.Sequential
    }
    assert not len(deployed.pixels)
    assert not deployed.backbone.output_norms
    assert [*deployed.state_dict()] == \
        [name for name, _ in deployed.named_parameters()]
    assert not any(p.requires_grad for p in deployed.parameters())


def test_leaves_the_given_detector_alone(detector):
    model = copy.deepcopy(detector).train()
    model.backbone.patch_embed.norm.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    deployed = deploy_form(model)
    assert_near(deployed(noise()), expected(detector, noise()), 1e-4)
    for parameter in deployed.parameters():
        parameter.zero_()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(
        expected(model.eval(), noise()), expected(detector, noise()),
        rtol=0, atol=0)


@pytest.mark.parametrize('preprocessor', [
    dict(bgr_to_rgb=False),
    dict(bgr_to_rgb=False, rgb_to_bgr=True),
    dict(mean=None, std=None),
    dict(mean=[20.], std=[200.]),
])
def test_pixels_as_the_preprocessor_has_them(preprocessor):
    model = randomise_for(
        build(backbone=TINY, data_preprocessor=preprocessor),
        noise()).double()
    deployed = deploy_form(model)
    assert not len(deployed.pixels)
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


@pytest.mark.parametrize('change, folded', [
    (dict(padding=(2, 2)), False),  # zeros there are not zeros before
    (dict(padding=(0, 2)), False),
    (dict(padding='valid'), True),
])
def test_another_stem_keeps_the_normalisation(change, folded):
    model = build(backbone=dict(TINY, arch=dict(
        _delete_=True, embed_dim=24, depths=(1, 1, 1, 1))))
    model.backbone.patch_embed.proj = nn.Conv2d(
        3, 24, 4, 4, bias=False, **change)
    model = randomise_for(model, noise()).double()
    deployed = deploy_form(model)
    assert [type(m) for m in deployed.pixels] == (1 - folded) * [ScaleBias]
    assert not has_norms(deployed)
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


@pytest.mark.parametrize('backbone, kept', [
    (dict(layer_scale_init_value=0.3), False),
    (dict(norm_cfg=None), False),
    (dict(norm_cfg=dict(type='SyncBN')), False),
    (dict(norm_cfg=dict(type='GN', num_groups=4)), True),
    (dict(norm_cfg=dict(type='BN', affine=False)), True),
    (dict(norm_cfg=dict(type='BN', track_running_stats=False)), True),
])
def test_other_blocks(backbone, kept):
    model = build(backbone=dict(TINY, **backbone))
    for name, module in list(model.backbone.named_modules()):
        if isinstance(module, nn.SyncBatchNorm):  # does not run on CPU
            plain = nn.BatchNorm2d(module.num_features)
            model.backbone.set_submodule(name, plain)
    model = randomise_for(model, noise()).double()
    given = copy.deepcopy(model)
    if backbone.get('norm_cfg') == dict(type='SyncBN'):
        given = nn.SyncBatchNorm.convert_sync_batchnorm(given)
    deployed = deploy_form(given)
    assert has_norms(deployed) == kept
    assert not any(isinstance(m, nn.Identity) for m in deployed.modules())
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


def test_other_convolutions():
    """A bias before a norm, and one layer in two places."""
    model = build(backbone=TINY)
    conv = model.neck.downsample_layers[0].conv
    conv.bias = nn.Parameter(torch.randn(conv.out_channels))
    layers = model.bbox_head.head_module.cls_preds
    layers[1][1] = layers[0][1]
    model = randomise_for(model, noise()).double()
    assert_near(
        deploy_form(model)(noise()), expected(model, noise()), 1e-12)


@pytest.mark.parametrize('option, kept', [
    (dict(), False),
    (dict(norm_cfg=None), False),
    (dict(act_cfg=None), False),
    (dict(padding_mode='circular'), False),
    (dict(padding_mode='reflect'), True),  # by a layer of its own
    (dict(order=('norm', 'conv', 'act')), True),
    (dict(with_spectral_norm=True), True),
    (dict(norm_cfg=dict(type='GN', num_groups=2)), True),
    (dict(norm_cfg=dict(type='BN', affine=False)), True),
])
def test_a_layer_is_folded_if_it_is_a_convolution_and_its_norm(option, kept):
    model = build(backbone=TINY)
    width = model.neck.downsample_layers[0].conv.in_channels
    torch.manual_seed(0)
    model.neck.downsample_layers[0] = ConvModule(
        width, width, 3, stride=2, padding=1, **{
            **dict(norm_cfg=dict(type='BN')), **option})
    model = randomise_for(model, noise()).double()
    deployed = deploy_form(model)
    assert isinstance(
        deployed.neck.downsample_layers[0], ConvModule) == kept
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


@pytest.mark.parametrize('neck', ['YOLOv8PAFPN', 'YOLOv5PAFPN'])
def test_another_neck_gets_the_output_norms_as_they_are(neck):
    model = build(
        backbone=TINY,
        neck=dict(
            _delete_=True,
            type=neck,
            out_channels=WIDTHS,
            norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
            act_cfg=dict(type='SiLU', inplace=True)),
        bbox_head=dict(
            head_module=dict(in_channels=WIDTHS, widen_factor=1.0)))
    model = randomise_for(model, noise()).double()
    deployed = deploy_form(model)
    assert [type(m) for m in deployed.backbone.output_norms.values()] == \
        3 * [ScaleBias]
    assert not has_norms(deployed)
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


def test_no_distribution_over_the_distances():
    model = build(
        backbone=TINY, bbox_head=dict(head_module=dict(reg_max=1)))
    model = randomise_for(model, noise()).double()
    assert_near(
        deploy_form(model)(noise()), expected(model, noise()), 1e-12)


def test_another_backbone():
    resnet = dict(
        _delete_=True,
        type='mmdet.ResNet',
        depth=18,
        out_indices=(1, 2, 3),
        init_cfg=None)
    model = randomise_for(build(backbone=resnet), noise()).double()
    deployed = deploy_form(model)
    assert not has_norms(deployed)
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


def test_stock_yolov8():
    init_default_scope('mmyolo')
    torch.manual_seed(0)
    cfg = load_config('mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py')
    model = randomise_for(MODELS.build(cfg.model), noise()).double()
    deployed = deploy_form(model)
    assert not has_norms(deployed)
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


@pytest.mark.parametrize('head_module', [
    dict(type='YOLOv8HeadModule'),
    dict(type='mmfasternet.YOLOv8PConvHeadModule'),
    dict(type='mmfasternet.YOLOv8PConvHeadModule', cls_convs=(0, 1)),
    dict(type='mmfasternet.YOLOv8PConvHeadModule', cls_convs=(0, 1),
         reg_convs=(0, 1)),
])
def test_heads(head_module):
    model = build(backbone=TINY, bbox_head=dict(head_module=head_module))
    model = randomise_for(model, noise()).double()
    assert_near(
        deploy_form(model)(noise()), expected(model, noise()), 1e-12)


def test_a_neck_of_fasternet_blocks():
    neck = dict(fasternet_blocks=True)
    model = build(backbone=TINY, neck=neck)
    model = randomise_for(model, noise()).double()
    deployed = deploy_form(model)
    assert not has_norms(deployed)
    assert not any(isinstance(m, ScaleBias) for m in deployed.neck.modules())
    assert_near(deployed(noise()), expected(model, noise()), 1e-12)


def test_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match='YOLODetector, got Conv2d'):
        deploy_form(nn.Conv2d(3, 3, 1))
    model = build(backbone=TINY)
    model.bbox_head.prior_generator.strides = [(4, 4), (8, 8), (16, 16)]
    with pytest.raises(ValueError, match='prior_generator.strides and'):
        deploy_form(model)
    model.bbox_head.prior_generator.strides = [(8, 8), (16, 16), (32, 32)]
    deploy_form(model)


@pytest.mark.parametrize('name, kind', [
    ('bbox_head', 'YOLOv8Head'), ('bbox_head.head_module',
                                  'YOLOv8HeadModule'),
    ('bbox_head.bbox_coder', 'DistancePointBBoxCoder'),
    ('data_preprocessor', 'ImgDataPreprocessor')])
def test_a_part_of_another_class_is_named(name, kind):
    """Which may have another forward method, though it extends ours."""
    model = build(backbone=TINY)
    *path, last = name.split('.')
    owner = model.get_submodule('.'.join(path))
    part = getattr(owner, last)
    if last == 'data_preprocessor':
        owner.data_preprocessor = nn.Identity()
        part = owner.data_preprocessor
    part.__class__ = type('Other', (type(part), ), {})
    with pytest.raises(ValueError, match=rf'model\.{name} (is a Other, but onl'
                       rf'y detectors with a|must extend) {kind}'):
        deploy_form(model)


def test_it_computes_where_its_weights_are(detector):
    """And in their type; nothing of it is made on the CPU meanwhile."""
    deployed = deploy_form(detector).to('meta', torch.float16)
    boxes, scores = deployed(noise().to('meta'))
    assert (boxes.shape, scores.shape) == ((2, 126, 4), (2, 126, 3))
    assert boxes.is_meta and scores.is_meta
    assert boxes.dtype == scores.dtype == torch.float16


def test_names_a_size_it_cannot_take(detector):
    with pytest.raises(ValueError, match='multiple of 32'):
        deploy_form(detector)(noise(72, 64))


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_saved_weights_fit_a_fresh_deploy_form(detector, tmp_path, suffix):
    path = tmp_path / f'deployed.{suffix}'
    deployed = deploy_form(detector)
    save_checkpoint(deployed.state_dict(), path)
    other = build(data_preprocessor=dict(mean=[1., 2., 3.]))
    loaded = deploy_form(other)
    assert not torch.equal(loaded(noise())[1], deployed(noise())[1])
    loaded.load_state_dict(read_checkpoint(path))
    torch.testing.assert_close(
        loaded(noise()), deployed(noise()), rtol=0, atol=0)


@pytest.mark.parametrize('opset', [13, 17])
def test_onnx(detector, tmp_path, opset):
    onnx = pytest.importorskip('onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    path = tmp_path / 'deployed.onnx'
    deployed = deploy_form(detector)
    sizes = {0: 'batch', 2: 'height', 3: 'width'}
    outs = {0: 'batch', 1: 'priors'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            deployed, (noise(), ),
            str(path),
            opset_version=opset,
            input_names=['images'],
            output_names=['boxes', 'scores'],
            dynamic_axes=dict(images=sizes, boxes=outs, scores=outs),
            dynamo=False)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    names = {node.op_type for node in model.graph.node}
    assert not names & {'ScatterND', 'ScatterElements', 'BatchNormalization',
                        'Loop', 'If'}
    assert 'Split' in names  # the PConv
    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider'])
    assert session.get_inputs()[0].type == 'tensor(uint8)'
    for batch in (noise(), noise()[:1, :, :32, :64], photos(),
                  torch.cat((noise(160, 32), noise(160, 32, seed=1)))):
        got = session.run(None, dict(images=batch.numpy()))
        assert [x.dtype for x in got] == 2 * [np.float32]
        # 60 layers of float32 sums in another order; seen: 2.2e-5
        assert_near([torch.from_numpy(x) for x in got], deployed(batch), 1e-4)
