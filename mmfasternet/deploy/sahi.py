# SPDX-License-Identifier: Apache-2.0
"""A Predictor in SAHI, where MMDetection's inferencer would be."""
from types import SimpleNamespace
from typing import Any, Dict, List, Sequence

import numpy as np

from .predictor import Predictor
from .result_files import as_dict


class SahiModel:
    """What SAHI's wrapper of MMDetection takes as its ``model``.

    The wrapper builds models by itself as well, but only with a test pipeline
    that has MMDetection's ``Resize``.

    Example:
        >>> from sahi import AutoDetectionModel  # doctest: +SKIP
        >>> model = AutoDetectionModel.from_pretrained(
        ...     'mmdet', model=SahiModel(Predictor('detector.onnx')))
    """

    # where the wrapper looks whether there are masks
    cfg = dict(train_dataloader=dict(dataset=dict(type='', pipeline=[])))

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.model = SimpleNamespace(
            dataset_meta=dict(classes=predictor.classes))

    def __call__(self, images: Sequence[np.ndarray]
                 ) -> Dict[str, List[Dict[str, Any]]]:
        """Detections of images, uint8 ``(H, W, 3)``, BGR."""
        return dict(predictions=[
            as_dict(sample, self.predictor.classes)
            for sample in self.predictor(list(images))
        ])
