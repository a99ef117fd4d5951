# SPDX-License-Identifier: Apache-2.0
"""What average precision is lost to."""
from typing import Dict, List, Tuple

import numpy as np
from pycocotools import mask as coco_mask

from .average_precision import Cell, Evaluation, average, mean

# TIDE's kinds of errors, in its order (Bolya et al., ECCV 2020)
ERRORS = ('Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss')


def error_split(evaluation: Evaluation, foreground: float = .5,
                background: float = .1) -> Dict[str, float]:
    """What each kind of error costs in AP50, as TIDE defines them.

    A wrong detection has a class error (its place is right), a location
    error (its class is right, its IoU below ``foreground``), both, is a
    duplicate, or is of nothing (IoU at most ``background``). What is missed
    is a true box to which no detection of the other kinds belongs. The cost
    is the AP50 that fixing all errors of the kind, and only those, gains.

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
        kind: _ap50(_fixed(found, kind), totals) - base
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


def _fixed(rows: List[dict], kind: str) -> List[dict]:
    """The rows with the errors of a kind made right, or taken away.

    Of several that are fixed to one box the best scored counts.
    """
    fixed, taken = [], set()
    for row in rows:
        if row['kind'] == kind:
            box = (row['image'], row['box'])
            if row['box'] is None or box in taken:
                continue
            taken.add(box)
            row = dict(row, kind=None, label=row['true_label'])
        fixed.append(row)
    return fixed


def _ap50(rows: List[dict], totals: Dict[int, int]) -> float:
    """Mean over classes of the AP of rows, which come by falling score."""
    averages = []
    for label, total in totals.items():
        true = np.array([[row['kind'] is None] for row in rows
                         if row['label'] == label], bool).reshape(-1, 1)
        cell = Cell(
            np.zeros(len(true), int), true.T, ~true.T, np.array([total]))
        averages.append(average(cell, np.ones(1, int))[0][0])
    return mean(np.array(averages))
