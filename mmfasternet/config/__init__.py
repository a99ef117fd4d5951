# SPDX-License-Identifier: Apache-2.0
"""Config loading with options, and checks before a run."""
import difflib
import inspect
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmfasternet.checkpoint import secure_mmengine
from mmfasternet.compat import import_mmpretrain
from mmfasternet.config.knobs import command_line
from mmfasternet.datasets.checks import NOTE
from mmfasternet.datasets.checks.config import check_config


def load_config(filename: str,
                cfg_options: Optional[Dict[str, Any]] = None) -> Config:
    """Load a config; an option that is one of its knobs counts everywhere.

    A top-level option acts as if the line that assigns the name had been
    edited, where that config binds it (:mod:`.knobs`). Anything
    else is MMEngine's: dicts and dotted options are merged last.

    Args:
        filename (str): Path of the config, or ``package::path`` for one of an
            installed package.
        cfg_options (dict, optional): Overrides as parsed from
            ``--cfg-options``, by (dotted) name.

    Returns:
        Config: The config; ``filename`` is the given one.

    Raises:
        FileNotFoundError: If the config or a base of it does not exist.
        ValueError: If an option names nothing that exists, its value is of
            another kind than the one it replaces, or it would change nothing
            because no file of ours derives anything from it; or if a knob
            was changed in the file where it no longer counts.
    """
    secure_mmengine()
    options = dict(cfg_options or {})
    knobs = {k: v for k, v in options.items() if '.' not in k}
    with command_line(knobs) as used:
        if '::' in str(filename):
            cfg = get_config(filename)
        elif not Path(filename).is_file():
            raise FileNotFoundError(f'config file not found: {filename}')
        else:
            cfg = Config.fromfile(filename)
    _drop_scope(cfg._cfg_dict)
    # MMEngine has merged what the file itself says over the command line's
    cfg.merge_from_dict({name: cfg.knobs[name] for name in used})
    _refuse_edited(cfg)
    options = {k: v for k, v in options.items() if k not in used}
    _refuse_unknown(options, cfg)
    _refuse_idle(options, cfg)
    cfg.merge_from_dict(options)
    return cfg


def _drop_scope(node: Any) -> None:
    """Let names of ours be looked for in the default scope.

    MMEngine makes the package of a ``mmfasternet::`` base the scope of what
    stands in it, but those files are written for their ``default_scope``.
    """
    if isinstance(node, dict):
        if node.get('_scope_') == 'mmfasternet':
            del node['_scope_']
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            _drop_scope(child)


def _refuse_edited(cfg: Config) -> None:
    """A knob that was changed where it no longer counts.

    In the complete copy that training and ``mim gridsearch`` write, or in
    another way than a plain assignment.
    """
    for name, value in (cfg.get('knobs') or {}).items():
        given = cfg.get(name)
        if _as_list(given) != _as_list(value):
            places = list(_places(cfg._cfg_dict, name, value))
            raise ValueError(
                f'{name} is {given!r} in {cfg.filename}, but what follows '
                f'from it stands there as for {value!r}: this is a written '
                f'copy, or no line `{name} = ...`. Change it in the config '
                'that inherits ours' +
                (f', or here {places[0]}' if places else ''))


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse_unknown(options: Dict[str, Any], cfg: Config) -> None:
    """A mistyped top-level name would be merged and never read."""
    known = {*cfg, *inspect.signature(Runner.__init__).parameters}
    for key in options:
        name = key.split('.')[0]
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f'; did you mean {" or ".join(close)}?' if close else ''
            raise ValueError(
                f'--cfg-options {key}: nothing in {cfg.filename} is called '
                f'{name!r}{hint}')


def _refuse_idle(options: Dict[str, Any], cfg: Config) -> None:
    """A plain top-level value from which nothing is derived any more.

    It has been evaluated: in a config of another package, or in the complete
    copy that training writes. Merging it would change a number nobody reads.
    """
    runner = inspect.signature(Runner.__init__).parameters
    for key, value in options.items():
        if '.' in key or key in runner or isinstance(value, dict):
            continue
        places = list(_places(cfg._cfg_dict, key, cfg.get(key)))
        hint = f': name those places instead, e.g. {places[0]}=...' if \
            places else ''
        raise ValueError(
            f'--cfg-options {key}: {cfg.filename} has a value of that name, '
            f'but what follows from it has been written out{hint}')


def _places(node: Any, name: str, value: Any, path: str = '') -> Iterator[str]:
    """Dotted names below the top level that end in a name or hold a value."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in items:
        here = f'{path}.{key}' if path else str(key)
        if here == 'knobs':  # their record
            continue
        if path and (key == name or isinstance(value, str) and value
                     and child == value):
            yield here
        if isinstance(child, (dict, list, tuple)):
            yield from _places(child, name, value, here)


def require_data(cfg: Config, *splits: str) -> None:
    """Check that the files of the data loaders exist, before anything runs.

    Args:
        cfg (Config): The config.
        *splits (str): ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        FileNotFoundError: Naming the missing path, the key that holds it, how
            to get COCO if that is what is missing, and a config that needs no
            download.
    """
    for split in splits:
        dataset = cfg.get(f'{split}_dataloader', None)
        while dataset is not None and 'dataset' in dataset:
            dataset = dataset['dataset']
        # DigitsDataset writes its own files; `s3://` and the like are remote
        if dataset is None or 'Digits' in str(dataset.type) or \
                '://' in str(dataset.get('data_root')):
            continue
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
    report = check_config(cfg, images=False, phases=splits)
    if report.refused:
        raise ValueError(f'the data of {cfg.filename} cannot be used\n'
                         f'{report}')
    if os.environ.get('LOCAL_RANK', '0') == '0' and any(
            finding.severity != NOTE for finding in report.findings):
        print(report)


def _missing(cfg: Config, split: str, key: str, path: str) -> str:
    lines = [
        f'{split} data not found: {path}',
        f'  looked for by {split}_dataloader.dataset.{key} of {cfg.filename}, '
        f'from {Path.cwd()}'
    ]
    if 'coco' in path:
        lines += [
            '  COCO: download train2017, val2017 and annotations from '
            'https://cocodataset.org/#download and unpack them there, or',
            '        python tools/misc/download_dataset.py of mmyolo, '
            '--dataset-name coco2017 --save-dir data/coco --unzip --delete'
        ]
    if 'bccd' in path:
        lines += [
            '  BCCD: git clone https://github.com/Shenggan/BCCD_Dataset and '
            'convert it with',
            '        python tools/dataset_converters/voc2coco.py '
            'BCCD_Dataset/BCCD data/bccd'
        ]
    if 'imagenet' in path:
        lines += [
            '  ImageNet-1k: https://image-net.org/download, with one folder '
            'per class, or `path label` lines in train_ann_file, val_ann_file'
        ]
    digits = 'classification/fasternet-n_digits.py' if cfg.get(
        'default_scope') == 'mmpretrain' else 'yolov8_fasternet_n_digits.py'
    lines += [
        '  your own data: --cfg-options data_root=... train_ann_file=... '
        'train_data_prefix=... val_ann_file=... val_data_prefix=...',
        f'  no download at all: python tools/train.py configs/{digits}'
    ]
    return '\n'.join(lines)


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
