# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or not there, and detections in them."""
import json
import os
import os.path as osp
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Sequence, Tuple, Union

import cv2
import numpy as np

from mmfasternet.checkpoint import whole_file
from mmfasternet.datasets.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample


def as_dict(sample: 'DetDataSample', classes: Sequence[str]) -> Dict[str, Any]:
    """Detections of an image for JSON.

    Args:
        sample (DetDataSample): Of a :class:`.Predictor`.
        classes (Sequence[str]): Its class names.

    Returns:
        dict[str, list]: ``labels``, their ``names``, ``scores`` and
        ``bboxes`` as x1, y1, x2, y2 in pixels, the best first; of a model
        with masks ``masks``, too, run-length encoded as in COCO.
    """
    found = sample.pred_instances
    result = {key: found[key].tolist()
              for key in ('labels', 'scores', 'bboxes')}
    result['names'] = [classes[label] for label in result['labels']]
    if 'masks' in found:
        from mmdet.structures.mask import encode_mask_results
        result['masks'] = [
            dict(mask, counts=mask['counts'].decode())
            for mask in encode_mask_results(found.masks.numpy())
        ]
    return result


def output_names(images: Sequence[str],
                 root: str) -> Iterator[Tuple[str, str]]:
    """Names of files for the results of images, no two the same.

    Args:
        images (Sequence[str]): Paths or URLs, see :func:`.images_in`.
        root (str): What they were found in; folders below it are kept.

    Yields:
        tuple[str, str]: Of a picture, and of a file of detections: as the
        image with ``.json``, after its suffix if another image differs in
        that alone.
    """
    root = root if osp.isdir(root) else osp.dirname(root) or '.'
    names = [
        osp.basename(image.partition('?')[0])
        if '://' in image else osp.relpath(image, root) for image in images
    ]
    names = [
        name if osp.splitext(name)[1].lower() in IMAGE_SUFFIXES else
        f'{name}.jpg' for name in names
    ]
    # file systems may not tell small letters from capital ones
    stems = Counter(osp.splitext(name)[0].lower() for name in names)
    taken = set()
    for name in names:
        stem = osp.splitext(name)[0]
        first = name if stems[stem.lower()] > 1 else stem
        while f'{first}.json'.lower() in taken:  # by a.jpg, of a.jpg.png
            first += '_'
        taken.add(f'{first}.json'.lower())
        yield name, f'{first}.json'


def write_image(picture: np.ndarray, path: Union[str, Path]) -> None:
    """Write a picture ``(H, W, 3)``, BGR, that is complete or not there."""
    _, data = cv2.imencode(Path(path).suffix, picture)
    with whole_file(path) as file:
        file.write(data.tobytes())


def write_json(data: Any, path: Union[str, Path]) -> None:
    """Write a file of JSON that is complete or not there."""
    with whole_file(path) as file:
        file.write(json.dumps(data).encode())


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields where to write a file, and what belongs to it, that is complete
    or not there at ``path``; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        yield Path(folder) / path.name
        # the .bin before the .xml or .param that needs it
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, path.parent / file.name)
