# SPDX-License-Identifier: Apache-2.0
"""What a config needs between reading it and building its runner."""
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmfasternet.compat import import_mmpretrain


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
