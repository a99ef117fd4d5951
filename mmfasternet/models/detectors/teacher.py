# SPDX-License-Identifier: GPL-3.0-only
# GPL because it calls mmyolo, which is GPL-3.0.
"""A trained detector that another one learns from."""
from typing import NamedTuple, Optional, Sequence, Tuple

import torch
from mmdet.utils import ConfigType
from mmyolo.models.dense_heads import YOLOv8HeadModule
from torch import Tensor, nn

from mmfasternet.registry import MODELS

from .level_fitting import Levels, output_levels, shapes_only


class Outputs(NamedTuple):
    """What a detector says of a batch."""

    features: Sequence[Tensor]  #: Of the neck, ``(N, C_i, H_i, W_i)``.
    scores: Optional[Tensor] = None  #: Logits ``(N, priors, classes)``.
    bins: Optional[Tensor] = None  #: Logits ``(N, priors, 4, reg_max)``.


class InputChange(NamedTuple):
    """From the images that one network takes to those of another."""

    flip: bool  #: Whether one takes RGB and the other BGR.
    scale: Tensor  #: ``(3, 1, 1)``, after that.
    shift: Tensor  #: ``(3, 1, 1)``, after that.

    @classmethod
    def between(cls, ours: nn.Module, theirs: nn.Module) -> 'InputChange':
        """Of two data preprocessors of MMEngine's kind.

        The batch is changed, and not preprocessed twice, because a
        preprocessor may augment it.
        """
        flip = ours._channel_conversion != theirs._channel_conversion
        (mean, std), (mean_t, std_t) = map(_normalisation, (ours, theirs))
        if flip:
            mean, std = mean.flip(0), std.flip(0)
        return cls(flip, std / std_t, (mean - mean_t) / std_t)

    def to(self, device: torch.device) -> 'InputChange':
        """The same for images on a device, in float32."""
        return self._replace(
            scale=self.scale.float().to(device),
            shift=self.shift.float().to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """Change images ``(N, 3, H, W)``."""
        if self.flip:
            images = images.flip(1)
        return images * self.scale + self.shift


def _normalisation(preprocessor: nn.Module) -> Tuple[Tensor, Tensor]:
    """Mean and standard deviation, ``(3, 1, 1)`` each."""
    if not hasattr(preprocessor, '_enable_normalize'):
        raise ValueError(
            f'model.data_preprocessor is a {type(preprocessor).__name__}, of '
            'which it is not known how it normalises images: take one of '
            "mmdet's or mmyolo's, for the teacher and for this detector")
    if not preprocessor._enable_normalize:
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return tuple(
        x.detach().cpu().double().expand(3, 1, 1).clone()
        for x in (preprocessor.mean, preprocessor.std))


class Teacher:
    """A frozen detector, which is no ``nn.Module``, so that none holds it.

    Args:
        model (nn.Module): In eval mode.
        with_head (bool): Whether to run the head.
        change (InputChange): From the student's images to its own.
    """

    def __init__(self, model: nn.Module, with_head: bool,
                 change: InputChange) -> None:
        self.model = model
        self.with_head = with_head
        self.change = change

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Outputs:
        """What it says of the student's images ``(N, 3, H, W)``."""
        features = self.model.extract_feat(self.change(images))
        if not self.with_head:
            return Outputs(features)
        module = self.model.bbox_head.head_module
        # in eval mode mmyolo's forward leaves the distributions out
        scores, bins = ([layer(x) for layer, x in zip(layers, features)]
                        for layers in (module.cls_preds, module.reg_preds))
        bins = flatten(bins)
        return Outputs(features, flatten(scores),
                       bins.unflatten(-1, (4, module.reg_max)))


def flatten(levels: Sequence[Tensor]) -> Tensor:
    """Maps ``(N, C, H_i, W_i)`` to rows of priors ``(N, priors, C)``."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)


def is_yolov8(module: nn.Module) -> bool:
    """Whether a head's network gives class scores and box distributions."""
    return isinstance(module, YOLOv8HeadModule) and module.reg_max > 1


def teacher_levels(teacher: ConfigType) -> Levels:
    """Widths and strides of the neck's outputs of a teacher.

    Args:
        teacher (dict): Config of a detector.

    Raises:
        ValueError: If it is not a detector with such levels.
    """
    with shapes_only():
        model = MODELS.build(teacher)
        model.eval()
        if not hasattr(getattr(model, 'bbox_head', None), 'head_module'):
            raise ValueError(
                f'the teacher is a {type(model).__name__}, which is not a '
                "detector of mmyolo's (backbone, neck and bbox_head with a "
                'head_module). Take a YOLOv8 as teacher')
        return output_levels(model)
