# SPDX-License-Identifier: Apache-2.0
"""The hooks that every training run gets, see ``mmfasternet.engine.hooks``.

They stand in the ``default_hooks`` of our configs, a dict: so they stay where
an inheriting config has ``custom_hooks`` of its own, and whatever program
builds the runner. ``default_hooks.resume=None`` and the like leave one out
in ``tools/train.py``.
"""
from typing import Dict

from mmengine.config import Config

_HOOKS = dict(
    progress_bar='ProgressBarHook',
    results='ResultsHook',
    evaluation_figures='EvaluationFiguresHook',
    non_finite_loss='NonFiniteLossHook',
    interrupt='InterruptHook',
    resume='ResumeHook')


def our_hooks() -> Dict[str, dict]:
    """Entries for ``default_hooks``, by name."""
    return {
        name: dict(type=f'mmfasternet.{hook}')
        for name, hook in _HOOKS.items()
    }


def add_our_hooks(cfg: Config) -> None:
    """Add those that a config of others lacks, and drop what is None.

    Args:
        cfg (Config): The config, changed in place.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    given = [hook['type'] for hook in hooks.values() if hook]
    given += [hook['type'] for hook in cfg.get('custom_hooks') or []]
    for name, hook in our_hooks().items():
        if hook['type'] not in given:
            hooks.setdefault(name, hook)
        if hooks.get(name, hook) is None:  # MMEngine knows that of its own
            del hooks[name]
    cfg.default_hooks = hooks
