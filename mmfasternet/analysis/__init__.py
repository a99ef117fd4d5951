# SPDX-License-Identifier: Apache-2.0
"""Seeing inside: what the maps and gradients of a network look like."""
from .measures import (
    LayerStatistics,
    PConvStatistics,
    Redundancy,
    channel_correlation,
    channel_redundancy,
    eigen_cam,
    layer_statistics,
    pconv_statistics,
    receptive_fields,
    share_side,
)
from .network import (
    feature_maps,
    load_network,
    prepare_image,
    stage_names,
    without_padding,
)

__all__ = [
    'LayerStatistics', 'PConvStatistics', 'Redundancy', 'channel_correlation',
    'channel_redundancy', 'eigen_cam', 'feature_maps', 'layer_statistics',
    'load_network', 'pconv_statistics', 'prepare_image', 'receptive_fields',
    'share_side', 'stage_names', 'without_padding'
]
