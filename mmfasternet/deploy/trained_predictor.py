# SPDX-License-Identifier: GPL-3.0-only
"""Detectors as they were trained, of any architecture."""
import time
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device

from mmfasternet.checkpoint import load_model_weights, noted_classes
from mmfasternet.config import (
    build_model,
    class_names,
    image_pipeline,
    load_config,
)

from .engines.pytorch import usable_device
from .predictor import Image, Predictor, as_array

# after mmfasternet.models
from mmdet.evaluation import get_classes  # isort: skip
from mmdet.structures import DetDataSample  # isort: skip


class TrainedPredictor(Predictor):
    """:class:`Predictor` of a detector that need not have a deploy form.

    Images are prepared by the config's test pipeline, the model is built from
    the config and used as it is: masks, other heads and other frameworks of
    OpenMMLab included.

    Args:
        checkpoint (str): The weights; a file or URL.
        config (str | Config): The config.
        device (str, optional): Where to run. Defaults to None, the best
            there is.
        score_thr (float, optional): See :class:`Predictor`.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: See
            :class:`Predictor`.
    """

    def __init__(self,
                 checkpoint: str,
                 config: Union[str, Config],
                 device: Optional[str] = None,
                 score_thr: Optional[float] = None) -> None:
        cfg = config if isinstance(config, Config) else load_config(config)
        missing = [key for key in ('model', 'test_dataloader')
                   if key not in cfg]
        if missing:
            raise ValueError(f'{cfg.filename} is not the config of a '
                             f'detector: it has no {" and no ".join(missing)}')
        device = usable_device(device or get_device())
        model = build_model(cfg)
        classes = (cfg.get('metainfo') or {}).get('classes') or ()
        data = load_model_weights(model, checkpoint, classes)
        model.to(device)
        model.eval()  # which returns None for some
        self.model, self.score_thr = model, score_thr
        self.classes = tuple(
            classes or noted_classes(data) or class_names(cfg, 'test')
            or get_classes('coco'))
        self.pipeline = image_pipeline(cfg)

    def prepare(self, image: Image) -> Tuple[torch.Tensor, DetDataSample]:
        """An image through the test pipeline."""
        image, path = as_array(image)
        packed = self.pipeline(np.ascontiguousarray(image), path)
        return packed['inputs'], packed['data_samples']

    @torch.inference_mode()
    def detect(self, inputs: Sequence[Any],
               metas: Sequence[Any]) -> Tuple[List[DetDataSample], float]:
        """Detections of one batch; the whole model counts as its network."""
        begin = time.perf_counter()
        samples = self.model.test_step(
            dict(inputs=list(inputs), data_samples=list(metas)))
        return [s.cpu() for s in samples], time.perf_counter() - begin
