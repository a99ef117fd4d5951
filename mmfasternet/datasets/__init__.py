# SPDX-License-Identifier: Apache-2.0
from importlib.util import find_spec

__all__ = []

if find_spec('mmyolo') is not None:
    from mmfasternet.compat import import_mmyolo
    import_mmyolo()
    from .collate import yolov5_collate
    from .digits import DigitsDataset
    from .unlabelled import MixedSampler, UnlabelledImages, WithUnlabelled
    __all__ += [
        'DigitsDataset', 'MixedSampler', 'UnlabelledImages', 'WithUnlabelled',
        'yolov5_collate'
    ]
