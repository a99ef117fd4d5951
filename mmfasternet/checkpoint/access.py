# SPDX-License-Identifier: Apache-2.0
"""MMEngine's reading and writing of files, where it has no place for ours.

Written against mmengine 0.10.7 and onedl-mmengine 0.10.12:
``CheckpointLoader.load_checkpoint`` is what ``load_from``, ``--resume``,
``init_cfg`` and inferencers call; where ``weights_only=True`` fails it reads
again without; ``LocalBackend.put`` opens the file under its name.
"""
import os
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, Callable, Iterator, Sequence, Type

from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import CheckpointLoader
from torch.serialization import safe_globals

_load = CheckpointLoader.load_checkpoint
Refusal = Callable[[str, UnpicklingError], Exception]


@contextmanager
def _data_only(allowed: list) -> Iterator[None]:
    """PyTorch's own switch: torch.load ignores ``weights_only=False``."""
    switch = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(switch)
    os.environ[switch] = '1'
    try:
        with safe_globals(allowed):
            yield
    finally:
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before


def load_by_backend(name: str,
                    map_location: Any,
                    allowed: list,
                    refusal: Refusal,
                    logger: Any = 'silent') -> Any:
    """MMEngine's loading of a checkpoint, as data only.

    Args:
        name (str): Anything that MMEngine loads checkpoints from.
        map_location: See :func:`torch.load`.
        allowed (list): What may be in it besides tensors, as for
            :func:`torch.serialization.safe_globals`.
        refusal (Callable): Makes an error of ``name`` and PyTorch's own,
            where there is more in it.
        logger: As MMEngine's. Defaults to ``'silent'``.
    """
    with _data_only(allowed):
        try:
            return _load(name, map_location, logger)
        except UnpicklingError as error:
            raise refusal(name, error) from None


def secure_checkpoints(read: Callable, fetch: Callable, schemes: Sequence[str],
                       allowed: list, refusal: Refusal,
                       local_backend: Type[LocalBackend]) -> None:
    """Put safe reading and writing in the place of MMEngine's.

    Args:
        read (Callable): Reads a local file, of path and ``map_location``.
        fetch (Callable): The same for the names that begin with ``schemes``.
        schemes (Sequence[str]): Prefixes of names.
        allowed, refusal: See :func:`load_by_backend`.
        local_backend (type): Writes local files.
    """

    @CheckpointLoader.register_scheme(prefixes='', force=True)
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return read(filename, map_location)

    @CheckpointLoader.register_scheme(prefixes=tuple(schemes), force=True)
    def load_from_remote(filename: str, map_location: Any = None) -> Any:
        return fetch(filename, map_location)

    def load_checkpoint(filename: str,
                        map_location: Any = None,
                        logger: Any = 'current') -> Any:
        return load_by_backend(filename, map_location, allowed, refusal,
                               logger)

    CheckpointLoader.load_checkpoint = staticmethod(load_checkpoint)
    register_backend('local', local_backend, force=True, prefixes='')
