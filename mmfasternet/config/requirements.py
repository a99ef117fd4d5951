# SPDX-License-Identifier: Apache-2.0
"""Checks of the data that a config names, before anything runs."""
import os
from pathlib import Path

from mmengine.config import Config

from mmfasternet.datasets.checks import NOTE
from mmfasternet.datasets.checks.config import check_config
from mmfasternet.datasets.from_config import (
    dataset_class,
    leaf_datasets,
    writes_itself,
)


def require_data(cfg: Config, *splits: str) -> None:
    """Check that the files of the data loaders exist, before anything runs.

    Args:
        cfg (Config): The config.
        *splits (str): ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        FileNotFoundError: Naming the missing path, the key that holds it, how
            to get COCO if that is what is missing, and a config that needs no
            download.
        ValueError: If a data loader is not a dict, or the class of a data
            set is not known.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        if not isinstance(loader, dict):
            raise ValueError(f'{split}_dataloader of {cfg.filename} must be a '
                             f'dict, got {loader!r}')
        for dataset in leaf_datasets(loader.get('dataset')):
            _require_files(cfg, split, dataset)


def require_loader(cfg: Config, split: str) -> None:
    """Check that there is a data loader, and the files that it names.

    Raises:
        FileNotFoundError, ValueError: See :func:`require_data`.
    """
    require_data(cfg, split)
    if 'dataset' not in (cfg.get(f'{split}_dataloader') or {}):
        raise ValueError(f'{cfg.filename} has no {split}_dataloader with a '
                         'dataset: it is not a complete config')


def _require_files(cfg: Config, split: str, dataset: dict) -> None:
    cls = dataset_class(dataset, cfg.get('default_scope'))
    if cls is None:
        raise ValueError(
            f'{split}_dataloader.dataset.type {dataset.type!r} of '
            f'{cfg.filename} is not known: a class of another package needs '
            'its module in custom_imports')
    if '://' in str(dataset.get('data_root')) or writes_itself(cls):
        return
    root = Path(dataset.get('data_root') or '')
    prefix = dataset.get('data_prefix', {})
    paths = {'ann_file': dataset.get('ann_file')}
    if isinstance(prefix, str):  # mmpretrain's
        paths['data_prefix'] = prefix
    else:
        paths['data_prefix.img'] = prefix.get('img', '')
    for key, value in paths.items():
        if value and not (root / value).exists():
            raise FileNotFoundError(
                _missing(cfg, split, key, str(root / value)))


def require_sound_data(cfg: Config, *splits: str) -> None:
    """Refuse data that would end in an error or an AP of 0.

    What is only left out or clipped is printed. Images are not read, so this
    takes seconds even for COCO; ``tools/misc/check_dataset.py`` reads them.
    Of several processes the first one does it for all: one that ends stops
    the others.

    Args:
        cfg (Config): The config.
        *splits (str): ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ValueError: With everything that was found, or if ``img_scale`` is
            nothing that the neck can take.
    """
    scale, strides = cfg.get('img_scale'), cfg.get('strides')
    if scale and strides and any(side % max(strides) for side in scale):
        raise ValueError(f'img_scale must be multiples of {max(strides)}, the '
                         f'largest stride, got {tuple(scale)}')
    # before the processes know each other: of torchrun, or of srun
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) != '0':
        return
    report = check_config(cfg, images=False, phases=splits)
    if report.refused:
        raise ValueError(f'the data of {cfg.filename} cannot be used\n'
                         f'{report}')
    if any(finding.severity != NOTE for finding in report.findings):
        print(report)


# what a path that is missing names, and how to get it
_SOURCES = dict(
    coco='COCO: download train2017, val2017 and annotations from '
    'https://cocodataset.org/#download and unpack them there, or\n'
    '        python tools/misc/download_dataset.py of mmyolo, '
    '--dataset-name coco2017 --save-dir data/coco --unzip --delete',
    bccd='BCCD: git clone https://github.com/Shenggan/BCCD_Dataset and '
    'convert it with\n'
    '        python tools/dataset_converters/voc2coco.py '
    'BCCD_Dataset/BCCD data/bccd',
    imagenet='ImageNet-1k: https://image-net.org/download, with one folder '
    'per class, or `path label` lines in train_ann_file, val_ann_file')


def _missing(cfg: Config, split: str, key: str, path: str) -> str:
    digits = 'classification/fasternet-n_digits.py' if cfg.get(
        'default_scope') == 'mmpretrain' else 'yolov8_fasternet_n_digits.py'
    return '\n  '.join([
        f'{split} data not found: {path}',
        f'looked for by {split}_dataloader.dataset.{key} of {cfg.filename}, '
        f'from {Path.cwd()}',
        *(text for name, text in _SOURCES.items() if name in path),
        'your own data: --cfg-options data_root=... train_ann_file=... '
        'train_data_prefix=... val_ann_file=... val_data_prefix=...',
        f'no download at all: python tools/train.py configs/{digits}'
    ])
