# SPDX-License-Identifier: GPL-3.0-only
# GPL because it builds mmyolo's detectors, and mmyolo is GPL-3.0.
"""Loading deployed detectors, to run on any engine."""
from pathlib import Path
from typing import List, Optional, Union

import numpy as np
import torch
from mmengine.config import Config

from mmfasternet.checkpoint import (
    get_checkpoint,
    load_model_weights,
    noted_meta,
)
from mmfasternet.config import build_model

from .deployed_detector import DeployedDetector, decode_maps
from .detector_folding import deploy_form
from .engines import ENGINES, KEY, Network, engine_of
from .info import DeployInfo
from .onnx_model import STRIDE


class Backend:
    """A deployed detector: prepared images in, boxes and scores out.

    Attributes:
        network (Network): What runs.
        info (DeployInfo): About it.
    """

    def __init__(self, network: Network, info: DeployInfo) -> None:
        self.network, self.info = network, info

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """Run the network.

        Args:
            images (np.ndarray): uint8, ``(N, 3, H, W)``, BGR, resized and
                padded.

        Returns:
            list[np.ndarray]: Boxes ``(N, A, 4)`` as x1, y1, x2, y2 in pixels
            of ``images`` and scores ``(N, A, num_classes)``; or, if the
            network ends with NMS, the number of detections ``(N, 1)`` and,
            sorted by score, boxes ``(N, max_per_img, 4)``, scores and labels
            ``(N, max_per_img)``.

        Raises:
            ValueError: If the network takes another number or size of images,
                or theirs is no multiple of 32.
        """
        got = (images.shape[0], *images.shape[2:])
        for size, fixed, name in zip(got, self.info.shape,
                                     ('batch size', 'height', 'width')):
            if fixed not in (None, size):
                raise ValueError(
                    f'{self.network.name} was exported for the {name} '
                    f'{fixed}, got {size}: give images of that size, or '
                    'export with --dynamic')
        if any(side % STRIDE for side in got[1:]):
            raise ValueError(  # ncnn reads past the end of its memory
                f'{self.network.name} takes a height and width in multiples '
                f'of {STRIDE}, got {got[1]} {got[2]}: pad the images')
        outs = self.network(images)
        if outs[0].ndim == 4:  # of an engine that does not decode
            outs = decode_maps(outs, images.shape[2])
        return outs


def load_backend(path: Union[str, Path],
                 backend: Optional[str] = None,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu') -> Backend:
    """Load an exported file.

    Args:
        path (str | Path): What :func:`.exporting.export` wrote.
        backend (str, optional): The name of an engine. Defaults to None, by
            the name of the file.
        precision, threads, device: See :meth:`.Engine.open`.

    Raises:
        FileNotFoundError, ImportError, ValueError: See there.
        CheckpointError: If the file is damaged, or not an exported detector.
    """
    engine = ENGINES[backend] if backend else engine_of(path)
    network = engine.open(path, precision, threads, device)
    return Backend(network, DeployInfo.loads(network.text, path))


def load_deployed(cfg: Config,
                  checkpoint: str,
                  device: Union[str, torch.device] = 'cpu'
                  ) -> DeployedDetector:
    """The deploy form of a trained detector.

    Args:
        cfg (Config): The config of the detector.
        checkpoint (str): Its checkpoint, or a checkpoint of the deploy form.
        device (str | torch.device): Where to put it. Defaults to ``'cpu'``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is not of this detector.
    """
    info = DeployInfo.from_config(cfg)
    model = build_model(cfg)
    data = get_checkpoint(checkpoint)
    if KEY in noted_meta(data):
        model = deploy_form(model)
    load_model_weights(model, checkpoint, info.classes, data)
    if not isinstance(model, DeployedDetector):
        model = deploy_form(model)
    return model.to(device)
