# SPDX-License-Identifier: Apache-2.0
"""mmcv without compiled operators; written against mmcv 2.1.0 and
onedl-mmcv 2.3.6.

``mmcv.ops`` asks a compiled module ``mmcv._ext`` for a hundred functions when
it is imported, and a detector imports all of it for the one or two that it
uses. mmcv has no wheel with that module for most versions of PyTorch, CUDA
and Python, and installs in seconds without it; ``import mmcv.ops`` then ends
in ``No module named 'mmcv._ext'``. Here that module is found after all, but
after everything else: a compiled one, also one that does not load, is what it
would be without us.

This module imports the standard library only: it is part of
``import mmfasternet``, which must work for the doctor.
"""
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Optional

OPERATORS = Path(__file__).parents[1] / 'ops/extension.py'


class OperatorsFinder:
    """Finds ``mmcv._ext`` in :mod:`mmfasternet.ops`."""

    def find_spec(self, fullname, path=None,
                  target=None) -> Optional[ModuleSpec]:
        """The specification of ``mmcv._ext``, of nothing else."""
        if fullname != 'mmcv._ext':
            return None
        return spec_from_file_location(fullname, OPERATORS)


def provide_operators() -> None:
    """Let ``import mmcv.ops`` work where no operators were compiled."""
    if not any(isinstance(f, OperatorsFinder) for f in sys.meta_path):
        sys.meta_path.append(OperatorsFinder())
