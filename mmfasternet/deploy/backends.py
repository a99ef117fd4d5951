# SPDX-License-Identifier: GPL-3.0-only
# GPL because it builds mmyolo's detectors, and mmyolo is GPL-3.0.
"""Deployed detectors on PyTorch, ONNX Runtime and OpenVINO.

Every backend is a callable that maps uint8 images ``(N, 3, H, W)`` to the
arrays that :class:`.predictor.Predictor` makes detections of.
"""
import json
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Iterable, List, Optional, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint

from mmfasternet.checkpoint import CheckpointError, require_fit

from .fold import DeployedDetector, deploy_form

KEY = 'mmfasternet'  # of what is written into exported files


@dataclass(frozen=True)
class DeployInfo:
    """What leads from an image to the network, and from there to detections.

    It travels in the exported file, so that no config is needed to run one.

    Attributes:
        classes (tuple[str]): Class names.
        img_scale (tuple[int]): Width and height that images are fitted into.
        pad_val (int): Pixel value of what is left of that.
        score_thr (float): Boxes with lower scores are dropped.
        iou_threshold (float): Of NMS.
        nms_pre (int): Most boxes that enter NMS.
        max_per_img (int): Most boxes that leave it.
        multi_label (bool): Whether one place may hold several classes.
        nms (bool): Whether the network ends with NMS; then it is done, per
            class and without the limit of ``nms_pre``.
        shape (tuple[int | None]): Batch size, height and width of the
            network's input; None is any.
    """

    classes: Tuple[str, ...]
    img_scale: Tuple[int, int]
    pad_val: int
    score_thr: float
    iou_threshold: float
    nms_pre: int
    max_per_img: int
    multi_label: bool
    nms: bool = False
    shape: Tuple[Optional[int], ...] = (None, None, None)

    @classmethod
    def from_config(cls, cfg: Config) -> 'DeployInfo':
        """Read it from a config of YOLOv8.

        Args:
            cfg (Config): The config.

        Raises:
            ValueError: If the images are prepared, or the boxes chosen, in a
                way that is not known here.
        """
        steps = {}
        dataset = cfg.test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        for step in dataset.pipeline:
            steps[str(step.type).rpartition('.')[2]] = step
        known = {
            'LoadImageFromFile', 'YOLOv5KeepRatioResize', 'LetterResize',
            'LoadAnnotations', 'PackDetInputs'
        }
        if {*steps} - known or 'LetterResize' not in steps:
            raise ValueError(
                f'test_dataloader.dataset.pipeline of {cfg.filename} is '
                f'{[*steps]}, but deployed detectors prepare images by '
                'YOLOv5KeepRatioResize and LetterResize alone')
        letter = steps['LetterResize']
        scale = steps.get('YOLOv5KeepRatioResize', letter).scale
        options = {k: v for k, v in letter.items()
                   if k not in ('type', 'scale', 'pad_val')}
        if tuple(scale) != tuple(letter.scale) or \
                options != dict(allow_scale_up=False):
            raise ValueError(
                f'{cfg.filename}: deployed detectors need one scale for '
                'YOLOv5KeepRatioResize and LetterResize, and '
                'LetterResize(allow_scale_up=False), got '
                f'{tuple(scale)} and {dict(letter)}')
        test = cfg.model.test_cfg
        nms = dict(test.nms)
        if nms.pop('type', 'nms') != 'nms' or {*nms} != {'iou_threshold'}:
            raise ValueError(f'model.test_cfg.nms of {cfg.filename} must be '
                             "dict(type='nms', iou_threshold=...), got "
                             f'{dict(test.nms)}')
        classes = cfg.get('metainfo', {}).get('classes') or \
            dataset.get('metainfo', {}).get('classes')
        number = cfg.model.bbox_head.head_module.num_classes
        pad = letter.get('pad_val', 0)
        return cls(
            classes=tuple(classes or map(str, range(number))),
            img_scale=tuple(letter.scale),
            # as it is: LetterResize pads one channel only with a float
            pad_val=pad['img'] if isinstance(pad, dict) else pad,
            score_thr=float(test.get('score_thr', -1)),
            iou_threshold=float(nms['iou_threshold']),
            nms_pre=int(test.get('nms_pre', 100000)),
            max_per_img=int(test.max_per_img),
            multi_label=bool(test.multi_label) and number > 1)

    def dumps(self) -> str:
        """The text that is written into an exported file."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: Optional[str],
              path: Union[str, Path]) -> 'DeployInfo':
        """Read the text of an exported file; nothing in it is run.

        Args:
            text (str, optional): The text, None if the file has none.
            path (str | Path): The file, for the messages.

        Raises:
            CheckpointError: If it is not what :meth:`dumps` writes.
        """
        try:
            data = json.loads(text)
            if {*data} != {field.name for field in fields(cls)}:
                raise ValueError(f'keys {sorted(data)}')
            for key, kind in (('classes', str), ('img_scale', int)):
                if not data[key] or \
                        not all(type(value) is kind for value in data[key]):
                    raise ValueError(f'{key}: {data[key]!r}')
            for key in ('pad_val', 'score_thr', 'iou_threshold', 'nms_pre',
                        'max_per_img'):
                if type(data[key]) not in (int, float):
                    raise ValueError(f'{key}: {data[key]!r}')
            for key in ('classes', 'img_scale', 'shape'):
                data[key] = tuple(data[key])
            return cls(**data)
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f'{path} does not say how to prepare images for it '
                f'({error}): it was not written by tools/deploy/export.py, '
                'or by another version of it. Export it again') from None


def load_deployed(cfg: Config,
                  checkpoint: str,
                  device: Union[str, torch.device] = 'cpu'
                  ) -> DeployedDetector:
    """The deploy form of a trained detector.

    Args:
        cfg (Config): The config of the detector.
        checkpoint (str): Its checkpoint, or a checkpoint of the deploy form.
        device (str | torch.device): Where to put it. Defaults to ``'cpu'``.

    Returns:
        DeployedDetector: See :func:`.fold.deploy_form`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is not of this detector.
    """
    init_default_scope(cfg.get('default_scope', 'mmyolo'))
    model = MODELS.build(cfg.model)
    data = CheckpointLoader.load_checkpoint(checkpoint, 'cpu', 'silent')
    if KEY in (data.get('meta') or {}):
        model = deploy_form(model)
    require_fit(model, checkpoint, DeployInfo.from_config(cfg).classes)
    load_checkpoint(model, checkpoint, 'cpu', logger='silent')
    if not isinstance(model, DeployedDetector):
        model = deploy_form(model)
    return model.to(device)


class Backend:
    """Base of the callables that run a network.

    Args:
        info (DeployInfo): About the network.

    Attributes:
        info (DeployInfo): The same.
        name (str): What it is, for tables.
        seconds (float): How long the network took in the last call.
    """

    seconds = 0.

    def __init__(self, info: DeployInfo, name: str) -> None:
        self.info = info
        self.name = name

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """Run the network.

        Args:
            images (np.ndarray): uint8, ``(N, 3, H, W)``, BGR, resized and
                padded.

        Returns:
            list[np.ndarray]: Boxes ``(N, A, 4)`` as x1, y1, x2, y2 in pixels
            of ``images`` and scores ``(N, A, num_classes)``; or, if the
            network ends with NMS, the number of detections ``(N, 1)`` and,
            sorted by score, boxes ``(N, max_per_img, 4)``, scores and labels
            ``(N, max_per_img)``.

        Raises:
            ValueError: If the network takes another number or size of images.
        """
        got = (images.shape[0], *images.shape[2:])
        for size, fixed, name in zip(got, self.info.shape,
                                     ('batch size', 'height', 'width')):
            if fixed not in (None, size):
                raise ValueError(
                    f'{self.name} was exported for the {name} {fixed}, got '
                    f'{size}: give images of that size, or export with '
                    '--dynamic')
        begin = time.perf_counter()
        outs = self.run(images)
        self.seconds = time.perf_counter() - begin
        return outs

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """See :meth:`__call__`, which has checked the shape."""
        raise NotImplementedError


class PyTorchBackend(Backend):
    """A deploy form in PyTorch.

    Args:
        deployed (DeployedDetector): The network.
        info (DeployInfo): About it.
        precision (str): ``'fp32'``, ``'bf16'`` or ``'fp16'``; the decoding
            of the boxes is fp32 always. Defaults to ``'fp32'``.
        threads (int, optional): Threads of the whole process. Defaults to
            None, PyTorch's choice.
        channels_last (bool): Memory format of the maps. Defaults to True,
            which was faster wherever it was measured.
        compile (bool): Compile with ``torch.compile``. Defaults to False.
    """

    def __init__(self,
                 deployed: DeployedDetector,
                 info: DeployInfo,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 channels_last: bool = True,
                 compile: bool = False) -> None:
        super().__init__(info, 'the PyTorch network')
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = deployed.head.bins.device
        self.channels_last = channels_last
        if channels_last:
            deployed = deployed.to(memory_format=torch.channels_last)
        self.decode = deployed.head.decode
        self.maps = torch.compile(deployed.maps) if compile else deployed.maps
        dtypes = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)
        self.dtype = dtypes[_known(precision, dtypes, 'PyTorch')]

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """See :meth:`Backend.__call__`."""
        x = torch.from_numpy(images).to(self.device)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with nullcontext() if self.dtype is None else torch.autocast(
                self.device.type, self.dtype):
            logits, distances = self.maps(x)
        outs = self.decode([x.float() for x in logits],
                           [x.float() for x in distances])
        return [out.cpu().numpy() for out in outs]


class ONNXRuntimeBackend(Backend):
    """An exported ``.onnx`` file in ONNX Runtime.

    Args:
        path (str | Path): The file.
        threads (int, optional): Threads of one run. Defaults to None, one
            per core.
        device (str): ``'cpu'`` or ``'cuda:0'``. Defaults to ``'cpu'``.
    """

    def __init__(self,
                 path: Union[str, Path],
                 threads: Optional[int] = None,
                 device: str = 'cpu') -> None:
        onnxruntime = require_package('onnxruntime')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        providers = [('CUDAExecutionProvider',
                      dict(device_id=torch.device(device).index or 0))] if \
            device.startswith('cuda') else ['CPUExecutionProvider']
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=providers)
        except Exception as error:  # it raises a dozen kinds of its own
            raise _broken(path, error) from error
        if self.session.get_providers()[0] != (
                providers[0] if device == 'cpu' else providers[0][0]):
            raise ValueError(
                f'ONNX Runtime cannot use {device}: install onnxruntime-gpu '
                'in the place of onnxruntime')
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        super().__init__(DeployInfo.loads(text, path), str(path))
        self.input = self.session.get_inputs()[0].name

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """See :meth:`Backend.__call__`."""
        return self.session.run(None, {self.input: images})


class OpenVINOBackend(Backend):
    """An exported ``.xml`` (or ``.onnx``) file in OpenVINO.

    Args:
        path (str | Path): The file.
        precision (str): ``'fp32'`` or ``'bf16'``, what floating point
            operations compute in. Defaults to ``'fp32'``.
        threads (int, optional): Threads of one run. Defaults to None, one
            per core.
        device (str): OpenVINO's name of the device. Defaults to ``'cpu'``.
    """

    def __init__(self,
                 path: Union[str, Path],
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu') -> None:
        core = openvino_core()
        hints = dict(fp32='f32', bf16='bf16')
        options = {
            'INFERENCE_PRECISION_HINT':
            hints[_known(precision, hints, 'OpenVINO')],
            'PERFORMANCE_HINT': 'LATENCY'
        }
        if threads is not None:
            options['INFERENCE_NUM_THREADS'] = threads
        try:
            model = core.read_model(str(path))
            self.network = core.compile_model(model, device.upper(), options)
        except Exception as error:
            raise _broken(path, error) from error
        super().__init__(
            DeployInfo.loads(_openvino_text(model, path), path), str(path))

    def run(self, images: np.ndarray) -> List[np.ndarray]:
        """See :meth:`Backend.__call__`."""
        outs = self.network([images], share_inputs=True)
        return [outs[i].copy() for i in range(len(self.network.outputs))]


def load_backend(path: Union[str, Path],
                 backend: Optional[str] = None,
                 precision: str = 'fp32',
                 threads: Optional[int] = None,
                 device: str = 'cpu') -> Backend:
    """Load an exported file.

    Args:
        path (str | Path): ``.onnx``, or ``.xml`` of OpenVINO.
        backend (str, optional): ``'onnxruntime'`` or ``'openvino'``. Defaults
            to None, by the name of the file.
        precision (str): See the backends; ONNX Runtime computes in the
            precision of the file. Defaults to ``'fp32'``.
        threads (int, optional): Threads of one run. Defaults to None, one
            per core.
        device (str): Where to run. Defaults to ``'cpu'``.

    Returns:
        Backend: The loaded network.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the package of the backend is not installed.
        CheckpointError: If the file is damaged, or no exported detector.
        ValueError: If backend, precision and file do not go together.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'exported detector not found: {path}')
    formats = {'.onnx': ('onnxruntime', 'openvino'), '.xml': ('openvino', )}
    if path.suffix not in formats:
        raise ValueError(f'{path} must end in {" or ".join(formats)}: export '
                         'it with tools/deploy/export.py')
    backend = backend or formats[path.suffix][0]
    if backend not in formats[path.suffix]:
        raise ValueError(f'{path} is run by '
                         f'{" or ".join(formats[path.suffix])}, not by '
                         f'{backend}')
    if backend == 'openvino':
        return OpenVINOBackend(path, precision, threads, device)
    if precision != 'fp32':
        raise ValueError(
            f'ONNX Runtime computes in the precision of the file ({path}), '
            f'not in {precision}: quantise it with tools/deploy/quantize.py, '
            'or use --backend openvino, which has bf16')
    return ONNXRuntimeBackend(path, threads, device)


