# SPDX-License-Identifier: Apache-2.0
"""Our operators behind ``mmcv.ops``, against definitions written out here
and, where mmcv has been compiled, against its own."""
import math
import sys

import mmcv.ops
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmfasternet import ops
from mmfasternet.ops import extension, torchvision_ops

COMPILED = sys.modules['mmcv._ext']
MODULES = ('deform_conv', 'focal_loss', 'modulated_deform_conv', 'nms',
           'roi_align')


@pytest.fixture(
    params=[
        pytest.param(True, id='torchvision'),
        pytest.param(False, id='pytorch')
    ],
    autouse=True)
def provider(request, monkeypatch):
    """``mmcv.ops`` on top of ours."""
    if request.param and torchvision_ops.OPS is None:
        pytest.skip('no torchvision here')
    for name in MODULES:
        monkeypatch.setattr(sys.modules[f'mmcv.ops.{name}'], 'ext_module',
                            extension)
    if not request.param:
        monkeypatch.setattr(torchvision_ops, 'OPS', None)


def both(call, monkeypatch):
    """The answer by ours, and by the compiled if there is one."""
    answers = [call()]
    if getattr(COMPILED, '__file__', '').endswith('.so'):
        for name in MODULES:
            monkeypatch.setattr(sys.modules[f'mmcv.ops.{name}'], 'ext_module',
                                COMPILED)
        answers.append(call())
    return answers


def random_boxes(number, seed=0, size=60):
    """On whole pixels, so that many are equal or just at a threshold."""
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 1 + number, (number, 2))
    sides = generator.integers(0, size, (number, 2))
    boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
    scores = generator.integers(1, 20, number).astype(np.float32) / 20
    return torch.from_numpy(boxes), torch.from_numpy(scores)


def iou(box, boxes, offset):
    """Of one box with each of others, in float32 as mmcv's."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(
        box[:2], boxes[:, :2]) + np.float32(offset)
    inter = sides.clip(0).prod(1)
    areas = [(b[:, 2:] - b[:, :2] + np.float32(offset)).prod(1)
             for b in (box[None], boxes)]
    with np.errstate(invalid='ignore'):
        return inter / (sum(areas) - inter)


def nms_by_definition(boxes, scores, threshold, offset, classes=None):
    """Equal scores come in the order of torch.sort, as in mmcv."""
    boxes, kept = boxes.numpy(), []
    for i in scores.sort(descending=True).indices.tolist():
        others = [j for j in kept if classes is None or
                  classes[i] == classes[j]]
        if not (iou(boxes[i], boxes[others], offset) > threshold).any():
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.75])
@pytest.mark.parametrize('number', [0, 1, 2, 30, 300, 1500])
def test_nms(number, threshold, offset, monkeypatch):
    boxes, scores = random_boxes(number)
    expected = nms_by_definition(boxes, scores, threshold, offset)
    for detections, kept in both(
            lambda: mmcv.ops.nms(boxes, scores, threshold, offset=offset),
            monkeypatch):
        assert kept.tolist() == expected
        assert torch.equal(detections[:, :4], boxes[expected])


def test_nms_of_real_numbers_in_groups(monkeypatch):
    """More boxes than are compared at once, near and far."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, generator=generator) * 1500
    sides = torch.rand(3000, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + sides], 1)
    boxes[::7] = boxes[1::7][:len(boxes[::7])] + 0.5
    scores = torch.rand(3000, generator=generator)
    expected = nms_by_definition(boxes, scores, 0.3, 0)
    assert 500 < len(expected) < 2500
    for _, kept in both(lambda: mmcv.ops.nms(boxes, scores, 0.3),
                        monkeypatch):
        assert kept.tolist() == expected


