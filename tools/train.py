# SPDX-License-Identifier: GPL-3.0-only
"""Train a detector."""
import os
import os.path as osp
from glob import escape, glob
from importlib.util import find_spec

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.models  # noqa: F401  # isort: skip
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.device import get_device

from mmfasternet import cli
from mmfasternet.checkpoint import CheckpointError
from mmfasternet.config import (
    add_our_hooks,
    load_config,
    prepare_launch,
    require_data,
    require_sound_data,
)
from mmfasternet.engine import NonFiniteLossError, require_bfloat16

# Set by Slurm and torchrun when they start a job or its processes again.
RESTARTS = ('SLURM_RESTART_COUNT', 'TORCHELASTIC_RESTART_COUNT')


def parse_args():
    parser = cli.tool_parser('Train a detector')
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


def use_our_runner(cfg):
    """Take ours, which trains rightly, for MMEngine's of the same name."""
    if cfg.get('runner_type') == 'FlexibleRunner':
        cfg.runner_type = 'mmfasternet.FlexibleRunner'
        cli.say('runner_type FlexibleRunner: mmfasternet.FlexibleRunner is '
                'taken, which a config should name, see docs/en/promises.md')


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
    elif checkpoint == 'auto':
        cli.say(f'nothing to resume in {cfg.work_dir}: the training begins')


def use_amp(cfg):
    """Mixed precision; on a CPU in bfloat16, which needs no loss scale."""
    wrapper = cfg.optim_wrapper
    if get_device() == 'cpu':
        require_bfloat16()
        wrapper.type = 'mmfasternet.CPUAmpOptimWrapper'
        for key in ('loss_scale', 'dtype'):  # of AmpOptimWrapper
            wrapper.pop(key, None)
    else:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')


def main():
    args = parse_args()
    setup_cache_size_limit_of_dynamo()

    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        require_data(cfg, 'train', 'val')
        require_sound_data(cfg, 'train', 'val')
        require_tensorboard(cfg)
        if args.amp:
            use_amp(cfg)
        prepare_launch(cfg, args.launcher)
    cli.set_work_dir(cfg, args)
    use_our_runner(cfg)
    set_resume(cfg, args.resume)
    add_our_hooks(cfg)

    with cli.clear_disk_errors(cfg.work_dir), cli.clear_errors(
            CheckpointError, FileNotFoundError,
            NonFiniteLossError), cli.clear_build_errors(
            ), cli.clear_data_errors():
        cli.build_runner(cfg).train()


if __name__ == '__main__':
    main()
