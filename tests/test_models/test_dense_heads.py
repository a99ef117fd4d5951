# SPDX-License-Identifier: GPL-3.0-only
"""The boxes that a head begins with."""
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmfasternet.config import load_config
from mmfasternet.models import YOLOv8HeadModule, YOLOv8PConvHeadModule

# after ours, which makes mmyolo importable
from mmyolo.models import YOLOv8HeadModule as MMYOLOHeadModule  # isort: skip

SIZE = dict(num_classes=3, in_channels=[32, 64, 128], reg_max=16)


def initial_distances(head):
    """What it predicts where the features are zero, by level, in strides."""
    head.init_weights()
    maps = [torch.zeros(1, c, s, s)
            for c, s in zip(head.in_channels, (8, 4, 2))]
    # the last biases alone, whatever the layers before them give for zeros
    for layers in head.reg_preds:
        layers[-1].weight.data.zero_()
    return head.eval()(maps)[1]


@pytest.mark.parametrize('kind', [YOLOv8HeadModule, YOLOv8PConvHeadModule])
@pytest.mark.parametrize('mean', [0.5, 2.5, 4, 7.5, 12])
def test_boxes_begin_at_the_distance_that_was_asked_for(kind, mean):
    for boxes in initial_distances(kind(initial_distance=mean, **SIZE)):
        torch.testing.assert_close(
            boxes, torch.full_like(boxes, mean), rtol=1e-5, atol=1e-5)


def test_the_default_is_a_geometric_distribution_of_mean_2_5():
    """Of neighbouring bins each has the same share of the one before; the
    share solves sum(k r^k) = 2.5 sum(r^k) over k < 16: 0.72114."""
    head = YOLOv8HeadModule(**SIZE)
    head.init_weights()
    for layers in head.reg_preds:
        for side in layers[-1].bias.detach().view(4, 16):
            share = side.softmax(0)
            torch.testing.assert_close(
                share[1:] / share[:-1],
                torch.full((15, ), 0.72114),
                rtol=1e-4,
                atol=1e-4)


@pytest.mark.parametrize('distance', [None, 7.5])
def test_mmyolos_own_beginning(distance):
    """All of it, bit by bit for None, from one seed."""
    heads = []
    for kind, options in ((MMYOLOHeadModule, {}), (YOLOv8HeadModule, dict(
            initial_distance=distance))):
        torch.manual_seed(0)
        heads.append(kind(**SIZE, **options))
        heads[-1].init_weights()
    theirs, ours = (head.state_dict() for head in heads)
    assert theirs.keys() == ours.keys()
    for key in theirs:
        torch.testing.assert_close(theirs[key], ours[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize('distance', [0, -1, 15, 16])
def test_a_distance_that_no_bin_has_is_refused(distance):
    with pytest.raises(ValueError, match='initial_distance must be between 0 '
                       'and reg_max - 1 = 15'):
        YOLOv8HeadModule(initial_distance=distance, **SIZE)


@pytest.mark.parametrize('n_div, convolved', [(2, 32), (4, 16), (8, 8)])
def test_a_partial_ratio(n_div, convolved):
    head = YOLOv8PConvHeadModule(
        n_div=n_div,
        **dict(SIZE, in_channels=[64, 64, 64]))
    for layers in head.cls_preds:
        assert layers[1][0].partial_conv3.weight.shape[:2] == (convolved, ) * 2


@pytest.mark.parametrize('cls_convs, reg_convs', [
    ((), ()), ((0, ), ()), ((1, ), (0, )), ((0, 1), (0, 1)), ((), (1, ))])
def test_the_named_convolutions_are_partial_and_no_others(cls_convs,
                                                          reg_convs):
    """64 channels throughout: 3x3 is 9 * 64^2, PConv and 1x1 are 9 * 16^2 and
    64^2, by the definition of the paper's section 3.2."""
    head = YOLOv8PConvHeadModule(
        cls_convs=cls_convs,
        reg_convs=reg_convs,
        **dict(SIZE, in_channels=[64, 64, 64]))
    for branches, convs in ((head.cls_preds, cls_convs),
                            (head.reg_preds, reg_convs)):
        for layers in branches:
            for kind in (torch.nn.BatchNorm2d, torch.nn.SiLU):
                assert sum(isinstance(m, kind) for m in layers.modules()) == 2
            for i in range(2):
                weights = sum(
                    p.numel() for p in layers[i].parameters() if p.ndim == 4)
                assert weights == (9 * 16**2 + 64**2
                                   if i in convs else 9 * 64**2)


@pytest.mark.parametrize('name', ['cls_convs', 'reg_convs'])
def test_a_convolution_that_no_branch_has_is_refused(name):
    with pytest.raises(ValueError, match=f'head_module.{name} names '
                       r'convolutions of a branch, 0 and 1, got \(0, 2\)'):
        YOLOv8PConvHeadModule(**{name: (0, 2)}, **SIZE)


def test_without_bins_there_is_no_distribution_to_begin_with():
    """reg_max=1 predicts the distance itself."""
    torch.manual_seed(0)
    head = YOLOv8HeadModule(**dict(SIZE, reg_max=1))
    head.init_weights()
    for layers in head.reg_preds:
        assert layers[-1].bias.eq(1).all()  # as mmyolo's


def test_the_knob_reaches_the_head_and_a_head_of_others_goes_without():
    init_default_scope('mmyolo')
    for knobs, expected in (({}, 2.5), (dict(initial_distance=4.), 4.),
                            (dict(initial_distance=None), None)):
        cfg = load_config('configs/yolov8_fasternet_n.py', knobs)
        head = MODELS.build(cfg.model).bbox_head.head_module
        assert head.initial_distance == expected
    cfg = load_config('configs/yolov8_fasternet_n.py',
                      dict(head_module='YOLOv8HeadModule'))
    assert type(MODELS.build(cfg.model).bbox_head.head_module) is \
        MMYOLOHeadModule
