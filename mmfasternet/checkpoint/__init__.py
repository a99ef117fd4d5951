# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: found by path, URL or short name, and read as data only.

Reading (``reading``), finding and fetching (``download``, ``access``), from a
file to a model (``fitting``), writing (``writing``). FasterNet's own
pretrained weights always go through these. For what MMEngine reads and writes
by itself (``load_from``, ``--resume``, other parts' ``init_cfg``,
inferencers) :func:`secure_mmengine` puts them in its place; importing this
package, or the backbone, does not.
"""
from .download import RELEASES, SCHEME, checkpoint_path, digest
from .fitting import (
    Fit,
    compare_tensors,
    load_model_weights,
    noted_classes,
    noted_meta,
    require_fit,
    require_fitting,
    unwrapped,
)
from .loading import get_checkpoint, secure_mmengine
from .reading import CheckpointError, newest_checkpoint, read_checkpoint
from .writing import save_checkpoint, whole_file

__all__ = [
    'RELEASES', 'SCHEME', 'CheckpointError', 'Fit', 'checkpoint_path',
    'compare_tensors', 'digest', 'get_checkpoint', 'load_model_weights',
    'newest_checkpoint', 'noted_classes', 'noted_meta', 'read_checkpoint',
    'require_fit', 'require_fitting', 'save_checkpoint', 'secure_mmengine',
    'unwrapped', 'whole_file'
]
