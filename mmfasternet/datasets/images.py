# SPDX-License-Identifier: Apache-2.0
"""What image files are, as training loads them."""
import hashlib
import io
import json
import multiprocessing
import os
import os.path as osp
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from http.client import InvalidURL
from pathlib import Path
from typing import (
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)
from urllib.error import URLError

import cv2
import mmcv
import numpy as np
from mmengine.fileio import get
from PIL import ExifTags, Image

from mmfasternet.datasets.files import file_error, files_below, is_hidden

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
MAX_PIXELS = 2**30  # of OpenCV, CV_IO_MAX_IMAGE_PIXELS
HUGE_PIXELS = 2**26  # 8192 x 8192, 192 MiB for each worker of a data loader
# Two pictures look alike from this correlation of their thumbnails on. Of
# 17,835 pairs of a training and a validation image of BCCD one is the same
# view (0.99), the next has 0.70; of 200,000 pairs of the digits the highest
# is 0.82. Copies saved as JPEG of quality 20, halved or cropped by two pixels
# have at least 0.98, brighter copies of the digits as little as 0.91.
ALIKE = 0.97
THUMB = 16  # pixels, square
MIN_CONTRAST = 4  # grey levels; thumbnails of plain images tell nothing
IMAGES_PER_WORKER = 50  # fewer are read faster than a process starts


def image_files(folder: Path) -> Iterator[Path]:
    """The images in a folder and the folders in it, but for hidden ones."""
    return (file for file in files_below(folder) if file.suffix.lower() in
            IMAGE_SUFFIXES and not is_hidden(file, folder))


def images_in(path: str) -> List[str]:
    """The image itself, or those in a folder and the folders in it.

    Hidden files are none of them.

    Raises:
        FileNotFoundError: If there is none.
    """
    if '://' in path or Path(path).is_file():
        return [path]
    found = sorted(map(str, image_files(Path(path)))) if path else []
    if not found:
        raise FileNotFoundError(
            f'no image in the folder {path}' if path and Path(path).is_dir()
            else f'no such file or folder: {path}')
    return found


def unlabelled_images(folder: str,
                      listed: Sequence[Tuple[str, str]]) -> List[str]:
    """The images in a folder that no annotation file lists.

    Args:
        folder (str): The folder, looked through with those in it.
        listed (Sequence[tuple[str, str]]): COCO json files, each with the
            folder that its names of images are relative to.

    Raises:
        FileNotFoundError: If there is none, or no such json.
    """
    known = set()
    for ann_file, prefix in listed:
        with open(ann_file, encoding='utf-8') as file:
            names = [entry['file_name'] for entry in json.load(file)['images']]
        known.update(osp.realpath(osp.join(prefix, name)) for name in names)
    found = [p for p in images_in(folder) if osp.realpath(p) not in known]
    if not found:
        raise FileNotFoundError(
            f'unlabelled_data_prefix: all images in {folder} have labels, or '
            'are in the validation or test split. Name a folder with others')
    return found


def read_image(path: str) -> np.ndarray:
    """An image file as uint8 ``(H, W, 3)``, BGR, turned by its EXIF tag.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image, or a URL that cannot be fetched.
    """
    if '://' not in path and not osp.isfile(path):
        raise FileNotFoundError(f'image not found: {path}')
    try:
        data = get(path)
    except KeyError:
        raise ValueError(f'{path} is of a kind that is not fetched: give an '
                         'http:// or https:// URL, or a file') from None
    except (ImportError, URLError, UnicodeError, InvalidURL) as error:
        raise ValueError(f'{path} cannot be fetched: {error}') from None
    image = None
    with suppress(cv2.error):  # OpenCV takes no empty one, nor any size
        image = mmcv.imfrombytes(data, backend='cv2')
    if image is None:
        raise ValueError(f'{path} cannot be read as an image: it is damaged, '
                         'or of a format that OpenCV does not know')
    return image


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Let Pillow open what it takes for an attack; nothing is decoded."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def size_and_turn(path: Path) -> Tuple[Tuple[int, int], bool]:
    """Width and height as training reads it, turned by EXIF or not, and
    whether that is the other way round than the pixels in the file.

    Raises:
        OSError: If it is missing or not an image.
    """
    with _of_any_size(), Image.open(path) as image:
        size = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    if not turned:
        return size, False
    # in which formats that counts depends on OpenCV's version
    loaded = mmcv.imread(path)
    if loaded is None:
        raise OSError('it cannot be decoded')
    return loaded.shape[1::-1], loaded.shape[1::-1] != size


class Picture(NamedTuple):
    """What one image file is, as mmcv's ``LoadImageFromFile`` reads it."""

    missing: str = ''  # why the file cannot be opened
    broken: str = ''  # why it cannot be decoded
    size: Tuple[int, int] = (0, 0)  # width, height as loaded
    orientation: int = 1  # EXIF
    traits: Tuple[str, ...] = ()
    digest: bytes = b''  # of the decoded pixels
    thumb: bytes = b''


