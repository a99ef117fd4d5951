# SPDX-License-Identifier: GPL-3.0-only
"""From a trained detector to one that runs where it is needed."""
import mmfasternet.models  # noqa: F401  makes mmyolo importable

from .backends import DeployInfo, load_backend, load_deployed
from .exporting import export
from .fold import deploy_form
from .predictor import ExportedDetector, Predictor, frames, use_exported

__all__ = [
    'DeployInfo', 'ExportedDetector', 'Predictor', 'deploy_form', 'export',
    'frames', 'load_backend', 'load_deployed', 'use_exported'
]
