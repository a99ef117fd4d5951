# SPDX-License-Identifier: Apache-2.0
"""Average precision, bootstrap and errors, against pycocotools and by hand."""
import copy
import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfasternet.evaluation.average_precision import (
    METRICS,
    Evaluation,
    bootstrap,
    interval,
)
from mmfasternet.evaluation.errors import error_split


def as_coco(dataset):
    coco = COCO()
    coco.dataset = copy.deepcopy(dataset)
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def random_truth(rng, images=12, classes=3):
    """Boxes of all three sizes, one of seven a crowd."""
    annotations = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 9)):
            w, h = np.exp(rng.uniform(2, 5, 2))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=int(rng.integers(1, classes + 1)),
                    bbox=[*rng.uniform(0, 400, 2), w, h],
                    area=w * h,
                    iscrowd=int(rng.random() < 1 / 7)))
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg')
                for i in range(1, images + 1)],
        annotations=annotations,
        categories=[dict(id=i, name=f'class {i}')
                    for i in range(1, classes + 1)])


def random_detections(rng, truth):
    """Shifted true boxes, some of another class, and some of nothing."""
    found = []
    for annotation in truth['annotations']:
        for _ in range(rng.integers(0, 3)):
            box = np.array(annotation['bbox'])
            box += np.tile(box[2:], 2) * rng.normal(0, .12, 4)
            label = annotation['category_id']
            if rng.random() < .15:
                label = label % len(truth['categories']) + 1
            found.append((annotation['image_id'], label, box))
    for _ in range(15):
        found.append((int(rng.integers(1, len(truth['images']) + 1)), 1,
                      rng.uniform(5, 100, 4)))
    return [
        dict(
            image_id=image,
            category_id=label,
            bbox=np.maximum(box, 1).tolist(),
            score=float(rng.random())) for image, label, box in found
    ]


def values(metrics):
    """With pycocotools' -1 where there is nothing to find."""
    return np.nan_to_num([metrics[m] for m in METRICS], nan=-1)


def by_pycocotools(truth, detections):
    coco = as_coco(truth)
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[[0, 1, 2, 3, 4, 5, 8]]


@pytest.mark.parametrize('seed', range(5))
def test_metrics_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)
    metrics = Evaluation(as_coco(truth), detections).metrics()
    np.testing.assert_allclose(
        values(metrics), by_pycocotools(truth, detections), atol=1e-12)


@pytest.mark.parametrize('seed', range(5))
def test_an_image_that_counts_twice_is_an_image_and_its_copy(seed):
    """A sample of the images, evaluated by pycocotools as a data set."""
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)
    weights = rng.multinomial(12, np.full(12, 1 / 12))
    sampled, found = dict(truth, images=[], annotations=[]), []
    for image, weight in zip(truth['images'], weights):
        for _ in range(weight):
            new = len(sampled['images']) + 1
            sampled['images'].append(dict(image, id=new))
            for a in truth['annotations']:
                if a['image_id'] == image['id']:
                    sampled['annotations'].append(
                        dict(
                            a,
                            image_id=new,
                            id=len(sampled['annotations']) + 1))
            found += [
                dict(d, image_id=new) for d in detections
                if d['image_id'] == image['id']
            ]
    metrics = Evaluation(as_coco(truth), detections).metrics(weights)
    # copies have equal scores, whose order may move a point of the curve
    np.testing.assert_allclose(
        values(metrics), by_pycocotools(sampled, found), atol=2e-3)


def test_the_bootstrap_is_paired():
    """A detector against itself: no difference in any sample."""
    rng = np.random.default_rng(0)
    truth = random_truth(rng)
    run = Evaluation(as_coco(truth), random_detections(rng, truth))
    one, other = bootstrap([[run], [run, run]], samples=20)
    np.testing.assert_allclose(one['AP'], other['AP'], atol=1e-12)
    assert np.std(one['AP']) > 0


def box(image, label, x, score=None, size=20):
    found = dict(
        image_id=image, category_id=label, bbox=[x, 0, size, size],
        area=size * size, iscrowd=0)
    return found if score is None else dict(found, score=score)


def split_of(boxes, detections):
    truth = dict(
        images=[dict(id=1, file_name='')],
        annotations=[dict(b, id=i + 1) for i, b in enumerate(boxes)],
        categories=[dict(id=1, name='a'), dict(id=2, name='b')])
    return error_split(Evaluation(as_coco(truth), detections))


@pytest.mark.parametrize(
    'kind, detection, cost',
    [
        # two objects of class 1: one is found, so AP50 is 51 of 101 recalls
        ('Cls', box(1, 2, 100, .8), 50 / 101),
        ('Loc', box(1, 1, 112, .8), 50 / 101),  # IoU 0.25
        ('Both', box(1, 2, 112, .8), 0),
        ('Bkg', box(1, 1, 300, .95), .5 * 51 / 101),  # halves the precision
        ('Dupe', box(1, 1, 1, .85), 0),
        ('Miss', None, 50 / 101),
    ])
def test_each_error_costs_what_fixing_it_gains(kind, detection, cost):
    boxes = [box(1, 1, 0), box(1, 1, 100)]
    right = box(1, 1, 0, .9)
    split = split_of(boxes, [right] + [detection] * (detection is not None))
    assert split[kind] == pytest.approx(cost, abs=1e-9)
    # nothing else is to be fixed, but what was missed for it
    others = {k: v for k, v in split.items() if k not in (kind, 'Miss')}
    assert others == pytest.approx(dict.fromkeys(others, 0), abs=1e-9)
    assert (split['Miss'] > 0) == (kind not in ('Cls', 'Loc'))


def test_a_perfect_detector_has_no_errors():
    split = split_of([box(1, 1, 0), box(1, 2, 50)],
                     [box(1, 1, 0, .9), box(1, 2, 50, .3)])
    assert split == dict.fromkeys(split, 0)


def test_an_interval_leaves_out_what_is_unknown():
    values = np.array([np.nan, *np.linspace(0, 1, 41), np.nan])
    assert interval(values) == pytest.approx((0.025, 0.975))


def test_results_are_in_pixels_with_labels_from_0():
    truth = as_coco(dict(
        images=[dict(id=7, file_name='a.png')],
        annotations=[dict(box(7, 20, 5), id=1),
                     dict(box(7, 10, 50), id=2, iscrowd=1)],
        categories=[dict(id=10, name='a'), dict(id=20, name='b')]))
    result, = Evaluation(truth, [box(7, 20, 6, .5)]).results()
    assert result.path == 'a.png'
    assert result.boxes.tolist() == [[6, 0, 26, 20]]
    assert result.labels.tolist() == [1] and result.scores.tolist() == [.5]
    assert result.true_boxes.tolist() == [[5, 0, 25, 20], [50, 0, 70, 20]]
    assert result.true_labels.tolist() == [1, 0]
    assert result.ignored.tolist() == [False, True]
