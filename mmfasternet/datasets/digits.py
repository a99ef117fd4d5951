# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""A detection data set of handwritten digits that needs no download."""
import os
import tempfile
from pathlib import Path
from typing import List, Tuple

import cv2
import numpy as np
from mmengine.logging import print_log
from mmyolo.datasets import YOLOv5CocoDataset

from mmfasternet.datasets.readers import write_coco
from mmfasternet.datasets.readers.source import Item, to_coco
from mmfasternet.registry import DATASETS

IMAGE_SIZE = 192  # pixels, square
SPLITS = dict(train=1000, val=200)  # number of images
# Tight height of a digit in pixels. COCO calls areas below 32**2 small and
# above 96**2 large; a digit is about two thirds as wide as it is high.
HEIGHTS = dict(small=(14, 32), medium=(44, 100), large=(130, 165))
# How often an image draws a digit of each size, and how many it may hold.
SIZE_SHARE = dict(small=0.45, medium=0.35, large=0.2)
MAX_DIGITS = 8
MAX_COVERED = 0.15  # share of a digit's box that another one may cover


@DATASETS.register_module()
class DigitsDataset(YOLOv5CocoDataset):
    """Scans of handwritten digits, placed on varied backgrounds.

    The 1,797 scans of 8x8 pixels that scikit-learn ships (E. Alpaydin,
    C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998) are
    placed at varied size, contrast and overlap. A scan is in images of the
    training or of the validation split, never of both. The files are COCO
    json and JPEG, the same on every machine with the same library versions.

    Args:
        data_root (str): Folder of the data set. If there is none, the files
            are written to it first, which takes a few seconds.
        **kwargs: See :class:`mmyolo.datasets.YOLOv5CocoDataset`.

    Raises:
        ValueError: If ``data_root`` exists but holds something else.
    """

    METAINFO = dict(classes=tuple('0123456789'))

    @staticmethod
    def write_if_missing(data_root: str) -> None:
        """Write the files unless they are there, see :func:`write_digits`."""
        write_digits(data_root)

    def full_init(self) -> None:
        """Write the files unless they are there, then read them."""
        write_digits(self.data_root)
        super().full_init()


def write_digits(data_root: str) -> None:
    """Write the data set unless it is there.

    Several processes may do so at once: each writes a folder of its own and
    the first to finish renames it to ``data_root``.

    Args:
        data_root (str): Folder of the data set.

    Raises:
        ValueError: If ``data_root`` exists but holds something else.
    """
    root = Path(data_root)
    names = [f'annotations/{split}.json' for split in SPLITS]
    if all((root / name).is_file() for name in names):
        return
    if root.exists():
        raise ValueError(
            f'{root} exists but has no {" and ".join(names)}: remove it, or '
            'set data_root to a folder that does not exist yet')
    print_log(f'Writing the digits data set to {root}', 'current')
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        complete = Path(folder) / root.name
        for split, scans in _split_scans().items():
            _write_split(complete, split, *scans)
        try:
            os.rename(complete, root)
        except OSError:
            if not all((root / name).is_file() for name in names):
                raise


def _split_scans() -> dict:
    from sklearn.datasets import load_digits
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    val, train = np.split(order, [len(order) // 5])
    return {split: (digits.images[index], digits.target[index])
            for split, index in (('train', train), ('val', val))}


def _write_split(root: Path, split: str, scans: np.ndarray,
                 labels: np.ndarray) -> None:
    (root / split).mkdir(parents=True)
    items = []
    for image_id in range(1, SPLITS[split] + 1):
        rng = np.random.default_rng([len(scans), image_id])
        image, boxes, chosen = _compose(rng, scans)
        path = root / split / f'{image_id:04d}.jpg'
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        items.append(Item(path, IMAGE_SIZE, IMAGE_SIZE, [
            (str(labels[scan]), box, 0) for box, scan in zip(boxes, chosen)]))
    write_coco(to_coco(items, '0123456789', root / split),
               root / 'annotations' / f'{split}.json')


def _compose(rng: np.random.Generator,
             scans: np.ndarray) -> Tuple[np.ndarray, List[tuple], List[int]]:
    """One image, its boxes ``(x, y, w, h)`` and the scans in them."""
    image, colour = _background(rng)
    boxes, chosen = [], []
    for _ in range(rng.integers(2, 2 * MAX_DIGITS)):
        size = rng.choice(list(SIZE_SHARE), p=list(SIZE_SHARE.values()))
        scan = int(rng.integers(len(scans)))
        ink = _ink(scans[scan], rng.uniform(*HEIGHTS[size]))
        h, w = ink.shape
        if max(h, w) >= IMAGE_SIZE:
            continue
        x = int(rng.integers(IMAGE_SIZE - w))
        y = int(rng.integers(IMAGE_SIZE - h))
        box = (x, y, w, h)
        if len(boxes) == MAX_DIGITS or any(
                _overlap(box, other) > MAX_COVERED * min(
                    w * h, other[2] * other[3]) for other in boxes):
            continue
        # darker or brighter than the background by a visible amount
        contrast = rng.uniform(60, 130) * (-1 if colour.mean() > 127 else 1)
        pen = np.clip(colour + contrast + rng.uniform(-25, 25, 3), 0, 255)
        area = image[y:y + h, x:x + w]
        area += ink[..., None] * (pen - area)
        boxes.append(box)
        chosen.append(scan)
    image += rng.normal(0, rng.uniform(0, 8), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), boxes, chosen


def _background(rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Soft clouds and a few lines around one colour, and that colour."""
    colour = rng.uniform(20, 235, 3)
    coarse = rng.uniform(-30, 30, (rng.integers(2, 7), ) * 2 + (3, ))
    clouds = cv2.resize(
        coarse, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
    image = colour + clouds
    for _ in range(rng.integers(0, 5)):
        start, end = rng.integers(0, IMAGE_SIZE, (2, 2)).tolist()
        pen = (colour + rng.uniform(-45, 45, 3)).tolist()
        cv2.line(image, start, end, pen, int(rng.integers(1, 4)), cv2.LINE_AA)
    return image, colour


def _ink(scan: np.ndarray, height: float) -> np.ndarray:
    """Opacity of the pen, 0 to 1, cropped to what is visible."""
    rows, columns = np.nonzero(scan > 3)  # of 16 grey levels
    tight = scan[rows.min():rows.max() + 1, columns.min():columns.max() + 1]
    scale = height / len(tight)
    padded = np.pad(tight / 16, 1)  # for soft edges
    size = [max(round(side * scale), 4) for side in padded.shape[::-1]]
    ink = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC)
    ink = np.clip(1.5 * ink - 0.2, 0, 1)
    rows, columns = np.nonzero(ink > 0.2)
    return ink[rows.min():rows.max() + 1, columns.min():columns.max() + 1]


def _overlap(a: tuple, b: tuple) -> float:
    """Area of the intersection of two boxes ``(x, y, w, h)``."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0)
