# SPDX-License-Identifier: GPL-3.0-only
"""Train a detector."""
import argparse
import errno
import os
import os.path as osp
import sys
from glob import escape, glob
from importlib.util import find_spec

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.models  # noqa: F401  # isort: skip
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.device import get_device
from mmengine.registry import RUNNERS

from mmfasternet import cli
from mmfasternet.checkpoint import CheckpointError
from mmfasternet.config import (
    load_config,
    prepare_launch,
    require_data,
    require_sound_data,
)
from mmfasternet.engine import NonFiniteLossError, require_bfloat16

# What every run gets that does not have it: see mmfasternet/engine/hooks.
HOOKS = ('ProgressBarHook', 'ResultsHook', 'EvaluationFiguresHook',
         'NonFiniteLossHook', 'InterruptHook', 'ResumeHook')

# Set by Slurm and torchrun when they start a job or its processes again.
RESTARTS = ('SLURM_RESTART_COUNT', 'TORCHELASTIC_RESTART_COUNT')


def parse_args():
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--work-dir', help='the dir to save logs and models')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='enable automatic-mixed-precision training; on CPU in bfloat16')
    parser.add_argument(
        '--resume',
        nargs='?',
        type=str,
        const='auto',
        help='resume from this checkpoint or, without a path, from the '
        'latest one in the work directory')
    cli.add_cfg_options(parser)
    cli.add_launcher(parser)
    args = parser.parse_args()
    cli.set_local_rank(args)
    return args


def require_tensorboard(cfg):
    """A missing optional package is said before anything is loaded."""
    if 'TensorboardVisBackend' in str(cfg.get('visualizer')) and \
            find_spec('tensorboard') is None:
        raise ValueError('tensorboard=True needs a package that is not '
                         'installed: pip install tensorboard')


def set_resume(cfg, checkpoint):
    """Go on from this checkpoint, or from what the work directory has.

    What is there counts more where the launcher has started it again, and
    where there is nothing the training begins, with `load_from` if that is
    set: so one command serves a job that may be started any number of times.
    """
    restarted = any(int(os.environ.get(name) or 0) for name in RESTARTS)
    saved = glob(osp.join(escape(cfg.work_dir), '*.pth')) + glob(
        osp.join(escape(cfg.work_dir), 'last_checkpoint'))
    if saved and (checkpoint == 'auto' or restarted):
        cfg.resume, cfg.load_from = True, None
    elif checkpoint not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, checkpoint
    elif checkpoint == 'auto' and os.environ['LOCAL_RANK'] == '0':
        print(f'nothing to resume in {cfg.work_dir}: the training begins')


def main():
    args = parse_args()
    setup_cache_size_limit_of_dynamo()

    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        require_data(cfg, 'train', 'val')
        require_sound_data(cfg, 'train', 'val')
        require_tensorboard(cfg)
        if args.amp and get_device() == 'cpu':
            require_bfloat16()
        prepare_launch(cfg, args.launcher)
    cli.set_work_dir(cfg, args)
    if args.amp and get_device() == 'cpu':
        cfg.optim_wrapper.type = 'mmfasternet.CPUAmpOptimWrapper'
        for key in ('loss_scale', 'dtype'):  # of AmpOptimWrapper
            cfg.optim_wrapper.pop(key, None)
    elif args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if cfg.get('runner_type') == 'FlexibleRunner':
        cfg.runner_type = 'mmfasternet.FlexibleRunner'
    set_resume(cfg, args.resume)
    hooks = cfg.get('custom_hooks') or []
    # DeepSpeed saves and resumes by itself, without asking any hook
    by_itself = cfg.get('strategy', {}).get('type') == 'DeepSpeedStrategy'
    cfg.custom_hooks = hooks + [
        dict(type=f'mmfasternet.{name}') for name in HOOKS
        if f'mmfasternet.{name}' not in [hook.type for hook in hooks]
        and not (by_itself and name in ('InterruptHook', 'ResumeHook'))
    ]

    try:
        with cli.clear_errors(CheckpointError, FileNotFoundError,
                          NonFiniteLossError):
            RUNNERS.build(cfg).train()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sys.exit(f'error: cannot write to {cfg.work_dir}: {error.strerror}. '
                 'What was saved before is whole: make room and go on with '
                 '--resume')


if __name__ == '__main__':
    main()
