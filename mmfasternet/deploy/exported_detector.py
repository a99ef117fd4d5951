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


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """An exported file as a model that MMEngine's runner can test.

    Args:
        file (str): What :func:`.exporting.export` wrote.
        backend, precision, threads, device: See :func:`.load_backend`.
    """

    def __init__(self,
                 file: str,
                 backend: Optional[str] = None,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu') -> None:
        # images stay uint8, as the test pipeline leaves them
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        modified = os.path.isfile(file) and os.stat(file).st_mtime_ns
        self.backend = _open(file, modified, backend, precision, threads,
                             device)

    def forward(self,
                inputs: Sequence[torch.Tensor],
                data_samples: Sequence['DetDataSample'],
                mode: str = 'predict') -> List['DetDataSample']:
        """Detect in a batch of the test data loader.

        Args:
            inputs (Sequence[Tensor]): uint8 ``(3, H, W)`` each, prepared.
            data_samples (Sequence[DetDataSample]): One per image, which get
                ``pred_instances``.
            mode (str): ``'predict'`` alone.
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
                    detect(self.backend, batch, metas[part])[0]):
                sample.pred_instances = result
        return list(data_samples)


def use_exported(cfg: Config,
                 file: Union[str, Path],
                 backend: Optional[str] = None,
                 precision: str = 'fp32') -> None:
    """Let an exported file stand in the place of the model of a config.

    Args:
        cfg (Config): The config, changed in place.
        file (str | Path): The file.
        backend, precision: See :func:`.load_backend`.

    Raises:
        CheckpointError: If the file detects other classes.
    """
    options = dict(file=str(file), backend=backend, precision=precision)
    exported = ExportedDetector(**options).backend.info.classes
    classes = tuple(cfg.get('metainfo', {}).get('classes', ()))
    if classes not in ((), exported):
        raise CheckpointError(
            f'{file} detects {", ".join(exported)}, but the config has '
            f'{", ".join(classes)}: give the config that it was exported with')
    cfg.model = dict(type='mmfasternet.ExportedDetector', **options)
    cfg.custom_hooks = []  # they are for training; EMAHook copies the model
