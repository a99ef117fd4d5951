# SPDX-License-Identifier: Apache-2.0
"""Exported files in the place of a model that MMEngine tests."""
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Union

import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel

from mmfasternet.checkpoint import CheckpointError
from mmfasternet.registry import MODELS

from .loading import Backend, load_backend
from .predictor import detect

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample


# so that what use_exported has opened to look into is there for the runner
@lru_cache(maxsize=1)
def _open(file: str, modified: int, *options: Any) -> Backend:
    return load_backend(file, *options)


def _modified(file: str) -> int:
    return os.stat(file).st_mtime_ns if os.path.isfile(file) else 0


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """An exported file as a model that MMEngine's runner can test.

    Args:
        file (str): ``.onnx``, or ``.xml`` of OpenVINO.
        backend (str, optional): See :class:`Predictor`.
        precision (str): See :class:`Predictor`. Defaults to ``'fp32'``.
        threads (int, optional): See :class:`Predictor`.
        device (str): See :class:`Predictor`. Defaults to ``'cpu'``.
    """

    def __init__(self,
                 file: str,
                 backend: Optional[str] = None,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu') -> None:
        # images stay uint8, as the test pipeline leaves them
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.backend = _open(file, _modified(file), backend, precision,
                             threads, device)

    def forward(self,
                inputs: Sequence[torch.Tensor],
                data_samples: Sequence['DetDataSample'],
                mode: str = 'predict') -> List['DetDataSample']:
        """Detect in a batch of the test data loader.

        Args:
            inputs (Sequence[Tensor]): uint8 ``(3, H, W)`` each, prepared.
            data_samples (Sequence[DetDataSample]): One per image.
            mode (str): ``'predict'`` alone.

        Returns:
            list[DetDataSample]: The same with ``pred_instances``.
        """
        if mode != 'predict':
            raise ValueError(f'an exported detector can only predict, not '
                             f'{mode}')
        metas = [
            dict(dict(pad_param=(0, 0, 0, 0)), **sample.metainfo)
            for sample in data_samples
        ]
        alike = len({image.shape for image in inputs}) == 1
        size = len(inputs) if alike else 1
        for first in range(0, len(inputs), size):
            part = slice(first, first + size)
            batch = torch.stack(list(inputs[part])).cpu().numpy()
            for sample, result in zip(
                    data_samples[part],
                    detect(self.backend, batch, metas[part])):
                sample.pred_instances = result
        return list(data_samples)


def use_exported(cfg: Config,
                 file: Union[str, Path],
                 backend: Optional[str] = None,
                 precision: str = 'fp32') -> None:
    """Let an exported file stand in the place of the model of a config.

    Args:
        cfg (Config): The config, changed in place.
        file (str | Path): See :class:`ExportedDetector`.
        backend (str, optional): See :class:`Predictor`.
        precision (str): See :class:`Predictor`. Defaults to ``'fp32'``.

    Raises:
        CheckpointError: If the file detects other classes.
    """
    model = dict(
        type='mmfasternet.ExportedDetector',
        file=str(file),
        backend=backend,
        precision=precision)
    exported = ExportedDetector(
        str(file), backend, precision).backend.info.classes
    classes = tuple(cfg.get('metainfo', {}).get('classes', ()))
    if classes not in ((), exported):
        raise CheckpointError(
            f'{file} detects {", ".join(exported)}, but the config has '
            f'{", ".join(classes)}: give the config that it was exported with')
    cfg.model = model
    cfg.custom_hooks = []  # they are for training; EMAHook copies the model