def inspect_image(path: str) -> Picture:
    """Decode an image as training does; errors are told, none is raised."""
    try:
        missing = file_error(path)
        if missing:
            return Picture(missing=missing)
        with open(path, 'rb') as file:
            data = file.read()
        if not data:
            return Picture(broken='the file is empty')
        size, orientation, traits = _header(data, path)
        if size[0] * size[1] > MAX_PIXELS:
            return Picture(broken=f'{size[0]}x{size[1]} is more than the '
                           f'{MAX_PIXELS} pixels that OpenCV reads')
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None or _is_cut_jpeg(data):
            return Picture(broken='it cannot be decoded (cut off, damaged or '
                           'not an image)')
        thumb = cv2.resize(image, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
        size = image.shape[1::-1]
        return Picture(
            size=size,
            orientation=orientation,
            traits=traits + ('huge', ) * (size[0] * size[1] > HUGE_PIXELS),
            digest=hashlib.blake2b(
                image, digest_size=16, salt=b'%dx%d' % size).digest(),
            thumb=cv2.cvtColor(thumb, cv2.COLOR_BGR2GRAY).tobytes())
    except Exception as error:  # whatever a decoder makes of a broken file
        return Picture(broken=f'{type(error).__name__}: {error}'.strip())


def _header(data: bytes, path: str) -> tuple:
    """Size, EXIF orientation and traits; nothing if Pillow knows none."""
    try:
        with _of_any_size(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = Image.open(io.BytesIO(data))
            turns = image.format in ('JPEG', 'MPO', 'TIFF')  # in OpenCV
            orientation = image.getexif().get(0x112, 1) if turns else 1
    except Exception:  # OpenCV may know it all the same
        return (0, 0), 1, ()
    bits = getattr(image, 'tag_v2', {}).get(258, 8)  # of TIFF
    named = Image.registered_extensions().get(osp.splitext(path)[1].lower())
    image_format = 'JPEG' if image.format == 'MPO' else image.format
    traits = {
        '16-bit': image.mode.startswith('I;16') or np.max(bits) > 8
        or image.format == 'PNG' and data[24] > 8,
        'cmyk': image.mode == 'CMYK',
        'grayscale': image.mode in ('1', 'L', 'LA')
        or image.mode.startswith('I'),
        'alpha': image.mode in ('LA', 'RGBA', 'PA'),
        'misnamed': named not in (None, image_format)
    }
    return image.size, orientation, tuple(k for k, v in traits.items() if v)


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end, which some versions of OpenCV paint grey.

    Both markers cannot occur in compressed data.
    """
    return data[:2] == b'\xff\xd8' and \
        data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda')


def inspect_all(paths: List[str], workers: Optional[int],
                progress: bool) -> Iterator[Picture]:
    """Inspect many images, in order.

    Args:
        paths (list[str]): Paths of the images.
        workers (int, optional): Processes, 0 for none beside this one; None
            for one per core.
        progress (bool): Show a progress bar in a terminal.

    Raises:
        BrokenProcessPool: If a process dies.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(
        os, 'sched_getaffinity') else os.cpu_count() or 1
    if workers is None:
        workers = min(cores, len(paths) // IMAGES_PER_WORKER)
        workers = 0 if workers == 1 else workers
    workers = min(workers, len(paths), 4 * cores)
    if not workers:
        yield from _bar(map(inspect_image, paths), len(paths), progress)
        return
    # Processes are forked where a DataLoader forks its own: a spawned one
    # would import all of PyTorch first. OpenCV's threads do not survive that.
    method = 'fork' if sys.platform == 'linux' else 'spawn'
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        with ProcessPoolExecutor(
                workers, multiprocessing.get_context(method)) as pool:
            done = pool.map(inspect_image, paths, chunksize=8)
            yield from _bar(done, len(paths), progress)
    finally:
        cv2.setNumThreads(threads)


def _bar(items: Iterable, total: int, progress: bool) -> Iterable:
    if not (progress and sys.stderr.isatty()):
        return items
    from rich.console import Console
    from rich.progress import track
    return track(items, 'images', total=total, transient=True,
                 console=Console(stderr=True))


def look_alikes(train: Dict[str, Picture],
                val: Dict[str, Picture]) -> Dict[str, str]:
    """Pairs of pictures whose thumbnails correlate.

    Args:
        train (dict[str, Picture]): By path.
        val (dict[str, Picture]): By path.

    Returns:
        dict[str, str]: For a path of ``val`` the most similar of ``train``.
    """
    if not train:
        return {}
    a, b, alike = _thumbs(train), _thumbs(val), {}
    names, val_names = list(train), list(val)
    for start in range(0, len(b), 256):  # at a time, to spare memory
        match = b[start:start + 256] @ a.T
        for path, row in zip(val_names[start:], match):
            if row.max() >= ALIKE:
                alike[path] = names[row.argmax()]
    return alike


def _thumbs(pictures: Dict[str, Picture]) -> np.ndarray:
    """Thumbnails with mean 0 and norm 1, plain ones with norm 0."""
    raw = b''.join(p.thumb for p in pictures.values())
    thumbs = np.frombuffer(raw, np.uint8).reshape(-1, THUMB**2)
    thumbs = thumbs.astype(np.float32)
    thumbs -= thumbs.mean(1, keepdims=True)
    norm = np.linalg.norm(thumbs, axis=1, keepdims=True)
    thumbs[norm[:, 0] < MIN_CONTRAST * THUMB] = 0
    return thumbs / np.maximum(norm, 1)