@pytest.mark.parametrize('offset', [0, 1])
def test_groups_of_boxes_end_where_none_overlap(offset):
    """The last of 1,025 boxes begins within those that are furthest left,
    and lies on the best of them."""
    top = 10 * torch.arange(1024.)
    boxes = torch.stack([0 * top, top, 0 * top + 2, top + 2], 1)
    boxes = torch.cat([boxes, torch.tensor([[0.5 + offset / 2, 0, 3, 2]])])
    scores = torch.linspace(1, 0.1, 1025)
    expected = nms_by_definition(boxes, scores, 0.3, offset)
    assert expected == list(range(1024))
    assert mmcv.ops.nms(boxes, scores, 0.3, offset=offset)[1].tolist() == \
        expected


def test_a_chain_of_boxes_keeps_every_other():
    """Each drops the next, but not the one after that."""
    left = torch.arange(600.)
    boxes = torch.stack([left, left * 0, left + 3, left * 0 + 1], 1)
    scores = torch.linspace(1, 0.1, 600)
    assert mmcv.ops.nms(boxes, scores,
                        0.4)[1].tolist() == list(range(0, 600, 2))


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_batched_nms(class_agnostic, monkeypatch):
    boxes, scores = random_boxes(1500, size=200)
    classes = torch.arange(1500) % 7
    expected = nms_by_definition(boxes, scores, 0.5, 0,
                                 None if class_agnostic else classes.tolist())
    for _, kept in both(
            lambda: mmcv.ops.batched_nms(
                boxes, scores, classes, dict(type='nms', iou_threshold=0.5),
                class_agnostic), monkeypatch):
        assert kept.tolist() == expected


def soft_nms_by_definition(boxes, scores, threshold, sigma, lowest, method,
                           offset=0):
    boxes, scores = boxes.numpy(), dict(enumerate(scores.tolist()))
    found = {}
    while scores:
        best = max(scores, key=scores.get)
        found[best] = scores.pop(best)
        for i in list(scores):
            overlap, = iou(boxes[best], boxes[i:i + 1], offset)
            if method == 'gaussian':
                scores[i] *= math.exp(-overlap**2 / sigma)
            elif overlap >= threshold:
                scores[i] *= 1 - overlap if method == 'linear' else 0
            if scores[i] < lowest:
                del scores[i]
    return found


@pytest.mark.parametrize('method, offset', [
    ('naive', 0), ('linear', 0), ('gaussian', 0), ('linear', 1)])
def test_soft_nms(method, offset, monkeypatch):
    boxes, _ = random_boxes(200)
    boxes[:, 2:] += 1  # none is empty
    scores = torch.rand(200, generator=torch.Generator().manual_seed(0))
    arguments = (boxes, scores, 0.3, 0.4, 0.05, method, offset)
    expected = soft_nms_by_definition(*arguments)
    for found, kept in both(
            lambda: mmcv.ops.soft_nms(*arguments), monkeypatch):
        assert kept.tolist() == list(expected)
        torch.testing.assert_close(found[:, 4],
                                   torch.tensor(list(expected.values())))
        assert torch.equal(found[:, :4], boxes[kept])


def soft_nms_in_place(boxes, scores, threshold, lowest):
    """The order in which mmcv's linear one takes boxes, in one array: the
    best comes to the front, and the last to the place of a dropped one."""
    boxes, scores = boxes.numpy(), scores.tolist()
    order, i = list(range(len(scores))), 0
    while i < len(order):
        best = max(range(i, len(order)), key=lambda j: scores[order[j]])
        order[i], order[best] = order[best], order[i]
        j = i + 1
        while j < len(order):
            overlap, = iou(boxes[order[i]], boxes[order[j]][None], 0)
            if overlap >= threshold:
                scores[order[j]] *= 1 - overlap
            if scores[order[j]] < lowest:
                order[j] = order[-1]
                order.pop()
            else:
                j += 1
        i += 1
    return order


