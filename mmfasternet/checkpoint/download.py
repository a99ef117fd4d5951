# SPDX-License-Identifier: Apache-2.0
"""Finding the file of a checkpoint: by path, URL or short name."""
import hashlib
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Dict, Optional
from urllib.error import URLError

import torch
from mmengine.dist import barrier
from torch.hub import download_url_to_file

from .reading import CheckpointError

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
        path.parent.mkdir(parents=True, exist_ok=True)
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
