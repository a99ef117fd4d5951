# SPDX-License-Identifier: Apache-2.0
"""Average precision, bootstrap and errors, against pycocotools and by hand."""
import copy
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfasternet.evaluation.average_precision import (
    METRICS,
    Evaluation,
    bootstrap,
    interval,
    read_detections,
    read_truth,
)
from mmfasternet.evaluation.detection_errors import error_split


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


def evaluated(truth, detections):
    """By pycocotools."""
    coco = as_coco(truth)
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def by_pycocotools(truth, detections):
    return evaluated(truth, detections).stats[[0, 1, 2, 3, 4, 5, 8]]


@pytest.mark.parametrize('seed', range(5))
def test_metrics_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)
    metrics = Evaluation(as_coco(truth), detections).metrics()
    np.testing.assert_allclose(
        values(metrics), by_pycocotools(truth, detections), atol=1e-12)
    # IoU, recall, class, area, number of detections
    precision = evaluated(truth, detections).eval['precision'][:, :, :, 0, 2]
    for k, category in enumerate(truth['categories']):
        assert metrics[f'AP of {category["name"]}'] == pytest.approx(
            precision[:, :, k].mean(), abs=1e-12)


def test_nothing_found_is_an_ap_of_0_and_nothing_to_find_is_none():
    truth = random_truth(np.random.default_rng(0), classes=3)
    truth['categories'].append(dict(id=9, name='absent'))
    metrics = Evaluation(as_coco(truth), []).metrics()
    assert values(metrics).tolist() == 7 * [0]
    assert metrics['AP of class 1'] == 0 and np.isnan(metrics['AP of absent'])
    # all images without a box of a class: it does not count
    weights = np.array([
        not any(a['image_id'] == image['id'] and a['category_id'] == 1
                for a in truth['annotations']) for image in truth['images']])
    assert 0 < weights.sum() < 12
    assert np.isnan(Evaluation(as_coco(truth), []).metrics(
        weights.astype(int))['AP of class 1'])


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


def test_the_bootstrap_draws_images_with_replacement():
    """As many as there are, the same ones for all, repeatably."""
    rng = np.random.default_rng(0)
    truth = random_truth(rng)
    runs = [Evaluation(as_coco(truth), random_detections(rng, truth))
            for _ in range(2)]
    drawn, metrics = [], runs[0].metrics

    def note(weights):
        drawn.append(weights)
        return metrics(weights)

    runs[0].metrics = note
    single, other, both = bootstrap([runs[:1], runs[1:], runs], samples=7)
    assert all(len(x['AP']) == 7 for x in (single, other, both))
    assert all(w.sum() == 12 for w in drawn) and max(map(max, drawn)) > 1
    np.testing.assert_allclose(
        both['AP75'], (single['AP75'] + other['AP75']) / 2, atol=1e-12)
    again, = bootstrap([runs[1:]], samples=7)
    assert again['AP'].tolist() == other['AP'].tolist()
    another, = bootstrap([runs[1:]], samples=7, seed=1)
    assert another['AP'].tolist() != other['AP'].tolist()
    # each image is as likely as any other: 1,000 draws by default
    drawn.clear()
    runs[0].metrics = lambda weights: drawn.append(weights) or dict(AP=0)
    bootstrap([runs[:1]])
    assert len(drawn) == 1000
    np.testing.assert_allclose(np.mean(drawn, 0), 1, atol=0.15)  # 5 sigma


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


@pytest.mark.parametrize('kind, label, width, gain', [
    # half precision at half the recall of class 1 becomes all of both
    ('Loc', 1, 9.9, 1 - .5 * 51 / 101),
    ('Loc', 1, 2, 1 - .5 * 51 / 101),
    ('Bkg', 1, 1.9, .5 * 51 / 101),
    # class 2 gets its precision back, and class 1, if it is one, the box
    ('Cls', 2, 10, .5 + 50 / 101),
    ('Both', 2, 9.9, .5),
    ('Both', 2, 2.1, .5),
    ('Bkg', 2, 2, .5),
])
def test_where_one_error_ends_and_another_begins(kind, label, width, gain):
    """A detection of some of the 20 columns of a box of class 1: the limits
    are overlaps of 0.5 and 0.1. Another box of each class is found."""
    found = dict(box(1, label, 0, .99), bbox=[0, 0, width, 20])
    split = split_of(
        [box(1, 1, 0), box(1, 1, 100), box(1, 2, 200)],
        [found, box(1, 1, 100, .9), box(1, 2, 200, .9)])
    split.pop('Miss')
    # the mean of two classes
    assert split == pytest.approx({**dict.fromkeys(split, 0), kind: gain / 2})