@pytest.mark.parametrize('lowest', [1e-3, 0.3])
def test_soft_nms_of_equal_scores_and_of_nothing(lowest, monkeypatch):
    boxes, scores = random_boxes(100)
    boxes[:, 2:] += 1
    expected = soft_nms_in_place(boxes, scores, 0.3, lowest)
    for _, kept in both(lambda: mmcv.ops.soft_nms(
            boxes, scores, 0.3, min_score=lowest), monkeypatch):
        assert kept.tolist() == expected
    nothing = mmcv.ops.soft_nms(boxes[:0], scores[:0], 0.3)
    assert [len(part) for part in nothing] == [0, 0]


def bilinear(features, y, x, clamp):
    """Features (C, H, W) between pixels; outside is the border, or zero."""
    height, width = features.shape[1:]
    if clamp:
        if not (-1 <= y <= height and -1 <= x <= width):
            return features.new_zeros(features.shape[0])
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = features.new_zeros(features.shape[0])
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < height and 0 <= j < width:
                total = total + features[:, i, j] * (
                    (1 - abs(y - i)) * (1 - abs(x - j)))
    return total


def roi_align_by_definition(features, rois, size, scale, ratio, aligned):
    outputs = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (v * scale - 0.5 * aligned for v in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        counts = [ratio or math.ceil(side / number)
                  for side, number in zip((height, width), size)]
        for p in range(size[0]):
            for q in range(size[1]):
                total = features.new_zeros(features.shape[1])
                for i in range(counts[0]):
                    for j in range(counts[1]):
                        y = y1 + height / size[0] * (p +
                                                     (i + 0.5) / counts[0])
                        x = x1 + width / size[1] * (q + (j + 0.5) / counts[1])
                        total = total + bilinear(features[int(image)], y, x,
                                                 True)
                outputs.append(total / max(counts[0] * counts[1], 1))
    return torch.stack(outputs).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align(ratio, aligned, monkeypatch):
    features = torch.rand(2, 3, 9, 7).requires_grad_()
    rois = torch.tensor([
        [0, 1, 2, 9, 17.5],
        [1, -6, -3, 5, 6],
        [1, 3, 3, 3, 3],  # empty
        [0, 10, 12, 22, 26],  # leaves the features
        [1, 4, 4, 5, 4.5]
    ])
    factors = torch.rand(5, 3, 3, 2)
    arguments = ((3, 2), 0.5, ratio, aligned)
    expected = roi_align_by_definition(features, rois, *arguments)
    slope, = torch.autograd.grad((expected * factors).sum(), features)
    for output, gradient in both(
            lambda: with_gradients(
                mmcv.ops.roi_align(features, rois, (3, 2), 0.5, ratio, 'avg',
                                   aligned), factors, features), monkeypatch):
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(gradient, slope)


def with_gradients(output, factors, *inputs):
    return output, *torch.autograd.grad((output * factors).sum(), inputs)


def test_roi_align_of_nothing(monkeypatch):
    features = torch.rand(2, 3, 9, 7)
    for output in both(
            lambda: mmcv.ops.roi_align(features, torch.zeros(0, 5), (3, 2),
                                       1., 0, 'avg', True), monkeypatch):
        assert output.shape == (0, 3, 3, 2)


def deform_conv_by_definition(features, offset, mask, weight, stride, padding,
                              dilation, groups):
    """Loops; offsets are of two groups of channels."""
    number, channels = features.shape[:2]
    kernel = weight.shape[2]
    outputs = features.new_zeros(number, len(weight), *offset.shape[2:])
    for n, p, q in np.ndindex(number, *offset.shape[2:]):
        columns = []
        for g in range(2):
            part = features[n, g * channels // 2:(g + 1) * channels // 2]
            for i, j in np.ndindex(kernel, kernel):
                k = (g * kernel + i) * kernel + j
                y, x = offset[n, 2 * k:2 * k + 2, p, q].tolist()
                sample = bilinear(
                    part, p * stride + i * dilation - padding + y,
                    q * stride + j * dilation - padding + x, False)
                columns.append(sample * mask[n, k, p, q])
        columns = torch.stack(columns).view(2, kernel, kernel, -1)
        columns = columns.permute(0, 3, 1, 2).flatten(0, 1)  # (C, k, k)
        outputs[n, :, p, q] = F.conv2d(
            columns[None], weight, groups=groups)[0, :, 0, 0]
    return outputs


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('stride, padding, dilation, groups',
                         [(1, 1, 1, 1), (2, 2, 2, 2)])
def test_deformable_convolution(stride, padding, dilation, groups, modulated,
                                monkeypatch):
    torch.manual_seed(0)
    features = torch.rand(2, 4, 6, 7).requires_grad_()
    weight = torch.randn(6, 4 // groups, 3, 3).requires_grad_()
    bias = torch.randn(6).requires_grad_()
    size = F.conv2d(features, weight, None, stride, padding, dilation,
                    groups).shape[2:]
    offset = (2 * torch.randn(2, 36, *size)).requires_grad_()
    mask = torch.rand(2, 18, *size).requires_grad_()
    factors = torch.rand(2, 6, *size)
    if modulated:
        inputs = [features, mask, weight, bias, offset]
    else:
        mask, inputs = torch.ones_like(mask), [features, weight, offset]

    def call():
        if modulated:
            output = mmcv.ops.modulated_deform_conv2d(
                features, offset, mask, weight, bias, stride, padding,
                dilation, groups, 2)
        else:
            output = mmcv.ops.deform_conv2d(features, offset, weight, stride,
                                            padding, dilation, groups, 2)
        return with_gradients(output, factors, *inputs)

    expected = deform_conv_by_definition(features, offset, mask, weight,
                                         stride, padding, dilation, groups)
    if modulated:
        expected = expected + bias[:, None, None]
    slopes = torch.autograd.grad((expected * factors).sum(), inputs[:-1])
    ours, *compiled = both(call, monkeypatch)
    for output, *gradients in (ours, *compiled):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        for gradient, slope in zip(gradients, slopes):
            torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-4)
    # the slope of the offsets by two steps along a direction
    direction = torch.randn_like(offset)
    with torch.no_grad():
        moved = [(deform_conv_by_definition(
            features.double(), offset + step * direction, mask.double(),
            weight.double(), stride, padding, dilation, groups) *
                  factors).sum() for step in (-1e-4, 1e-4)]
    for *_, gradient in (ours, *compiled):
        torch.testing.assert_close((gradient * direction).sum().double(),
                                   (moved[1] - moved[0]) / 2e-4,
                                   rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('stride, padding, dilation', [
    (1, 1, 1), ((2, 1), (1, 3), (1, 2)), ((1, 2), (0, 1), (2, 1))])
def test_no_offset_is_a_convolution(stride, padding, dilation):
    """Also where height and width are treated differently."""
    torch.manual_seed(0)
    features, weight = torch.rand(2, 4, 5, 6), torch.randn(3, 4, 3, 2)
    arguments = stride, padding, dilation
    expected = F.conv2d(features, weight, None, *arguments)
    number, _, *size = expected.shape
    offset = torch.zeros(number, 12, *size)
    bias = torch.randn(3)
    for output in (
            mmcv.ops.deform_conv2d(features, offset, weight, *arguments),
            mmcv.ops.modulated_deform_conv2d(
                features, offset, torch.ones(number, 6, *size), weight, bias,
                *arguments) - bias[:, None, None]):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_arguments_that_are_left_out():
    """They are those of the docstrings."""
    torch.manual_seed(0)
    features, weight = torch.rand(1, 4, 5, 6), torch.randn(3, 4, 3, 3)
    torch.testing.assert_close(
        ops.deform_conv2d(features, torch.zeros(1, 18, 3, 4), weight),
        F.conv2d(features, weight), rtol=1e-4, atol=1e-4)
    rois = torch.tensor([[0, 0.5, 1, 5.5, 4.]])
    torch.testing.assert_close(
        ops.roi_align(features, rois, (2, 3)),
        roi_align_by_definition(features, rois, (2, 3), 1., 0, True))
    boxes, scores = random_boxes(40)
    boxes[:, 2:] += 1
    assert ops.nms(boxes, scores, 0.2).tolist() == nms_by_definition(
        boxes, scores, 0.2, 0)
    scores += torch.arange(40) / 1e4  # no two are the same
    assert ops.soft_nms(boxes, scores, 0.3, 0.5, 0.01, 1)[1].tolist() == [
        *soft_nms_by_definition(boxes, scores, 0.3, 0.5, 0.01, 'linear')]
    logits = torch.randn(4, 3)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 1, 2, 3]))
    p = logits.sigmoid()
    torch.testing.assert_close(
        loss, torch.where(torch.eye(4, 3) == 1, -.25 * (1 - p)**2 * p.log(),
                          -.75 * p**2 * (1 - p).log()))


