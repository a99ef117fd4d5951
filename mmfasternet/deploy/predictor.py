# SPDX-License-Identifier: GPL-3.0-only
# GPL because it prepares images by mmyolo's transforms, and mmyolo is GPL-3.0.
"""From files, arrays and videos to detections, on any backend."""
import os
import queue
import tempfile
import threading
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import cv2
import numpy as np
import torch
from mmcv.ops import batched_nms
from mmdet.models.utils import filter_scores_and_topk
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import InstanceData
from mmyolo.datasets.transforms import LetterResize, YOLOv5KeepRatioResize

from mmfasternet.checkpoint import CheckpointError
from mmfasternet.config import load_config
from mmfasternet.datasets.images import read_image
from mmfasternet.registry import MODELS

from .backends import (
    Backend,
    DeployInfo,
    PyTorchBackend,
    load_backend,
    load_deployed,
)
from .engines import ENGINES, EXPORTED
from .exporting import export

Image = Union[str, Path, np.ndarray]
# of an image: what leads back to it from the network's input
Meta = Dict[str, Any]


# ------------------------------------------------------------ before
class Letterbox:
    """Images as the test pipeline of a YOLOv8 config prepares them.

    Args:
        info (DeployInfo): Says how.
    """

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
            image (str | Path | np.ndarray): A path or URL, or uint8
                ``(H, W, 3)``, BGR.

        Returns:
            tuple[np.ndarray, dict]: uint8 ``(3, h, w)`` and what leads back.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no image.
        """
        path = None
        if not isinstance(image, np.ndarray):
            path = str(image)
            image = read_image(path)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 \
                or 0 in image.shape:
            raise ValueError('an image must be uint8 of (height, width, 3), '
                             f'got {image.dtype} of {image.shape}')
        results = dict(img=image)
        for step in self.steps:
            results = step(results)
        meta = dict(
            img_path=path,
            ori_shape=image.shape[:2],
            img_shape=results['img_shape'][:2],
            scale_factor=results['scale_factor'],
            pad_param=results['pad_param'])
        return np.ascontiguousarray(results['img'].transpose(2, 0, 1)), meta


# ------------------------------------------------------------ after
def choose(info: DeployInfo, boxes: np.ndarray, scores: np.ndarray,
           meta: Optional[Meta] = None) -> InstanceData:
    """What YOLOv8's head of mmyolo does after decoding, with its functions.

    Args:
        info (DeployInfo): The thresholds.
        boxes (np.ndarray): ``(A, 4)``, x1, y1, x2, y2 in the input.
        scores (np.ndarray): ``(A, num_classes)``.
        meta (dict, optional): What leads back to the image. Defaults to
            None: stay in the input.

    Returns:
        InstanceData: ``bboxes (K, 4)`` in pixels of the image, ``scores`` and
        ``labels (K, )``, the best first.
    """
    # a copy: what an engine returns may be memory that it uses again
    boxes, scores = torch.tensor(boxes), torch.from_numpy(scores)
    labels = None
    if not info.multi_label:
        scores, labels = scores.max(1, keepdim=True)
    scores, columns, places, _ = filter_scores_and_topk(
        scores, info.score_thr, info.nms_pre)
    labels = columns if labels is None else labels[places, 0]
    boxes = _back(boxes[places], meta)
    if len(boxes):
        kept, index = batched_nms(
            boxes, scores, labels,
            dict(type='nms', iou_threshold=info.iou_threshold))
        index = index[:info.max_per_img]
        boxes, labels = boxes[index], labels[index]
        scores = kept[:info.max_per_img, -1]
    return InstanceData(
        bboxes=_clip(boxes, meta), scores=scores, labels=labels)


def chosen(info: DeployInfo, outs: Sequence[np.ndarray], index: int,
           meta: Optional[Meta] = None) -> InstanceData:
    """The same of a network that ends with NMS.

    Args:
        info (DeployInfo): About the network.
        outs (Sequence[np.ndarray]): What it returned.
        index (int): The image in its batch.
        meta (dict, optional): See :func:`choose`.

    Returns:
        InstanceData: See :func:`choose`.
    """
    number, boxes, scores, labels = (torch.tensor(out[index]) for out in outs)
    boxes, scores, labels = (x[:int(number)] for x in (boxes, scores, labels))
    return InstanceData(
        bboxes=_clip(_back(boxes, meta), meta), scores=scores, labels=labels)


def _back(boxes: torch.Tensor, meta: Optional[Meta]) -> torch.Tensor:
    if meta is None:
        return boxes
    top, _, left, _ = meta['pad_param']
    boxes = boxes - boxes.new_tensor([left, top, left, top])
    return boxes / boxes.new_tensor(meta['scale_factor']).repeat(1, 2)


def _clip(boxes: torch.Tensor, meta: Optional[Meta]) -> torch.Tensor:
    if meta is not None:
        height, width = meta['ori_shape']
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
    return boxes


def detect(backend: Backend, images: np.ndarray,
           metas: Sequence[Meta]) -> List[InstanceData]:
    """Detections of one batch.

    Args:
        backend (Backend): The network.
        images (np.ndarray): uint8, ``(N, 3, H, W)``. If the network takes
            more images in one run, it is filled up.
        metas (Sequence[dict]): What leads back, one per image.

    Returns:
        list[InstanceData]: See :func:`choose`.
    """
    size = backend.info.shape[0]
    if size is not None and len(images) > size:
        return [
            result for first in range(0, len(images), size)
            for result in detect(backend, images[first:first + size],
                                 metas[first:first + size])
        ]
    if size is not None and len(images) < size:
        images = np.concatenate(
            [images, np.repeat(images[-1:], size - len(images), 0)])
    outs = backend(images)
    if backend.info.nms:
        return [
            chosen(backend.info, outs, i, meta) for i, meta in enumerate(metas)
        ]
    return [
        choose(backend.info, boxes, scores, meta)
        for boxes, scores, meta in zip(*outs, metas)
    ]


# ------------------------------------------------------------ both
class Predictor:
    """Detects objects in images and videos.

    The results are those of ``tools/test.py`` with the same model.

    Args:
        model (str | Path): An exported file (``.onnx``, or ``.xml`` of
            OpenVINO), which needs nothing else, or a checkpoint.
        config (str | Config, optional): The config of a checkpoint.
        backend (str, optional): ``'pytorch'``, ``'onnxruntime'`` or
            ``'openvino'``. Defaults to None, what the file is for. A
            checkpoint is exported for the other two when it is loaded.
        precision (str): ``'fp32'``; ``'bf16'`` for PyTorch and OpenVINO,
            ``'fp16'`` for PyTorch on a GPU. Defaults to ``'fp32'``.
        threads (int, optional): Threads of one run. Defaults to None, the
            engine's choice.
        device (str): Where to run. Defaults to ``'cpu'``.
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
        if Path(model).suffix in EXPORTED:
            self.backend = load_backend(model, backend, precision, threads,
                                        device)
        else:
            self.backend = _load_checkpoint(
                str(model), config, backend or 'pytorch', precision, threads,
                device)
        self.score_thr = score_thr
        self.classes = self.backend.info.classes
        self.letterbox = Letterbox(self.backend.info)

    def __call__(self,
                 images: Union[Image, Sequence[Image]],
                 batch_size: int = 1) -> List[DetDataSample]:
        """Detect objects in images.

        Args:
            images (str | Path | np.ndarray | Sequence): One or several paths,
                URLs or arrays, see :class:`Letterbox`.
            batch_size (int): Images per run. Defaults to 1.

        Returns:
            list[DetDataSample]: One per image; ``pred_instances`` holds
            ``bboxes`` as x1, y1, x2, y2 in pixels of the image, ``scores``
            and ``labels``, the best first.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no image.
        """
        if isinstance(images, (str, Path, np.ndarray)):
            images = [images]
        return [sample for _, sample in self.stream(images, batch_size)]

    def stream(
        self,
        images: Iterable[Image],
        batch_size: int = 1,
        latest: bool = False
    ) -> Iterator[Tuple[Image, DetDataSample]]:
        """Detect in one image after another, while the next is prepared.

        Args:
            images (Iterable): Of images, e.g. :func:`frames`; read in another
                thread, a few at a time.
            batch_size (int): Images per run. Defaults to 1.
            latest (bool): If images come faster than they are processed, drop
                all but the last, for live sources. Defaults to False.

        Yields:
            tuple: An image as it came and its detections, in order.
        """
        if batch_size < 1:
            raise ValueError(
                f'batch_size must be positive, got {batch_size}')
        prepared = prefetch(((image, *self.letterbox(image))
                             for image in images), 2 * batch_size, latest)
        batch = []
        for item in prepared:
            batch.append(item)
            if len(batch) == batch_size:
                yield from self._detect(batch)
                batch = []
        yield from self._detect(batch)

    def draw(self,
             image: np.ndarray,
             sample: DetDataSample,
             score_thr: float = 0.3,
             show: bool = False) -> np.ndarray:
        """Draw detections with MMDetection's visualizer.

        Args:
            image (np.ndarray): uint8 ``(H, W, 3)``, BGR.
            sample (DetDataSample): What was found in it.
            score_thr (float): Lowest score to draw. Defaults to 0.3.
            show (bool): Open a window, too. Defaults to False.

        Returns:
            np.ndarray: A picture like ``image``.
        """
        self.visualizer.add_datasample(
            'detections',
            np.ascontiguousarray(image[..., ::-1]),
            sample,
            draw_gt=False,
            show=show,
            pred_score_thr=score_thr)
        return np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])

    @cached_property
    def visualizer(self) -> DetLocalVisualizer:
        """What draws, with a colour per class."""
        visualizer = DetLocalVisualizer(f'predictor_{id(self)}')
        visualizer.dataset_meta = dict(classes=self.classes, palette='random')
        return visualizer

    def _detect(
            self, batch: List[tuple]) -> Iterator[Tuple[Image, DetDataSample]]:
        if not batch:
            return
        images, inputs, metas = zip(*batch)
        results = detect(self.backend, np.stack(inputs), metas)
        for image, meta, result in zip(images, metas, results):
            if self.score_thr is not None:
                result = result[result.scores >= self.score_thr]
            sample = DetDataSample(metainfo=meta)
            sample.pred_instances = result
            yield image, sample


