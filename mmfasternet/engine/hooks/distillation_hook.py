# SPDX-License-Identifier: GPL-3.0-only
# GPL because it builds mmyolo's detectors, and mmyolo is GPL-3.0.
from typing import TYPE_CHECKING, Dict, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmfasternet.checkpoint import (
    CheckpointError,
    compare_tensors,
    require_fitting,
)
from mmfasternet.checkpoint.fitting import few
from mmfasternet.checkpoint.layouts.detectors import (
    TrainedDetector,
    read_detector,
    rename_detector,
)
from mmfasternet.compat.mmengine_runner import is_training, resume_request
from mmfasternet.registry import HOOKS

if TYPE_CHECKING:  # MMDetection's own detectors train without mmyolo
    from mmfasternet.models.detectors import DistilledYOLODetector

_KEY = 'distillation'  # in a checkpoint: what is not of the detector


@HOOKS.register_module()
class DistillationHook(Hook):
    """Bring a :class:`.DistilledYOLODetector` its teacher.

    Before training it reads the teacher's weights, all of which must fit, and
    compares the classes by name: where they differ, or are not known, it says
    so, and only features are imitated. A training run that begins, but not
    with a ``load_from``, starts with the tensors of the teacher's neck and
    head that fit. In checkpoints it keeps the layers between student and
    teacher, so that a resumed run goes on with the same bits.

    Args:
        checkpoint (str): File or URL of the teacher's weights, of mmyolo, of
            ours, or of Ultralytics.
        classes (Sequence[str], optional): The teacher's, where the checkpoint
            does not name them. Defaults to None: not known.
    """

    def __init__(self,
                 checkpoint: str,
                 classes: Optional[Sequence[str]] = None) -> None:
        self.checkpoint = checkpoint
        self.classes = classes
        self._teacher: Optional[nn.Module] = None
        self._tensors: Dict[str, Tensor] = {}
        self._with_head = False
        self._is_new = True  # no checkpoint was loaded into the student

    def before_run(self, runner: Runner) -> None:
        if not is_training(runner):
            return
        student = _student(runner)
        try:
            found = read_detector(self.checkpoint)
        except (CheckpointError, FileNotFoundError) as error:
            raise type(error)(f'teacher_checkpoint: {error}') from None
        self._teacher = student.build_teacher(found.num_classes)
        try:
            tensors = require_fitting(
                self._teacher.state_dict(), found.tensors,
                f'teacher_checkpoint {self.checkpoint}')
        except CheckpointError as error:
            size = found.stock_size
            raise CheckpointError(
                f'{error}. `teacher` must be the config of what is in '
                'teacher_checkpoint' +
                (f', which is YOLOv8{size}' if size else '')) from None
        self._teacher.load_state_dict(tensors, strict=False)
        reason = self._why_without_head(runner, student, found)
        self._with_head = not reason
        self._tensors = found.tensors
        runner.logger.info(
            f'teacher: {len(tensors)} of {len(tensors)} tensors from '
            f'{self.checkpoint}; ' +
            ('features, scores and boxes are imitated' if not reason else
             f'only features are imitated, because {reason}'))

    def _why_without_head(self, runner: Runner,
                          student: 'DistilledYOLODetector',
                          found: TrainedDetector) -> str:
        """Why scores and boxes cannot be compared, '' if they can."""
        from mmfasternet.models.detectors.teacher import is_yolov8
        own, theirs = (model.bbox_head.head_module
                       for model in (student, self._teacher))
        if not is_yolov8(theirs) or own.reg_max != theirs.reg_max:
            return 'its head is not that of YOLOv8 with the same reg_max'
        classes = tuple(runner.train_dataloader.dataset.metainfo['classes'])
        given = found.classes or self.classes or ()
        if len(given) != theirs.num_classes:
            return f'the names of its {theirs.num_classes} classes are not ' \
                'known'
        if tuple(given) != classes:
            return f'its classes are others, or in another order: {given} ' \
                f'instead of {classes}'
        return ''

    def before_train(self, runner: Runner) -> None:
        student = _student(runner)
        student.set_teacher(self._teacher, self._with_head)
        if self._is_new:
            self._start(runner, student)
        self._teacher, self._tensors = None, {}

    def _start(self, runner: Runner, student: nn.Module) -> None:
        """Begin with what fits of the teacher's neck and head."""
        own, theirs = ({
            name: tensor
            for name, tensor in tensors.items()
            if name.startswith(('neck.', 'bbox_head.'))
        } for tensors in (student.state_dict(),
                          rename_detector(self._tensors)[0]))
        left = ()
        if not self._with_head:  # of other classes
            left = [n for n in theirs if '.cls_preds.' in n
                    and n.endswith(('.2.weight', '.2.bias'))]
        fit = compare_tensors(own, {
            name: tensor for name, tensor in theirs.items()
            if name not in left
        })
        student.load_state_dict({name: theirs[name] for name in fit.fitting},
                                strict=False)
        rest = [name for name in own if name not in fit.fitting]
        runner.logger.info(
            f'{len(fit.fitting)} of {len(own)} tensors of neck and head begin '
            f'as those of the teacher{"; not " * bool(rest)}{few(rest)}')

    # ------------------------------------------------------------ checkpoints
    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if is_training(runner) and 'optimizer' in checkpoint:
            checkpoint[_KEY] = _own_layers(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._is_new = False
        if not (is_training(runner) and resume_request(runner)[0]):
            return
        layers, saved = _own_layers(runner), checkpoint.get(_KEY, {})
        if not isinstance(saved, dict) or len(saved) != len(layers) or \
                len(compare_tensors(layers, saved).fitting) != len(layers):
            raise CheckpointError(
                'the checkpoint to resume is of a training run without a '
                'teacher, or with one of other widths: begin anew, with '
                '--cfg-options load_from=... and without --resume')
        for name, tensor in layers.items():
            tensor.copy_(saved[name])


def _student(runner: Runner) -> 'DistilledYOLODetector':
    from mmfasternet.models.detectors import DistilledYOLODetector
    model = getattr(runner, 'model', None)
    if is_model_wrapper(model):
        model = model.module
    if not isinstance(runner, Runner) or not isinstance(
            model, DistilledYOLODetector):
        raise ValueError(
            'DistillationHook trains a model of the type mmfasternet.'
            f'DistilledYOLODetector by mmengine.Runner, got a '
            f'{type(model).__name__} and a {type(runner).__name__}: with '
            'FSDP, or another model, set teacher=None')
    return model


def _own_layers(runner: Runner) -> Dict[str, Tensor]:
    """The parameters between student and teacher, which share memory."""
    layers = _student(runner).projections
    return {name: p.detach() for name, p in layers.named_parameters()}
