# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""mmyolo's detectors for a backbone of any widths."""
from typing import List, Optional, Sequence, Union

import torch
from mmdet.utils import ConfigType
from mmengine.device import is_cuda_available
from mmyolo.models.dense_heads import RTMDetInsSepBNHead, YOLOv8Head
from mmyolo.models.detectors import YOLODetector
from torch import Tensor

from mmfasternet.registry import MODELS

from .level_fitting import fit_levels


@MODELS.register_module()
class AnyBackboneYOLODetector(YOLODetector):
    """Any detector of MMYOLO with any backbone.

    Another backbone, or another size of one, is a change of its config alone.
    Where ``neck.in_channels`` is absent or None it is taken from the
    backbone. Where it stands in an inherited config and the backbone gives
    other widths, 1x1 convolutions bring them to those
    (:class:`.ProjectedNeck`), so that neck and head stay as they are. Levels,
    widths and strides are compared before anything is built.

    Args:
        backbone (dict): Config of any backbone of any scope.
        neck (dict): Config of a neck of mmyolo's or of ours.
        bbox_head (dict): Config of any head of mmyolo's.
        use_syncbn (bool): Convert BN to SyncBN in distributed training.
            PyTorch has it for CUDA only; without, BN stays. Defaults to True.
        channels_last (bool, optional): Keep the weights, and so the feature
            maps, in that memory format. It changes the speed, and the results
            by rounding only. Defaults to None: where there is no CUDA device,
            as it was measured to be faster on CPU.
        **kwargs: See :class:`mmdet.models.SingleStageDetector`.

    Raises:
        ValueError: If backbone, neck and head do not fit together, naming
            the level and the config key.
    """

    def __init__(self,
                 backbone: ConfigType,
                 neck: ConfigType,
                 bbox_head: ConfigType,
                 use_syncbn: bool = True,
                 channels_last: Optional[bool] = None,
                 **kwargs) -> None:
        super().__init__(
            backbone=backbone,
            neck=fit_levels(backbone, neck, bbox_head['head_module'],
                            kwargs.get('train_cfg')),
            bbox_head=bbox_head,
            use_syncbn=use_syncbn and is_cuda_available(),
            **kwargs)
        if channels_last is None:
            channels_last = not is_cuda_available()
        if channels_last:
            # a convolution gives its output the format of its weights
            self.to(memory_format=torch.channels_last)

    def loss(self, batch_inputs: Tensor,
             batch_data_samples: Union[list, dict]) -> Union[dict, list]:
        """Losses of a batch; under AMP the boxes are decoded in float32.

        A distance is a mean of bins up to 15, of which bfloat16 keeps steps
        of 1/16: two pixels at stride 32.

        Args:
            batch_inputs (Tensor): Images ``(N, 3, H, W)``.
            batch_data_samples (list | dict): As the data preprocessor gives.

        Returns:
            dict: Losses by name.
        """
        head = self.bbox_head
        if isinstance(head, RTMDetInsSepBNHead):
            raise NotImplementedError(
                'mmyolo cannot train RTMDet-Ins, it only predicts with it. '
                'The configs in configs/rtmdet train it, on MMDetection')
        if not (type(head) is YOLOv8Head
                and isinstance(batch_data_samples, dict)):
            return super().loss(batch_inputs, batch_data_samples)
        return self.loss_by_outs(
            head(self.extract_feat(batch_inputs)),
            batch_data_samples['bboxes_labels'],
            batch_data_samples['img_metas'])

    def loss_by_outs(self, outs: Sequence, bboxes_labels: Tensor,
                     img_metas: List[dict]) -> dict:
        """Losses of what the head of YOLOv8 gives for a batch.

        Args:
            outs (Sequence): Class scores, box distances and, if there are
                any, box distributions, each of all levels.
            bboxes_labels (Tensor): ``(boxes, 6)``: number of the image,
                label, x1, y1, x2, y2.
            img_metas (list[dict]): One of each image.

        Returns:
            dict: Losses by name.
        """
        head, device = self.bbox_head, bboxes_labels.device.type
        if head.head_module.reg_max == 1 or not torch.is_autocast_enabled(
                device):
            return head.loss_by_feat(*outs, bboxes_labels, img_metas)
        scores, boxes, bins = outs
        with torch.autocast(device, enabled=False):
            scores, bins = ([x.float() for x in xs] for xs in (scores, bins))
            # bins: (N, H * W, 4, reg_max)
            boxes = [(b.softmax(3) @ head.head_module.proj).transpose(
                1, 2).reshape_as(old) for b, old in zip(bins, boxes)]
            return head.loss_by_feat(scores, boxes, bins, bboxes_labels,
                                     img_metas)
