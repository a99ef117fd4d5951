# SPDX-License-Identifier: Apache-2.0
"""FasterNet (CVPR 2023) for the OpenMMLab 2.x detection family."""
from .compat.mmcv_ops import provide_operators
from .version import __version__

try:
    from .compat.mmengine_config import name_our_configs
    name_our_configs()
except Exception:  # mmfasternet.doctor must run here and say what is wrong
    pass

provide_operators()  # where mmcv has none of its own

provide_operators()  # where mmcv has none of its own

__all__ = ['__version__']
