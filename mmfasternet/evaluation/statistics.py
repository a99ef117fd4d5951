# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision, its uncertainty, and what it is lost to."""
import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = ('AP', 'AP50', 'AP75', 'AP_s', 'AP_m', 'AP_l', 'AR')
# TIDE's kinds of errors, in its order (Bolya et al., ECCV 2020)
ERRORS = ('Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss')
IOUS = np.linspace(.5, .95, 10)  # COCO's
RECALLS = np.linspace(0, 1, 101)
_AREAS = ('all', 'small', 'medium', 'large')


@dataclass
class _Cell:
    """What decides the AP of one class in one range of areas.

    Args:
        image (ndarray): Of each detection ``(D,)``, by falling score.
        true (ndarray): Whether it is right at each IoU ``(10, D)``.
        false (ndarray): Whether it is wrong ``(10, D)``.
        truth (ndarray): Boxes to find in each image ``(N,)``.
    """

    image: np.ndarray
    true: np.ndarray
    false: np.ndarray
    truth: np.ndarray


class Evaluation:
    """A set of detections against the truth, by pycocotools.

    What pycocotools matched is kept by image, so that the metrics of any
    sample of the images follow without matching again.

    Args:
        truth (COCO): The annotations.
        detections (list[dict]): COCO's results: ``image_id``, ``category_id``,
            ``bbox`` (x, y, width, height in pixels) and ``score``.
    """

    def __init__(self, truth: COCO, detections: List[dict]) -> None:
        self.truth = truth
        self.detections = detections
        with redirect_stdout(io.StringIO()):
            found = truth.loadRes(detections) if detections else COCO()
            evaluation = COCOeval(truth, found, 'bbox')
            evaluation.evaluate()
        params = evaluation.params
        self.classes: List[str] = [
            truth.cats[i]['name'] for i in params.catIds
        ]
        self.image_ids: List[int] = list(params.imgIds)
        images = len(self.image_ids)
        shape = (len(params.catIds), len(params.areaRng), images)
        cells = np.array(
            evaluation.evalImgs + [None], dtype=object)[:-1].reshape(shape)
        self._cells = [[_cell(row) for row in rows] for rows in cells]

    def by_image(self) -> Dict[int, Tuple[List[dict], List[dict]]]:
        """Detections and annotations of each image, by its id."""
        found = {
            i: ([], [self.truth.anns[j]
                     for j in self.truth.getAnnIds(imgIds=i)])
            for i in self.image_ids
        }
        for detection in self.detections:
            found[detection['image_id']][0].append(detection)
        return found

    def metrics(self, weights: Optional[np.ndarray] = None
                ) -> Dict[str, float]:
        """COCO's metrics, and the AP of each class.

        Args:
            weights (ndarray, optional): How often each image counts ``(N,)``,
                in the order of ``image_ids``. Defaults to once.

        Returns:
            dict[str, float]: ``METRICS`` and ``AP of CLASS``, from 0 to 1;
            NaN where there is nothing to find.
        """
        if weights is None:
            weights = np.ones(len(self.image_ids), int)
        precision = np.full((len(self.classes), len(_AREAS), len(IOUS)),
                            np.nan)
        recall = precision.copy()
        for k, row in enumerate(self._cells):
            for a, cell in enumerate(row):
                precision[k, a], recall[k, a] = _average(cell, weights)
        overall = precision[:, 0]
        values = [
            _mean(overall),
            _mean(overall[:, 0]),
            _mean(overall[:, 5]),
            *(_mean(precision[:, a]) for a in (1, 2, 3)),
            _mean(recall[:, 0])
        ]
        return {
            **dict(zip(METRICS, values)),
            **{f'AP of {name}': _mean(overall[k])
               for k, name in enumerate(self.classes)}
        }


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float('nan')


def _cell(per_image: Sequence[Optional[dict]]) -> _Cell:
    scores, images, matched, ignored = [], [], [], []
    truth = np.zeros(len(per_image), int)
    for i, entry in enumerate(per_image):
        if entry is None:
            continue
        truth[i] = np.sum(np.array(entry['gtIgnore']) == 0)
        scores.append(entry['dtScores'])
        images.append(np.full(len(entry['dtScores']), i))
        matched.append(entry['dtMatches'])
        ignored.append(entry['dtIgnore'])
    if not scores:
        empty = np.zeros((len(IOUS), 0), bool)
        return _Cell(np.zeros(0, int), empty, empty, truth)
    # as pycocotools sorts, so that equal scores come in its order
    order = np.argsort(-np.concatenate(scores), kind='mergesort')
    counts = ~np.concatenate(ignored, axis=1).astype(bool)[:, order]
    right = np.concatenate(matched, axis=1)[:, order] > 0
    return _Cell(
        np.concatenate(images).astype(int)[order], right & counts,
        ~right & counts, truth)


def _average(cell: _Cell, weights: np.ndarray) -> Tuple:
    """Average precision and largest recall at each IoU, NaN without truth."""
    total = int(weights @ cell.truth)
    if not total:
        return np.nan, np.nan
    weight = weights[cell.image]
    true = np.cumsum(weight * cell.true, axis=1)
    false = np.cumsum(weight * cell.false, axis=1)
    recall = true / total
    precision = true / np.maximum(true + false, np.spacing(1))
    # the best precision at this recall or a larger one
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    averages = []
    for r, p in zip(recall, precision):
        at = np.searchsorted(r, RECALLS, side='left')
        averages.append(np.append(p, 0)[np.minimum(at, len(p))].mean())
    largest = recall[:, -1] if recall.shape[1] else np.zeros(len(IOUS))
    return np.array(averages), largest