def test_an_overlap_of_a_half_finds_a_box():
    found = dict(box(1, 1, 0, .9), bbox=[0, 0, 10, 20])
    split = split_of([box(1, 1, 0)], [found])
    assert split == dict.fromkeys(split, 0)


def test_of_two_boxes_one_may_be_of_a_crowd():
    """Nothing has to find it, and what does is no error."""
    crowd = dict(box(1, 1, 100, size=60), iscrowd=1)
    split = split_of([box(1, 1, 0), crowd],
                     [box(1, 1, 0, .5), box(1, 1, 110, .9)])
    assert split == dict.fromkeys(split, 0)
    # it is one for another class
    split = split_of([box(1, 1, 0), box(1, 2, 200), crowd],
                     [box(1, 1, 0, .5), box(1, 2, 200, .5),
                      box(1, 2, 110, .9)])
    assert split['Bkg'] == pytest.approx(1 / 4)


def test_the_best_hundred_of_an_image_count():
    false = [box(1, 1, 100 + 30 * i, .9 - i / 1000) for i in range(100)]
    for count, gain in ((99, .99), (100, 0)):
        split = split_of([box(1, 1, 0)], [box(1, 1, 0, .1), *false[:count]])
        assert split['Bkg'] == pytest.approx(gain, abs=1e-9)


def test_the_better_scored_of_two_finds_the_box():
    """Whatever their order in the file; the other one is a double."""
    boxes = [box(1, 1, 0), box(1, 1, 200)]
    found = [box(1, 1, 1, .3), box(1, 1, 0, .9), box(1, 1, 500, .6)]
    split = split_of(boxes, found)
    assert split['Bkg'] == split['Dupe'] == split['Loc'] == 0
    found[0] = box(1, 1, 200, .3)
    # precision 1 and, from the second box on, 2 of 3
    assert split_of(boxes, found)['Bkg'] == pytest.approx(50 / 101 / 3)


@pytest.mark.parametrize('kind, label, x', [('Loc', 1, 112),
                                            ('Cls', 2, 100)])
def test_two_errors_of_one_box_are_made_one_right_detection(kind, label, x):
    """One of three boxes is found, and with it a second: 34 and 67 of 101
    recalls. The class of the wrong ones has one box, which is found, too."""
    boxes = [box(1, 1, 0), box(1, 1, 100), box(1, 1, 200), box(1, 2, 300)]
    split = split_of(boxes, [
        box(1, 1, 0, .9), box(1, 2, 300, .9), box(1, label, x, .8),
        box(1, label, x + 1, .7)])
    # the mean of two classes; behind the last of its boxes nothing costs
    assert split[kind] == pytest.approx(33 / 101 / 2)


def test_a_double_that_covers_a_half_is_one():
    """As what finds a box with a half is no wrong place."""
    boxes = [box(1, 1, 0), box(1, 1, 200)]
    found = [box(1, 1, 0, .9), dict(box(1, 1, 0, .8), bbox=[0, 0, 10, 20]),
             box(1, 1, 200, .7)]
    split = split_of(boxes, found)
    # the second of two boxes is the third of the detections
    assert split == pytest.approx(
        {**dict.fromkeys(split, 0), 'Dupe': 50 / 101 / 3})


@pytest.mark.parametrize('count', [1, 2, 3])
def test_an_image_where_nothing_is_found_has_missed_all(count):
    boxes = [box(1, 1, 0), *(box(2, 1, 100 * i) for i in range(count))]
    truth = dict(
        images=[dict(id=i, file_name='') for i in (1, 2, 3)],
        annotations=[dict(b, id=i + 1) for i, b in enumerate(boxes)],
        categories=[dict(id=1, name='a')])
    split = error_split(Evaluation(as_coco(truth), [box(1, 1, 0, .9)]))
    # of 101 recalls those up to one box of all
    reached = 100 // (1 + count) + 1
    assert split == pytest.approx(
        {**dict.fromkeys(split, 0), 'Miss': 1 - reached / 101})


def test_a_perfect_detector_has_no_errors():
    split = split_of([box(1, 1, 0), box(1, 2, 50)],
                     [box(1, 1, 0, .9), box(1, 2, 50, .3)])
    assert split == dict.fromkeys(split, 0)


