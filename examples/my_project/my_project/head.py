# SPDX-License-Identifier: GPL-3.0-only
import mmfasternet.models  # noqa: F401  # isort: skip  # before mmyolo
from mmyolo.models import YOLOv8Head

from my_project import MODELS


@MODELS.register_module()
class CautiousHead(YOLOv8Head):
    """YOLOv8's head, trained with a larger loss of the boxes.

    Args:
        box_gain (float): Factor of the box loss. Defaults to 2.
    """

    def __init__(self, *args, box_gain: float = 2., **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.loss_bbox.loss_weight *= box_gain
