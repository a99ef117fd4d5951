# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from sklearn.decomposition import PCA
from torch import nn

from mmfasternet.analysis.inspection.statistics import (
    channel_correlation,
    channel_redundancy,
    eigen_cam,
    layer_statistics,
    pconv_statistics,
    receptive_fields,
    share_side,
)
from mmfasternet.models import FasterNet, PartialConv


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Model(BaseModel):
    """A model of MMEngine around a backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, mode='tensor'):
        outputs = self.backbone(inputs)
        return dict(loss=outputs.sum()) if mode == 'loss' else outputs


# ------------------------------------------------------------ redundancy
def test_correlation_is_numpys_and_unknown_for_a_constant():
    maps = torch.randn(5, 4, 6)
    maps[3] = 0.1
    r = channel_correlation(maps).numpy()
    others = [0, 1, 2, 4]
    assert np.isnan(r[3]).all() and np.isnan(r[:, 3]).all()
    np.testing.assert_allclose(
        r[np.ix_(others, others)],
        np.corrcoef(maps[others].flatten(1).double().numpy()), atol=1e-12)


def test_copies_are_redundant_and_orthogonal_channels_are_not():
    map_ = torch.randn(1, 40, 40)
    copies = torch.cat([map_, -2 * map_, map_ + 3, torch.ones(1, 40, 40)])
    found = channel_redundancy(copies)
    assert found.channels == 3
    assert found.mean_max == pytest.approx(1) and found.alike == 1
    assert found.by_chance < 0.1  # 1600 pixels
    # sines of different frequencies over whole periods
    t = torch.arange(64) * 2 * math.pi / 64
    waves = torch.stack([torch.sin(k * t) for k in (1, 2, 3, 5)])
    found = channel_redundancy(waves.reshape(4, 8, 8))
    assert found.mean_max == pytest.approx(0, abs=1e-6) and found.alike == 0
    one = torch.ones(4, 8, 8)
    one[0, 0] = 2  # the only one that is no constant
    for maps in (torch.ones(4, 8, 8), one):
        with pytest.raises(ValueError, match='fewer than two channels'):
            channel_redundancy(maps)


# ------------------------------------------------------------ PConv
def pconv_model(touched=2, channels=8):
    conv = PartialConv(channels, channels // touched)
    conv.partial_conv3.weight.data.zero_()
    for i in range(touched):  # the identity
        conv.partial_conv3.weight.data[i, i, 1, 1] = 1
    reader = nn.Conv2d(channels, 3, 1)
    reader.weight.data.fill_(0.5)
    return Model(nn.Sequential(conv, reader)), conv, reader


def test_pconv_statistics_of_known_channels():
    model, conv, reader = pconv_model()
    x = torch.randn(1, 8, 10, 10)
    x /= x.square().mean((2, 3), keepdim=True).sqrt()  # each of rms 1
    x[:, 0], x[:, 1] = x[:, 5], -x[:, 7]  # which another one is already
    row, = pconv_statistics(model, x)
    assert (row.name, row.touched, row.untouched) == ('backbone.0', 2, 6)
    for value in row[3:8]:
        assert value == pytest.approx(1)
    assert row.share == pytest.approx(2 / 8)  # equal energies and weights
    # a convolution that triples, and takes its input's neighbour to the left
    conv.partial_conv3.weight.data.zero_()
    conv.partial_conv3.weight.data[[0, 1], [0, 1], 1, 0] = 3
    reader.weight.data[:, 2:] = 0
    row, = pconv_statistics(model, x)
    assert row.rms_before == pytest.approx(1)
    assert row.rms_after == pytest.approx(3, rel=0.1)  # but for the border
    assert row.alike_before == pytest.approx(1) and row.alike_after < 0.6
    assert row.share == pytest.approx(1)


def test_pconv_statistics_find_all_of_fasternet_and_what_reads_them():
    model = Model(FasterNet('n')).eval()
    rows = pconv_statistics(model, torch.randn(1, 3, 64, 64))
    assert [row.touched for row in rows] == [8] + [16] * 2 + [32] * 4 + [64]
    assert all(0 < row.share < 1 for row in rows)
    with pytest.raises(ValueError, match='has no partial convolution'):
        pconv_statistics(Model(nn.Conv2d(3, 8, 3)), torch.randn(1, 3, 8, 8))


# ------------------------------------------------------------ receptive field
@pytest.mark.parametrize('depth', [1, 4])
def test_field_of_box_filters_is_their_convolution(depth):
    """Luo et al., section 2.1: 1s convolved with 1s, nearly a Gaussian; of
    two equal channels of the image the sum."""
    layers = [nn.Conv2d(1 if i else 2, 1, 3, padding=1, bias=False)
              for i in range(depth)]
    for layer in layers:
        layer.weight.data.fill_(1.)
    model = Model(nn.Sequential(*layers))
    name = f'backbone.{depth - 1}'
    field = receptive_fields(model, torch.randn(2, 2, 31, 31), [name])[name]
    line = np.ones(1)
    for _ in range(depth):
        line = np.convolve(line, np.ones(3))
    expected = np.zeros((31, 31))
    inside = slice(15 - depth, 16 + depth)
    expected[inside, inside] = np.outer(line, line)
    np.testing.assert_allclose(field, 2 * expected, rtol=1e-5)
    assert share_side(field, (31, 31), 1) == 2 * depth + 1
    if depth == 1:
        # a ninth is in the middle pixel, and no more is asked for
        assert share_side(field, (31, 31), 1 / 9) == 1
        assert share_side(field, (31, 31), 1 / 9 + 0.01) == 3


def test_field_of_fasternet_is_what_its_kernels_reach():
    """r += (kernel - 1) * stride of the layer, layer by layer."""
    # float64: far pixels have tiny weights
    arch = dict(embed_dim=24, depths=(1, 2, 8, 2), act='GELU')
    model = Model(FasterNet(arch, out_indices=(0, 1, 2, 3))).eval().double()
    names = [f'backbone.norm{i}' for i in (0, 2, 4, 6)]
    x = torch.randn(1, 3, 512, 512, dtype=torch.float64)
    fields = receptive_fields(model, x, names)
    reach, stride = 4, 4
    for i, depth in enumerate(model.backbone.depths):
        if i:
            reach, stride = reach + stride, 2 * stride
        reach += depth * 2 * stride
        shape = (512 // stride, 512 // stride)
        field = fields[names[i]]
        assert share_side(field, shape, 1) == reach
        assert 0 < share_side(field, shape, 0.5) < share_side(
            field, shape, 0.95) < reach
    assert reach == 456


# ------------------------------------------------------------ Eigen-CAM
def test_eigen_cam_is_the_first_principal_component():
    maps = torch.randn(6, 5, 7)
    pixels = maps.flatten(1).T.double().numpy()
    expected = PCA(1, svd_solver='full').fit_transform(pixels).reshape(5, 7)
    cam = eigen_cam(maps).numpy()
    assert cam.min() == 0 and cam.max() == 1
    assert any(np.allclose(cam, np.clip(e, 0, None) / e.max())
               for e in (expected, -expected))


@pytest.mark.parametrize('sign', [1., -1.])
def test_eigen_cam_shows_where_something_is(sign):
    blob = torch.zeros(9, 9)
    blob[2:5, 3:6] = 1
    directions = sign * torch.tensor([1., -2., 0.5])
    cam = eigen_cam(directions[:, None, None] * blob + 4.)
    assert torch.allclose(cam, blob.double())
    assert not eigen_cam(torch.ones(3, 4, 4)).any()


# ------------------------------------------------------------ layers
def test_layer_statistics_are_autograds():
    conv, act = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)
    conv.bias.data[:] = torch.tensor([0., -1e6, 0., -1e6])
    last = nn.Conv2d(4, 2, 1)
    model = Model(nn.Sequential(conv, act, last))
    images = torch.randn(2, 3, 8, 8)
    rows = {row.name: row for row in layer_statistics(
        model, dict(inputs=images))}
    assert list(rows) == ['backbone.0', 'backbone.1', 'backbone.2']
    assert model.backbone[0].weight.grad is None
    before = conv(images).detach().requires_grad_()
    after = before.relu()
    after.retain_grad()
    out = last(after)
    out.sum().backward()
    for row, value, gradient in zip(
            rows.values(), (before, after, out),
            (before.grad, after.grad, torch.ones_like(out))):
        assert row.mean == pytest.approx(value.mean().item(), rel=1e-5)
        assert row.std == pytest.approx(
            value.std(unbiased=False).item(), rel=1e-4)
        assert row.grad_mean == pytest.approx(gradient.mean().item(), rel=1e-4)
        assert row.grad_std == pytest.approx(
            gradient.std(unbiased=False).item(), rel=1e-4, abs=1e-9)
    assert rows['backbone.1'].dead == 0.5 and rows['backbone.2'].dead == 0
    # d sum / d weight: the sum of the inputs, for each of the two outputs
    taken = after.detach().sum((0, 2, 3))
    assert rows['backbone.2'].weight_grad == pytest.approx(
        (taken.norm() * 2**0.5 / last.weight.norm()).item(), rel=1e-4)
    assert math.isnan(rows['backbone.1'].weight_grad)


def test_layer_statistics_refuse_a_loss_that_is_not_finite():
    with pytest.raises(ValueError, match='the loss is not finite'):
        layer_statistics(Model(nn.Conv2d(1, 1, 1)),
                         dict(inputs=torch.full((1, 1, 2, 2), math.inf)))
