# SPDX-License-Identifier: Apache-2.0
"""From what a network gives to detections."""
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.structures import InstanceData

import mmfasternet.models  # noqa: F401  makes mmdet and mmyolo importable

from .info import DeployInfo

from mmcv.ops import batched_nms  # isort: skip
from mmdet.models.utils import filter_scores_and_topk  # isort: skip

# of an image: what leads back to it from the network's input
Meta = Dict[str, Any]


def postprocess(
        info: DeployInfo,
        outs: Sequence[np.ndarray],
        metas: Optional[Sequence[Meta]] = None) -> List[InstanceData]:
    """Detections of a batch, as YOLOv8's head of mmyolo makes them.

    Args:
        info (DeployInfo): The thresholds, and whether NMS has been done.
        outs (Sequence[np.ndarray]): What a :class:`.Backend` returned.
        metas (Sequence[dict], optional): What leads back to each image, for
            as many as are wanted. Defaults to None: all, in pixels of the
            network's input.

    Returns:
        list[InstanceData]: ``bboxes (K, 4)`` as x1, y1, x2, y2 in pixels of
        the image, ``scores`` and ``labels``, ``(K, )``, the best first.
    """
    one = _unpack if info.nms else _suppress
    if metas is None:
        metas = [None] * len(outs[0])
    # a copy: what an engine returns may be memory that it uses again
    return [one(info, *(torch.tensor(out[i]) for out in outs), meta)
            for i, meta in enumerate(metas)]


def _suppress(info: DeployInfo, boxes: torch.Tensor, scores: torch.Tensor,
              meta: Optional[Meta]) -> InstanceData:
    labels = None
    if not info.multi_label:
        scores, labels = scores.max(1, keepdim=True)
    scores, columns, places, _ = filter_scores_and_topk(
        scores, info.score_thr, info.nms_pre)
    labels = columns if labels is None else labels[places, 0]
    boxes = _back(boxes[places], meta)
    if len(boxes):
        kept, index = batched_nms(
            boxes, scores, labels,
            dict(type='nms', iou_threshold=info.iou_threshold))
        index = index[:info.max_per_img]
        boxes, labels = boxes[index], labels[index]
        scores = kept[:info.max_per_img, -1]
    return InstanceData(
        bboxes=_clip(boxes, meta), scores=scores, labels=labels)


def _unpack(info: DeployInfo, number: torch.Tensor, boxes: torch.Tensor,
            scores: torch.Tensor, labels: torch.Tensor,
            meta: Optional[Meta]) -> InstanceData:
    boxes, scores, labels = (x[:int(number)] for x in (boxes, scores, labels))
    return InstanceData(
        bboxes=_clip(_back(boxes, meta), meta), scores=scores, labels=labels)


def _back(boxes: torch.Tensor, meta: Optional[Meta]) -> torch.Tensor:
    if meta is None:
        return boxes
    top, _, left, _ = meta['pad_param']
    boxes = boxes - boxes.new_tensor([left, top, left, top])
    return boxes / boxes.new_tensor(meta['scale_factor']).repeat(1, 2)


def _clip(boxes: torch.Tensor, meta: Optional[Meta]) -> torch.Tensor:
    if meta is not None:
        height, width = meta['ori_shape']
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
    return boxes