def bootstrap(evaluations: Sequence[Sequence[Evaluation]],
              samples: int = 1000,
              seed: int = 0) -> List[Dict[str, np.ndarray]]:
    """Metrics over samples of the images, the same samples for all.

    Args:
        evaluations (Sequence[Sequence[Evaluation]]): Of each detector those
            of its seeds, whose metrics are averaged. All have the same
            images.
        samples (int): How many; each draws as many images as there are, with
            replacement.
        seed (int): Of the draws.

    Returns:
        list[dict[str, ndarray]]: Of each detector the metrics ``(samples,)``.
        The difference of two is that of a paired bootstrap.
    """
    count = len(evaluations[0][0].image_ids)
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=samples)
    results = []
    for runs in evaluations:
        rows = [[run.metrics(weights) for run in runs] for weights in draws]
        results.append({
            name: np.array([np.mean([r[name] for r in row]) for row in rows])
            for name in rows[0][0]
        })
    return results


def interval(values: np.ndarray) -> Tuple[float, float]:
    """The 2.5th and 97.5th percentile, without the samples that have none."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def error_split(evaluation: Evaluation, foreground: float = .5,
                background: float = .1) -> Dict[str, float]:
    """What each kind of error costs in AP50, as TIDE defines them.

    A wrong detection has a class error (its place is right), a location
    error (its class is right, its IoU below ``foreground``), both, is a
    duplicate, or is background (IoU at most ``background``). What is missed
    is a true box to which no detection of the other kinds belongs. The cost
    is the AP50 that mending all errors of the kind, and only those, gains.

    Args:
        evaluation (Evaluation): The detections.
        foreground (float): Least IoU of what is found.
        background (float): IoU up to which a detection is of nothing.

    Returns:
        dict[str, float]: Gain in AP50 by kind, of ``ERRORS``.
    """
    totals = dict.fromkeys(evaluation.truth.getCatIds(), 0)
    found, missed = [], []
    for image_id, (detections, boxes) in evaluation.by_image().items():
        for box in boxes:
            totals[box['category_id']] += not box.get('iscrowd', 0)
        detections = sorted(detections, key=lambda d: -d['score'])[:100]
        rows, left = _judge(detections, boxes, foreground, background)
        found += [dict(row, image=image_id) for row in rows]
        missed += left
    found.sort(key=lambda row: -row['score'])
    base = _ap50(found, totals)
    costs = {
        kind: _ap50(_mended(found, kind), totals) - base
        for kind in ERRORS[:5]
    }
    fewer = {k: n - missed.count(k) for k, n in totals.items()}
    return {**costs, 'Miss': _ap50(found, fewer) - base}


def _judge(detections: List[dict], boxes: List[dict], foreground: float,
           background: float) -> Tuple[List[dict], List[int]]:
    """What each detection of an image is, and the classes of missed boxes."""
    crowd = np.array([bool(box.get('iscrowd', 0)) for box in boxes], bool)
    labels = np.array([box['category_id'] for box in boxes], int)
    overlaps = np.zeros((len(detections), len(boxes)))
    if detections and boxes:
        overlaps[:] = coco_mask.iou([d['bbox'] for d in detections],
                                    [b['bbox'] for b in boxes],
                                    crowd.astype(np.uint8))
    used = np.zeros(len(boxes), bool)
    rows = []
    for overlap, detection in zip(overlaps, detections):
        label = detection['category_id']
        row = dict(label=label, score=detection['score'], kind=None, box=None)
        free = np.where((labels == label) & ~crowd & ~used, overlap, -1)
        if (free >= foreground).any():
            used[free.argmax()] = True
        elif (overlap[crowd & (labels == label)] >= foreground).any():
            continue  # nothing has to match a crowd
        else:
            row['kind'] = 'unknown'
        rows.append(row | dict(overlap=overlap))
    touched = used.copy()
    for row in rows:
        overlap = row.pop('overlap')
        if row['kind'] is None:
            continue
        same = np.where((labels == row['label']) & ~crowd, overlap, 0)
        other = np.where((labels != row['label']) & ~crowd, overlap, 0)
        best, best_other = (x.max(initial=0) for x in (same, other))
        if background <= best < foreground:
            row['kind'], box = 'Loc', same.argmax()
        elif best_other >= foreground:
            row['kind'], box = 'Cls', other.argmax()
        else:
            row['kind'] = 'Dupe' if best >= foreground else 'Bkg' if max(
                best, best_other) <= background else 'Both'
            continue
        touched[box] = True
        if not used[box]:
            row['box'], row['true_label'] = int(box), int(labels[box])
    return rows, labels[~touched & ~crowd].tolist()


def _mended(rows: List[dict], kind: str) -> List[dict]:
    """The rows with the errors of a kind made right, or taken away.

    Of several that are mended to one box the best scored counts.
    """
    mended, taken = [], set()
    for row in rows:
        if row['kind'] == kind:
            box = (row['image'], row['box'])
            if row['box'] is None or box in taken:
                continue
            taken.add(box)
            row = dict(row, kind=None, label=row['true_label'])
        mended.append(row)
    return mended


def _ap50(rows: List[dict], totals: Dict[int, int]) -> float:
    """Mean over classes of the AP of rows, which come by falling score."""
    averages = []
    for label, total in totals.items():
        true = np.array([[row['kind'] is None] for row in rows
                         if row['label'] == label], bool).reshape(-1, 1)
        cell = _Cell(
            np.zeros(len(true), int), true.T, ~true.T, np.array([total]))
        averages.append(np.atleast_1d(_average(cell, np.ones(1, int))[0])[0])
    return _mean(np.array(averages))