def test_torchvision_is_asked_as_it_documents(monkeypatch):
    """By functions of its signatures, which are here for those it lacks."""
    asked = {}

    class Documented:

        def nms(boxes, scores, iou_threshold):
            asked['nms'] = boxes, iou_threshold
            assert (scores.diff() < 0).all()
            return torch.tensor([0, 2])

        def roi_align(input, boxes, output_size, spatial_scale=1.,
                      sampling_ratio=-1, aligned=False):
            asked['roi_align'] = (input, boxes, output_size, spatial_scale,
                                  sampling_ratio, aligned)

        def deform_conv2d(input, offset, weight, bias=None, stride=(1, 1),
                          padding=(0, 0), dilation=(1, 1), mask=None):
            asked['deform_conv2d'] = (input, offset, weight, bias, stride,
                                      padding, dilation, mask)

    assert extension.get_compiling_cuda_version() == 'none: ' + (
        'PyTorch' if torchvision_ops.OPS is None else 'torchvision')
    monkeypatch.setattr(torchvision_ops, 'OPS', Documented)
    assert extension.get_compiling_cuda_version() == 'none: torchvision'
    boxes, scores = torch.arange(12.).view(3, 4), torch.tensor([.2, .9, .5])
    assert ops.nms(boxes, scores, 0.3).tolist() == [1, 0]
    assert torch.equal(asked['nms'][0], boxes[[1, 2, 0]])
    assert asked['nms'][1] == 0.3
    assert ops.nms(boxes, scores, 2., offset=1).tolist() == [1, 2, 0]
    for function, arguments in (
        (ops.roi_align, (1, 2, (3, 4), 0.5, 6, True)),
        (ops.deform_conv2d, (1, 2, 3, 4, (5, 6), (7, 8), (9, 10), 11))):
        function(*arguments)
        assert asked[function.__name__] == arguments


