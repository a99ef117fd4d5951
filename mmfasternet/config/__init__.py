# SPDX-License-Identifier: Apache-2.0
"""Configs: reading them with options, checks before a run, the launch."""
from .default_hooks import add_our_hooks, our_hooks
from .launch import (
    build_model,
    class_names,
    clear_resize,
    image_pipeline,
    prepare_launch,
    use_scope,
    use_split,
)
from .loading import load_config
from .requirements import require_data, require_loader, require_sound_data

__all__ = [
    'add_our_hooks', 'build_model', 'class_names', 'clear_resize',
    'image_pipeline', 'load_config', 'our_hooks', 'prepare_launch',
    'require_data', 'require_loader', 'require_sound_data', 'use_scope',
    'use_split'
]
