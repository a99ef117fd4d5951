# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmfasternet.analysis.inspection.level_shares import (
    detect_by_level,
    has_levels,
    levels_of,
    share_table,
)
from mmfasternet.analysis.inspection.network import load_network


@pytest.fixture(scope='module')
def network(small):
    return load_network(small.cfg, small.checkpoint)


def test_detections_are_those_of_the_detector(network):
    torch.manual_seed(0)
    inputs = torch.randn(1, 3, 64, 96)
    found, strides = detect_by_level(network, inputs)
    assert strides == [8, 16, 32]
    inf = float('inf')
    with torch.no_grad():
        expected, = network.bbox_head.predict_by_feat(
            *network(inputs, mode='tensor'), rescale=False,
            batch_img_metas=[dict(ori_shape=(inf, inf), scale_factor=(1, 1))])
    assert len(found) == len(expected) > 10
    for key in ('scores', 'labels', 'bboxes'):
        torch.testing.assert_close(found[key], expected[key])
    assert {*found.strides.tolist()} == {8, 16, 32}


@pytest.mark.parametrize('level, stride', [(0, 8), (1, 16), (2, 32)])
def test_the_stride_is_that_of_the_only_level_that_answers(
        level, stride, network, monkeypatch):
    inputs = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        scores, boxes = network(inputs, mode='tensor')[:2]
    scores = [torch.full_like(x, -20.) for x in scores]
    scores[level][0, 1, 1, 0] = 5.
    monkeypatch.setattr(
        network, 'forward', lambda inputs, mode: (scores, boxes))
    found, _ = detect_by_level(network, inputs)
    best = found[0]
    assert best.strides.tolist() == [stride] and best.labels.tolist() == [1]
    # the box is around the cell in row 1, column 0
    x1, y1, x2, y2 = best.bboxes[0].tolist()
    assert x1 <= 0.5 * stride <= x2 and y1 <= 1.5 * stride <= y2


def test_the_best_scored_of_those_that_fit_has_found_an_object():
    found = InstanceData(
        bboxes=torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4],
                             [0, 0, 10, 10], [50, 50, 60, 60]]),
        scores=torch.tensor([.3, .6, .9, .95, .8]),
        labels=torch.tensor([0, 0, 0, 1, 0]),
        strides=torch.tensor([8, 16, 32, 32, 8]))
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 10], [80, 80, 90, 90]])
    labels = torch.tensor([0, 1, 0])
    # IoU 0.9 at 0.6; 0.4 at 0.9 is too little, and another class at 0.95
    assert levels_of(found, boxes, labels).tolist() == [16, 32, 0]
    assert levels_of(found[:0], boxes, labels).tolist() == [0, 0, 0]
    # a half of its box is not above a half
    half = torch.tensor([[0., 0, 10, 20], [0, 0, 10, 19]])
    assert levels_of(found[:1], half, labels[[0, 0]]).tolist() == [0, 8]


def test_shares_are_of_what_was_found():
    sides = torch.tensor([10., 63, 64, 127, 100, 130, 300])
    found = torch.tensor([8, 8, 8, 16, 0, 16, 0])
    rows = share_table(sides, found, [8, 16, 32])
    assert list(rows[0]) == ['longer side, pixels', 'boxes', 'found',
                             'stride 8', 'stride 16', 'stride 32']
    assert [tuple(row.values()) for row in rows] == [
        ('0 to 64', 2, 2, '1.00', '0.00', '0.00'),
        ('64 to 128', 3, 2, '0.50', '0.50', '0.00'),
        ('128 to 200', 1, 1, '0.00', '1.00', '0.00'),
        ('200 and more', 1, 0, '-', '-', '-')]


def test_a_model_without_levels_is_refused(network):
    assert has_levels(network)
    assert not has_levels(nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match='Conv2d has no head whose levels'):
        detect_by_level(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8))
