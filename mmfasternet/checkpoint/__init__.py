# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: found by path, URL or short name, and read as data only.

Reading (``reading``), finding and fetching (``download``), from a file to a
model (``fitting``), writing (``writing``). FasterNet's own pretrained weights
always go through these. For what MMEngine reads and writes by itself
(``load_from``, ``--resume``, other parts' ``init_cfg``, inferencers)
:func:`secure_mmengine` puts them in its place; importing this package, or the
backbone, does not.
"""
from functools import cache

from mmfasternet.compat import mmengine as _mmengine

from .download import RELEASES, SCHEME, checkpoint_path, digest
from .fitting import (
    Fit,
    compare_tensors,
    get_checkpoint,
    load_model_weights,
    require_fit,
    require_fitting,
)
from .reading import (
    CheckpointError,
    allowed_globals,
    newest_checkpoint,
    read_checkpoint,
    refusal,
)
from .writing import WholeFileBackend, save_checkpoint, whole_file

__all__ = [
    'RELEASES', 'SCHEME', 'CheckpointError', 'Fit', 'checkpoint_path',
    'compare_tensors', 'digest', 'get_checkpoint', 'load_model_weights',
    'newest_checkpoint', 'read_checkpoint', 'require_fit', 'require_fitting',
    'save_checkpoint', 'secure_mmengine', 'whole_file'
]


@cache
def secure_mmengine() -> None:
    """Make MMEngine read checkpoints as data only, in this process.

    MMEngine and its forks fall back to unsafe reading, or read URLs unsafely
    in the first place. Afterwards every checkpoint that they load goes
    through :func:`read_checkpoint` or, for other storage backends, through
    PyTorch's own switch that forbids unsafe loading; and every local file
    that they write through their storage backend appears complete or not at
    all. :func:`mmfasternet.config.load_config` calls this, and so does
    importing ``mmfasternet.engine``, which the configs name in
    ``custom_imports``.
    """
    _mmengine.secure_checkpoints(
        read=read_checkpoint,
        fetch=get_checkpoint,
        schemes=('http://', 'https://', SCHEME),
        allowed=allowed_globals(),
        refusal=refusal,
        local_backend=WholeFileBackend)
