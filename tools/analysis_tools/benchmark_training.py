# SPDX-License-Identifier: GPL-3.0-only
"""Compare what a training step costs with another model's, same recipe.

Both models get the data, the batch size and the optimizer of one config, and
their steps are interleaved. It is the CPU time of one thread that is measured,
which other programs on the machine disturb little; the averaged weights (EMA)
and the validation are not in it.
"""
import copy
import itertools
import time

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmfasternet.models  # noqa: F401  makes mmyolo importable
from mmfasternet import cli
from mmfasternet.analysis.tables import markdown
from mmfasternet.analysis.timing import interleave, speedup_text, timed
from mmfasternet.config import build_model, load_config, require_loader
from mmfasternet.config.recipe import with_model_of
from mmfasternet.engine.optimizers.cpu_amp_optim_wrapper import has_bfloat16


def parse_args():
    parser = cli.tool_parser(__doc__.split('\n')[0])
    parser.add_argument('config', help='train config file path')
    parser.add_argument(
        '--baseline', required=True,
        help='config whose model is trained beside it, e.g. a package::path')
    parser.add_argument(
        '--steps', type=cli.positive_int, default=12,
        help='timed steps of each (default: 12)')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def build_step(cfg, batch, amp=False):
    """What trains a model on the only item of ``batch``, and returns its CPU
    time in seconds."""
    torch.manual_seed(0)
    model = build_model(cfg)
    model.train()
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    if amp:
        wrapper.type = 'mmfasternet.CPUAmpOptimWrapper'
    wrapper = build_optim_wrapper(model, wrapper)

    def step():
        data = copy.deepcopy(batch[0])
        return timed(lambda: model.train_step(data, wrapper),
                     time.process_time)()

    return step


def main():
    args = parse_args()
    with cli.clear_errors(), cli.clear_build_errors():
        cfg = load_config(
            args.config,
            dict(args.cfg_options or {}, train_num_workers=0))
        require_loader(cfg, 'train')
        baseline = with_model_of(
            cfg, load_config(args.baseline), unmodified=True)
        init_default_scope(cfg.default_scope)
        torch.set_num_threads(1)
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        epochs = itertools.chain.from_iterable(itertools.repeat(loader))
        batch = []  # that all are trained on in this round

        def load():
            batch[:] = [next(epochs)]

        turns = {
            'data': timed(load, time.process_time),
            f'baseline: {args.baseline}': build_step(baseline, batch),
            args.config: build_step(cfg, batch)
        }
        if has_bfloat16():
            turns[f'{args.config} --amp'] = build_step(cfg, batch, amp=True)
    seconds = interleave(turns, args.steps, warm_up=1)
    data = seconds.pop('data')
    base = next(iter(seconds.values())) + data
    size = cfg.train_dataloader.batch_size
    print(f'CPU time of one thread, {size} images per step, median of '
          f'{args.steps} interleaved steps; speed: baseline / other, data '
          'loading included, median and 5th to 95th percentile of the pairs\n')
    print(f'data loading: {1e3 * np.median(data):.0f} ms per step\n')
    print(markdown([{
        'model': name,
        'ms per step': f'{1e3 * np.median(own):.0f}',
        'images/s of one core': f'{size / np.median(own + data):.1f}',
        'speed': speedup_text(own + data, base)
    } for name, own in seconds.items()]))


if __name__ == '__main__':
    main()
