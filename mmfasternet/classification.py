# SPDX-License-Identifier: Apache-2.0
"""FasterNet as the classifier that was published, on mmpretrain.

Configs name this module in ``custom_imports``; nothing else imports it,
because mmpretrain takes seconds to load.
"""
from typing import List

import numpy as np
from torch import Tensor

from mmfasternet.checkpoint import secure_mmengine
from mmfasternet.compat import import_mmpretrain
from mmfasternet.registry import DATASETS, MODELS

import_mmpretrain()
# for programs of others that train by our configs
secure_mmengine()

from mmpretrain.datasets import BaseDataset  # noqa: E402
from mmpretrain.models import ClsHead  # noqa: E402


@MODELS.register_module()
class LogitsHead(ClsHead):
    """Loss and prediction for a backbone that returns logits itself.

    So ``FasterNet(num_classes=...)``, whose classifier has the published
    names and layers, is the only definition of it.

    Args:
        **kwargs: See :class:`mmpretrain.models.ClsHead`.
    """

    def pre_logits(self, feats: Tensor) -> Tensor:
        """The logits ``(N, num_classes)``, as they came."""
        return feats


@DATASETS.register_module()
class DigitsClassification(BaseDataset):
    """The 1,797 handwritten digits that scikit-learn ships, 8x8 pixels each.

    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI,
    1998. Nothing is downloaded or written. The split is that of
    :class:`mmfasternet.datasets.DigitsDataset`, 1,438 and 359 scans.

    Args:
        split (str): ``'train'`` or ``'val'``.
        **kwargs: See :class:`mmpretrain.datasets.BaseDataset`.

    Raises:
        ValueError: If there is no such split.
    """

    METAINFO = dict(classes=tuple('0123456789'))

    def __init__(self, split: str, **kwargs) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}")
        self.split = split
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> List[dict]:
        """One dict per scan: ``img`` (8, 8, 3) uint8 and ``gt_label``."""
        # beside a class of mmyolo's, which only this data set needs then
        from mmfasternet.datasets.digits import _split_scans
        scans, labels = _split_scans()[self.split]
        grey = np.round(scans * (255 / 16)).astype(np.uint8)  # of 16 levels
        images = np.repeat(grey[..., None], 3, axis=-1)
        return [
            dict(
                img=image,
                img_shape=image.shape[:2],
                ori_shape=image.shape[:2],
                gt_label=int(label)) for image, label in zip(images, labels)
        ]
