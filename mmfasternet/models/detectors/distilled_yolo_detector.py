# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""YOLOv8 that learns from another detector as well as from labels."""
import copy
from typing import Dict, Optional, Sequence

import torch
from mmdet.utils import ConfigType
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmfasternet.models.losses import (
    box_imitation,
    feature_imitation,
    score_imitation,
)
from mmfasternet.registry import MODELS

from .any_backbone_yolo_detector import AnyBackboneYOLODetector
from .level_fitting import Levels
from .teacher import (
    InputChange,
    Outputs,
    Teacher,
    flatten,
    is_yolov8,
    teacher_levels,
)

# the label of a row that marks an image without labels, which
# mmfasternet.datasets.yolov5_collate adds
UNLABELLED = -1


@MODELS.register_module()
class DistilledYOLODetector(AnyBackboneYOLODetector):
    """A YOLOv8 detector that imitates a trained one, its teacher.

    To the losses of the labels come three, computed on the same augmented
    images: of the neck's outputs on each level and, where the classes are the
    same, of class scores and of box distributions. The teacher is not a part
    of the model: it is in no state dict, optimizer, average or wrapper, and
    :class:`.DistillationHook` brings it when training begins. The 1x1
    convolutions that bring maps to the teacher's widths are trained, but in no
    state dict either: that hook keeps them in checkpoints. So what was trained
    is an :class:`.AnyBackboneYOLODetector` for all who load it.

    Args:
        *args: See :class:`.AnyBackboneYOLODetector`; the head must be that of
            YOLOv8.
        teacher (dict, optional): Config of the teacher, any detector of
            mmyolo's with the same strides. Defaults to None: the detector is
            the one that it extends.
        feature_weight (float): Of the loss of features, summed over the
            levels. Defaults to 1.
        score_weight (float): Of the loss of class scores. Defaults to 0.5, as
            YOLOv8 weighs its own.
        box_weight (float): Of the loss of box distributions. Defaults to 1.5,
            likewise.
        **kwargs: See :class:`.AnyBackboneYOLODetector`.

    Raises:
        ValueError: If teacher and student do not fit together.
    """

    def __init__(self,
                 *args,
                 teacher: Optional[ConfigType] = None,
                 feature_weight: float = 1.,
                 score_weight: float = 0.5,
                 box_weight: float = 1.5,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.imitation_weights = dict(
            features=feature_weight, scores=score_weight, boxes=box_weight)
        self.projections = nn.ModuleList()
        self.teacher: Optional[Teacher] = None
        self._teacher_cfg = teacher
        if teacher is not None:
            self._project(teacher_levels(teacher))

    def _project(self, theirs: Levels) -> None:
        if not is_yolov8(self.bbox_head.head_module):
            raise ValueError(
                'only detectors with the head of YOLOv8 can be distilled, '
                'model.bbox_head.head_module is '
                f'{type(self.bbox_head.head_module).__name__}. Set '
                'teacher=None')
        own = tuple(self.bbox_head.head_module.featmap_strides)
        if own != theirs.strides:
            raise ValueError(
                f'the teacher has levels of strides {theirs.strides}, this '
                f'detector of {own}: only equal ones can be compared. Take a '
                'teacher with the same strides')
        widths = self.bbox_head.head_module.in_channels
        self.projections.extend(
            nn.Identity() if a == b else _Projection(a, b, 1, bias=False)
            for a, b in zip(widths, theirs.channels))

    def build_teacher(self, num_classes: Optional[int] = None) -> nn.Module:
        """The teacher's network, without its weights.

        Args:
            num_classes (int, optional): Defaults to None, that of the config.

        Raises:
            ValueError: If no teacher was given.
        """
        if self._teacher_cfg is None:
            raise ValueError('this detector was built without a teacher')
        cfg = copy.deepcopy(self._teacher_cfg)
        if num_classes is not None:
            cfg['bbox_head']['head_module']['num_classes'] = num_classes
        return MODELS.build(cfg)

    def set_teacher(self, model: nn.Module, with_head: bool) -> None:
        """Learn from a trained detector from now on.

        Args:
            model (nn.Module): The teacher, built from the config that was
                given, with its weights; it is frozen.
            with_head (bool): Whether its class scores and boxes mean the
                same as this detector's.
        """
        model.requires_grad_(False)
        model.eval()
        weight = next(self.backbone.parameters())
        model.to(weight.device)
        if weight.device.type == 'cpu':  # faster, as for the student
            model.to(memory_format=torch.channels_last)
        change = InputChange.between(self.data_preprocessor,
                                     model.data_preprocessor)
        self.teacher = Teacher(model, with_head, change.to(weight.device))

    def loss(self, batch_inputs: Tensor, batch_data_samples: dict) -> dict:
        """Losses of the labels and of the distance from the teacher.

        Args:
            batch_inputs (Tensor): Images ``(N, 3, H, W)``.
            batch_data_samples (dict): As the data preprocessor gives. An
                image with a box of the label :data:`UNLABELLED` counts for
                the teacher only.

        Returns:
            dict: Losses by name.

        Raises:
            RuntimeError: If there is no teacher yet.
        """
        if self._teacher_cfg is None:
            return super().loss(batch_inputs, batch_data_samples)
        if self.teacher is None:
            raise RuntimeError(
                'there is no teacher to learn from: the hook mmfasternet.'
                'DistillationHook brings it, which default_hooks of our '
                'configs has where `teacher` is set')
        features = self.extract_feat(batch_inputs)
        outs = self.bbox_head(features)
        wanted = self.teacher(batch_inputs)
        losses = self._loss_of_labelled(outs, batch_data_samples)
        with torch.autocast(batch_inputs.device.type, enabled=False):
            # as YOLOv8's own: a sum over the images of all processes
            scale = len(batch_inputs) * get_world_size()
            for name, loss in self._imitation(features, outs, wanted).items():
                losses[f'loss_teacher_{name}'] = \
                    loss * (scale * self.imitation_weights[name])
        return losses

    def _imitation(self, features: Sequence[Tensor], outs: Sequence,
                   wanted: Outputs) -> Dict[str, Tensor]:
        projected = [p(x.float()) for p, x in zip(self.projections, features)]
        losses = dict(
            features=sum(map(feature_imitation, projected, wanted.features)))
        if wanted.scores is not None:
            scores = flatten(outs[0])
            bins = torch.cat(list(outs[2]), 1)
            losses.update(
                scores=score_imitation(scores, wanted.scores),
                boxes=box_imitation(bins, wanted.bins, wanted.scores))
        return losses

    def _loss_of_labelled(self, outs: Sequence, samples: dict) -> dict:
        """Of the images with labels; 0 where there is none."""
        rows, metas = samples['bboxes_labels'], samples['img_metas']
        marks = rows[:, 1] == UNLABELLED
        if not marks.any():
            return self.loss_by_outs(outs, rows, metas)
        unlabelled = set(rows[marks, 0].int().tolist())
        kept = [i for i in range(len(metas)) if i not in unlabelled]
        # where none is kept every loss is 0 times that of one, so that all
        # processes have gradients of the same parameters
        chosen = kept or [0]
        number = rows.new_full((len(metas), ), -1)
        number[kept] = torch.arange(len(kept)).to(rows)
        images = number[rows[:, 0].long()]
        rows = torch.cat([images[:, None], rows[:, 1:]], 1)[images >= 0]
        losses = self.loss_by_outs(
            [[x[chosen] for x in levels] for levels in outs], rows,
            [metas[i] for i in chosen])
        return losses if kept else {k: 0 * v for k, v in losses.items()}


class _Projection(nn.Conv2d):
    """A layer that is trained, but is in no state dict."""

    def _save_to_state_dict(self, *args) -> None:
        pass

    def _load_from_state_dict(self, *args) -> None:
        pass
