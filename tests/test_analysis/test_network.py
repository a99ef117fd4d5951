# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest
import torch
from torch import nn

from mmfasternet.analysis.inspection.network import (
    feature_maps,
    load_network,
    prepare_image,
    stage_names,
    without_padding,
)
from mmfasternet.checkpoint import CheckpointError
from mmfasternet.config import load_config


@pytest.fixture(scope='module')
def network(small):
    return load_network(small.cfg, small.checkpoint)


def test_an_image_is_prepared_as_in_a_test(small, network, tmp_path):
    """60x120 fits into 64x64 as 32x64, between 16 rows of padding."""
    path = str(tmp_path / 'wide.png')
    cv2.imwrite(path, np.full((60, 120, 3), (0, 128, 255), np.uint8))
    prepared = prepare_image(small.cfg, network, path)
    assert prepared.content == (16, 48, 0, 64)
    inside = prepared.picture[16:48]
    assert (inside == (255, 128, 0)).all()  # RGB
    assert (prepared.picture[:16] == 114).all()
    # the data preprocessor's mean and std, of RGB
    expected = (np.array([255, 128, 0]) - [123.675, 116.28, 103.53]) / [
        58.395, 57.12, 57.375]
    np.testing.assert_allclose(
        prepared.inputs[0, :, 32, 32], expected, rtol=1e-5)
    # 120 pixels are 64, below 16 rows
    boxes = torch.tensor([[30., 15, 60, 60], [0, 0, 120, 60]])
    torch.testing.assert_close(prepared.to_input(boxes), torch.tensor(
        [[16., 24, 32, 48], [0, 16, 64, 48]]))
    assert prepared.path == path
    # rows 16 to 48 of 64 are rows 2 to 6 of 8, and what is cut is left out
    maps = torch.arange(8.)[:, None].expand(3, 8, 8)
    assert without_padding(maps, prepared)[0, :, 0].tolist() == [2, 3, 4, 5]
    maps = torch.arange(10.)[:, None].expand(3, 10, 10)
    assert without_padding(maps, prepared)[0, :, 0].tolist() == [3, 4, 5, 6]


def test_a_narrow_image_has_its_padding_beside_it(small, network, tmp_path):
    path = str(tmp_path / 'narrow.png')
    cv2.imwrite(path, np.full((120, 60, 3), 255, np.uint8))
    prepared = prepare_image(small.cfg, network, path)
    assert prepared.content == (0, 64, 16, 48)
    torch.testing.assert_close(
        prepared.to_input(torch.tensor([[15., 30, 60, 60]])),
        torch.tensor([[24., 16, 48, 32]]))


def test_stages_are_what_the_neck_gets_and_those_before(small, network):
    inputs = prepare_image(small.cfg, network, small.images[0]).inputs
    names = stage_names(network, inputs)
    assert names == ['backbone.stages.0', 'backbone.norm2', 'backbone.norm4',
                     'backbone.norm6']
    maps = feature_maps(network, inputs, [*names, 'neck[0]'])
    with torch.no_grad():
        outputs = network.backbone(inputs)
        levels = network.neck(outputs)
    for name, output in zip(names[1:], outputs):
        assert torch.equal(maps[name], output)
    assert torch.equal(maps['neck[0]'], levels[0])


@pytest.mark.parametrize('backbone, names', [
    (dict(type='mmdet.ResNet', depth=18),
     ['conv1', 'layer1', 'layer2', 'layer3', 'layer4']),
    # its outputs are made of tokens by functions
    (dict(type='mmdet.SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1),
          num_heads=(1, 1, 1, 1)), ['[0]', '[1]', '[2]', '[3]']),
])
def test_stages_of_other_backbones(backbone, names, network):
    from mmengine.registry import MODELS
    model = nn.Module()
    model.backbone = MODELS.build(backbone)
    model.backbone.eval()
    found = stage_names(model, torch.rand(1, 3, 64, 64))
    found = [name.replace('backbone', '').lstrip('.') for name in found]
    assert found[-4:] == names[-4:]
    maps = feature_maps(model, torch.rand(1, 3, 64, 64),
                        stage_names(model, torch.rand(1, 3, 64, 64)))
    assert [x.shape[-1] for x in maps.values()][-4:] == [16, 8, 4, 2]


@pytest.mark.parametrize('name, message', [
    ('backbone.stage.2', "no module 'backbone.stage.2'; did you mean"),
    ('backbone', r'gives no feature map .* but a tuple; .* backbone\[0\]'),
    ('neck[3]', 'gives no feature map'),
])
def test_a_wrong_layer_is_one_message(name, message, small, network):
    with pytest.raises(ValueError, match=message):
        feature_maps(network, torch.rand(1, 3, 64, 64), [name])


def test_weights_are_the_checkpoints_or_those_training_starts_from(
        small, network):
    for key, value in small.detector.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    initial = load_network(small.cfg)
    # the head starts from rare objects: mmyolo's bias of the classes
    bias = initial.bbox_head.head_module.cls_preds[0][-1].bias
    assert (bias < -5).all()
    other = load_config('configs/yolov8_fasternet_n.py')
    with pytest.raises(CheckpointError, match='2 classes'):
        load_network(other, small.checkpoint)
    with pytest.raises(ValueError, match='is an exported file'):
        load_network(small.cfg, 'detector.onnx')
