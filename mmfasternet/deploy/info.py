# SPDX-License-Identifier: Apache-2.0
"""What travels with a deployed network."""
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Optional, Tuple, Union

from mmengine.config import Config

from mmfasternet.checkpoint import CheckpointError
from mmfasternet.datasets.from_config import leaf_datasets


@dataclass(frozen=True)
class DeployInfo:
    """What leads from an image to the network, and from there to detections.

    It travels in the exported file, so that no config is needed to run one.
    """

    classes: Tuple[str, ...]  #: Class names.
    #: Width and height that images are fitted into.
    img_scale: Tuple[int, int]
    pad_val: int  #: Pixel value of what is left of that.
    score_thr: float  #: Boxes with lower scores are dropped.
    iou_threshold: float  #: Of NMS.
    nms_pre: int  #: Most boxes that enter NMS.
    max_per_img: int  #: Most boxes that leave it.
    multi_label: bool  #: Whether one place may hold several classes.
    #: Whether the network ends with NMS; then it is done, per class and
    #: without the limit of ``nms_pre``.
    nms: bool = False
    #: Batch size, height and width of the network's input; None is any.
    shape: Tuple[Optional[int], ...] = (None, None, None)

    @classmethod
    def from_config(cls, cfg: Config) -> 'DeployInfo':
        """Read it from a config of YOLOv8.

        Raises:
            ValueError: If the images are prepared, or the boxes chosen, in a
                way that is not known here.
        """
        try:
            dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
            letter = _letterbox(cfg, dataset.pipeline)
            test = cfg.model.test_cfg
            nms = dict(test.nms)
            number = cfg.model.bbox_head.head_module.num_classes
            limits = dict(
                max_per_img=int(test.max_per_img),
                multi_label=bool(test.multi_label) and number > 1)
        except (AttributeError, KeyError) as error:
            raise ValueError(
                f'{cfg.filename} is not the config of a YOLOv8 detector '
                f'({error}), and only those have a deploy form') from None
        if nms.pop('type', 'nms') != 'nms' or {*nms} != {'iou_threshold'}:
            raise ValueError(f'model.test_cfg.nms of {cfg.filename} must be '
                             "dict(type='nms', iou_threshold=...), got "
                             f'{dict(test.nms)}')
        classes = cfg.get('metainfo', {}).get('classes') or \
            dataset.get('metainfo', {}).get('classes')
        pad = letter.get('pad_val', 0)
        return cls(
            classes=tuple(classes or map(str, range(number))),
            img_scale=tuple(letter['scale']),
            # as it is: LetterResize pads one channel only with a float
            pad_val=pad['img'] if isinstance(pad, dict) else pad,
            score_thr=float(test.get('score_thr', -1)),
            iou_threshold=float(nms['iou_threshold']),
            nms_pre=int(test.get('nms_pre', 100000)),
            **limits)

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
            wanted = dict(
                classes=lambda v: _is_list(v, str) and v,
                img_scale=lambda v: _is_list(v, int) and len(v) == 2 and
                min(v) > 0,
                shape=lambda v: _is_list(v, int, type(None)) and len(v) == 3,
                multi_label=lambda v: type(v) is bool,
                nms=lambda v: type(v) is bool)
            for key, value in data.items():
                if not wanted.get(key, _is_number)(value):
                    raise ValueError(f'{key}: {value!r}')
            for key in ('classes', 'img_scale', 'shape'):
                data[key] = tuple(data[key])
            return cls(**data)
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f'{path} does not say how to prepare images for it '
                f'({error}): it was not written by tools/deploy/export.py, '
                'or by another version of it. Export it again') from None


def _is_list(value: Any, *kinds: type) -> bool:
    return type(value) is list and {*map(type, value)} <= {*kinds}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _letterbox(cfg: Config, pipeline: list) -> dict:
    """The only step of a test pipeline that decides on the input."""
    steps = {str(step['type']).rpartition('.')[2]: step for step in pipeline}
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
    scale = steps.get('YOLOv5KeepRatioResize', letter)['scale']
    options = {k: v for k, v in letter.items()
               if k not in ('type', 'scale', 'pad_val')}
    if tuple(scale) != tuple(letter['scale']) or \
            options != dict(allow_scale_up=False):
        raise ValueError(
            f'{cfg.filename}: deployed detectors need one scale for '
            'YOLOv5KeepRatioResize and LetterResize, and '
            'LetterResize(allow_scale_up=False), got '
            f'{tuple(scale)} and {dict(letter)}')
    return letter
