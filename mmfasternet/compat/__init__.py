# SPDX-License-Identifier: Apache-2.0
"""What mmyolo, mmpretrain and timm need to be imported beside today's
packages."""
import sys
from contextlib import contextmanager, nullcontext
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Dict, Iterator, NoReturn

# mmyolo 0.6.0 asserts mmcv < 2.1.0, read once at `import mmyolo`. Every name
# it imports exists, unchanged, in the later mmcv releases.
_NEWEST_MMCV_OF_MMYOLO = '2.0.1'


@contextmanager
def _mmcv_version(version: str) -> Iterator[None]:
    import mmcv
    actual = mmcv.__version__
    mmcv.__version__ = version
    try:
        yield
    finally:
        mmcv.__version__ = actual


def import_mmyolo() -> ModuleType:
    """Import mmyolo although its version assertion predates this mmcv.

    mmcv reports the version that mmyolo accepts while mmyolo is imported, and
    its own again afterwards; nothing else is touched. It must run before
    anything else imports mmyolo, which importing ``mmfasternet.models`` does.

    Raises:
        ImportError: If mmyolo is not installed.
    """
    import mmcv
    from mmengine.utils import digit_version
    if digit_version(mmcv.__version__) < digit_version('2.1.0'):
        import mmyolo
    else:
        with _mmcv_version(_NEWEST_MMCV_OF_MMYOLO):
            import mmyolo
    return mmyolo


_TRANSFORMS = 'torchvision.transforms'
# what mmpretrain 1.3 and timm 1.0 import of torchvision, and the parents
_TORCHVISION = ('torchvision', 'torchvision.datasets', 'torchvision.ops',
                'torchvision.ops.boxes', 'torchvision.ops.misc', _TRANSFORMS,
                f'{_TRANSFORMS}.functional', f'{_TRANSFORMS}.transforms')
# what of it is derived from, or compared with, where they are imported
_TORCHVISION_CLASSES = (
    f'{_TRANSFORMS}.RandomResizedCrop', f'{_TRANSFORMS}.ToTensor',
    'torchvision.ops.misc.FrozenBatchNorm2d', 'torchvision.datasets.CIFAR10',
    'torchvision.datasets.CIFAR100', 'torchvision.datasets.MNIST',
    'torchvision.datasets.KMNIST', 'torchvision.datasets.FashionMNIST',
    'torchvision.datasets.ImageFolder')


def _refuse(name: str) -> NoReturn:
    raise ImportError(f'{name} is needed here, but torchvision is not '
                      'installed: install the one made for your PyTorch')


class _Absent(ModuleType):
    """A module of torchvision that can be named but not used."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith('__'):  # introspection is no use
            raise AttributeError(name)
        _refuse(f'{self.__name__}.{name}')


def _absent_class(name: str) -> type:
    """A class of torchvision that can be derived from but not built."""

    def refuse(self, *args, **kwargs) -> None:
        _refuse(name)

    return type(name.rpartition('.')[2], (), dict(__init__=refuse))


# torchvision's own names, of which timm makes a table
InterpolationMode = Enum(
    'InterpolationMode', 'NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING '
    'LANCZOS')


@contextmanager
def _lent_torchvision() -> Iterator[None]:
    """Let ``import torchvision`` succeed for the time being."""
    modules: Dict[str, Any] = {
        name: _Absent(name)
        for name in _TORCHVISION
    }
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, loader=None)
        parent, _, child = name.rpartition('.')
        if parent:
            setattr(modules[parent], child, module)
    for name in _TORCHVISION_CLASSES:
        parent, _, child = name.rpartition('.')
        setattr(modules[parent], child, _absent_class(name))
    modules[f'{_TRANSFORMS}.functional'].InterpolationMode = InterpolationMode
    modules[f'{_TRANSFORMS}.transforms'].InterpolationMode = _Absent(
        f'{_TRANSFORMS}.InterpolationMode')
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
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

    mmpretrain imports torchvision throughout, but computes with it only in
    ``torchvision/...`` transforms, MAE's crop, visual grounding and for PIL
    images. Where it is missing, as for the CPU build of PyTorch that this
    project uses, modules of its name stand in while mmpretrain is imported
    and are gone afterwards; what would use them raises an ImportError. A
    pickled data set remembers to call this function first, because a worker
    process that is spawned imports nothing but what it unpickles.

    Raises:
        ImportError: If mmpretrain is not installed.
    """
    import mmpretrain
    present = find_spec('torchvision') is not None
    with nullcontext() if present else _lent_torchvision():
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

    timm imports torchvision for its data sets and transforms. Where it is
    missing, modules of its name stand in as for :func:`import_mmpretrain`;
    timm's models need none of them.

    Raises:
        ImportError: If timm is not installed.
    """
    present = find_spec('torchvision') is not None
    with nullcontext() if present else _lent_torchvision():
        import timm
    return timm