def _load_checkpoint(checkpoint: str, config: Union[str, Config, None],
                     backend: str, precision: str, threads: Optional[int],
                     device: str) -> Backend:
    if config is None:
        raise ValueError(
            f'{checkpoint} is no exported file ({" or ".join(EXPORTED)}): for '
            'a checkpoint give its config, too')
    if not isinstance(config, Config):
        config = load_config(str(config))
    info = DeployInfo.from_config(config)
    deployed = load_deployed(config, checkpoint)
    if backend == 'pytorch':
        return PyTorchBackend(deployed.to(device), info, precision, threads)
    suffix = dict(zip(('onnxruntime', 'openvino'), EXPORTED))[backend]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'detector{suffix}'
        export(deployed, info, path, dynamic=True)
        return load_backend(path, backend, precision, threads, device)


def prefetch(items: Iterable[Any],
             size: int,
             latest: bool = False) -> Iterator[Any]:
    """Take items from an iterable in another thread, in order.

    Args:
        items (Iterable): What raises in there is raised here.
        size (int): How many to take ahead.
        latest (bool): Drop what was not fetched when the next one comes.
            Defaults to False.

    Yields:
        The items.
    """
    buffer: queue.Queue = queue.Queue(1 if latest else size)
    stop = threading.Event()
    end = object()

    def put(item: Any) -> None:
        drop = latest and item[0] is None
        while not stop.is_set():
            try:
                return buffer.put(item, timeout=0 if drop else 0.1)
            except queue.Full:
                with suppress(queue.Empty):
                    if drop:
                        buffer.get_nowait()

    def fill() -> None:
        try:
            for item in items:
                if stop.is_set():
                    return
                put((None, item))
            put((end, None))
        except Exception as error:
            put((error, None))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            state, item = buffer.get()
            if state is end:
                return
            if state is not None:
                raise state
            yield item
    finally:
        stop.set()
        thread.join()


