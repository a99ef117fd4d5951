# SPDX-License-Identifier: GPL-3.0-only
import copy
from functools import cache

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmfasternet.analysis.complexity import count_complexity
from mmfasternet.config import load_config
from mmfasternet.models import YOLOv8SPPFPAFPN
from mmfasternet.models.detectors.level_fitting import backbone_levels
from mmfasternet.models.necks import ProjectedNeck

# after ours, which makes mmyolo importable
from mmyolo.models.necks import YOLOv8PAFPN  # isort: skip

SIZES = 'nsmlx'
STOCK = 'mmyolo::yolov8/yolov8_{}_syncbn_fast_8xb16-500e_coco.py'
# Parameters in millions / GFLOPs at 640 (2 x MACs) of every variant at every
# size, counted independently of this code; the stock rows are Ultralytics'.
COSTS = {
    't0': '4.32/11.2  8.65/21.8 16.58/45.7 26.25/84.1 39.58/128.0',
    't1': '7.96/19.9 12.40/30.5 20.37/54.6 30.04/93.1 43.43/137.1',
    't2': '15.34/37.4 19.93/48.3 27.95/72.4 37.61/111.0 51.08/155.2',
    's': '31.59/81.0 36.34/92.1 44.41/116.4 54.05/155.0 67.61/199.3',
    'm': '53.98/149.3 58.80/160.5 66.90/184.9 76.54/223.6 90.15/268.0',
    'l': '94.18/260.6 99.23/272.1 107.41/296.7 117.03/335.5 130.76/380.1',
}
STOCK_COSTS = dict(
    zip(SIZES, ['3.16/8.7', '11.17/28.6', '25.90/78.9', '43.69/165.1',
                  '68.23/257.8']))


def config(size, head_module=None, **model):
    options = dict(head_module=head_module) if head_module else {}
    cfg = load_config(f'configs/yolov8_fasternet_{size}.py', options)
    cfg.merge_from_dict(dict(model=model))
    return cfg


@cache
def cost(size, head_module=None):
    """Parameters and MACs of a config of ours, or of mmyolo's by its name."""
    cfg = load_config(size) if '::' in size else config(size, head_module)
    return count_complexity(cfg, (640, 640))['']


def build(cfg):
    init_default_scope('mmyolo')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('arch', COSTS)
@pytest.mark.parametrize('size', SIZES)
def test_cost_of_every_variant_at_every_size(arch, size):
    expected = COSTS[arch].split()[SIZES.index(size)].split('/')
    cfg = config(size, backbone=dict(arch=arch))
    parameters, macs = count_complexity(cfg, (640, 640))['']
    assert f'{parameters / 1e6:.2f}' == expected[0]
    assert f'{2 * macs / 1e9:.1f}' == expected[1]


@pytest.mark.parametrize('size', SIZES)
def test_every_size_is_smaller_and_lighter_than_stock(size):
    parameters, macs = cost(size)
    stock_parameters, stock_macs = cost(STOCK.format(size))
    assert parameters < stock_parameters
    assert macs < stock_macs
    expected_parameters, expected_gflops = STOCK_COSTS[size].split('/')
    assert f'{stock_parameters / 1e6:.2f}' == expected_parameters
    assert f'{2 * stock_macs / 1e9:.1f}' == expected_gflops


@pytest.mark.parametrize('size, channels', zip(SIZES, [
    80, 128, 192, 256, 320]))
