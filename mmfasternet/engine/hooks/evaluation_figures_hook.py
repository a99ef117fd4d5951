# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmfasternet.compat.mmengine_runner import is_training
from mmfasternet.evaluation.detection_quality import (
    ImageResult,
    confusion_matrix,
    image_score,
    precision_curves,
)
from mmfasternet.registry import HOOKS
from mmfasternet.visualization.evaluation import (
    IOU,
    plot_confusion,
    plot_images,
    plot_precision,
)


@HOOKS.register_module()
class EvaluationFiguresHook(Hook):
    """Draw the last validation of a training run when it ends.

    Into the work directory: ``pr_curves.png`` (precision over recall of each
    class at IoU 0.5), ``confusion_matrix.png``, and ``best_images.png`` and
    ``worst_images.png`` (truth and prediction side by side; ranked by F1 at
    IoU 0.5, equal ones by the mean IoU of what was found). The predictions
    are those that were validated, of all processes; the truth is the data
    set's, in pixels of the image file. Does nothing for models that predict
    no boxes.

    Args:
        score_thr (float): Least score of a prediction in the confusion
            matrix, in the F1 and in the pictures; the curves use all.
            Defaults to 0.3.
        num_images (int): How many of the best and of the worst images are
            shown. Defaults to 4.
    """

    def __init__(self, score_thr: float = 0.3, num_images: int = 4) -> None:
        self.score_thr = score_thr
        self.num_images = num_images
        self._predictions: List[Tuple[object, np.ndarray, np.ndarray,
                                      np.ndarray]] = []

    def before_val_epoch(self, runner: Runner) -> None:
        self._predictions = []

    def after_val_iter(self, runner: Runner, batch_idx: int,
                       data_batch: Optional[dict] = None,
                       outputs: Optional[Sequence] = None) -> None:
        # which validation is the last is not known before it (early stop)
        if not is_training(runner):
            return
        for sample in outputs:
            found = sample.get('pred_instances')
            if found is not None and 'bboxes' in found:
                boxes = getattr(found.bboxes, 'tensor', found.bboxes)
                self._predictions.append(
                    (sample.img_id,
                     *(x.cpu().numpy()
                       for x in (boxes, found.labels, found.scores))))

    def after_train(self, runner: Runner) -> None:
        if runner.val_loop is None:
            return
        dataset = runner.val_dataloader.dataset
        predictions = collect_results(self._predictions, len(dataset))
        if not is_main_process() or not predictions:
            return
        truth = {
            info['img_id']: info
            for info in map(dataset.get_data_info, range(len(dataset)))
        }
        results = [
            _with_truth(truth[image], *found) for image, *found in predictions
        ]
        folder = Path(runner.work_dir)
        for name, figure in self._figures(results,
                                          dataset.metainfo['classes']):
            figure.savefig(folder / f'{name}.png')
        runner.logger.info(
            'Figures of the last validation: ' +
            f'{folder}/{{pr_curves,confusion_matrix,best_images,'
            'worst_images}.png')

    def _figures(self, results: List[ImageResult], classes: Sequence[str]):
        # matplotlib reads text between two dollar signs as a formula
        names = [name.replace('$', r'\$') for name in classes]
        curves = precision_curves(results, len(names))
        yield 'pr_curves', plot_precision(curves, names)
        matrix = confusion_matrix(results, len(names), self.score_thr, IOU)
        yield 'confusion_matrix', plot_confusion(
            matrix, names, f'IoU {IOU}, score at least {self.score_thr}')
        results.sort(
            key=lambda r: image_score(r, self.score_thr, IOU), reverse=True)
        for name, shown in (('best_images', results[:self.num_images]),
                            ('worst_images',
                             results[::-1][:self.num_images])):
            yield name, plot_images(shown, names, self.score_thr)


def _with_truth(info: dict, boxes: np.ndarray, labels: np.ndarray,
                scores: np.ndarray) -> ImageResult:
    """Add the annotations of a data set to the predictions of an image."""
    instances = info.get('instances', [])
    return ImageResult(
        path=info['img_path'],
        boxes=boxes,
        labels=labels,
        scores=scores,
        true_boxes=np.array([i['bbox'] for i in instances],
                            float).reshape(-1, 4),
        true_labels=np.array([i['bbox_label'] for i in instances], int),
        ignored=np.array([i.get('ignore_flag', 0) for i in instances], bool))
