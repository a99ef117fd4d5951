# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""mmyolo's task-aligned assigner, without the pairs that cannot match."""
from typing import Dict

import torch
from mmyolo.models.losses import bbox_overlaps
from mmyolo.models.task_modules.assigners import BatchTaskAlignedAssigner
from torch import Tensor

from mmfasternet.registry import TASK_UTILS


@TASK_UTILS.register_module()
class SparseTaskAlignedAssigner(BatchTaskAlignedAssigner):
    """``BatchTaskAlignedAssigner`` in a fraction of its time and memory.

    A prior is a candidate for an object only inside its box. mmyolo computes
    IoU and alignment of every prior with every box, and a one-hot vector over
    all priors for every candidate; here they are computed for the pairs that
    count, which are a few per cent of them. The formulas are mmyolo's; scores
    may differ in the last bit, as PyTorch rounds powers and arc tangents by
    the position in a tensor.

    Args:
        **kwargs: See :class:`mmyolo.models.BatchTaskAlignedAssigner`.
    """

    @torch.no_grad()
    def forward(self, pred_bboxes: Tensor, pred_scores: Tensor, priors: Tensor,
                gt_labels: Tensor, gt_bboxes: Tensor,
                pad_bbox_flag: Tensor) -> Dict[str, Tensor]:
        """Assign an object or the background to each prior.

        Args:
            pred_bboxes (Tensor): ``(N, priors, 4)``, x1, y1, x2, y2 in pixels.
            pred_scores (Tensor): ``(N, priors, num_classes)``, 0 to 1.
            priors (Tensor): ``(priors, 2 or more)``; x and y come first.
            gt_labels (Tensor): ``(N, objects, 1)``.
            gt_bboxes (Tensor): ``(N, objects, 4)``.
            pad_bbox_flag (Tensor): ``(N, objects, 1)``, 0 where an image has
                fewer objects than the one with the most.

        Returns:
            dict: ``assigned_labels`` ``(N, priors)``, ``assigned_bboxes``
            ``(N, priors, 4)``, ``assigned_scores`` ``(N, priors,
            num_classes)`` and the mask ``fg_mask_pre_prior`` ``(N, priors)``.
        """
        if gt_bboxes.size(1) == 0 or not self.use_ciou:
            return super().forward(pred_bboxes, pred_scores, priors, gt_labels,
                                   gt_bboxes, pad_bbox_flag)
        shape = *gt_bboxes.shape[:2], len(priors)
        labels = gt_labels.long().squeeze(-1)

        def metrics(image, gt, prior):
            """Alignment and overlap of pairs, given by their indices."""
            overlaps = bbox_overlaps(
                pred_bboxes[image, prior],
                gt_bboxes[image, gt],
                iou_mode='ciou',
                bbox_format='xyxy').clamp(0)
            scores = pred_scores[image, prior, labels[image, gt]]
            return (scores.pow(self.alpha) * overlaps.pow(self.beta), overlaps)

        # the best candidates of each object
        inside = self._inside(priors, gt_bboxes)
        pairs = inside.nonzero(as_tuple=True)
        alignment = pred_bboxes.new_zeros(shape)
        alignment[pairs] = metrics(*pairs)[0]
        topk = alignment.topk(self.topk).indices
        chosen = inside.gather(2, topk) & pad_bbox_flag.bool()
        image, gt, rank = chosen.nonzero(as_tuple=True)
        prior = topk[image, gt, rank]

        # a prior that several objects chose goes to the one it overlaps most,
        # be it one of these or not
        count = torch.zeros_like(pred_scores[..., 0])
        count.index_put_((image, prior), count.new_ones(()), accumulate=True)
        assigned_gt = torch.zeros_like(count, dtype=torch.long)
        assigned_gt[image, prior] = gt
        image, prior = (count > 1).nonzero(as_tuple=True)
        if len(image):
            everyone = torch.arange(shape[1], device=image.device)
            _, overlaps = metrics(image[:, None], everyone, prior[:, None])
            assigned_gt[image, prior] = overlaps.argmax(dim=1)

        foreground = count.clamp(max=1)
        result = dict(
            zip(('assigned_labels', 'assigned_bboxes', 'assigned_scores'),
                self.get_targets(gt_labels, gt_bboxes, assigned_gt, foreground,
                                 *shape[:2])))

        # scores: the alignment, scaled so that the best prior of an object
        # gets the largest overlap of its priors
        image, prior = foreground.nonzero(as_tuple=True)
        gt = assigned_gt[image, prior]
        alignment, overlaps = metrics(image, gt, prior)
        row = image * shape[1] + gt
        best_alignment, best_overlap = (
            alignment.new_zeros(shape[0] * shape[1]).scatter_reduce(
                0, row, values, 'amax') for values in (alignment, overlaps))
        norm = torch.zeros_like(foreground)
        norm[image, prior] = alignment * best_overlap[row] / (
            best_alignment[row] + self.eps)
        result['assigned_scores'] = (
            result['assigned_scores'] * norm.unsqueeze(-1))
        result['fg_mask_pre_prior'] = foreground.bool()
        return result

    @staticmethod
    def _inside(priors: Tensor, boxes: Tensor, eps: float = 1e-9) -> Tensor:
        """Which priors lie in which boxes, ``(N, objects, priors)``."""
        x, y = priors[:, 0], priors[:, 1]
        x1, y1, x2, y2 = boxes.unsqueeze(2).unbind(-1)
        return ((x - x1 > eps) & (x2 - x > eps) & (y - y1 > eps) &
                (y2 - y > eps))
