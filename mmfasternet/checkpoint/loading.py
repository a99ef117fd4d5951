# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by any name, for us and in the place of MMEngine's own reading.

Written against mmengine 0.10.7 and onedl-mmengine 0.10.12:
``CheckpointLoader.load_checkpoint`` is what ``load_from``, ``--resume``,
``init_cfg`` and inferencers call; where ``weights_only=True`` fails it reads
again without; ``LocalBackend.put`` opens the file under its name.
"""
import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Iterator, Optional, Union

from mmengine.fileio import register_backend
from mmengine.runner import CheckpointLoader
from torch.serialization import safe_globals

from .download import SCHEME, checkpoint_path
from .reading import allowed_globals, read_checkpoint, refusal
from .writing import WholeFileBackend

_load = CheckpointLoader.load_checkpoint
_REMOTE = (SCHEME, 'http://', 'https://')


def get_checkpoint(name: Union[str, Path],
                   map_location: Any = 'cpu',
                   modules: bool = False,
                   keep: bool = False,
                   sha256: Optional[str] = None) -> Any:
    """Find and read a checkpoint.

    Args:
        name (str | Path): See :func:`.checkpoint_path`; the other storage
            backends of MMEngine (``s3://``) work as well.
        map_location, modules, keep: See :func:`.read_checkpoint`.
        sha256 (str, optional): Expected digest, see
            :func:`.checkpoint_path`.

    Raises:
        FileNotFoundError, CheckpointError: See there.
    """
    name = str(name)
    if '://' in name and not name.startswith(_REMOTE):
        return _load_by_backend(name, map_location, 'silent')
    return read_checkpoint(
        checkpoint_path(name, sha256), map_location, modules, keep)


@cache
def secure_mmengine() -> None:
    """Make MMEngine read checkpoints as data only, in this process.

    MMEngine and its forks fall back to unsafe reading, or read URLs unsafely
    in the first place. Afterwards every checkpoint that they load goes
    through :func:`.read_checkpoint` or, for other storage backends, through
    PyTorch's own switch that forbids unsafe loading; and every local file
    that they write through their storage backend appears complete or not at
    all. :func:`mmfasternet.config.load_config` calls this, and so does
    importing ``mmfasternet.engine``, which the configs name in
    ``custom_imports``.
    """

    @CheckpointLoader.register_scheme(prefixes='', force=True)
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return read_checkpoint(filename, map_location)

    @CheckpointLoader.register_scheme(prefixes=_REMOTE, force=True)
    def load_from_remote(filename: str, map_location: Any = None) -> Any:
        return get_checkpoint(filename, map_location)

    def load_checkpoint(filename: str,
                        map_location: Any = None,
                        logger: Any = 'current') -> Any:
        return _load_by_backend(filename, map_location, logger)

    CheckpointLoader.load_checkpoint = staticmethod(load_checkpoint)
    register_backend('local', WholeFileBackend, force=True, prefixes='')


def _load_by_backend(name: str, map_location: Any, logger: Any) -> Any:
    """MMEngine's loading of a checkpoint, as data only."""
    with _data_only():
        try:
            return _load(name, map_location, logger)
        except UnpicklingError as error:
            raise refusal(name, error) from None


@contextmanager
def _data_only() -> Iterator[None]:
    """PyTorch's own switch: torch.load ignores ``weights_only=False``."""
    switch = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(switch)
    os.environ[switch] = '1'
    try:
        with safe_globals(allowed_globals()):
            yield
    finally:
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before
