# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision of any sample of the images, and bootstraps."""
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmfasternet.datasets.readers.coco_writing import box_of, completed

from .detection_quality import ImageResult

METRICS = ('AP', 'AP50', 'AP75', 'AP_s', 'AP_m', 'AP_l', 'AR')
IOUS = np.linspace(.5, .95, 10)  # COCO's
RECALLS = np.linspace(0, 1, 101)


def read_truth(path: Path) -> COCO:
    """The annotations of a COCO json.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'annotations not found: {path}')
    try:
        with redirect_stdout(io.StringIO()):
            truth = COCO(str(path))
        for box in truth.anns.values():
            box.update(completed(box))  # pycocotools reads them
        broken = [i for i, box in truth.anns.items() if 'area' not in box
                  or box['category_id'] not in truth.cats]
        if truth.imgs and truth.cats and not broken:
            return truth
        wrong = f'annotation {broken[0]} has no bbox of four numbers, or no ' \
            'such category' if broken else 'it has no images or no categories'
    except (AssertionError, AttributeError, LookupError, TypeError,
            ValueError) as error:
        wrong = f'{type(error).__name__}: {error}'
    raise ValueError(f'{path} is not a COCO json of annotations: {wrong}')


def read_detections(path: Path, truth: COCO) -> List[dict]:
    """A json of COCO's results, on images of a truth.

    Raises:
        ValueError: If it is not one, or has other images or categories.
    """
    keys = {'image_id', 'category_id', 'bbox', 'score'}
    try:
        found = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not a json file: {error}') from None
    if not isinstance(found, list) or not all(
            isinstance(d, dict) and keys <= d.keys() for d in found):
        raise ValueError(f'{path} is not a json of detections: it must be a '
                         f'list of objects with {", ".join(sorted(keys))}')
    for d in found:
        if box_of(d) is None or not isinstance(d['score'], (int, float)):
            raise ValueError(f'{path}: bbox must be four numbers and score '
                             f'one, got {str(d)[:80]}')
    for key, known in (('image_id', truth.imgs), ('category_id', truth.cats)):
        unknown = [d[key] for d in found
                   if isinstance(d[key], list) or d[key] not in known]
        if unknown:
            raise ValueError(
                f'{path} has detections for {key} {min(unknown, key=str)}, '
                'which the annotations do not have')
    return found


@dataclass
class Cell:
    """What decides the AP of one class in one range of areas."""

    image: np.ndarray  #: Of each detection ``(D,)``, by falling score.
    true: np.ndarray  #: Whether it is right at each IoU ``(10, D)``.
    false: np.ndarray  #: Whether it is wrong ``(10, D)``.
    truth: np.ndarray  #: Boxes to find in each image ``(N,)``.


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
        self.classes = [truth.cats[i]['name'] for i in params.catIds]
        self.image_ids: List[int] = list(params.imgIds)
        shape = (len(params.catIds), len(params.areaRng), len(self.image_ids))
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

    def results(self, folder: Optional[Path] = None) -> List[ImageResult]:
        """The same in pixels, in the order of ``image_ids``.

        Args:
            folder (Path, optional): Of the image files.
        """
        label = {id_: i for i, id_ in enumerate(self.truth.getCatIds())}
        results = []
        for image_id, (detections, boxes) in self.by_image().items():
            name = self.truth.imgs[image_id]['file_name']
            labels, true_labels = (
                np.array([label[item['category_id']] for item in items], int)
                for items in (detections, boxes))
            ignored = np.array([b.get('iscrowd', 0) for b in boxes], bool)
            results.append(ImageResult(
                str(folder / name) if folder else name, _xyxy(detections),
                labels, np.array([d['score'] for d in detections]),
                _xyxy(boxes), true_labels, ignored))
        return results

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
        # (class, range of areas, precision or recall, IoU)
        both = np.array([[average(cell, weights) for cell in row]
                         for row in self._cells])
        precision, recall = both[:, :, 0], both[:, :, 1]
        overall = precision[:, 0]
        values = [mean(overall), mean(overall[:, 0]), mean(overall[:, 5]),
                  *(mean(precision[:, a]) for a in (1, 2, 3)),
                  mean(recall[:, 0])]
        return {
            **dict(zip(METRICS, values)),
            **{f'AP of {name}': mean(overall[k])
               for k, name in enumerate(self.classes)}
        }


def _xyxy(items: List[dict]) -> np.ndarray:
    boxes = np.array([item['bbox'] for item in items], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def mean(values: np.ndarray) -> float:
    """Of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float('nan')


def _cell(per_image: Sequence[Optional[dict]]) -> Cell:
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
        return Cell(np.zeros(0, int), empty, empty, truth)
    # as pycocotools sorts, so that equal scores come in its order
    order = np.argsort(-np.concatenate(scores), kind='mergesort')
    counts = ~np.concatenate(ignored, axis=1).astype(bool)[:, order]
    right = np.concatenate(matched, axis=1)[:, order] > 0
    return Cell(
        np.concatenate(images).astype(int)[order], right & counts,
        ~right & counts, truth)


def average(cell: Cell, weights: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Average precision and largest recall at each IoU, NaN without truth.

    Args:
        cell (Cell): With ``T`` IoU thresholds in the place of COCO's ten.
        weights (ndarray): How often each image counts ``(N,)``.

    Returns:
        tuple[ndarray, ndarray]: Both ``(T,)``.
    """
    total = int(weights @ cell.truth)
    if not total:
        unknown = np.full(len(cell.true), np.nan)
        return unknown, unknown
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
    largest = recall[:, -1] if recall.shape[1] else np.zeros(len(recall))
    return np.array(averages), largest


def bootstrap(evaluations: Sequence[Sequence[Evaluation]],
              samples: int = 1000,
              seed: int = 0) -> List[Dict[str, np.ndarray]]:
    """Metrics over samples of the images, the same samples for all.

    Args:
        evaluations (Sequence[Sequence[Evaluation]]): Of each detector those
            of its seeds, whose metrics are averaged; all of the same images.
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
    if np.isnan(values).all():
        return np.nan, np.nan
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