@cache
def openvino_core() -> Any:
    """The one ``openvino.Core`` of this process, with its CPU plugin loaded.

    The plugin gives the main thread another stack for signals and, when it is
    unloaded, gives back the one that it found. Two that are not unloaded in
    the opposite order leave freed memory behind, in which Ctrl-C then crashes.

    Raises:
        ImportError: If OpenVINO is not installed.
    """
    core = require_package('openvino').Core()
    core.get_property('CPU', 'FULL_DEVICE_NAME')
    return core


def require_package(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ImportError: Saying how to install it.
    """
    if find_spec(name) is None:
        raise ImportError(f'{name} is needed here and not installed: '
                          f'pip install {name}')
    return __import__(name)


def _known(value: str, values: Iterable[str], who: str) -> str:
    if value not in values:
        raise ValueError(f'{who} computes in {" or ".join(values)}, got the '
                         f'precision {value}')
    return value


def _broken(path: Union[str, Path], error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()
    return CheckpointError(f'{path} cannot be read, it is damaged or of '
                           f'another version: {reason[-1] if reason else ""}')


def _openvino_text(model: Any, path: Union[str, Path]) -> Optional[str]:
    """The text that :meth:`DeployInfo.dumps` wrote into a file."""
    if Path(path).suffix == '.onnx':
        onnx = require_package('onnx')
        proto = onnx.load(str(path), load_external_data=False)
        return {p.key: p.value for p in proto.metadata_props}.get(KEY)
    return model.get_rt_info(KEY).astype(str) if \
        model.has_rt_info(KEY) else None
