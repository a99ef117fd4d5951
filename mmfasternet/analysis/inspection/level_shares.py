# SPDX-License-Identifier: Apache-2.0
"""Which level of a detector, by its stride, finds what."""
import inspect
import math
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor, nn

# of the longer side, in pixels of the network's input
SIDES = (0, 64, 128, 200)
IOU = 0.5


def has_levels(model: nn.Module) -> bool:
    """Whether :func:`detect_by_level` is for a model."""
    head = getattr(model, 'bbox_head', None)
    predict = getattr(head, 'predict_by_feat', None)
    return predict is not None and \
        'with_nms' in inspect.signature(predict).parameters


def detect_by_level(model: nn.Module,
                    inputs: Tensor) -> Tuple[InstanceData, List[int]]:
    """What a one-stage detector detects in one image ``(1, C, H, W)``, with
    the stride of its level.

    Returns:
        tuple[InstanceData, list[int]]: ``bboxes (N, 4)`` in pixels of the
        input, ``scores``, ``labels`` and ``strides (N,)``, the best first;
        and the strides of all levels.

    Raises:
        ValueError: If the head is another.
    """
    if not has_levels(model):
        raise ValueError(f'{type(model).__name__} has no head whose levels '
                         'could be told apart: this view is for one-stage '
                         'detectors, e.g. YOLO')
    size = tuple(inputs.shape[2:])
    meta = dict(img_shape=size, scale_factor=(1., 1.),
                ori_shape=(math.inf, math.inf))
    where, strides = {}, []
    with torch.no_grad():
        scores, *rest = model(inputs, mode='tensor')

        def predict(scores: Sequence[Tensor], nms: bool) -> InstanceData:
            found, = model.bbox_head.predict_by_feat(
                scores, *rest, batch_img_metas=[meta], rescale=False,
                with_nms=nms)
            return found

        found = predict(scores, True)
        for level, own in enumerate(scores):
            strides.append(round(size[0] / own.shape[2]))
            # the others score next to nothing
            part = predict([x if i == level else torch.full_like(x, -1e4)
                            for i, x in enumerate(scores)], False)
            where.update(
                dict.fromkeys(_keys(part[part.scores > 0]), strides[-1]))
    # NMS changes neither boxes nor scores
    found.strides = torch.tensor([where[key] for key in _keys(found)],
                                 device=found.labels.device).long()
    return found, strides


def _keys(found: InstanceData) -> List[tuple]:
    return [(label, score, *box) for label, score, box in zip(
        *(found[key].tolist() for key in ('labels', 'scores', 'bboxes')))]


def levels_of(found: InstanceData, boxes: Tensor, labels: Tensor) -> Tensor:
    """The stride of the best scored detection, as :func:`detect_by_level`
    gives them, of each object, 0 for none; ``boxes (M, 4)`` of the objects are
    in pixels of the input, ``labels`` are ``(M,)``."""
    if not len(found) or not len(boxes):
        return torch.zeros(len(boxes), dtype=torch.long)
    right = (bbox_overlaps(found.bboxes, boxes) > IOU) & (
        found.labels[:, None] == labels)
    best = (right * found.scores[:, None]).argmax(0)
    return found.strides[best] * right.any(0)


def share_table(sides: Tensor, found: Tensor,
                strides: Sequence[int]) -> List[Dict[str, Any]]:
    """Rows of a table: by the longer side of boxes ``(N,)``, in pixels of the
    input, how many there are, how many were found, and of those the share of
    each stride; ``found`` is the stride that found each, or 0 ``(N,)``."""
    rows = []
    for smallest, end in zip(SIDES, (*SIDES[1:], math.inf)):
        own = found[(sides >= smallest) & (sides < end)]
        total = int((own > 0).sum())
        rows.append({
            'longer side, pixels':
            f'{smallest} {"and more" if end == math.inf else f"to {end}"}',
            'boxes': len(own),
            'found': total,
            **{f'stride {stride}':
               f'{int((own == stride).sum()) / total:.2f}' if total else '-'
               for stride in strides}
        })
    return rows
