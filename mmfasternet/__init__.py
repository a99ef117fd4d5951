# SPDX-License-Identifier: Apache-2.0
"""FasterNet (CVPR 2023) for the OpenMMLab 2.x detection family."""
from .compat.mmcv_ops import provide_operators
from .compat.openmp import wait_politely
from .version import __version__

wait_politely()  # before PyTorch is imported
provide_operators()  # where mmcv has none of its own

try:
    from .compat.mmengine_config import name_our_configs
    name_our_configs()
except Exception:  # mmfasternet.doctor must run here and say what is wrong
    pass

__all__ = ['__version__']
