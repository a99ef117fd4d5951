# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: found by path, URL or short name, and read as data only.

A pickle can run any code while it is read. ``torch.load(weights_only=True)``
refuses that, but MMEngine and its forks fall back to unsafe reading, or read
URLs unsafely in the first place. Importing this module, which importing the
backbone does, makes every checkpoint that MMEngine loads in this process
(``init_cfg``, ``load_from``, ``--resume``, inferencers) go through
:func:`read_checkpoint` or, for other storage backends, through PyTorch's own
switch that forbids unsafe loading; and every local file that MMEngine writes
through its storage backend, checkpoints first of all, appears complete or not
at all.
"""
import hashlib
import os
import re
import socket
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Dict, Iterator, Optional, Sequence, Union
from urllib.error import URLError

import numpy as np
import safetensors.torch
import torch
from mmengine.dist import barrier
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import CheckpointLoader
from torch import nn
from torch.hub import download_url_to_file
from torch.serialization import (
    get_unsafe_globals_in_checkpoint,
    safe_globals,
)

SCHEME = 'fasternet://'
RELEASES_URL = 'https://github.com/JierunChen/FasterNet/releases/download/v1.0'
MIRROR_VARIABLE = 'MMFASTERNET_MIRROR'

# The authors' ImageNet releases; the names carry the validation accuracy.
# They published no hashes. Those of T1 and T2 were recorded by a user of
# these files; the others can be pinned with `sha256` in init_cfg.
RELEASES: Dict[str, Dict[str, str]] = {
    't0': dict(file='fasternet_t0-epoch.281-val_acc1.71.9180.pth'),
    't1': dict(
        file='fasternet_t1-epoch.291-val_acc1.76.2180.pth',
        sha256='5d85fb083ece3b63337d90959034a78d'
        'bbd7b0c434d73d05fab09bf880c4646c'),
    't2': dict(
        file='fasternet_t2-epoch.289-val_acc1.78.8860.pth',
        sha256='8424cb882a4797bb73e6b7465223815894'
        'dc96876dd2efe15e89b0b7ae785b73'),
    's': dict(file='fasternet_s-epoch.299-val_acc1.81.2840.pth'),
    'm': dict(file='fasternet_m-epoch.291-val_acc1.82.9620.pth'),
    'l': dict(file='fasternet_l-epoch.299-val_acc1.83.5060.pth'),
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be had, read or used, and what to do."""


# ------------------------------------------------------------ reading
class _Inert:
    """Stands for a class or function of a pickle without being it."""

    def __init__(self, *args, **kwargs) -> None:
        pass


