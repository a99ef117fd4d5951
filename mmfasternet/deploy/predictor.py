# SPDX-License-Identifier: GPL-3.0-only
# GPL because it prepares images by mmyolo's transforms, and mmyolo is GPL-3.0.
"""From files, arrays and videos to detections, on any engine."""
import tempfile
import time
from functools import cached_property
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import matplotlib
import numpy as np
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from PIL import Image as PillowImage
from PIL import ImageOps

from mmfasternet.config import clear_resize, load_config
from mmfasternet.datasets.images import read_image
from mmfasternet.visualization.detections import paint

from .engines import ENGINES, EXPORTED
from .engines.pytorch import PyTorchNetwork
from .exporting import export
from .info import DeployInfo
from .loading import Backend, load_backend, load_deployed
from .postprocess import Meta, postprocess
from .video import prefetch

# after mmfasternet.models, which makes them importable
from mmdet.structures import DetDataSample  # isort: skip
from mmyolo.datasets.transforms import (  # isort: skip
    LetterResize,
    YOLOv5KeepRatioResize)

Image = Union[str, Path, np.ndarray, PillowImage.Image]


def as_array(image: Image) -> Tuple[np.ndarray, Optional[str]]:
    """An image in memory, and its path or URL.

    Returns:
        tuple[np.ndarray, str | None]: uint8 ``(H, W, 3)``, BGR; None if it
        had no path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image.
    """
    if isinstance(image, (str, Path)):
        return read_image(str(image)), str(image)
    if isinstance(image, PillowImage.Image):
        if image.mode in ('I', 'F'):
            raise ValueError(
                'an image must have 8 or 16 bits per channel, got a PIL image '
                f'of mode {image.mode}: scale it to 0 to 255 and convert it '
                'to L')
        image = ImageOps.exif_transpose(image)
        if 0 in image.size:
            raise ValueError('an image must have pixels, got a PIL image of '
                             f'{image.size[0]}x{image.size[1]}')
        if image.mode.startswith('I;16'):  # Pillow clips what is above 255
            image = PillowImage.fromarray(
                (np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(image.convert('RGB'))[..., ::-1], None
    if not isinstance(image, np.ndarray):
        raise ValueError('an image must be a path, a URL, a PIL image or an '
                         f'array, got {type(image).__name__}')
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 \
            or 0 in image.shape:
        raise ValueError('an image must be uint8 of (height, width, 3), '
                         f'got {image.dtype} of {image.shape}')
    return image, None


class Letterbox:
    """Images as the test pipeline of a YOLOv8 config prepares them."""

    def __init__(self, info: DeployInfo) -> None:
        self.steps = [
            YOLOv5KeepRatioResize(scale=info.img_scale),
            LetterResize(
                scale=info.img_scale,
                allow_scale_up=False,
                pad_val=dict(img=info.pad_val))
        ]

    def __call__(self, image: Image) -> Tuple[np.ndarray, Meta]:
        """Prepare one image.

        Args:
            image (str | Path | np.ndarray | PIL.Image.Image): A path or URL,
                a PIL image, or uint8 ``(H, W, 3)``, BGR.

        Returns:
            tuple[np.ndarray, dict]: uint8 ``(3, h, w)`` and what leads back.

        Raises:
            FileNotFoundError, ValueError: See :func:`as_array`.
        """
        image, path = as_array(image)
        results = dict(img=image)
        with clear_resize(image.shape[:2], path):
            for step in self.steps:
                results = step(results)
        meta = dict(
            img_path=path,
            ori_shape=image.shape[:2],
            img_shape=results['img_shape'][:2],
            scale_factor=results['scale_factor'],
            pad_param=results['pad_param'])
        return np.ascontiguousarray(results['img'].transpose(2, 0, 1)), meta


def detect(backend: Backend, images: np.ndarray,
           metas: Sequence[Meta]) -> Tuple[List[InstanceData], float]:
    """Detections of a batch, in as many runs as the network needs.

    Args:
        backend (Backend): The network.
        images (np.ndarray): uint8, ``(N, 3, H, W)``. If the network takes
            more images in one run, it is filled up.
        metas (Sequence[dict]): What leads back, one per image.

    Returns:
        tuple[list[InstanceData], float]: See
        :func:`.postprocess.postprocess`; and how long the runs took.
    """
    size = backend.info.shape[0] or len(images)
    found, seconds = [], 0.
    for first in range(0, len(images), size):
        part = images[first:first + size]
        if len(part) < size:
            part = np.concatenate(
                [part, np.repeat(part[-1:], size - len(part), 0)])
        begin = time.perf_counter()
        outs = backend(part)
        seconds += time.perf_counter() - begin
        found += postprocess(backend.info, outs, metas[first:first + size])
    return found, seconds


class Predictor:
    """Detects objects in images and videos.

    The results are those of ``tools/test.py`` with the same model.

    Args:
        model (str | Path): An exported file (``.onnx``, ``.xml`` of OpenVINO,
            ``.ncnn.param`` or ``.tflite``), which needs nothing else, or a
            checkpoint.
        config (str | Config, optional): The config of a checkpoint.
        backend (str, optional): ``'pytorch'``, ``'onnxruntime'``,
            ``'openvino'``, ``'ncnn'`` or ``'litert'``. Defaults to None, what
            the file is for. A checkpoint is exported for all but the first
            when it is loaded.
        precision (str): ``'fp32'``; ``'bf16'`` for PyTorch, OpenVINO and
            ncnn, ``'fp16'`` for PyTorch on a GPU and for ncnn.
        threads (int, optional): Threads of one run. Defaults to None, the
            engine's choice.
        device (str): Where to run.
        score_thr (float, optional): Lowest score. Defaults to None, that of
            the config, which is meant for evaluation (0.001); with NMS in
            the network, detections below are dropped afterwards.

    Attributes:
        classes (tuple[str]): Class names, by label.

    Raises:
        FileNotFoundError: If a file does not exist.
        CheckpointError: If it is damaged, or not of this config.
        ValueError: If the arguments do not go together.

    Example:
        >>> from mmfasternet.deploy import Predictor  # doctest: +SKIP
        >>> predictor = Predictor('detector.onnx', threads=1)
        >>> for found in predictor(['a.jpg', 'b.jpg'])[0].pred_instances:
        ...     print(predictor.classes[found.labels], found.scores)
    """

    def __init__(self,
                 model: Union[str, Path],
                 config: Union[str, Config, None] = None,
                 backend: Optional[str] = None,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu',
                 score_thr: Optional[float] = None) -> None:
        if backend not in (None, *ENGINES):
            raise ValueError(f'backend must be one of {", ".join(ENGINES)}, '
                             f'got {backend}')
        if score_thr is not None and not (
                isinstance(score_thr, Real) and 0 <= score_thr <= 1):
            raise ValueError('score_thr must be a number from 0 to 1, got '
                             f'{score_thr!r}')
        options = precision, threads, device
        if str(model).endswith(EXPORTED):
            self.backend = load_backend(model, backend, *options)
        else:
            self.backend = _load_checkpoint(
                str(model), config, backend or 'pytorch', *options)
        self.score_thr = score_thr
        self.classes = self.backend.info.classes
        self.letterbox = Letterbox(self.backend.info)

    def __call__(self,
                 images: Union[Image, Sequence[Image]],
                 batch_size: int = 1) -> List[DetDataSample]:
        """Detect objects in images.

        Args:
            images (str | Path | np.ndarray | PIL.Image.Image | Sequence): One
                or several, see :class:`Letterbox`.
            batch_size (int): Images per run. Defaults to 1.

        Returns:
            list[DetDataSample]: One per image; ``pred_instances`` holds
            ``bboxes`` as x1, y1, x2, y2 in pixels of the image, ``scores``
            and ``labels``, the best first; ``seconds`` what it took, by
            ``'prepare'``, ``'network'`` and ``'boxes'``, of a batch the share
            of each image.

        Raises:
            FileNotFoundError, ValueError: See :func:`as_array`.
        """
        return [sample for _, sample in self.stream(images, batch_size)]

    def stream(
        self,
        images: Union[Image, Iterable[Image]],
        batch_size: int = 1,
        latest: bool = False,
        skip: Optional[Callable[[Image, Exception], None]] = None
    ) -> Iterator[Tuple[Image, DetDataSample]]:
        """Detect in one image after another, while the next is prepared.

        Args:
            images (Image | Iterable): One, or several, e.g. of
                :func:`.video.frames`; read in another thread, a few at a
                time.
            batch_size (int): Images per run. Defaults to 1.
            latest (bool): If images come faster than they are processed, drop
                all but the last, for live sources. Defaults to False.
            skip (callable, optional): Told of each image that cannot be read,
                and why, in that thread. Defaults to None: it is raised.

        Yields:
            tuple: An image as it came and its detections, in order.
        """
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f'batch_size must be positive, got {batch_size!r}'
                             ': it is a whole number of images')
        if isinstance(images, (str, bytes, np.ndarray)) or \
                not isinstance(images, Iterable):
            images = [images]

        def prepared() -> Iterator[tuple]:
            for image in images:
                begin = time.perf_counter()
                try:
                    inputs, meta = self.prepare(image)
                except (OSError, ValueError) as error:
                    if skip is None:
                        raise
                    skip(image, error)
                    continue
                yield image, inputs, meta, time.perf_counter() - begin

        items = prefetch(prepared(), 2 * batch_size, latest)
        while batch := [*islice(items, batch_size)]:
            yield from self._detect(batch)

    def prepare(self, image: Image) -> Tuple[Any, Any]:
        """Inputs and meta of an image, see :class:`Letterbox`."""
        return self.letterbox(image)

    def detect(self, inputs: Sequence[Any],
               metas: Sequence[Any]) -> Tuple[List[DetDataSample], float]:
        """Detections of one batch, and how long the network took.

        ``inputs`` and ``metas`` are what :meth:`prepare` gives.
        """
        samples = [DetDataSample(metainfo=meta) for meta in metas]
        found, seconds = detect(self.backend, np.stack(inputs), metas)
        for sample, instances in zip(samples, found):
            sample.pred_instances = instances
        return samples, seconds

    def draw(self,
             image: Image,
             sample: DetDataSample,
             score_thr: float = 0.3,
             show: bool = False) -> np.ndarray:
        """Draw detections, as the figures of a training run have them.

        Args:
            image (str | Path | np.ndarray | PIL.Image.Image): See
                :class:`Letterbox`. The result is uint8 ``(H, W, 3)``, BGR.
            sample (DetDataSample): What was found in it.
            score_thr (float): Lowest score to draw. Defaults to 0.3.
            show (bool): Open a window, too. Defaults to False.

        Raises:
            ValueError: If it is to be shown, and no window can be opened.
        """
        found = sample.pred_instances.cpu().numpy()
        found = found[found.scores >= score_thr]
        picture = paint(
            as_array(image)[0][..., ::-1], found.bboxes, found.labels,
            [f'{self.classes[label]} {score:.2f}'
             for label, score in zip(found.labels, found.scores)],
            found.get('masks', ()))
        if show:
            self._window.show(picture, 'detections')
        return np.ascontiguousarray(picture[..., ::-1])

    @cached_property
    def _window(self) -> Visualizer:
        """One window for all pictures.

        MMEngine waits for ever for a key in one that cannot be opened.
        """
        if matplotlib.get_backend().lower() == 'agg':
            raise ValueError('a picture cannot be shown: there is no screen, '
                             'or no toolkit that matplotlib opens windows '
                             'with (pip install PyQt5). Leave out --show')
        return Visualizer(f'predictor_{id(self)}')

    def _detect(
            self, batch: List[tuple]) -> Iterator[Tuple[Image, DetDataSample]]:
        images, inputs, metas, prepared = zip(*batch)
        begin = time.perf_counter()
        samples, network = self.detect(inputs, metas)
        whole = time.perf_counter() - begin
        for image, sample, before in zip(images, samples, prepared):
            seconds = dict(
                prepare=before,
                network=network / len(batch),
                boxes=(whole - network) / len(batch))
            sample.set_metainfo(dict(seconds=seconds))
            if self.score_thr is not None:
                found = sample.pred_instances
                sample.pred_instances = found[found.scores >= self.score_thr]
            yield image, sample


def _load_checkpoint(checkpoint: str, config: Union[str, Config, None],
                     backend: str, *options: Any) -> Backend:
    if config is None:
        raise ValueError(
            f'{checkpoint} is not an exported file '
            f'({" or ".join(EXPORTED)}): for a checkpoint give its config, '
            'too')
    cfg = config if isinstance(config, Config) else load_config(str(config))
    info = DeployInfo.from_config(cfg)
    deployed = load_deployed(cfg, checkpoint)
    engine = ENGINES[backend]
    if engine.suffix is None:
        return Backend(PyTorchNetwork(deployed, *options), info)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'detector{engine.suffix}'
        export(deployed, info, path, dynamic=engine.dynamic)
        return load_backend(path, backend, *options)
