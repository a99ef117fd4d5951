# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression, equal to mmcv's compiled one box by box."""
from typing import List, Tuple

import torch
from torch import Tensor

from . import torchvision_ops

# Boxes that are compared with all others at a time: memory against calls.
_BLOCK = 256
# Fewer boxes are not worth looking for groups that lie apart.
_GROUP = 1024


def nms(boxes: Tensor,
        scores: Tensor,
        iou_threshold: float,
        offset: int = 0) -> Tensor:
    """Which boxes overlap no kept box of a higher score.

    Equal scores come in the order that ``torch.sort`` gives them, which is
    what mmcv does.

    Args:
        boxes (Tensor): Boxes ``(x1, y1, x2, y2)`` in pixels, of shape (N, 4).
        scores (Tensor): Their scores, of shape (N, ).
        iou_threshold (float): A box is dropped if its intersection over union
            with a kept one is greater.
        offset (int): A box is ``x2 - x1 + offset`` wide, and high likewise.
            Defaults to 0.

    Returns:
        Tensor: The indices of the kept boxes, the highest score first.
    """
    order = scores.sort(descending=True).indices
    boxes = boxes[order].float()
    if torchvision_ops.OPS is not None and offset == 0:
        rank = torch.arange(len(order), 0, -1.)
        kept = torchvision_ops.OPS.nms(boxes, rank.to(boxes), iou_threshold)
        return order[kept]
    keep = torch.zeros_like(order, dtype=torch.bool)
    for group in _groups(boxes, iou_threshold, offset):
        keep[group[_greedy(boxes[group], iou_threshold, offset)]] = True
    return order[keep]


def _groups(boxes: Tensor, iou_threshold: float,
            offset: int) -> Tuple[Tensor, ...]:
    """Indices of boxes, in groups between which no two boxes overlap.

    The classes of ``batched_nms`` lie apart, so that 80 of them cost an
    eightieth. Each group keeps the order of the boxes.
    """
    number = len(boxes)
    if number <= _GROUP or iou_threshold < 0:
        return (torch.arange(number, device=boxes.device), )
    left, by_left = boxes[:, 0].sort()
    # the right end of all that begin further left
    right = boxes[by_left, 2].cummax(0).values
    apart = left[1:] > right[:-1] + 2 * offset
    starts = torch.arange(1, number, device=boxes.device) * apart
    # neighbours share a group until it is large enough
    group = torch.zeros(number, dtype=torch.long, device=boxes.device)
    group[1:] = starts.cummax(0).values // _GROUP
    sizes = group.unique_consecutive(return_counts=True)[1].tolist()
    return tuple(part.sort().values for part in by_left.split(sizes))


def _greedy(boxes: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept ones of boxes in descending order of scores."""
    kept: List[Tensor] = []
    left = torch.arange(len(boxes), device=boxes.device)
    while len(left):
        block, left = left[:_BLOCK], left[_BLOCK:]
        drops = _overlap(boxes[block], boxes[block], iou_threshold, offset)
        block = block[_survivors(drops.triu_(1))]
        kept.append(block)
        if len(left):
            dropped = _overlap(boxes[block], boxes[left], iou_threshold,
                               offset).any(0)
            left = left[~dropped]
    return torch.cat(kept) if kept else left


def _survivors(drops: Tensor) -> Tensor:
    """Who is dropped by no survivor, where ``drops[i, j]`` implies i < j.

    After n rounds the first n are right, and what a round does not change is
    right throughout; that is mostly after a few.
    """
    alive = torch.ones_like(drops[0])
    while True:
        after = ~(drops & alive[:, None]).any(0)
        if torch.equal(after, alive):
            return alive
        alive = after


def _overlap(first: Tensor, second: Tensor, iou_threshold: float,
             offset: int) -> Tensor:
    """Whether boxes overlap by more than the threshold, of shape (N, M)."""
    return _iou(first[:, None], second, offset) > iou_threshold


def _iou(first: Tensor, second: Tensor, offset: int) -> Tensor:
    """Intersection over union, with mmcv's order of operations."""
    width, height = (
        torch.minimum(first[..., side + 2], second[..., side + 2]).sub_(
            torch.maximum(first[..., side], second[..., side])).add_(
                offset).clamp_(min=0) for side in (0, 1))
    inter = width.mul_(height)
    areas = [(boxes[..., 2] - boxes[..., 0] + offset) *
             (boxes[..., 3] - boxes[..., 1] + offset)
             for boxes in (first, second)]
    return inter / (areas[0] + areas[1]).sub_(inter)


def soft_nms(boxes: Tensor,
             scores: Tensor,
             iou_threshold: float,
             sigma: float,
             min_score: float,
             method: int,
             offset: int = 0) -> Tuple[Tensor, Tensor]:
    """Lower the scores of boxes that overlap those of higher scores.

    Args:
        boxes (Tensor): Boxes ``(x1, y1, x2, y2)`` in pixels, of shape (N, 4).
        scores (Tensor): Their scores, of shape (N, ).
        iou_threshold (float): From this intersection over union on methods
            0 and 1 lower a score.
        sigma (float): Width of the Gaussian of method 2.
        min_score (float): A box whose score falls below is dropped.
        method (int): 0 lowers to zero, 1 by 1 - IoU, 2 by a Gaussian.
        offset (int): A box is ``x2 - x1 + offset`` wide. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor]: The kept boxes with their new scores, of shape
        (M, 5), and their indices.
    """
    boxes, scores = boxes.float(), scores.float().clone()
    kept: List[int] = []
    left = list(range(len(boxes)))
    while left:
        # the first of equal scores, whose place the first of all takes
        place = int(scores[left].argmax())
        left[0], left[place] = left[place], left[0]
        best, *left = left
        kept.append(best)
        iou = _iou(boxes[best], boxes[left], offset)
        scores[left] *= _weight(iou, iou_threshold, sigma, method)
        _drop(left, scores < min_score)
    detections = torch.cat([boxes[kept], scores[kept, None]], dim=1)
    return detections, torch.tensor(kept, dtype=torch.long)


def _weight(iou: Tensor, iou_threshold: float, sigma: float,
            method: int) -> Tensor:
    if method == 2:
        return torch.exp(-iou * iou / sigma)
    lowered = 1 - iou if method == 1 else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, lowered, 1.)


def _drop(left: List[int], low: Tensor) -> None:
    """Take out boxes as mmcv does: the last one takes the place."""
    place = 0
    while place < len(left):
        if low[left[place]]:
            left[place] = left[-1]
            left.pop()
        else:
            place += 1
