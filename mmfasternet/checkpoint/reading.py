# SPDX-License-Identifier: Apache-2.0
"""Reading a checkpoint file as data, whatever is in it.

A pickle can run any code while it is read. ``torch.load(weights_only=True)``
refuses that; what a training checkpoint holds besides tensors is allowed here
by name.
"""
import re
import time
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, List, Optional, Tuple, Union

import numpy as np
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from torch.serialization import (
    get_unsafe_globals_in_checkpoint,
    safe_globals,
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be had, read or used, and what to do."""


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


def allowed_globals() -> list:
    """What a training checkpoint of MMEngine holds besides tensors.

    The scalars of its message hub are numpy arrays in ``HistoryBuffer``.
    numpy 2 renamed its modules, and files carry the old or the new name.
    """
    multiarray = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    allowed = [HistoryBuffer, slice, np.ndarray, np.dtype,
               (_history_method, 'builtins.getattr'),
               *{type(np.dtype(kind)) for kind in '?bhilqBHILQefd'}]
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

# of the last read, where the next one is of the same file: what identifies
# its content, and the content
_kept: Optional[Tuple[tuple, Any]] = None


def read_checkpoint(path: Union[str, Path],
                    map_location: Any = 'cpu',
                    modules: bool = False,
                    keep: bool = False) -> Any:
    """Read a checkpoint as data, whatever is in it.

    Args:
        path (str | Path): A file of ``torch.save`` or a safetensors file;
            which of them is told by its content.
        map_location: See :func:`torch.load`.
        modules (bool): Also read files in which whole PyTorch modules are
            pickled, as Ultralytics does. They come back as inert objects that
            :func:`mmfasternet.checkpoint.layouts.fasternet.find_tensors`
            takes tensors from. Defaults to False.
        keep (bool): Give the same object to the next read, if that is of the
            same unchanged file: for who looks into a file that MMEngine then
            loads. Defaults to False.

    Returns:
        Any: What was saved; for safetensors a dict of tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is empty, truncated or not a checkpoint, or if
            reading it would run code.
    """
    global _kept
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint not found: {path}')
    status = path.stat()
    content = (status.st_dev, status.st_ino, status.st_size,
               status.st_mtime_ns, modules)
    before, _kept = _kept, None
    on_cpu = map_location is None or str(map_location) == 'cpu'
    if before and before[0] == content and on_cpu:
        data = before[1]
    else:
        data = _read(path, map_location, modules)
    # within the clock's tick a file can change without its time changing
    if keep and on_cpu and time.time_ns() - status.st_mtime_ns > 5e7:
        _kept = content, data
    return data


def _read(path: Path, map_location: Any, modules: bool) -> Any:
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
                f'{path} is not a checkpoint: it {content}, so it is neither '
                'a file of torch.save nor safetensors. Download or save it '
                'again')
        allowed = allowed_globals()
        if head.startswith(b'PK'):
            _check_archive(path)
            if modules:
                allowed += [(type('Inert', (_Inert, ), {}), name)
                            for name in _forbidden_globals(path)
                            if name.startswith(_MODULE_PICKLES)]
        with safe_globals(allowed):
            return torch.load(path, map_location, weights_only=True)
    except UnpicklingError as error:
        raise refusal(path, error) from None
    except CheckpointError:
        raise
    except Exception as error:
        # torch and safetensors raise half a dozen kinds for broken files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f'{path} cannot be read, it is truncated or damaged '
            f'({path.stat().st_size} bytes): {reason}. Download or save it '
            'again') from error


def _forbidden_globals(path: Union[str, Path]) -> List[str]:
    """Names of what a pickle would call, without what is allowed."""
    with safe_globals(allowed_globals()):
        return get_unsafe_globals_in_checkpoint(path)


def _check_archive(path: Path) -> None:
    """Find damage that PyTorch's reader, which skips checksums, does not.

    PyTorch stores the parts uncompressed, so together they cannot be larger
    than the file: a small file that unpacks to a huge one is not one of its.
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


def refusal(path: Union[str, Path], error: UnpicklingError) -> CheckpointError:
    """The error for a pickle that would run code, naming what it calls.

    ``error`` is what ``torch.load`` raised.
    """
    try:
        names = _forbidden_globals(path)
    except Exception:  # the old format of torch.save cannot be listed
        names = []
    if not names:
        found = re.findall(r'GLOBAL (\S+)', str(error))
        names = found or [str(error).strip().splitlines()[-1]]
    message = (f'{path} is refused: it holds more than tensors and plain '
               f'values ({", ".join(names[:5])}), and reading that could run '
               'any code. Nothing of it was run. ')
    if all(name.startswith(_MODULE_PICKLES) for name in names):
        return CheckpointError(
            f'{message}Whole modules are pickled in it, as Ultralytics does: '
            'tools/model_converters/ take the tensors out safely')
    return CheckpointError(
        f'{message}If you made it yourself, save only its weights where you '
        "made it: torch.save(model.state_dict(), 'weights.pth')")


def newest_checkpoint(work_dir: Union[str, Path]) -> Optional[Path]:
    """The checkpoint to go on from, whatever happened to the last one.

    It is read here; the next read of it is given what was read.

    Args:
        work_dir (str | Path): Of a training run; there may be nothing in it.

    Returns:
        Path | None: The one that MMEngine's note ``last_checkpoint`` names,
        or, with a warning, the newest other one that is whole. None if there
        is no checkpoint that a training run could go on from.

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
            data = read_checkpoint(path, keep=True)
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
