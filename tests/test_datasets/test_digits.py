# SPDX-License-Identifier: GPL-3.0-only
import hashlib
import json

import cv2
import numpy as np
import pytest
from conftest import on_ranks

from mmfasternet.datasets import digits
from mmfasternet.datasets.digits import SPLITS, write_digits


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'digits'
    write_digits(str(root))
    return root


def annotations(root, split):
    return json.loads((root / f'annotations/{split}.json').read_text())


@pytest.mark.parametrize('split', SPLITS)
def test_coco_json_is_consistent(root, split):
    coco = annotations(root, split)
    assert len(coco['images']) == SPLITS[split] == dict(
        train=1000, val=200)[split]
    ids = {image['id']: image for image in coco['images']}
    assert [c['name'] for c in coco['categories']] == list('0123456789')
    for image in coco['images']:
        pixels = cv2.imread(str(root / split / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3)
    for annotation in coco['annotations']:
        image = ids[annotation['image_id']]
        x, y, w, h = annotation['bbox']
        assert min(x, y) >= 0 and min(w, h) > 0
        assert x + w <= image['width'] and y + h <= image['height']
        assert annotation['area'] == w * h


@pytest.mark.parametrize('split', SPLITS)
def test_every_size_and_class_occurs(root, split):
    rows = annotations(root, split)['annotations']
    areas = np.array([row['area'] for row in rows])
    # COCO's limits of small, medium and large
    counts, _ = np.histogram(areas, [0, 32**2, 96**2, np.inf])
    assert counts.min() >= 50
    per_class = np.bincount([row['category_id'] for row in rows], minlength=11)
    assert per_class[0] == 0 and per_class[1:].min() >= 40


def test_no_scan_is_in_both_splits():
    scans = digits._split_scans()
    train, val = ({s.tobytes()
                   for s in scans[split][0]} for split in ('train', 'val'))
    assert len(train) + len(val) == 1797 and not train & val


def test_ink_reaches_the_four_sides_of_each_box(root):
    """What differs from the colour around a box ends where the box does."""
    coco = annotations(root, 'val')
    images = {
        image['id']: cv2.imread(str(root / 'val' / image['file_name']))
        for image in coco['images']
    }
    errors = []
    for annotation in coco['annotations']:
        x, y, w, h = annotation['bbox']
        if annotation['area'] < 32**2:
            continue
        left, top = max(x - 5, 0), max(y - 5, 0)
        window = images[annotation['image_id']].astype(int)[
            top:y + h + 5, left:x + w + 5]
        around = np.ones(window.shape[:2], bool)
        around[y - top:y - top + h, x - left:x - left + w] = False
        ink = abs(window - np.median(window[around], 0)).sum(2) > 90
        rows, columns = np.nonzero(ink)
        if len(rows):
            errors.append([
                left + columns.min() - x, top + rows.min() - y,
                left + columns.max() + 1 - x - w, top + rows.max() + 1 - y - h
            ])
    assert len(errors) > 250
    # other digits and clouds disturb some; shifted by half, it is 5 and 5
    assert np.median(np.abs(errors), 0).max() <= 1.5


@pytest.fixture
def few(monkeypatch):
    """40 images instead of 1,200."""
    monkeypatch.setattr(digits, 'SPLITS', dict(train=30, val=10))


def digest(folder):
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob('*.*'))
    }


def test_it_is_deterministic_and_written_once(few, tmp_path):
    one, other = tmp_path / 'a/digits', tmp_path / 'b/digits'
    write_digits(str(one))
    write_digits(str(other))
    assert digest(other) == digest(one) and len(digest(one)) == 42
    written = (other / 'annotations/val.json').stat().st_mtime_ns
    write_digits(str(other))
    assert (other / 'annotations/val.json').stat().st_mtime_ns == written
    assert [p.name for p in other.parent.iterdir()] == ['digits']


def test_it_is_the_set_of_which_the_documents_have_numbers(few, tmp_path):
    """Measured when those were: what differs is another data set."""
    write_digits(str(tmp_path / 'digits'))
    for split, boxes, sides, grey in (
            ('train', 118, [9613, 8396, 3425, 5410], 129.775),
            ('val', 36, [2861, 2519, 1203, 1807], 145.565)):
        found = annotations(tmp_path / 'digits', split)['annotations']
        assert len(found) == boxes
        assert np.sum([box['bbox'] for box in found], 0).tolist() == sides
        assert np.mean([cv2.imread(str(path)) for path in (
            tmp_path / 'digits' / split).iterdir()]) == pytest.approx(
                grey, abs=5e-3)


def write_and_read(rank, ranks, root):
    write_digits(str(root))
    return digest(root)


def test_processes_that_write_at_once_end_with_one_set(few, tmp_path):
    found = on_ranks(2, write_and_read, tmp_path / 'ranks', tmp_path / 'set')
    write_digits(str(tmp_path / 'alone'))
    assert found == 2 * [digest(tmp_path / 'alone')]
    assert {p.name for p in tmp_path.iterdir()} == {'ranks', 'set', 'alone'}


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(ValueError, match='exists but has no annotations'):
        write_digits(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']
