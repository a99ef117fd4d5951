# SPDX-License-Identifier: GPL-3.0-only
"""Comparisons: statistics against pycocotools, the tool as users run it."""
import copy
import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfasternet.analysis.comparison.runs import (
    parse_detector,
    prepare,
    with_model_of,
)
from mmfasternet.config import load_config
from mmfasternet.evaluation.average_precision import (
    METRICS,
    Evaluation,
    bootstrap,
)
from mmfasternet.evaluation.errors import error_split

STOCK = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'


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


def test_the_stock_network_stays_what_it_is():
    """mmyolo's own detector, and the one that is trained in its place."""
    init_default_scope('mmyolo')
    stock = load_config(STOCK)
    cfg = with_model_of(
        load_config('configs/yolov8_fasternet_n_bccd.py'), stock)
    stock.model.bbox_head.head_module.num_classes = 3
    stock.model.train_cfg.assigner.num_classes = 3
    torch.manual_seed(0)
    theirs, ours = (MODELS.build(c.model).eval() for c in (stock, cfg))
    assert type(ours) is not type(theirs)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 96)
    for a, b in zip(theirs(images), ours(images)):
        for x, y in zip(a, b):
            torch.testing.assert_close(x, y)
    assert cfg.train_cfg.max_epochs == 30


def test_what_stands_for_a_detector():
    assert parse_detector('A=x/b.py,model.n=2,arch=t0') == (
        'A', 'x/b.py', {'model.n': 2, 'arch': 't0'})
    assert parse_detector('x/b.py,m.n=2')[0] == 'b,m.n=2'
    with pytest.raises(ValueError, match='is not .NAME=.CONFIG'):
        parse_detector('A=x.py,nothing')


def test_one_name_for_two_and_other_settings_are_refused(tmp_path):
    n, s = (f'configs/yolov8_fasternet_{letter}.py' for letter in 'ns')
    with pytest.raises(ValueError, match=f'call one NAME={s}'):
        prepare([f'A={n}', f'A={s}'], None, [1], tmp_path, {})
    prepare([n], None, [1], tmp_path, {})
    prepare([n], None, [1], tmp_path, {})  # again, the same
    with pytest.raises(ValueError, match='of a training with other settings'):
        prepare([n], None, [1], tmp_path, dict(max_epochs=7))
    # what was there is what is there
    config = tmp_path / 'yolov8_fasternet_n' / 'seed_1.py'
    assert load_config(str(config)).train_cfg.max_epochs == 500


def run(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, 'tools/analysis_tools/compare.py',
         *map(str, arguments)],
        capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_result_files_are_compared_without_training(coco, tmp_path):
    ann_file = coco / 'annotations/val.json'
    truth = json.loads(ann_file.read_text())
    right = [dict(a, score=.9) for a in truth['annotations']]
    files = {}
    for name, detections in dict(
            all=right, most=right[1:], foreign=[dict(right[0], image_id=99)]
    ).items():
        files[name] = tmp_path / f'{name}.json'
        files[name].write_text(json.dumps(detections))
    options = ['--ann-file', ann_file, '--work-dir', tmp_path / 'report',
               '--samples', 50]
    run(f'All={files["all"]}', f'Most={files["most"]}', *options)
    report = (tmp_path / 'report/report.md').read_text()
    assert re.search(r'\| All \| 1 \| 1\.000 \|', report)
    lost, low, high = map(float, re.search(
        r'\| Most \| (-0\.\d+) \(([-+]\d\.\d+) to ([-+]\d\.\d+)\)',
        report).groups())
    assert low <= lost <= high and lost < 0
    page = (tmp_path / 'report/report.html').read_text()
    # one file: its pictures are in it, and nothing is fetched
    assert page.count('src="data:image/png') == report.count('.png)') >= 3
    assert not re.search(r'(src|href)="(?!data:)', page)

    done = run(files['foreign'], *options, check=False)
    assert done.returncode == 1 and 'image_id 99' in done.stderr
    assert 'Traceback' not in done.stderr
    done = run(files['all'], '--work-dir', tmp_path, check=False)
    assert done.returncode == 1 and '--ann-file' in done.stderr


@pytest.mark.slow
def test_configs_are_trained_and_compared(coco_options, tmp_path):
    """Stock YOLOv8 and ours, two seeds; the second time nothing is done."""
    options = [f'{k}={v}'.replace(' ', '') for k, v in coco_options.items()]
    arguments = [
        f'Stock={STOCK}', 'Ours=configs/yolov8_fasternet_n.py', '--recipe',
        'configs/yolov8_fasternet_n.py', '--seeds', 1, 2, '--work-dir',
        tmp_path, '--samples', 20, '--runs', 2, '--backends', 'onnxruntime',
        '--cfg-options', *options
    ]
    run(*arguments)
    report = (tmp_path / 'report.md').read_text()
    for name, parameters in (('Stock', '3.01'), ('Ours', '2.56')):
        assert re.search(rf'\| {name} \| {re.escape(parameters)} \|', report)
    for name in ('learning', 'pareto', 'pr_curves', 'confusion_2',
                 'disagreements'):
        assert (tmp_path / f'{name}.png').stat().st_size > 5000
    made = (tmp_path / 'Ours/seed_2/epoch_1.pth').stat().st_mtime_ns
    run(*arguments)
    assert (tmp_path / 'Ours/seed_2/epoch_1.pth').stat().st_mtime_ns == made
