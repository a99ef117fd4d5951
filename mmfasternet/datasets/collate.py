# SPDX-License-Identifier: GPL-3.0-only
# GPL because it is made for mmyolo, which is GPL-3.0.
from typing import Any, Dict, List, Optional

from mmyolo.datasets import yolov5_collate as collate

from mmfasternet.registry import FUNCTIONS


@FUNCTIONS.register_module()
def yolov5_collate(data_batch: List[Dict[str, Any]],
                   _scope_: Optional[str] = None) -> Dict[str, Any]:
    """mmyolo's, for configs that are inherited by ``mmfasternet::``.

    Args:
        data_batch (list[dict]): What the pipeline made of each image.
        _scope_ (str, optional): Which MMEngine sets in whatever is inherited
            by name, and passes on. Defaults to None.

    Returns:
        dict: ``inputs`` (N, 3, H, W) and ``data_samples`` with
        ``bboxes_labels`` (all boxes, 6) and ``img_metas``.
    """
    return collate(data_batch)
