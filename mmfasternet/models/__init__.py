# SPDX-License-Identifier: Apache-2.0
from importlib.util import find_spec

from mmfasternet.doctor import diagnosed

__all__ = ['FasterNet', 'FasterNetBlock', 'PartialConv']

with diagnosed():
    from .backbones import FasterNet, FasterNetBlock, PartialConv

    # With MMDetection alone the backbone is all there is to offer.
    if find_spec('mmyolo') is not None:
        from mmfasternet.compat import import_mmyolo
        import_mmyolo()
        from .dense_heads import YOLOv8HeadModule, YOLOv8PConvHeadModule
        from .detectors import AnyBackboneYOLODetector, DistilledYOLODetector
        from .necks import ProjectedNeck, YOLOv8SPPFPAFPN
        from .task_modules import SparseTaskAlignedAssigner
        __all__ += [
            'AnyBackboneYOLODetector', 'DistilledYOLODetector',
            'ProjectedNeck', 'SparseTaskAlignedAssigner', 'YOLOv8HeadModule',
            'YOLOv8PConvHeadModule', 'YOLOv8SPPFPAFPN'
        ]