def test_an_interval_leaves_out_what_is_unknown():
    values = np.array([np.nan, *np.linspace(0, 1, 41), np.nan])
    assert interval(values) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval(np.full(3, np.nan))).all()


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
    result, = Evaluation(truth, []).results(Path('images'))
    assert result.path == 'images/a.png'
    assert result.boxes.shape == (0, 4) and len(result.scores) == 0


# ------------------------------------------------------------------ the files
DETECTION = dict(image_id=7, category_id=1, bbox=[1, 2, 3, 4], score=0.5)


def test_a_truth_and_detections_are_read(tmp_path, capsys):
    truth = dict(images=[dict(id=7)], annotations=[],
                 categories=[dict(id=1, name='a')])
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    coco = read_truth(tmp_path / 'truth.json')
    assert list(coco.imgs) == [7] and capsys.readouterr().out == ''
    for found in ([], [DETECTION, dict(DETECTION, more=1)]):
        (tmp_path / 'found.json').write_text(json.dumps(found))
        assert read_detections(tmp_path / 'found.json', coco) == found


def test_a_truth_without_area_and_iscrowd(tmp_path):
    """The same AP as with them; pycocotools alone ends with KeyError."""
    truth = dict(images=[dict(id=7, file_name='a.png')],
                 annotations=[dict(id=1, image_id=7, category_id=1,
                                   bbox=[1, 2, 3, 4])],
                 categories=[dict(id=1, name='a')])
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    read = Evaluation(read_truth(tmp_path / 'truth.json'), [DETECTION])
    truth['annotations'][0].update(area=12, iscrowd=0)
    assert read.metrics()['AP'] == 1
    whole = Evaluation(as_coco(truth), [DETECTION]).metrics()
    np.testing.assert_equal(read.metrics(), whole)


@pytest.mark.parametrize('content, words', [
    ('{"images": [', 'JSONDecodeError'),
    ('[]', 'COCO json of annotations: AssertionError'),
    ('{"images": [{"id": 1}], "annotations": [], "categories": []}',
     'no images or no categories'),
    ('{"images": [], "annotations": [], "categories": [{"id": 1}]}',
     'no images or no categories'),
    ('{"images": [{}], "annotations": [], "categories": []}', 'KeyError'),
    (json.dumps(dict(images=[dict(id=7)], categories=[dict(id=2, name='a')],
                     annotations=[DETECTION | dict(id=5)])),
     'annotation 5 has no bbox of four numbers, or no such category'),
    (json.dumps(dict(images=[dict(id=7)], categories=[dict(id=1, name='a')],
                     annotations=[dict(id=5, image_id=7, category_id=1)])),
     'annotation 5 has no bbox'),
])
def test_what_is_no_truth_is_named(content, words, tmp_path):
    path = tmp_path / 'truth.json'
    with pytest.raises(FileNotFoundError, match='not found: .*truth.json'):
        read_truth(path)
    path.write_text(content)
    with pytest.raises(ValueError, match=f'truth.json is not.*{words}'):
        read_truth(path)


@pytest.mark.parametrize('content, words', [
    ('[', 'is not a json file: '),
    (dict(DETECTION), 'a list of objects with bbox, category_id, image_id, '),
    ([DETECTION, 3], 'a list of objects'),
    ([DETECTION, {k: v for k, v in DETECTION.items() if k != 'score'}],
     'a list of objects'),
    ([dict(DETECTION, image_id=99), dict(DETECTION, image_id=98)],
     'image_id 98, which the annotations do not have'),
    ([dict(DETECTION, category_id=2)], 'category_id 2, which the annotations'),
    ([dict(DETECTION, image_id=[7])], r'image_id \[7\], which the annotati'),
    ([dict(DETECTION, bbox=[1, 2, 3])], 'bbox must be four numbers'),
    ([dict(DETECTION, bbox=['1', 2, 3, 4])], 'bbox must be four numbers'),
    ([dict(DETECTION, score='0.5')], 'bbox must be four numbers and score o'),
])
def test_what_is_no_detections_is_named(content, words, tmp_path):
    truth = as_coco(dict(images=[dict(id=7)], annotations=[],
                         categories=[dict(id=1)]))
    path = tmp_path / 'found.json'
    path.write_text(
        content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=f'found.json.*{words}'):
        read_detections(path, truth)
