# SPDX-License-Identifier: Apache-2.0
"""Importing mmyolo 0.6.0, the last one, beside a later mmcv.

It asserts mmcv < 2.1.0, read once at ``import mmyolo``. Every name that it
imports exists, unchanged, in the later releases of mmcv.
"""
from types import ModuleType

import mmcv
from mmengine.utils import digit_version


def import_mmyolo() -> ModuleType:
    """Import mmyolo although its version assertion predates this mmcv.

    mmcv reports the version that mmyolo accepts while mmyolo is imported, and
    its own again afterwards; nothing else is touched. It must run before
    anything else imports mmyolo, which importing ``mmfasternet.models`` does.

    Raises:
        ImportError: If mmyolo is not installed.
    """
    actual = mmcv.__version__
    mmcv.__version__ = min(actual, '2.0.1', key=digit_version)
    try:
        import mmyolo
    finally:
        mmcv.__version__ = actual
    return mmyolo
