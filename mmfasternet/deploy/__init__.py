# SPDX-License-Identifier: GPL-3.0-only
"""From a trained detector to one that runs where it is needed.

The names below are imported when they are first used: ``--help`` of a tool,
and a process that measures one engine, need :mod:`.engines` alone.
"""
from importlib import import_module
from typing import Any

_MODULES = dict(
    DeployInfo='info',
    ExportedDetector='exported_detector',
    Predictor='predictor',
    SahiModel='sahi',
    TrainedPredictor='trained_predictor',
    deploy_form='detector_folding',
    export='exporting',
    frames='video',
    load_backend='loading',
    load_deployed='loading',
    use_exported='exported_detector')

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import mmfasternet.models  # noqa: F401  makes mmyolo importable
    return getattr(import_module(f'.{_MODULES[name]}', __name__), name)