def _history_method(owner: Any, name: str) -> Any:
    """The one use of ``getattr`` in MMEngine's checkpoints."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    if isinstance(owner, _Inert):  # a bound method in a pickled module
        return _Inert()
    raise UnpicklingError(f'GLOBAL builtins.getattr of {name!r}')


def _mmengine_globals() -> list:
    """What a training checkpoint of MMEngine holds besides tensors.

    The scalars of its message hub are numpy arrays in ``HistoryBuffer``.
    numpy 2 renamed its modules, and files carry the old or the new name.
    """
    multiarray = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    allowed = [
        HistoryBuffer, slice, np.ndarray, np.dtype,
        (_history_method, 'builtins.getattr'),
        *{type(np.dtype(kind))
          for kind in '?bhilqBHILQefd'}
    ]
    for function, name in zip(multiarray, ('_reconstruct', 'scalar')):
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
            allowed.append((function, f'{module}.{name}'))
    return allowed


# Ultralytics pickles whole modules, and so does torch.save(model). Their
# tensors can be had without the classes: what is named here is replaced by
# _Inert, anything else is refused.
_MODULE_PICKLES = ('ultralytics.', 'models.', 'utils.', '__main__.', 'torch.',
                   'timm.', 'mmcv.', 'mmengine.', 'mmdet.', 'mmyolo.',
                   'mmfasternet.', 'pathlib.', 'argparse.Namespace')


def read_checkpoint(path: Union[str, Path],
                    map_location: Any = 'cpu',
                    modules: bool = False) -> Any:
    """Read a checkpoint as data, whatever is in it.

    Args:
        path (str | Path): A file of ``torch.save`` or a safetensors file;
            which of them is told by its content.
        map_location: See :func:`torch.load`.
        modules (bool): Also read files in which whole PyTorch modules are
            pickled, as Ultralytics does. They come back as inert objects that
            :func:`mmfasternet.checkpoint.layouts.fasternet.find_tensors`
            takes tensors from. Defaults to False.

    Returns:
        Any: What was saved; for safetensors a dict of tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is empty, truncated or no checkpoint, or if
            reading it would run code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint not found: {path}')
    with path.open('rb') as file:
        head = file.read(9)
    try:
        if head[8:] == b'{':
            device = map_location if isinstance(
                map_location, (str, torch.device)) else 'cpu'
            return safetensors.torch.load_file(path, str(device))
        if not head.startswith((b'PK', b'\x80')):
            content = f'begins with {head!r}' if head else 'is empty'
            raise CheckpointError(
                f'{path} is no checkpoint: it {content}, so it is neither a '
                'file of torch.save nor safetensors. Download or save it '
                'again')
        allowed = _mmengine_globals()
        if head.startswith(b'PK'):
            _check_archive(path)
        if modules and head.startswith(b'PK'):
            with safe_globals(allowed):
                unknown = get_unsafe_globals_in_checkpoint(path)
            allowed += [(type('Inert', (_Inert, ), {}), name)
                        for name in unknown
                        if name.startswith(_MODULE_PICKLES)]
        with safe_globals(allowed):
            return torch.load(path, map_location, weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from None
    except CheckpointError:
        raise
    except Exception as error:
        # torch and safetensors raise half a dozen kinds for broken files
        raise CheckpointError(
            f'{path} cannot be read, it is truncated or damaged '
            f'({path.stat().st_size} bytes): {_first_line(error)}. '
            'Download or save it again') from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_archive(path: Path) -> None:
    """Find damage that PyTorch's reader, which skips checksums, does not.

    PyTorch stores the parts uncompressed, so together they cannot be larger
    than the file: a small file that unpacks to a huge one is none of its own.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or \
                sum(part.file_size for part in parts) > size:
            raise CheckpointError(
                f'{path} is refused: its parts are compressed or overlap, '
                'which torch.save never does, and could fill the memory. '
                'Download or save it again')
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f'{path} cannot be read, it is truncated or damaged ({size} '
            f'bytes): the checksum of {damaged} is wrong. Download or save '
            'it again')


def _refusal(path: Path, error: UnpicklingError) -> str:
    try:
        with safe_globals(_mmengine_globals()):
            names = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the old format of torch.save cannot be listed
        names = []
    if not names:
        found = re.findall(r'GLOBAL (\S+)', str(error))
        names = found or [str(error).strip().splitlines()[-1]]
    message = (f'{path} is refused: it holds more than tensors and plain '
               f'values ({", ".join(names[:5])}), and reading that could run '
               'any code. Nothing of it was run. ')
    if all(name.startswith(_MODULE_PICKLES) for name in names):
        return message + (
            'Whole modules are pickled in it, as Ultralytics does: '
            'tools/model_converters/ take the tensors out safely')
    return message + (
        'If you made it yourself, save only its weights where you made it: '
        "torch.save(model.state_dict(), 'weights.pth')")


# ------------------------------------------------------------ finding
def checkpoint_path(name: str, sha256: Optional[str] = None) -> Path:
    """The local file of a checkpoint; remote ones are downloaded once.

    Downloads are kept where MMEngine and PyTorch keep theirs,
    ``$TORCH_HOME/hub/checkpoints`` (``~/.cache/torch/hub/checkpoints``). A
    file that lies there already is used without a connection. ``HTTPS_PROXY``
    names a proxy as usual, and ``MMFASTERNET_MIRROR`` a URL (https or file)
    of a folder with the authors' files to use instead of GitHub.

    Args:
        name (str): A path, a URL (``https://...``), or ``fasternet://t0`` to
            ``fasternet://l`` for the authors' ImageNet releases.
        sha256 (str, optional): Expected digest, or the beginning of it.
            Defaults to None, the known one of a release, if there is one, or
            the one in the file name of a URL, as OpenMMLab writes them.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If a path does not exist.
        CheckpointError: If it cannot be downloaded or has another digest.
    """
    if name.startswith(SCHEME):
        arch = name[len(SCHEME):]
        if arch not in RELEASES:
            raise CheckpointError(
                f'there is no ImageNet release {name!r}; there are '
                f'{", ".join(SCHEME + key for key in RELEASES)}')
        folder = os.environ.get(MIRROR_VARIABLE) or RELEASES_URL
        file = RELEASES[arch]['file']
        sha256 = sha256 or RELEASES[arch].get('sha256')
        return _download(f'{folder.rstrip("/")}/{file}', file, sha256)
    if name.startswith('http://'):
        raise CheckpointError(
            f'{name}: weights are fetched over https only, anybody between '
            'here and there could change them. Download the file yourself '
            'and give its path')
    if name.startswith('https://'):
        file = re.sub(r'[?#].*', '', name).rsplit('/', 1)[-1]
        if sha256 is None:
            # OpenMMLab and torch.hub: NAME-<first 8 digits of the hash>.pth
            match = re.search(r'-([0-9a-f]{8,64})\.\w+$', file)
            sha256 = match and match[1]
        # many different files are called model.safetensors
        key = hashlib.sha256(name.encode()).hexdigest()[:8]
        return _download(name, f'{key}-{file}', sha256)
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint not found: {path}')
    _check_digest(path, sha256)
    return path


def _download(url: str, file: str, sha256: Optional[str]) -> Path:
    path = Path(torch.hub.get_dir()) / 'checkpoints' / file
    try:
        # one process per machine; the file appears when it is complete
        if os.environ.get('LOCAL_RANK', '0') == '0' and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(url, path, sha256)
    finally:
        barrier()
    if not path.exists():
        _fetch(url, path, sha256)
    _check_digest(path, sha256)
    return path


def _fetch(url: str, path: Path, sha256: Optional[str]) -> None:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            download_url_to_file(url, part, progress=sys.stderr.isatty())
            _check_digest(part, sha256, f'{url} was downloaded, but it')
            os.replace(part, path)
    except (URLError, OSError) as error:
        raise CheckpointError(
            f'cannot download {url}: {getattr(error, "reason", error)}. '
            f'Without a connection put the file at {path}; HTTPS_PROXY names '
            f'a proxy, {MIRROR_VARIABLE} the URL of a folder with the '
            "authors' files; pretrained=None trains from scratch") from error
    finally:
        socket.setdefaulttimeout(timeout)


def digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    value = hashlib.sha256()
    with Path(path).open('rb') as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


def _check_digest(path: Path, expected: Optional[str],
                  what: Optional[str] = None) -> None:
    if expected is None:
        return
    actual = digest(path)
    if not actual.startswith(expected.lower()):
        raise CheckpointError(
            f'{what or path} has the SHA-256 {actual}, expected {expected}: '
            'it is damaged or another file. Delete it and try again, or give '
            'the path of a file that you trust')


def is_usable(tensor: torch.Tensor, like: torch.Tensor) -> bool:
    """Whether it has numbers, all finite and of the kind of another tensor's.

    Args:
        tensor (Tensor): From a checkpoint.
        like (Tensor): The one of a model that it is for.
    """
    if tensor.is_meta or tensor.is_quantized or tensor.is_complex() or \
            tensor.layout != torch.strided or \
            tensor.is_floating_point() != like.is_floating_point():
        return False
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()  # PyTorch cannot ask 8 bits
    return bool(tensor.isfinite().all())


def require_fit(model: nn.Module, name: str,
                classes: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that is not of this whole model.

    MMEngine loads what fits and warns about the rest; to test such a mixture
    gives an AP of nearly 0.

    Args:
        model (nn.Module): The model, with or without a wrapper.
        name (str): Anything that MMEngine loads checkpoints from.
        classes (Sequence[str]): Class names of the config, to compare with
            those that training has noted. Defaults to ``()``: do not compare.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another
            shape, or if the classes are others.
    """
    data = CheckpointLoader.load_checkpoint(name, 'cpu', logger='silent')
    require_fitting(model.state_dict(), data, name, classes)


def require_fitting(own: Dict[str, torch.Tensor], data: Any, name: str,
                    classes: Sequence[str] = ()) -> None:
    """The same as :func:`require_fit`, of what has been read already.

    Args:
        own (dict): State dict of the model, with or without a wrapper.
        data: What is in the checkpoint.
        name, classes: See there.
    """
    tensors = data.get('state_dict', data) if isinstance(data, dict) else None
    if not isinstance(tensors, dict) or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor)
            for k, v in tensors.items()):
        raise CheckpointError(
            f'{name} holds no weights: a checkpoint is a dict of tensors, or '
            'has one under "state_dict". Give the checkpoint of a training')
    meta = data.get('meta') or {}
    trained = tuple((meta.get('dataset_meta') or {}).get('classes') or ())
    if trained and classes and trained != tuple(classes):
        raise CheckpointError(
            f'{name} was trained on {len(trained)} classes '
            f'({_shorten(trained)}), but the config has {len(classes)} '
            f'({_shorten(classes)}): set `classes` to those of the training, '
            'in their order, or take the config from its work directory')
    own, tensors = ({re.sub(r'^(module\.)+', '', k): v for k, v in x.items()}
                    for x in (own, tensors))
    problems = [
        f'{k}: {tuple(tensors[k].shape)} in the file, {tuple(v.shape)} in '
        'the model' for k, v in own.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    problems += [
        f'{k}: not in the file' for k in own
        if k not in tensors and not k.endswith('num_batches_tracked')
    ]
    problems += [f'{k}: not in the model' for k in tensors if k not in own]
    if not problems:
        for key, tensor in tensors.items():
            if not is_usable(tensor, own[key]):
                raise CheckpointError(
                    f'{name} is refused: {key} holds NaN or infinite numbers, '
                    f'or {tensor.dtype} instead of {own[key].dtype}. Take an '
                    'earlier checkpoint of that training')
    if problems:
        raise CheckpointError(
            f'{name} does not fit the config, {len(problems)} tensors differ: '
            f'{"; ".join(problems[:3])}. Another model.backbone.arch, letter '
            'or number of classes? The config in the work directory of its '
            'training fits')


def _shorten(names: Sequence[str]) -> str:
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def newest_checkpoint(work_dir: Union[str, Path]) -> Optional[Path]:
    """The checkpoint to go on from, whatever happened to the last one.

    Args:
        work_dir (str | Path): Of a training; there may be nothing in it.

    Returns:
        Path | None: The one that MMEngine's note ``last_checkpoint`` names,
        or, with a warning, the newest other one that is whole. None if there
        is no checkpoint that a training could go on from.

    Raises:
        CheckpointError: If there are some, but none that is whole.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    # a kill while it was written leaves it empty, a lost disk full of zeros
    noted = note.read_bytes().decode(errors='replace').strip('\0 \n') \
        if note.is_file() else ''
    others = sorted(
        work_dir.glob('*.pth'), key=lambda p: p.stat().st_mtime, reverse=True)
    candidates = dict.fromkeys(([Path(noted)] if noted else []) + others)
    faults = []
    for path in candidates:
        try:
            data = read_checkpoint(path)
        except (CheckpointError, OSError) as error:
            faults.append(str(error))
            continue
        # best_*.pth hold weights only
        if isinstance(data, dict) and 'optimizer' in data and isinstance(
                data.get('meta'), dict):
            if faults or (note.is_file() and path != Path(noted)):
                reasons = faults or [f'{note} does not name it']
                MMLogger.get_current_instance().warning(
                    '\n  '.join([f'going on from {path} instead of the last '
                                 'checkpoint', *reasons]))
            return path
    if faults:
        raise CheckpointError(
            '\n  '.join([f'no checkpoint in {work_dir} is whole', *faults]) +
            '\nWithout --resume the training begins anew')
    return None


# ------------------------------------------------------------ writing
@contextmanager
def whole_file(path: Union[str, Path]) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete on the disk.

    However it ends, an error, a full disk, a kill or a power cut: under the
    name is what was there before, or all of the new content.

    Args:
        path (str | Path): Where to; its folder is made.

    Yields:
        BinaryIO: To write to. It lies beside the file, with a dot before and
        ``.part`` behind the name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        if hasattr(os, 'O_DIRECTORY'):  # the new name lasts, too
            folder = os.open(path.parent, os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(data: Any, path: Union[str, Path]) -> None:
    """Write a checkpoint that is complete or not there at all.

    Args:
        data: What :func:`torch.save` takes; for a name that ends in
            ``.safetensors`` a dict of tensors.
        path (str | Path): Where to; its folder is made.
    """
    path = Path(path)
    with whole_file(path) as file:
        if path.suffix == '.safetensors':
            # one byte count per tensor: views must not share their storage
            file.write(
                safetensors.torch.save({
                    k: v.detach().clone().contiguous()
                    for k, v in data.items()
                }))
        else:
            torch.save(data, file)


class WholeFileBackend(LocalBackend):
    """MMEngine's local files, each complete or not there at all."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        with whole_file(filepath) as file:
            file.write(obj)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


register_backend('local', WholeFileBackend, force=True, prefixes='')


# ------------------------------------------------------------ MMEngine
@contextmanager
def _weights_only() -> Iterator[None]:
    """PyTorch's own switch: torch.load ignores ``weights_only=False``."""
    switch = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(switch)
    os.environ[switch] = '1'
    try:
        with safe_globals(_mmengine_globals()):
            yield
    finally:
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader of local files, reading data only."""
    return read_checkpoint(filename, map_location)


@CheckpointLoader.register_scheme(
    prefixes=('http://', 'https://', SCHEME), force=True)
def load_from_remote(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader of URLs and short names, reading data only."""
    return read_checkpoint(checkpoint_path(filename), map_location)


_mmengine_load = CheckpointLoader.load_checkpoint


def _load_checkpoint(filename: str,
                     map_location: Any = None,
                     logger: Any = 'current') -> Any:
    with _weights_only():
        try:
            return _mmengine_load(filename, map_location, logger)
        except UnpicklingError as error:
            raise CheckpointError(_refusal(Path(filename), error)) from None


CheckpointLoader.load_checkpoint = staticmethod(_load_checkpoint)
