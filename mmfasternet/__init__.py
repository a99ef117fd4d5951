# SPDX-License-Identifier: Apache-2.0
"""FasterNet (CVPR 2023) for the OpenMMLab 2.x detection family."""
from .version import __version__

try:
    from mmengine.config.utils import MODULE2PACKAGE
except Exception:  # mmfasternet.doctor must run here and say what is wrong
    pass
else:
    # Without it MMEngine does not resolve ``mmfasternet::`` in `_base_`.
    MODULE2PACKAGE.setdefault('mmfasternet', 'mmfasternet')

__all__ = ['__version__']