def frames(source: Union[str, int]) -> Iterator[np.ndarray]:
    """Frames of a video.

    Args:
        source (str | int): A file, a URL (``rtsp://...``, ``http://...``), or
            the number of a camera.

    Yields:
        np.ndarray: uint8 ``(H, W, 3)``, BGR.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be opened, or holds no frame.
    """
    if isinstance(source, str) and source.isdigit():
        source = int(source)
    if isinstance(source, str) and '://' not in source and \
            not os.path.isfile(source):
        raise FileNotFoundError(f'video not found: {source}')
    video = cv2.VideoCapture(source)
    try:
        if not video.isOpened():
            kind = 'camera' if isinstance(source, int) else 'video'
            raise ValueError(f'the {kind} {source} cannot be opened: it is '
                             'not there, in use, or of a format that OpenCV '
                             'does not know')
        count = 0
        while True:
            more, frame = video.read()
            if not more:
                break
            count += 1
            yield frame
        if not count:
            raise ValueError(f'{source} holds no frame that can be read')
    finally:
        video.release()


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """An exported file as a model that MMEngine's runner can test.

    Args:
        file (str): ``.onnx``, or ``.xml`` of OpenVINO.
        backend (str, optional): See :class:`Predictor`.
        precision (str): See :class:`Predictor`. Defaults to ``'fp32'``.
        threads (int, optional): See :class:`Predictor`.
        device (str): See :class:`Predictor`. Defaults to ``'cpu'``.
    """

    def __init__(self,
                 file: str,
                 backend: Optional[str] = None,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu') -> None:
        # images stay uint8, as the test pipeline leaves them
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.backend = load_backend(file, backend, precision, threads, device)

    def forward(self,
                inputs: Sequence[torch.Tensor],
                data_samples: Sequence[DetDataSample],
                mode: str = 'predict') -> List[DetDataSample]:
        """Detect in a batch of the test data loader.

        Args:
            inputs (Sequence[Tensor]): uint8 ``(3, H, W)`` each, prepared.
            data_samples (Sequence[DetDataSample]): One per image.
            mode (str): ``'predict'`` alone.

        Returns:
            list[DetDataSample]: The same with ``pred_instances``.
        """
        if mode != 'predict':
            raise ValueError(f'an exported detector can only predict, not '
                             f'{mode}')
        metas = [
            dict(dict(pad_param=(0, 0, 0, 0)), **sample.metainfo)
            for sample in data_samples
        ]
        alike = len({image.shape for image in inputs}) == 1
        size = len(inputs) if alike else 1
        for first in range(0, len(inputs), size):
            part = slice(first, first + size)
            batch = torch.stack(list(inputs[part])).cpu().numpy()
            for sample, result in zip(
                    data_samples[part],
                    detect(self.backend, batch, metas[part])):
                sample.pred_instances = result
        return list(data_samples)


def use_exported(cfg: Config,
                 file: Union[str, Path],
                 backend: Optional[str] = None,
                 precision: str = 'fp32') -> None:
    """Let an exported file stand in the place of the model of a config.

    Args:
        cfg (Config): The config, changed in place.
        file (str | Path): See :class:`ExportedDetector`.
        backend (str, optional): See :class:`Predictor`.
        precision (str): See :class:`Predictor`. Defaults to ``'fp32'``.

    Raises:
        CheckpointError: If the file detects other classes.
    """
    model = dict(
        type='mmfasternet.ExportedDetector',
        file=str(file),
        backend=backend,
        precision=precision)
    exported = MODELS.build(model).backend.info.classes
    classes = tuple(cfg.get('metainfo', {}).get('classes', ()))
    if classes not in ((), exported):
        raise CheckpointError(
            f'{file} detects {", ".join(exported)}, but the config has '
            f'{", ".join(classes)}: give the config that it was exported with')
    cfg.model = model
    cfg.custom_hooks = []  # they are for training; EMAHook copies the model
