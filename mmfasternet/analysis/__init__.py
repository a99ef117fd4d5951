# SPDX-License-Identifier: Apache-2.0
"""Measuring: speed (``benchmark``), accuracy (``comparison``), and seeing
inside: what the maps and gradients of a network look like.

What is listed here is imported when it is asked for, because the processes
of a benchmark have their memory measured.
"""
from importlib import import_module
from typing import Any

_WHERE = dict(
    level_shares=('detect_by_level', 'has_levels', 'levels_of', 'shares'),
    measures=('LayerStatistics', 'PConvStatistics', 'Redundancy',
              'channel_correlation', 'channel_redundancy', 'eigen_cam',
              'layer_statistics', 'middle_of', 'pconv_statistics',
              'receptive_fields', 'share_side'),
    network=('feature_maps', 'load_network', 'prepare_image', 'stage_names',
             'without_padding'))

__all__ = sorted(name for names in _WHERE.values() for name in names)


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f'{__name__}.{module}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
