# SPDX-License-Identifier: Apache-2.0
"""Seeing inside a network: ``tools/analysis_tools/vis_network.py`` and
``layer_stats.py``."""
from .level_shares import detect_by_level, has_levels, levels_of, shares
from .network import (
    feature_maps,
    load_network,
    prepare_image,
    stage_names,
    without_padding,
)
from .statistics import (
    LayerStatistics,
    PConvStatistics,
    Redundancy,
    channel_correlation,
    channel_redundancy,
    eigen_cam,
    layer_statistics,
    middle_of,
    pconv_statistics,
    receptive_fields,
    share_side,
)

__all__ = [
    'LayerStatistics', 'PConvStatistics', 'Redundancy', 'channel_correlation',
    'channel_redundancy', 'detect_by_level', 'eigen_cam', 'feature_maps',
    'has_levels', 'layer_statistics', 'levels_of', 'load_network',
    'middle_of', 'pconv_statistics', 'prepare_image', 'receptive_fields',
    'share_side', 'shares', 'stage_names', 'without_padding'
]
