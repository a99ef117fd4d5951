# SPDX-License-Identifier: Apache-2.0
"""The one difference between mmyolo 0.6.0 and the mmcv it runs on here."""
from contextlib import contextmanager
from types import ModuleType
from typing import Iterator

import mmcv
from mmengine.utils import digit_version

# mmyolo 0.6.0 asserts mmcv < 2.1.0, read once at `import mmyolo`. Every name
# it imports exists, unchanged, in the later mmcv releases.
_NEWEST_MMCV_OF_MMYOLO = '2.0.1'


@contextmanager
def _mmcv_version(version: str) -> Iterator[None]:
    actual = mmcv.__version__
    mmcv.__version__ = version
    try:
        yield
    finally:
        mmcv.__version__ = actual


def import_mmyolo() -> ModuleType:
    """Import mmyolo although its version assertion predates this mmcv.

    mmcv reports the version that mmyolo accepts while mmyolo is imported, and
    its own again afterwards; nothing else is touched. It must run before
    anything else imports mmyolo, which importing ``mmfasternet.models`` does.

    Raises:
        ImportError: If mmyolo is not installed.
    """
    if digit_version(mmcv.__version__) < digit_version('2.1.0'):
        import mmyolo
    else:
        with _mmcv_version(_NEWEST_MMCV_OF_MMYOLO):
            import mmyolo
    return mmyolo
