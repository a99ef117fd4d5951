# SPDX-License-Identifier: Apache-2.0
"""Importing mmyolo 0.6.0, the last one, beside a later mmcv and mmdet.

It asserts mmcv < 2.1.0, read once at ``import mmyolo``. Every name that it
imports exists, unchanged, in the later releases of mmcv.
"""
import warnings
from contextlib import suppress
from types import ModuleType
from typing import Any


def import_mmyolo() -> ModuleType:
    """Import mmyolo although its version assertion predates this mmcv.

    mmcv reports the version that mmyolo accepts while mmyolo is imported, and
    its own again afterwards; nothing else is touched. It must run before
    anything else imports mmyolo, which importing ``mmfasternet.models`` does.

    Raises:
        ImportError: If mmyolo is not installed.
    """
    # here: the package is imported with mmfasternet, which must stay light
    import mmcv
    from mmengine.utils import digit_version
    actual = mmcv.__version__
    mmcv.__version__ = min(actual, '2.0.1', key=digit_version)
    try:
        import mmyolo
    finally:
        mmcv.__version__ = actual
    # what does not import here fails, and is said, where it is used
    with suppress(ImportError):
        _import_mmdet_silently()
    return mmyolo


def _import_mmdet_silently() -> None:
    """Without what onedl-mmdetection 3.5.1 says of packages it can do without.

    It prints, and warns, at the import of its data sets and metrics, which
    mmyolo imports anyway: once that OneDL's client is not there, twice even,
    and that no metrics will be computed, which is true of one class only.
    """
    import mmengine.logging
    print_log = mmengine.logging.print_log

    def say(message: Any, *args, **kwargs) -> None:
        if 'Could not import OneDL' not in str(message):
            print_log(message, *args, **kwargs)

    mmengine.logging.print_log = say
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'faster_coco_eval is not')
            import mmdet.datasets
            import mmdet.evaluation  # noqa: F401
    finally:
        mmengine.logging.print_log = print_log
