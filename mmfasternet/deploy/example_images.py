# SPDX-License-Identifier: Apache-2.0
"""Real images to compare, to calibrate and to measure with."""
import json
from pathlib import Path
from typing import List, Optional, Union

import numpy as np
from mmengine.config import Config
from sklearn.datasets import load_sample_images

from mmfasternet.datasets.from_config import leaf_datasets
from mmfasternet.datasets.images import images_in


def example_images(cfg: Config,
                   path: Optional[str] = None,
                   split: str = 'test') -> List[Union[str, np.ndarray]]:
    """Images to try a detector on.

    Args:
        cfg (Config): The config.
        path (str, optional): Image or folder to take them from. Defaults to
            None: those of a data set of the config or, if it is not there,
            the photos that scikit-learn ships.
        split (str): ``'train'``, ``'val'`` or ``'test'``, which data set.

    Returns:
        list: Paths or uint8 arrays ``(H, W, 3)``, BGR; at least one.

    Raises:
        FileNotFoundError: If there is no image at ``path``.
    """
    if path is not None:
        return images_in(path)
    loader = cfg.get(f'{split}_dataloader', {})
    dataset = next(leaf_datasets(loader.get('dataset')), {})
    root = Path(dataset.get('data_root') or '')
    annotations = root / (dataset.get('ann_file') or '')
    folder = root / dict(dataset.get('data_prefix') or {}).get('img', '')
    if annotations.is_file():
        listed = json.loads(annotations.read_text())['images']
        files = [folder / image['file_name'] for image in listed]
        found = [str(file) for file in files if file.is_file()]
        if found:
            return found
    return [photo[..., ::-1].copy() for photo in load_sample_images().images]