def test_sigmoid_focal_loss():
    """The paper's formula; mmcv's own is for GPUs only."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(5, 3)).requires_grad_()
    target = torch.tensor([0, 2, 3, 1, 3])
    weight = torch.tensor([1., 2, 3, 4])  # read by target, none included
    one_hot = F.one_hot(target, 4)[:, :3]
    p = torch.where(one_hot == 1, logits.sigmoid(), 1 - logits.sigmoid())
    factor = torch.where(one_hot == 1, 0.3, 0.7)
    expected = -(factor * (1 - p)**1.5 * p.log() * weight[target][:, None])
    slope, = torch.autograd.grad(expected.sum(), logits)
    loss = torch.zeros_like(logits)
    extension.sigmoid_focal_loss_forward(logits, target, weight, loss, 1.5,
                                         0.3)
    gradient = torch.zeros_like(logits)
    extension.sigmoid_focal_loss_backward(logits, target, weight, gradient,
                                          1.5, 0.3)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, slope)


def test_what_nobody_has_says_so():
    with pytest.raises(
            NotImplementedError,
            match=r"operator carafe_forward is not here: .* "
            r'\(COMPILE=1 bash tools/setup_env.sh\), .* torchvision'):
        extension.carafe_forward(Tensor())
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        mmcv.ops.roi_align(torch.rand(1, 1, 4, 4), torch.zeros(1, 5), (1, 1),
                           1., 0, 'max', True)
