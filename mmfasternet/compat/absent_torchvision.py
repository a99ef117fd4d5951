# SPDX-License-Identifier: Apache-2.0
"""Importing mmpretrain and timm where there is no torchvision.

Written against onedl-mmpretrain 1.3.6 and timm 1.0.31. The CPU build of
PyTorch that this project uses has no torchvision of its own, both import it
throughout, and FasterNet, its training recipe and its twin in timm compute
with none of it.
"""
import sys
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Iterator, List, NoReturn, Optional


class _Absent(type):
    """What torchvision has: it can be named and derived from, not used."""

    def __call__(cls, *args, **kwargs) -> NoReturn:
        name, = {c.absent for c in cls.__mro__ if hasattr(c, 'absent')}
        raise ImportError(f'{name} is needed here, but torchvision is not '
                          'installed: install the one made for your PyTorch')

    def __getattr__(cls, name: str) -> type:
        if not name.isupper():  # the members of an enumeration are
            raise AttributeError(name)
        return _absent(f'{cls.absent}.{name}')


def _absent(name: str) -> type:
    return _Absent(name.rpartition('.')[2], (), dict(absent=name))


class _AbsentModule(ModuleType):
    """A module of torchvision in which everything is absent."""

    def __getattr__(self, name: str) -> type:
        if name.startswith('__') or name in ('transforms', 'functional', 'ops',
                                             'datasets'):  # modules
            raise AttributeError(name)
        setattr(self, name, _absent(f'{self.__name__}.{name}'))
        return getattr(self, name)

    def __dir__(self) -> List[str]:
        return ['RandomResizedCrop']  # mmpretrain registers what is listed


class _AbsentFinder(MetaPathFinder, Loader):
    """Finds every module of torchvision."""

    def find_spec(self, name: str, *args: Any) -> Optional[ModuleSpec]:
        if name.split('.')[0] != 'torchvision':
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def _torchvision() -> Iterator[bool]:
    """Let ``import torchvision`` succeed; tells whether it is there."""
    if find_spec('torchvision') is not None:
        yield True
        return
    finder = _AbsentFinder()
    sys.meta_path.append(finder)
    try:
        yield False
    finally:
        sys.meta_path.remove(finder)
        for name in list(sys.modules):
            if name.split('.')[0] == 'torchvision':
                del sys.modules[name]


def _blank_dataset(module: str, name: str) -> object:
    """A data set to unpickle into, in a process without mmpretrain yet."""
    import_mmpretrain()
    cls = getattr(import_module(module), name)
    return cls.__new__(cls)


def _reduce_dataset(self, protocol: int) -> tuple:
    cls = type(self)
    state = object.__reduce_ex__(self, 2)[2]
    return _blank_dataset, (cls.__module__, cls.__name__), state


@cache
def import_mmpretrain() -> ModuleType:
    """Import all of mmpretrain, without torchvision if there is none.

    It computes with torchvision only in ``torchvision/...`` transforms, MAE's
    crop, visual grounding and for PIL images. Where that is missing, modules
    of its name stand in while mmpretrain is imported and are gone afterwards;
    what would use them raises an ImportError. A pickled data set remembers to
    call this function first, because a worker process that is spawned imports
    nothing but what it unpickles.

    Raises:
        ImportError: If mmpretrain is not installed.
    """
    import mmpretrain
    with _torchvision() as present:
        # all parts that register something
        for part in ('datasets', 'engine', 'evaluation', 'models',
                     'visualization'):
            import_module(f'mmpretrain.{part}')
    if not present:
        mmpretrain.datasets.BaseDataset.__reduce_ex__ = _reduce_dataset
    return mmpretrain


@cache
def import_timm() -> ModuleType:
    """Import timm, without torchvision if there is none.

    Its models need none of it.

    Raises:
        ImportError: If timm is not installed.
    """
    with _torchvision():
        import timm
    return timm
