# SPDX-License-Identifier: Apache-2.0
"""What ``mmengine.hub.get_model`` asks each package for, by this name."""
from importlib.util import find_spec

import mmengine.registry


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register all of this package, and of the one that its configs are for.

    Args:
        init_default_scope (bool): Make mmyolo, whose names the YOLOv8 configs
            use, the scope of names without one; where it is not installed,
            mmdet. Defaults to True.
    """
    import mmfasternet.datasets
    import mmfasternet.engine
    import mmfasternet.models  # noqa: F401
    if init_default_scope:
        mmengine.registry.init_default_scope(
            'mmyolo' if find_spec('mmyolo') else 'mmdet')
