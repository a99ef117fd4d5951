# SPDX-License-Identifier: Apache-2.0
"""The one place that knows the internals of other packages.

Each module here says which release it was written against, why it is needed,
and has a test in tests/test_compat that fails when that changes.
"""
from .absent_torchvision import import_mmpretrain, import_timm
from .mmyolo import import_mmyolo

__all__ = ['import_mmpretrain', 'import_mmyolo', 'import_timm']
