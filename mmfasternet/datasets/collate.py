# SPDX-License-Identifier: GPL-3.0-only
# GPL because it is made for mmyolo, which is GPL-3.0.
from typing import Any, Dict, List, Optional

import torch
from mmyolo.datasets import yolov5_collate as collate

from mmfasternet.models.detectors.distilled_yolo_detector import UNLABELLED
from mmfasternet.registry import FUNCTIONS


@FUNCTIONS.register_module()
def yolov5_collate(data_batch: List[Dict[str, Any]],
                   _scope_: Optional[str] = None) -> Dict[str, Any]:
    """mmyolo's, for configs that are inherited by ``mmfasternet::``.

    An image of :class:`.UnlabelledImages` gets one row of the label -1, for
    preprocessors of batches pass nothing but rows on. Only
    :class:`.DistilledYOLODetector` knows what to do with it.

    Args:
        data_batch (list[dict]): What the pipeline made of each image.
        _scope_ (str, optional): Which MMEngine sets in whatever is inherited
            by name, and passes on. Defaults to None.

    Returns:
        dict: ``inputs`` (N, 3, H, W) and ``data_samples`` with
        ``bboxes_labels`` (all boxes, 6) and ``img_metas``.
    """
    batch = collate(data_batch)
    rows = batch['data_samples']['bboxes_labels']
    marks = [
        rows.new_tensor([[number, UNLABELLED, 0, 0, 0, 0]])
        for number, data in enumerate(data_batch)
        if data['data_samples'].metainfo.get('unlabelled')
    ]
    if marks:
        batch['data_samples']['bboxes_labels'] = torch.cat([rows, *marks])
    return batch
