# SPDX-License-Identifier: GPL-3.0-only
"""The assigner against mmyolo's."""
import pytest
import torch

from mmfasternet.models import SparseTaskAlignedAssigner

# after ours, which makes mmyolo importable
from mmyolo.models.task_modules.assigners import BatchTaskAlignedAssigner  # isort: skip # noqa: E501

CLASSES, SIDE = 3, 160


def priors():
    grids = []
    for stride in (8, 16, 32):
        axis = (torch.arange(SIDE // stride) + 0.5) * stride
        y, x = torch.meshgrid(axis, axis, indexing='ij')
        grids.append(torch.stack([x, y, x * 0 + stride, y * 0 + stride], -1))
    return torch.cat([grid.reshape(-1, 4) for grid in grids])


def batch(counts, seed):
    """Predictions near the priors, and as many objects as asked for."""
    rng = torch.Generator().manual_seed(seed)
    points = priors()
    reach = torch.rand(len(counts), len(points), 4, generator=rng) * 4
    reach = reach * points[:, 2:3]
    bboxes = torch.cat(
        [points[:, :2] - reach[..., :2], points[:, :2] + reach[..., 2:]], -1)
    scores = torch.rand(len(counts), len(points), CLASSES, generator=rng)
    labels = torch.zeros(len(counts), max(counts), 1)
    truth = torch.zeros(len(counts), max(counts), 4)
    for i, count in enumerate(counts):
        corner = torch.rand(count, 2, generator=rng) * (SIDE - 60)
        size = torch.rand(count, 2, generator=rng) * 56 + 4
        truth[i, :count] = torch.cat([corner, corner + size], -1)
        labels[i, :count, 0] = torch.randint(
            CLASSES, (count, ), generator=rng).float()
    flag = (truth.sum(-1, keepdim=True) > 0).float()
    return bboxes, scores, points, labels, truth, flag


@pytest.mark.parametrize('option', [
    dict(alpha=2.), dict(beta=1.), dict(topk=3), dict(use_ciou=False),
    dict(eps=0.5)])
def test_each_option_means_what_it_does_in_mmyolo(option):
    """And changes something."""
    data = batch((9, 30), 0)
    options = dict(num_classes=CLASSES, use_ciou=True, topk=10, alpha=0.5,
                   beta=6.0, eps=1e-9)
    before = SparseTaskAlignedAssigner(**options)(*data)
    options.update(option)
    expected = BatchTaskAlignedAssigner(**options)(*data)
    result = SparseTaskAlignedAssigner(**options)(*data)
    for key in result:
        torch.testing.assert_close(
            result[key], expected[key], rtol=1e-5, atol=1e-7)
    assert not torch.equal(result['assigned_scores'],
                           before['assigned_scores'])


def test_the_options_that_are_left_out_are_mmyolos():
    data = batch((9, 30), 0)
    expected = BatchTaskAlignedAssigner(CLASSES, use_ciou=True)(*data)
    result = SparseTaskAlignedAssigner(
        num_classes=CLASSES, use_ciou=True)(*data)
    torch.testing.assert_close(
        result['assigned_scores'],
        expected['assigned_scores'],
        rtol=1e-5,
        atol=1e-7)


@pytest.mark.parametrize('counts', [(1, ), (0, 3), (40, 7, 0, 60), (0, 0)])
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('topk', [1, 10])
def test_it_assigns_what_mmyolo_does(counts, seed, topk):
    """Crowded, padded and empty images; many objects share priors."""
    options = dict(
        num_classes=CLASSES,
        use_ciou=True,
        topk=topk,
        alpha=0.5,
        beta=6.0,
        eps=1e-9)
    data = batch(counts, seed)
    expected = BatchTaskAlignedAssigner(**options)(*data)
    result = SparseTaskAlignedAssigner(**options)(*data)
    assert result.keys() == expected.keys()
    for key in set(result) - {'assigned_scores'}:
        assert result[key].dtype == expected[key].dtype
        assert torch.equal(result[key], expected[key]), key
    torch.testing.assert_close(
        result['assigned_scores'],
        expected['assigned_scores'],
        rtol=1e-5,
        atol=1e-7)
    assert result['fg_mask_pre_prior'].sum() > 0 or max(counts) < 7
