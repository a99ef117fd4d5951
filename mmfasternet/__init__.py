# SPDX-License-Identifier: Apache-2.0
"""FasterNet (CVPR 2023) for the OpenMMLab 2.x detection family."""
from mmengine.config.utils import MODULE2PACKAGE

from .version import __version__

# Without this entry MMEngine does not resolve ``mmfasternet::`` in `_base_`.
MODULE2PACKAGE.setdefault('mmfasternet', 'mmfasternet')

__all__ = ['__version__']
