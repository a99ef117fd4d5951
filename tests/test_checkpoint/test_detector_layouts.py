# SPDX-License-Identifier: GPL-3.0-only
# GPL because it compares with mmyolo's detector.
"""Whole detectors in the layouts of others."""
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmfasternet.checkpoint import CheckpointError
from mmfasternet.checkpoint.layouts.detectors import read_detector
from mmfasternet.config import load_config

sys.path.insert(0, str(Path(__file__).parents[1]))
import ultralytics_reference as reference  # noqa: E402


def test_all_of_yolov8_has_the_name_and_the_shape_that_mmyolo_gives_it(
        tmp_path):
    init_default_scope('mmyolo')
    model = load_config(
        'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py').model
    model.bbox_head.head_module.num_classes = 2
    with torch.device('meta'):
        wanted = MODELS.build(model).state_dict()
    torch.save(reference.stock(2).state_dict(), tmp_path / 'best.pt')
    found = read_detector(str(tmp_path / 'best.pt'))
    assert (found.num_classes, found.stock_size) == (2, 'n')
    for tensors in (wanted, found.tensors):
        for name in [n for n in tensors if n.endswith('_tracked')]:
            del tensors[name]
    assert {name: x.shape for name, x in found.tensors.items()} == {
        name: x.shape for name, x in wanted.items()}
    # of another kind of detector neither is known
    torch.save(dict(x=torch.ones(1)), tmp_path / 'other.pth')
    other = read_detector(str(tmp_path / 'other.pth'))
    assert (other.num_classes, other.stock_size) == (None, None)


@pytest.mark.parametrize('width, size', [
    (16, 'n'), (32, 's'), (48, 'm'), (64, 'l'), (80, 'x'), (20, None)])
def test_the_size_is_told_by_the_width_of_the_stem(width, size, tmp_path):
    """A quarter to five quarters of 64 channels, as Ultralytics scales."""
    torch.save({
        'backbone.stem.conv.weight': torch.ones(width, 3, 3, 3),
        'backbone.stage4.2.conv1.conv.weight': torch.ones(1),
        'bbox_head.head_module.cls_preds.0.2.weight': torch.ones(7, 4)
    }, tmp_path / 'a.pth')
    found = read_detector(str(tmp_path / 'a.pth'))
    assert (found.stock_size, found.num_classes) == (size, 7)


def test_what_segments_detects(tmp_path):
    tensors = dict(reference.stock(2).state_dict())
    plain = {f'model.{k}': v for k, v in tensors.items()}
    masks = {f'model.model.22.{k}': torch.ones(1) for k in (
        'proto.cv1.conv.weight', 'cv4.0.0.conv.weight')}
    torch.save(plain, tmp_path / 'a.pth')
    torch.save(plain | masks, tmp_path / 'b.pth')
    found, segments = (read_detector(str(tmp_path / f'{name}.pth')).tensors
                       for name in 'ab')
    assert list(found) == list(segments)
    assert all(torch.equal(found[k], segments[k]) for k in found)


@pytest.mark.parametrize('content, words', [
    ({'model.23.dfl.conv.weight': torch.arange(16.)}, 'layer 23: it is 22 .*'
     'YOLO11 and YOLO26, are not known: take a YOLOv8'),
    # YOLO26 has no distributions
    ({'model.0.conv.weight': torch.ones(1),
      'model.23.cv3.0.2.weight': torch.ones(1)}, 'no layer .*take a YOLOv8'),
    ({'model.22.dfl.conv.weight': torch.arange(16.),
      'model.22.cv4.0.0.conv.weight': torch.ones(1)}, 'poses or rotated box'),
    # its head, which is no layer of a list, and what has no head at all
    ({'net.22.dfl.conv.weight': torch.arange(16.), 'x': torch.ones(1)},
     'no layer of this state dict is the head of YOLOv8'),
])
def test_other_models_of_ultralytics_are_refused(content, words, tmp_path):
    path = str(tmp_path / 'best.pt')
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f'{path}: .*{words}'):
        read_detector(path)


def test_class_names_are_those_of_the_file(tmp_path):
    tensors = dict(a=torch.zeros(1))
    for meta, expected in ((dict(classes=('x', 'y')), ('x', 'y')),
                           (dict(CLASSES=['x']), ('x', )),
                           (dict(classes=3), None), (None, None)):
        torch.save(
            dict(meta=dict(dataset_meta=meta), state_dict=tensors),
            tmp_path / 'a.pth')
        assert read_detector(str(tmp_path / 'a.pth')).classes == expected
    # Ultralytics notes them in the pickled module, by number
    for names, expected in (({1: 'y', 0: 'x'}, ('x', 'y')),
                            (['x', 'y'], ('x', 'y')),
                            ({0: 'x', 'a': 'y'}, None), ({0: 3}, None)):
        module = torch.nn.Linear(1, 1)
        module.names = names
        for saved in (dict(epoch=3, model=None, ema=module), module):
            torch.save(saved, tmp_path / 'a.pt')
            assert read_detector(str(tmp_path / 'a.pt')).classes == expected
