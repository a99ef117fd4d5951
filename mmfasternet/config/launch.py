# SPDX-License-Identifier: Apache-2.0
"""What a config needs between reading it and building its runner."""
import copy
import os.path as osp
from contextlib import contextmanager
from typing import Callable, Iterator, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmfasternet.compat import import_mmpretrain
from mmfasternet.datasets.from_config import leaf_classes, leaf_datasets


def prepare_launch(cfg: Config, launcher: str) -> None:
    """Set the launcher; without a GPU also start the processes' group.

    MMEngine's own start selects a CUDA device, but it leaves a group that is
    there already as it is.

    Args:
        cfg (Config): The config, changed in place.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        ValueError: If several processes without a GPU are started by anything
            but PyTorch's launcher.
    """
    cfg.launcher = launcher
    if launcher == 'none' or torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise ValueError(f'--launcher {launcher} needs a CUDA device, and '
                         'there is none; on CPU use tools/dist_train.sh')
    torch.distributed.init_process_group('gloo')
    if cfg.get('strategy', {}).get('type') == 'FSDPStrategy':
        cfg.merge_from_dict({'strategy.model_wrapper.device_id': 'cpu'})
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            device_ids=None))  # or MMEngine names a CUDA device


def use_split(cfg: Config, split: str) -> None:
    """Let ``runner.test()`` evaluate another split.

    Args:
        cfg (Config): The config, changed in place.
        split (str): ``'val'`` for what ``val_dataloader`` has, or ``'test'``
            for the annotation file that the knob ``test_ann_file`` names,
            with ``test_data_prefix`` or, without it, the images of ``val``.

    Raises:
        ValueError: If the config names no test split.
    """
    ann_file = cfg.get('test_ann_file')
    if split == 'test' and not ann_file:
        raise ValueError(
            f'--split test: {cfg.filename} names no test split. tools/'
            'prepare.py writes test_ann_file and test_data_prefix where the '
            'data has one; or give them by --cfg-options')
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)
    if split == 'val':
        return
    dataset, *others = leaf_datasets(cfg.test_dataloader.dataset)
    if others:
        raise ValueError('--split test: val_dataloader joins several data '
                         'sets; name theirs by test_dataloader instead')
    root = dataset.get('data_root') or ''
    dataset.ann_file = ann_file
    if cfg.get('test_data_prefix') is not None:
        dataset.data_prefix = dict(img=cfg.test_data_prefix)
    evaluators = cfg.test_evaluator
    for evaluator in (evaluators if isinstance(evaluators, list) else
                      [evaluators]):
        if 'ann_file' in evaluator:
            evaluator.ann_file = osp.join(root, ann_file)


def use_scope(cfg: Config) -> None:
    """Make the scope of a config the one of names without any.

    Args:
        cfg (Config): Without a ``default_scope`` it is mmyolo's.

    Raises:
        ImportError: If it is mmpretrain's, and that is not installed.
    """
    scope = cfg.get('default_scope') or 'mmyolo'
    if scope == 'mmpretrain':
        import_mmpretrain()
    init_default_scope(scope)


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, in the scope of that config.

    Of one that is distilled it is the student alone.

    Args:
        cfg (Config): With a ``model``.

    Raises:
        ImportError: See :func:`use_scope`.
        ValueError: If there is no ``model``, or it cannot be built.
    """
    use_scope(cfg)
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(f'{cfg.filename} has no `model`: it is not a '
                         'complete config')
    model = cfg.model.copy()
    model.pop('teacher', None)  # which only training needs
    try:
        return MODELS.build(model)
    except (ArithmeticError, AssertionError, AttributeError, LookupError,
            RuntimeError, TypeError) as error:
        # str() of a KeyError is in quotes
        text = error.args[0] if type(error) is KeyError else error
        raise ValueError(f'the model of {cfg.filename} cannot be built: '
                         f'{text}') from error


def class_names(cfg: Config, phase: str) -> Optional[Tuple[str, ...]]:
    """The class names of the first data set of a phase, as it is built.

    Args:
        cfg (Config): A config.
        phase (str): ``'train'``, ``'val'`` or ``'test'``.

    Returns:
        tuple[str] | None: None where neither config nor class names them.
    """
    loader = cfg.get(f'{phase}_dataloader') or {}
    leaf = next(leaf_datasets(loader.get('dataset')), None)
    if leaf is None:
        return None
    names = leaf_classes(leaf, cfg.get('default_scope'))
    return names and tuple(names)


@contextmanager
def clear_resize(size: Sequence[int], path: Optional[str]) -> Iterator[None]:
    """Say which image OpenCV cannot resize, and why.

    Args:
        size (Sequence[int]): Its height and width.
        path (str, optional): Where it is from.

    Raises:
        ValueError: If OpenCV cannot.
    """
    try:
        yield
    except cv2.error:
        raise ValueError(
            f'{path or "the image"} of {size[1]}x{size[0]} pixels cannot be '
            'fitted into the input of the network: its shorter side would '
            'have none. Crop it') from None


def image_pipeline(cfg: Config) -> Callable[[np.ndarray, Optional[str]], dict]:
    """The test pipeline of a config, for images that are in memory.

    Args:
        cfg (Config): With a ``test_dataloader``.

    Returns:
        Callable: Of an image, uint8 ``(H, W, 3)``, BGR, and its path; gives
        ``inputs`` and ``data_samples``.

    Raises:
        ValueError: If there is no ``test_dataloader``.
    """
    loader = cfg.get('test_dataloader')
    if not isinstance(loader, dict) or 'dataset' not in loader:
        raise ValueError(f'{cfg.filename} has no test_dataloader, whose '
                         'pipeline prepares the images')
    dataset = next(leaf_datasets(loader['dataset']))
    pipeline = Compose([step for step in dataset['pipeline']
                        if 'Load' not in str(step['type'])])

    def pack(image: np.ndarray, path: Optional[str]) -> dict:
        size = image.shape[:2]
        with clear_resize(size, path):
            return pipeline(
                dict(img=image, img_path=path, img_id=0, img_shape=size,
                     ori_shape=size))

    return pack
