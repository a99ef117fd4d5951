# SPDX-License-Identifier: Apache-2.0
"""Predictions against truth: matches, confusion matrix, precision, recall."""
import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@dataclass
class ImageResult:
    """Predictions and truth of one image, in its own pixels."""

    path: str  #: The image file.
    boxes: np.ndarray  #: Predicted ``(N, 4)``, as x1, y1, x2, y2.
    labels: np.ndarray  #: Of the predictions ``(N,)``, from 0.
    scores: np.ndarray  #: Of the predictions ``(N,)``.
    true_boxes: np.ndarray  #: ``(M, 4)``.
    true_labels: np.ndarray  #: ``(M,)``.
    #: Whether a true box is a crowd or the like, which nothing has to match
    #: ``(M,)``.
    ignored: np.ndarray


@dataclass
class Match:
    """Which prediction found which true box."""

    pairs: np.ndarray  #: Indices ``(P, 2)``: prediction, true box.
    overlaps: np.ndarray  #: IoU of the pairs ``(P,)``.
    missed: np.ndarray  #: Indices of the true boxes that nothing found.
    false: np.ndarray  #: Indices of the predictions that found nothing.


def match(result: ImageResult, score: float, iou: float) -> Match:
    """Pair predictions and true boxes, each at most once.

    Pairs of the same class come first, then those of different classes, the
    larger overlap first. A prediction that lies in an ignored box counts
    neither as right nor as wrong.

    Args:
        result (ImageResult): The image.
        score (float): Least score of a prediction that counts.
        iou (float): Least overlap of a pair.

    Returns:
        Match: The pairs and what is left over.
    """
    found = np.flatnonzero(result.scores >= score)
    overlaps = _overlaps(result.boxes[found], result.true_boxes,
                         result.ignored)
    same = result.labels[found][:, None] == result.true_labels
    candidates = np.argwhere((overlaps >= iou) & ~result.ignored)
    index = tuple(candidates.T)
    pairs, values, used, taken = [], [], set(), set()
    for i, j in candidates[np.lexsort((overlaps[index], same[index]))[::-1]]:
        if i not in used and j not in taken:
            used.add(i)
            taken.add(j)
            pairs.append((found[i], j))
            values.append(overlaps[i, j])
    excused = (overlaps[:, result.ignored] >= iou).any(axis=1)
    false = [found[i] for i in range(len(found))
             if i not in used and not excused[i]]
    missed = [j for j in np.flatnonzero(~result.ignored) if j not in taken]
    return Match(
        np.array(pairs, int).reshape(-1, 2), np.array(values),
        np.array(missed, int), np.array(false, int))


def _overlaps(boxes: np.ndarray, true_boxes: np.ndarray,
              ignored: np.ndarray) -> np.ndarray:
    """IoU ``(N, M)``; with an ignored box, the share of the box in it."""
    if not len(boxes) or not len(true_boxes):
        return np.zeros((len(boxes), len(true_boxes)))
    return coco_mask.iou(
        _xywh(boxes), _xywh(true_boxes), ignored.astype(np.uint8))


def _xywh(boxes: np.ndarray) -> np.ndarray:
    boxes = boxes.astype(float)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def confusion_matrix(results: Sequence[ImageResult], num_classes: int,
                     score: float, iou: float) -> np.ndarray:
    """Count the pairs of :func:`match` by class.

    Args:
        results (Sequence[ImageResult]): The images.
        num_classes (int): The number of classes.
        score, iou (float): See :func:`match`.

    Returns:
        ndarray: ``(num_classes + 1, num_classes + 1)``, by true class and
        predicted class. The last column counts missed boxes, the last row
        predictions of nothing.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    for result in results:
        matched = match(result, score, iou)
        found, true = matched.pairs.T
        # unlike +=, this counts a pair of classes that comes twice
        np.add.at(matrix, (result.true_labels[true], result.labels[found]), 1)
        np.add.at(matrix, (result.true_labels[matched.missed], num_classes), 1)
        np.add.at(matrix, (num_classes, result.labels[matched.false]), 1)
    return matrix


def image_score(result: ImageResult, score: float,
                iou: float) -> Tuple[float, float]:
    """F1 of an image, and the mean IoU of what was found, to break ties.

    Args:
        result, score, iou: See :func:`match`.

    Returns:
        tuple[float, float]: F1, which is 1 where there is nothing and nothing
        is predicted, and the mean IoU of the pairs of the same class, or 0.
    """
    matched = match(result, score, iou)
    found, true = matched.pairs.T
    right = result.labels[found] == result.true_labels[true]
    total = 2 * len(found) + len(matched.missed) + len(matched.false)
    f1 = 2 * right.sum() / total if total else 1.
    overlap = matched.overlaps[right].mean() if any(right) else 0.
    return float(f1), float(overlap)


def precision_curves(results: Sequence[ImageResult],
                     num_classes: int) -> np.ndarray:
    """Precision over recall at IoU 0.5, as pycocotools computes it.

    Args:
        results, num_classes: See :func:`confusion_matrix`.

    Returns:
        ndarray: ``(101, num_classes)``, at recall 0, 0.01 and so on to 1,
        of at most 100 predictions per image. The mean over recall is the
        AP50. It is -1 for a class of which there is no true box.
    """
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _as_coco([(r.true_boxes, r.true_labels, r.ignored,
                       np.ones(len(r.true_boxes))) for r in results],
                     num_classes),
            _as_coco([(r.boxes, r.labels, np.zeros(len(r.boxes)), r.scores)
                      for r in results], num_classes), 'bbox')
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval['precision'][0, :, :, 0, 0]


def _as_coco(images: Sequence[Tuple[np.ndarray, ...]],
             num_classes: int) -> COCO:
    """Boxes, labels, whether they are ignored, and scores of each image."""
    annotations: List[dict] = []
    for image, (boxes, *columns) in enumerate(images):
        for box, label, ignored, score in zip(_xywh(boxes), *columns):
            annotations.append(dict(
                id=len(annotations) + 1, image_id=image,
                category_id=int(label), bbox=box.tolist(),
                area=0,  # of any area it counts
                iscrowd=int(ignored), score=float(score)))
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=image) for image in range(len(images))],
        categories=[dict(id=label) for label in range(num_classes)],
        annotations=annotations)
    coco.createIndex()
    return coco
