# SPDX-License-Identifier: GPL-3.0-only
"""SAHI and supervision, which take what Predictor is and gives."""
import importlib.util
import json

import cv2
import numpy as np
import pytest
import torch
from processes import run_script

from mmfasternet.deploy import Predictor, SahiModel

SIDE = 64  # of a patch, and of the network's input


@pytest.fixture(scope='module')
def large(small, tmp_path_factory):
    """Two by two of the small images, and the patches of it."""
    tiles = [cv2.resize(cv2.imread(path), (SIDE, SIDE))
             for path in small.images[:4]]
    image = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    path = tmp_path_factory.mktemp('large') / 'large.png'
    cv2.imwrite(str(path), image)
    return path, tiles


def rows(boxes, scores, labels):
    """Sorted by score, which no two boxes here share."""
    table = np.column_stack([scores, labels, boxes])
    return table[np.argsort(-table[:, 0])]


def test_the_demo_finds_what_is_in_each_patch(small, exported, large,
                                              tmp_path):
    """Without overlap and with nothing merged, patches are on their own."""
    pytest.importorskip('sahi')
    path, tiles = large
    run_script(
        'demo/large_image_demo.py', path, small.config, exported['any.onnx'],
        '--out-dir', tmp_path, '--patch-size', SIDE, '--patch-overlap-ratio',
        0, '--merge-iou-thr', 1, '--batch-size', 3, '--save-patch')
    got = json.loads((tmp_path / 'preds/large.json').read_text())
    wanted = []
    for tile, offset in zip(Predictor(exported['any.onnx'])(tiles),
                            ([0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE])):
        found = tile.pred_instances
        wanted.append(rows(found.bboxes.numpy() + 2 * offset, found.scores,
                           found.labels))
    wanted = np.concatenate(wanted)
    wanted = wanted[np.argsort(-wanted[:, 0])]
    got = rows(got['bboxes'], got['scores'], got['labels'])
    assert len(got) == len(wanted) > 20
    np.testing.assert_allclose(got, wanted, atol=1e-3)
    assert len([*(tmp_path / 'patch').iterdir()]) == 4


def test_the_demo_merges_what_two_patches_share(small, large, tmp_path):
    """The boxes of overlapping patches, by NMS of our own."""
    pytest.importorskip('sahi')
    command = [
        'demo/large_image_demo.py', large[0], small.config, small.checkpoint,
        '--device', 'cpu', '--patch-size', 96
    ]
    boxes = {}
    for threshold in ('1', '0.3'):
        run_script(*command, '--out-dir', tmp_path, '--merge-iou-thr',
                   threshold)
        found = json.loads((tmp_path / 'preds/large.json').read_text())
        boxes[threshold] = rows(found['bboxes'], found['scores'],
                                found['labels'])
    kept = []
    for row in boxes['1']:
        if not any(row[1] == other[1] and iou(row[2:], other[2:]) > 0.3
                   for other in kept):
            kept.append(row)
    assert 0 < len(kept) < len(boxes['1'])
    np.testing.assert_allclose(boxes['0.3'], kept, atol=1e-3)


def iou(one, other):
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.clip(sides, 0, None))
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def test_sahi_takes_any_predictor(small, exported):
    sahi = pytest.importorskip('sahi')
    from sahi.predict import get_prediction
    predictor = Predictor(exported['any.onnx'])
    model = sahi.AutoDetectionModel.from_pretrained(
        'mmdet', model=SahiModel(predictor), device='cpu',
        confidence_threshold=0.5)
    image = cv2.imread(small.images[0])
    found = get_prediction(image[..., ::-1], model).object_prediction_list
    wanted = predictor(image)[0].pred_instances
    wanted = wanted[wanted.scores >= 0.5]
    assert len(found) == len(wanted) > 0
    names = {(label, ('blue', 'red')[label])
             for label in wanted.labels.tolist()}
    assert {(f.category.id, f.category.name) for f in found} == names
    torch.testing.assert_close(
        torch.tensor([f.score.value for f in found]), wanted.scores)
    # SAHI's boxes are whole pixels
    np.testing.assert_allclose([f.bbox.to_xyxy() for f in found],
                               wanted.bboxes, atol=1)


def test_supervision_takes_our_samples(small, exported):
    supervision = pytest.importorskip('supervision')
    sample, = Predictor(exported['any.onnx'])(small.images[0])
    found = supervision.Detections.from_mmdetection(sample)
    np.testing.assert_allclose(found.xyxy, sample.pred_instances.bboxes)
    np.testing.assert_allclose(found.confidence, sample.pred_instances.scores)
    assert (found.class_id == sample.pred_instances.labels.numpy()).all()


def hide_sahi():
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *args: None if name == 'sahi' \
        else find(name, *args)


def test_the_demo_asks_for_sahi(small):
    """Also where it is installed: what cannot be found is asked for."""
    done = run_script(
        'demo/large_image_demo.py', small.folder, small.config,
        small.checkpoint, status=1, before=hide_sahi)
    assert 'Traceback' not in done.stderr
    assert done.stderr.strip().endswith('pip install sahi')
