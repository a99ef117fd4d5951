# SPDX-License-Identifier: Apache-2.0
"""Post-training quantisation to int8.

Weights get a scale per channel, activations one per tensor, from images of
the user. What follows the last convolutions, the decoding of boxes and
scores, stays in float: a coordinate up to 640 has no place in 8 bits.
"""
import re
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

import numpy as np

from .engines import QUANTISED, engine_of
from .loading import Backend, load_backend
from .result_files import written_whole

# Layers of a detector that are kept in float or quantised together: part,
# module, and its number if there are several
_PART = re.compile(r'\w+\.\w+(\.\d+)?')


def quantize(path: Union[str, Path],
             out: Union[str, Path],
             images: np.ndarray,
             keep: Sequence[str] = ()) -> None:
    """Quantise an exported detector to int8.

    Args:
        path (str | Path): What :func:`.exporting.export` wrote: ``.onnx``,
            quantised by ONNX Runtime, ``.xml``, by NNCF, ``.tflite``, by AI
            Edge Quantizer, or ``.ncnn.param``.
        out (str | Path): The file to write, with the same suffix; complete
            or not there.
        images (np.ndarray): uint8, ``(N, 3, H, W)``, as they enter the
            network; a few hundred of what it will see.
        keep (Sequence[str]): Parts to keep in float, see :func:`parts`.
            Defaults to ``()``.

    Raises:
        ValueError: If a file or part is none of the above.
    """
    path, out = Path(path), Path(out)
    if not any(path.name.endswith(s) and out.name.endswith(s)
               for s in QUANTISED):
        raise ValueError(f'{path} and {out} must both end in '
                         f'{" or ".join(QUANTISED)}')
    if path.resolve() == out.resolve():
        raise ValueError(f'{out} would replace the file that it is made of: '
                         'give another name')
    info = load_backend(path).info
    there = parts(path)
    unknown = {*keep}.difference(there)
    if unknown and not there:
        raise ValueError(f'{path} does not say of which module a layer is: '
                         'its parts cannot be kept in float')
    if unknown:
        raise ValueError(f'{path} has no part {", ".join(sorted(unknown))}; '
                         f'its parts are {", ".join(there)}')
    with written_whole(out) as part:
        engine_of(path).quantize(path, part, _batches(images, info.shape[0]),
                                 lambda name: _part(name) in keep)


def parts(path: Union[str, Path]) -> List[str]:
    """The parts of an exported detector that are quantised together.

    They are names of modules, such as ``'backbone.stages.0'``; a ``.tflite``
    has none.
    """
    return [*dict.fromkeys(
        _part(name) for name, kind in engine_of(path).operators(path)
        if kind in ('Conv', 'Convolution', 'GroupConvolution'))]


def sensitivity(path: Union[str, Path],
                images: np.ndarray) -> Dict[str, float]:
    """How far each part moves the scores when it alone is quantised.

    Args:
        path, images: See :func:`quantize`; the first half of the images is
            for the scales, the other for the comparison.

    Returns:
        dict[str, float]: By part, the root mean square of the difference of
        the scores relative to that of the scores, the worst first.
    """
    names = parts(path)
    if not names:
        raise ValueError(f'{path} does not say of which module a layer is: '
                         'its parts cannot be quantised one by one')
    half = (len(images) + 1) // 2
    reference = _scores(load_backend(path), images[half:])
    moved = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            out = Path(folder) / f'part{engine_of(path).suffix}'
            quantize(path, out, images[:half],
                     [other for other in names if other != name])
            difference = _scores(load_backend(out), images[half:]) - reference
            moved[name] = float(
                np.sqrt((difference**2).mean() / (reference**2).mean()))
    return dict(sorted(moved.items(), key=lambda item: -item[1]))


def _batches(images: np.ndarray, size: Optional[int]) -> List[np.ndarray]:
    """As many whole batches as there are."""
    size = size or 1
    return [images[i:i + size] for i in range(0, len(images) - size + 1, size)]


def _scores(backend: Backend, images: np.ndarray) -> np.ndarray:
    index = 2 if backend.info.nms else 1
    return np.concatenate([
        backend(batch)[index]
        for batch in _batches(images, backend.info.shape[0])
    ])


def _part(name: str) -> str:
    found = _PART.match(name)
    return found[0] if found else name
