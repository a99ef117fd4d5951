# SPDX-License-Identifier: Apache-2.0
"""Numbers of figures, by hand and against pycocotools."""
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfasternet.evaluation.detection_quality import (
    ImageResult,
    confusion_matrix,
    image_score,
    match,
    precision_curves,
)


def image(predicted, true):
    """Of rows (x1, y1, x2, y2, label, score) and (..., label, ignored)."""
    predicted = np.array(predicted, float).reshape(-1, 6)
    true = np.array(true, float).reshape(-1, 6)
    return ImageResult('', predicted[:, :4], predicted[:, 4].astype(int),
                       predicted[:, 5], true[:, :4], true[:, 4].astype(int),
                       true[:, 5].astype(bool))


def test_confusion_matrix_by_hand():
    results = [
        # found; its double is false; one missed; one of the other class
        image([(0, 0, 10, 10, 0, .9), (0, 0, 10, 9, 0, .8),
               (50, 0, 60, 10, 1, .5)],
              [(0, 0, 10, 10, 0, 0), (20, 0, 30, 10, 1, 0),
               (50, 0, 60, 10, 0, 0)]),
        # the right class goes first, although the other overlaps more
        image([(0, 0, 10, 10, 1, .9), (0, 0, 10, 8, 0, .4)],
              [(0, 0, 10, 10, 0, 0)]),
        # too low a score, too small an overlap
        image([(0, 0, 10, 10, 1, .29), (40, 0, 50, 10, 1, .9)],
              [(0, 0, 10, 10, 1, 0), (46, 0, 56, 10, 1, 0)]),
        # in a crowd nothing is right or wrong
        image([(1, 1, 5, 5, 0, .9)], [(0, 0, 50, 50, 0, 1)]),
        image([], []),
        image([(0, 0, 5, 5, 1, .9)], []),
    ]
    matrix = confusion_matrix(results, 2, score=0.3, iou=0.5)
    #                        predicted 0, 1, missed
    assert matrix.tolist() == [[2, 1, 0], [0, 0, 3], [1, 3, 0]]
    assert match(results[0], 0.3, 0.5).pairs.tolist() == [[0, 0], [2, 2]]
    scores = [image_score(r, 0.3, 0.5) for r in results]
    # 2 TP / (predictions + true boxes), and the IoU of the right ones
    assert scores == [(2 / 6, 1), (2 / 3, 0.8), (0, 0), (1, 0), (1, 0), (0, 0)]


def test_what_is_just_enough_counts():
    """A score and an overlap that are those asked for."""
    result = image([(0, 0, 10, 5, 0, .25), (20, 0, 30, 4.9, 0, .9)],
                   [(0, 0, 10, 10, 0, 0), (20, 0, 30, 10, 0, 0)])
    found = match(result, 0.25, 0.5)
    assert found.pairs.tolist() == [[0, 0]]
    assert found.overlaps.tolist() == [0.5]
    assert found.missed.tolist() == found.false.tolist() == [1]
    # half of it in a crowd is enough, too
    result = image([(0, 0, 10, 10, 0, .9), (40, 0, 50, 10, 0, .9)],
                   [(0, 0, 5, 50, 0, 1), (40, 0, 44.9, 50, 0, 1)])
    found = match(result, 0.25, 0.5)
    assert found.false.tolist() == [1] and not len(found.missed)


def test_the_larger_overlap_goes_first():
    result = image([(0, 0, 10, 8, 0, .9), (0, 0, 10, 9, 0, .5)],
                   [(0, 0, 10, 10, 0, 0)])
    found = match(result, 0.3, 0.5)
    assert found.pairs.tolist() == [[1, 0]] and found.false.tolist() == [0]


@pytest.mark.parametrize('false, precision', [(99, 0.01), (100, 0)])
def test_a_hundred_predictions_of_an_image_count(false, precision):
    rows = [(100 + 30 * i, 0, 120 + 30 * i, 20, 0, .9) for i in range(false)]
    result = image([*rows, (0, 0, 20, 20, 0, .1)], [(0, 0, 20, 20, 0, 0)])
    np.testing.assert_allclose(
        precision_curves([result], 1), np.full((101, 1), precision))


def random_results(rng, num_images, num_classes):
    for _ in range(num_images):
        n = rng.integers(0, 5)
        corner = rng.uniform(0, 80, (n, 2))
        boxes = np.hstack([corner, corner + rng.uniform(5, 60, (n, 2))])
        # the last class is never true
        labels = rng.integers(0, num_classes - 1, (n, 1))
        true = np.hstack([boxes, labels, rng.random((n, 1)) < 0.15])
        copies = rng.integers(0, n, 3 * n) if n else []
        found = boxes[copies] + rng.normal(0, 4, (3 * n, 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        wrong = rng.random(3 * n) < 0.2
        guess = rng.integers(0, num_classes, 3 * n)
        found = np.hstack([
            found,
            np.where(wrong, guess, labels[copies, 0])[:, None],
            rng.random((3 * n, 1))
        ])
        yield image(found, true)


def test_precision_is_that_of_pycocotools(tmp_path):
    """Against the usual evaluation of json files, with all its settings."""
    num_classes = 4
    results = list(
        random_results(np.random.default_rng(0), 40, num_classes))
    annotations, predictions = [], []
    for i, result in enumerate(results):
        for rows, boxes, labels in ((annotations, result.true_boxes,
                                     result.true_labels),
                                    (predictions, result.boxes,
                                     result.labels)):
            for j, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                rows.append(
                    dict(
                        id=len(rows) + 1,
                        image_id=i + 7,
                        category_id=10 * int(labels[j]),
                        bbox=[x1, y1, x2 - x1, y2 - y1],
                        area=(x2 - x1) * (y2 - y1)))
                if rows is annotations:
                    rows[-1]['iscrowd'] = int(result.ignored[j])
                else:
                    rows[-1]['score'] = result.scores[j]
    (tmp_path / 'truth.json').write_text(
        json.dumps(
            dict(
                images=[dict(id=i + 7) for i in range(len(results))],
                categories=[
                    dict(id=10 * k, name=str(k)) for k in range(num_classes)
                ],
                annotations=annotations)))
    (tmp_path / 'found.json').write_text(json.dumps(predictions))
    truth = COCO(str(tmp_path / 'truth.json'))
    coco_eval = COCOeval(truth, truth.loadRes(str(tmp_path / 'found.json')),
                         'bbox')
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    curves = precision_curves(results, num_classes)
    expected = coco_eval.eval['precision'][0, :, :, 0, 2]
    np.testing.assert_allclose(curves, expected, atol=1e-6)
    assert (curves[:, -1] == -1).all()
    ap50 = curves[:, :-1].mean()
    assert 0.1 < ap50 < 0.9
    assert ap50 == pytest.approx(coco_eval.stats[1], abs=1e-6)