def test_what_the_partial_convolutions_of_the_head_save(size, channels):
    """Of c x c weights of a 3x3 on each level, at a quarter of them a 3x3
    and a 1x1 of all remain; the norm is one as before."""
    ours, plain = cost(size, 'mmfasternet.YOLOv8PConvHeadModule'), cost(size)
    quarter = channels // 4
    saved = 9 * channels**2 - 9 * quarter**2 - channels**2
    assert plain[0] - ours[0] == 3 * saved
    assert plain[1] - ours[1] == saved * sum(
        (640 // stride)**2 for stride in (8, 16, 32))


@pytest.mark.parametrize('size, levels, classes, blocks', zip(
    SIZES,
    [(64, 128, 256), (128, 256, 512), (192, 384, 576), (256, 512, 512),
     (320, 640, 640)],
    [80, 128, 192, 256, 320],
    [1, 1, 2, 3, 3]))
def test_what_the_lite_family_saves(size, levels, classes, blocks):
    """The same sum over both convolutions of both branches, the first of
    which also changes the channels, and in the neck per bottleneck of two 3x3
    what FasterNet's block leaves, a PConv and two 1x1 of twice the width; all
    else is the other family's."""
    lite, plain = cost(f'lite_{size}'), cost(size)
    boxes = max(16, levels[0] // 4, 4 * 16)
    saved = [
        sum(9 * a * b - 9 * (a // 4)**2 - a * b
            for b in (classes, boxes) for a in (width, b)) for width in levels]
    # the neck has two of the middle level, one on the way down and one up
    for level in (0, 1, 1, 2):
        half = levels[level] // 2
        saved[level] += blocks * (
            2 * 9 * half**2 - 9 * (half // 4)**2 - 2 * half * 2 * half)
    assert plain[0] - lite[0] == sum(saved)
    assert plain[1] - lite[1] == sum(
        weights * (640 // stride)**2
        for weights, stride in zip(saved, (8, 16, 32)))


@pytest.mark.parametrize('size', SIZES)
def test_head_is_mmyolos_own(size):
    ours, stock = (
        c.model for c in (config(size), load_config(STOCK.format(size))))

    def plain(x):
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items() if k != '_scope_'}
        return [plain(v) for v in x] if isinstance(x, (list, tuple)) else x

    # whose layers are mmyolo's, see test_dense_heads.py
    head = ours.bbox_head.head_module
    assert head.pop('type') == 'mmfasternet.YOLOv8HeadModule'
    assert head.pop('initial_distance') == 2.5
    assert stock.bbox_head.head_module.pop('type') == 'YOLOv8HeadModule'
    assert plain(ours.bbox_head) == plain(stock.bbox_head)
    # whose result is that of mmyolo's, see test_task_modules.py
    assert ours.train_cfg.assigner.pop(
        'type') == 'mmfasternet.SparseTaskAlignedAssigner'
    assert stock.train_cfg.assigner.pop('type') == 'BatchTaskAlignedAssigner'
    assert plain(ours.train_cfg) == plain(stock.train_cfg)
    assert plain(ours.test_cfg) == plain(stock.test_cfg)


def test_p5_reaches_the_last_level_through_sppf():
    """Both the top-down path and the last concatenation take SPPF's output."""
    torch.manual_seed(0)
    neck = YOLOv8SPPFPAFPN([5, 6, 7], widen_factor=1 / 32).eval()
    assert neck.reduce_layers[2].poolings.kernel_size == 5
    p3, p4, p5 = (torch.rand(1, c, s, s)
                  for c, s in ((5, 16), (6, 8), (7, 4)))
    outs = neck((p3, p4, p5))
    assert [tuple(o.shape) for o in outs] == [(1, 8, 16, 16), (1, 16, 8, 8),
                                              (1, 32, 4, 4)]
    sppf = neck.reduce_layers[2](p5)
    n4 = neck.top_down_layers[0](
        torch.cat([neck.upsample_layers[0](sppf), p4], 1))
    n3 = neck.top_down_layers[1](
        torch.cat([neck.upsample_layers[1](n4), p3], 1))
    o4 = neck.bottom_up_layers[0](
        torch.cat([neck.downsample_layers[0](n3), n4], 1))
    o5 = neck.bottom_up_layers[1](
        torch.cat([neck.downsample_layers[1](o4), sppf], 1))
    torch.testing.assert_close(outs, (n3, o4, o5))
    assert neck.train() is neck and neck.training


@pytest.mark.parametrize('option, value, expected', [
    (dict(deepen_factor=1 / 3), lambda n: {
        len(layer.blocks) for layer in n.top_down_layers}, {1}),
    (dict(num_csp_blocks=5), lambda n: {
        len(layer.blocks) for layer in n.bottom_up_layers}, {5}),
    (dict(out_channels=[320, 512, 768]), lambda n: [
        layer.final_conv.out_channels for layer in (
            n.top_down_layers[1], *n.bottom_up_layers)], [40, 64, 96]),
    (dict(widen_factor=1 / 16), lambda n: n.reduce_layers[2].conv2.conv
     .out_channels, 64),
    (dict(sppf_kernel_size=9), lambda n: n.reduce_layers[2].poolings
     .kernel_size, 9),
    (dict(fasternet_blocks=True), lambda n: [
        sum(p.numel() for p in layer.blocks[0].parameters() if p.ndim == 4)
        for layer in n.bottom_up_layers],
     # FasterNet's block, 9 (c / 4)^2 + 4 c^2, by the paper's section 3.2;
     # a bottleneck has 18 c^2
     [9 * (c // 4)**2 + 4 * c**2 for c in (32, 64)]),
    (dict(freeze_all=True), lambda n: any(
        p.requires_grad for p in n.train().parameters()), False),
    (dict(norm_cfg=dict(type='GN', num_groups=2)), lambda n: any(
        isinstance(m, torch.nn.BatchNorm2d) for m in n.modules()), False),
    (dict(act_cfg=dict(type='GELU')), lambda n: any(
        isinstance(m, torch.nn.SiLU) for m in n.modules()), False),
])
def test_an_option_of_the_neck_changes_what_it_names(option, value, expected):
    widths = dict(in_channels=[16, 32, 64], widen_factor=1 / 8)
    assert value(YOLOv8SPPFPAFPN(**{**widths, **option})) == expected
    assert value(YOLOv8SPPFPAFPN(**widths)) != expected


def test_sync_bn_is_for_cuda_and_several_processes(monkeypatch):
    """mmyolo converts in any distributed run, PyTorch's is CUDA's alone."""
    init_default_scope('mmyolo')
    from mmyolo.models.detectors import yolo_detector

    from mmfasternet.models.detectors import any_backbone_yolo_detector
    monkeypatch.setattr(yolo_detector, 'get_world_size', lambda: 2)
    for cuda, wanted in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(any_backbone_yolo_detector, 'is_cuda_available',
                            lambda cuda=cuda: cuda)
        model = build(config('n', use_syncbn=wanted))
        converted = any(isinstance(m, torch.nn.SyncBatchNorm)
                        for m in model.modules())
        assert converted == (cuda and wanted)


def test_neck_names_a_size_it_cannot_take():
    neck = YOLOv8SPPFPAFPN([4, 4, 4], widen_factor=1 / 32)
    maps = [torch.rand(1, 4, s, s) for s in (13, 6, 3)]
    with pytest.raises(ValueError, match=r'\(13, 13\).*multiple of 32'):
        neck(maps)
    with pytest.raises(ValueError, match=r'neck.in_channels.*\(4, 4\)'):
        YOLOv8SPPFPAFPN([4, 4])


@pytest.mark.parametrize('backbone, channels', [
    (dict(type='mmfasternet.FasterNet', arch='t2'), (192, 384, 768)),
    (dict(type='mmdet.ResNet', depth=18, out_indices=(1, 2, 3)),
     (128, 256, 512)),
    (dict(type='YOLOv8CSPDarknet', widen_factor=0.25), (64, 128, 256)),
    (dict(type='mmdet.CSPNeXt', widen_factor=0.5), (128, 256, 512)),
])
def test_the_backbone_alone_decides_the_input_widths(backbone, channels):
    cfg = config('n')
    cfg.model.backbone = copy.deepcopy(backbone)
    model = build(cfg)
    assert tuple(model.neck.in_channels) == channels
    outs = model(torch.zeros(1, 3, 64, 64, device='meta'), mode='tensor')
    assert [o.shape[-1] for o in outs[0]] == [8, 4, 2]


@pytest.mark.parametrize('model, words', [
    (dict(backbone=dict(out_indices=(0, 1, 2))),
     'level 0 of model.backbone has stride 4.*featmap_strides.* is 8'),
    (dict(backbone=dict(out_indices=(1, 2))), '2 levels.*has 3'),
    (dict(neck=dict(in_channels=(64, 128, 254))),
     r'level 2: .*\(64, 128, 256\).*neck.in_channels is \(64, 128, 254\)'),
    (dict(neck=dict(out_channels=[256, 512, 768])),
     r'neck.out_channels is \[256, 512, 768\], but .*head_module.in_channels '
     r'is \[256, 512, 1024\]'),
    (dict(neck=dict(widen_factor=0.5)),
     'neck.widen_factor is 0.5, but .*head_module.widen_factor is 0.25'),
    (dict(bbox_head=dict(head_module=dict(num_classes=3))),
     'assigner.num_classes is 80, but .*num_classes is 3. Set `classes`'),
])
def test_a_mismatch_names_the_level_and_the_key(model, words):
    with pytest.raises(ValueError, match=words):
        build(config('n', **model))


class Pooled(torch.nn.Module):
    """Its norm has one value of one image, which is too few to train on."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, x):
        return [self.norm(x.mean((2, 3), True)) + x[..., ::step, ::step]
                for step in (8, 16)]


def test_widths_are_read_as_in_a_test():
    assert backbone_levels(dict(type=Pooled)) == ((3, 3), (8, 16))


class Failing(torch.nn.Module):

    def forward(self, x):
        raise RuntimeError('no such size')


@pytest.mark.parametrize('part, value, words', [
    ('backbone', dict(type=Failing),
     'cannot find the output widths of model.backbone .* failed with: no such '
     'size'),
    # mmyolo's own, whose inputs are as wide as its outputs
    ('neck', dict(
        type='YOLOv8PAFPN', in_channels=[256, 512, 1024],
        out_channels=[256, 512, 768], widen_factor=0.25),
     r'model.neck \(YOLOv8PAFPN\) cannot take in_channels \(256, 512, 1024\),'
     r' as they are or times widen_factor 0.25, with out_channels \[256, 512, '
     '768'),
    ('neck', dict(
        type='mmfasternet.YOLOv8SPPFPAFPN', widen_factor=0.25,
        deepen_factor=1 / 3, out_channels=[256, 512, 512]),
     r'model.neck.out_channels is \[256, 512, 512\], but'),
    # by default, which the config does not say
    ('neck', dict(
        type='mmfasternet.YOLOv8SPPFPAFPN', widen_factor=0.25,
        deepen_factor=1 / 3),
     r'model.neck gives \(64, 128, 256\) channels, which model.bbox_head.'
     r'head_module \(mmfasternet.YOLOv8HeadModule\) with in_channels \[256, '
     r'512, 512\] does not take: the head takes what'),
])
def test_what_no_width_can_help_is_named(part, value, words):
    cfg = config('n')
    cfg.model[part] = value
    if 'does not take' in words:
        cfg.model.bbox_head.head_module.in_channels = [256, 512, 512]
    with pytest.raises(ValueError, match=words):
        build(cfg)


class Told(torch.nn.Module):
    """A neck that gives what it gets."""

    def __init__(self, norm_cfg=None, act_cfg=None):
        super().__init__()

    def forward(self, maps):
        return maps


def test_projections_have_the_widths_asked_for_and_halve_the_rest():
    neck = ProjectedNeck(dict(type=Told), (5, 6), (5, 8, 12, 16)).eval()
    maps = [torch.rand(1, 5, 13, 10), torch.rand(1, 6, 7, 5)]
    outs = neck(maps)
    assert [tuple(out.shape[1:]) for out in outs] == [
        (5, 13, 10), (8, 7, 5), (12, 4, 3), (16, 2, 2)]
    assert outs[0] is maps[0]  # of that width already


@pytest.mark.parametrize('options, norm, act', [
    ({}, torch.nn.BatchNorm2d, torch.nn.ReLU),
    (dict(norm_cfg=dict(type='GN', num_groups=2), act_cfg=dict(type='GELU')),
     torch.nn.GroupNorm, torch.nn.GELU)])
def test_projections_are_normalised_as_their_neck(options, norm, act):
    neck = ProjectedNeck(dict(type=Told, **options), (5, ), (8, 12))
    for layer in (*neck.projections, *neck.extra):
        assert type(layer.norm) is norm and type(layer.activate) is act


def test_the_neck_is_normalised_as_yolov8s():
    """By its own defaults, not by those of a config."""
    widths = dict(in_channels=[16, 32, 64], widen_factor=1 / 8)
    ours = YOLOv8SPPFPAFPN(**widths)
    theirs = YOLOv8PAFPN(out_channels=[128, 256, 512], **dict(
        widths, in_channels=[128, 256, 512]))
    found, wanted = ({
        (m.eps, m.momentum) if isinstance(m, torch.nn.BatchNorm2d) else type(m)
        for m in neck.modules()
        if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.SiLU))
    } for neck in (ours, theirs))
    assert found == wanted == {(0.001, 0.03), torch.nn.SiLU}


@pytest.mark.parametrize('cuda, given, expected', [
    (False, None, True), (True, None, False), (True, True, True),
    (False, False, False)])
def test_weights_lie_channels_last_on_a_cpu(cuda, given, expected,
                                            monkeypatch):
    init_default_scope('mmyolo')
    from mmfasternet.models.detectors import any_backbone_yolo_detector
    monkeypatch.setattr(any_backbone_yolo_detector, 'is_cuda_available',
                        lambda: cuda)
    weight = build(config('n', channels_last=given)).backbone.stages[
        1].reduction.weight
    assert weight.is_contiguous(
        memory_format=torch.channels_last) == expected


def test_channels_last_gives_the_same_features():
    init_default_scope('mmyolo')
    cfg = config('n')
    detectors = []
    for channels_last in (False, True):
        cfg.model.channels_last = channels_last
        torch.manual_seed(0)
        detectors.append(MODELS.build(cfg.model).eval())
    plain, other = detectors
    other.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 64, 96)
    outs = [detector.extract_feat(image) for detector in detectors]
    for a, b in zip(*outs):
        assert a.is_contiguous()
        assert b.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_mixed_precision_decodes_boxes_in_float32(monkeypatch):
    """The mean of the bins that YOLOv8 defines, of the logits as they are."""
    init_default_scope('mmyolo')
    detector = MODELS.build(config('n').model)
    detector.init_weights()
    seen, head = [], detector.bbox_head
    loss_by_feat = head.loss_by_feat

    def record(*args):
        seen.append(args)
        return loss_by_feat(*args)

    monkeypatch.setattr(head, 'loss_by_feat', record)
    samples = dict(
        bboxes_labels=torch.tensor([[0, 1, 4., 6, 30, 40], [1, 2, 9, 9, 60,
                                                            50]]),
        img_metas=[dict(batch_input_shape=(64, 96))] * 2)
    image = torch.rand(2, 3, 64, 96)
    with torch.autocast('cpu', torch.bfloat16):
        losses = detector.loss(image, samples)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert detector.backbone.patch_embed.proj.weight.grad.abs().sum() > 0

    (_, boxes, bins, *_), *_ = seen
    for box, logits, size in zip(boxes, bins, ((8, 12), (4, 6), (2, 3))):
        assert box.dtype == torch.float32 and box.shape == (2, 4, *size)
        share = logits.double().exp()
        share /= share.sum(-1, keepdim=True)
        mean = (share * torch.arange(16)).sum(-1)  # (N, H * W, 4)
        torch.testing.assert_close(
            box.double(),
            mean.permute(0, 2, 1).reshape(2, 4, *size),
            rtol=1e-5,
            atol=1e-5)
