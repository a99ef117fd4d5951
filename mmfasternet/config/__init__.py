# SPDX-License-Identifier: Apache-2.0
"""Configs: reading them with options, checks before a run, the launch."""
from .data import require_data, require_sound_data
from .launch import prepare_launch, use_scope
from .loading import load_config

__all__ = [
    'load_config', 'prepare_launch', 'require_data', 'require_sound_data',
    'use_scope'
]
