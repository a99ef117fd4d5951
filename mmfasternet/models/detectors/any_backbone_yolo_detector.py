# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""mmyolo's detector for a backbone of any widths."""
from typing import Optional, Sequence, Tuple, Union

import torch
from mmdet.utils import ConfigType
from mmengine.device import is_cuda_available
from mmyolo.models.dense_heads import YOLOv8Head
from mmyolo.models.detectors import YOLODetector
from mmyolo.models.utils import make_divisible
from torch import Tensor

from mmfasternet.registry import MODELS


@MODELS.register_module()
class AnyBackboneYOLODetector(YOLODetector):
    """mmyolo's ``YOLODetector`` with the neck fitted to the backbone.

    Where ``neck.in_channels`` is absent it is taken from the backbone, so
    that another backbone, or another size of one, is a change of its config
    alone. Levels, widths and strides are compared before anything is built.
    A neck of mmyolo's, whose ``in_channels`` are those before
    ``widen_factor``, fits as well.

    Args:
        backbone (dict): Config of any backbone of any scope.
        neck (dict): Config of the neck; ``in_channels`` may be left out.
        bbox_head (dict): Config of the head.
        use_syncbn (bool): Convert BN to SyncBN in distributed training.
            PyTorch has it for CUDA only; without, BN stays. Defaults to True.
        channels_last (bool, optional): Keep the weights, and so the feature
            maps, in that memory format. It changes the speed, and the results
            by rounding only. Defaults to None: where there is no CUDA device,
            as it was measured to be faster on CPU.
        **kwargs: See :class:`mmdet.models.SingleStageDetector`.

    Raises:
        ValueError: If backbone, neck and head do not fit together, naming
            the level and the config key.
    """

    def __init__(self,
                 backbone: ConfigType,
                 neck: ConfigType,
                 bbox_head: ConfigType,
                 use_syncbn: bool = True,
                 channels_last: Optional[bool] = None,
                 **kwargs) -> None:
        channels, strides = backbone_levels(backbone)
        _check_levels(channels, strides, neck,
                      bbox_head['head_module']['featmap_strides'])
        _check_head(neck, bbox_head, kwargs.get('train_cfg'))
        super().__init__(
            backbone=backbone,
            neck={'in_channels': list(channels), **neck},
            bbox_head=bbox_head,
            use_syncbn=use_syncbn and is_cuda_available(),
            **kwargs)
        if channels_last is None:
            channels_last = not is_cuda_available()
        if channels_last:
            # a convolution gives its output the format of its weights
            self.to(memory_format=torch.channels_last)

    def loss(self, batch_inputs: Tensor,
             batch_data_samples: Union[list, dict]) -> Union[dict, list]:
        """Losses of a batch; under AMP the boxes are decoded in float32.

        A distance is a mean of bins up to 15, of which bfloat16 keeps steps
        of 1/16: two pixels at stride 32.

        Args:
            batch_inputs (Tensor): Images ``(N, 3, H, W)``.
            batch_data_samples (list | dict): As the data preprocessor gives.

        Returns:
            dict: Losses by name.
        """
        device = batch_inputs.device.type
        head = self.bbox_head
        if not (type(head) is YOLOv8Head and head.head_module.reg_max > 1
                and isinstance(batch_data_samples, dict)
                and torch.is_autocast_enabled(device)):
            return super().loss(batch_inputs, batch_data_samples)
        scores, boxes, bins = head(self.extract_feat(batch_inputs))
        with torch.autocast(device, enabled=False):
            scores, bins = ([x.float() for x in xs] for xs in (scores, bins))
            # bins: (N, H * W, 4, reg_max)
            boxes = [(b.softmax(3) @ head.head_module.proj).transpose(
                1, 2).reshape_as(old) for b, old in zip(bins, boxes)]
            return head.loss_by_feat(scores, boxes, bins,
                                     batch_data_samples['bboxes_labels'],
                                     batch_data_samples['img_metas'])


def backbone_levels(
        backbone: ConfigType) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """Channels and strides of the outputs of a backbone config.

    They are read from ``out_channels`` and ``out_strides`` if the backbone
    has both, and otherwise from the shapes of a forward pass on the meta
    device, which computes nothing and changes no state.

    Args:
        backbone (dict): Config of the backbone.

    Returns:
        tuple[tuple[int], tuple[int]]: Channels and strides, in order.

    Raises:
        ValueError: If the backbone cannot run on the meta device.
    """
    with torch.device('meta'):
        model = MODELS.build(dict(backbone))
        if hasattr(model, 'out_channels') and hasattr(model, 'out_strides'):
            return tuple(model.out_channels), tuple(model.out_strides)
        size = 256
        model.eval()  # which returns None for some backbones
        image = torch.zeros(1, backbone.get('in_channels', 3), size, size)
        try:
            with torch.no_grad():
                outs = model(image)
        except Exception as error:
            raise ValueError(
                f'cannot find the output widths of model.backbone '
                f'({backbone["type"]}): it has no out_channels and '
                f'out_strides, and a dry run failed with: {error}') from error
    if isinstance(outs, torch.Tensor):
        outs = (outs, )
    return (tuple(out.shape[1] for out in outs),
            tuple(size // out.shape[-1] for out in outs))


def _check_levels(channels: Sequence[int], strides: Sequence[int],
                  neck: ConfigType, head_strides: Sequence[int]) -> None:
    if len(strides) != len(head_strides):
        raise ValueError(
            f'model.backbone gives {len(strides)} levels of strides '
            f'{tuple(strides)}, but model.bbox_head.head_module.'
            f'featmap_strides has {len(head_strides)}: '
            f'{tuple(head_strides)}. Choose model.backbone.out_indices so '
            'that the two agree')
    for level, (got, expected) in enumerate(zip(strides, head_strides)):
        if got != expected:
            raise ValueError(
                f'level {level} of model.backbone has stride {got}, but '
                f'model.bbox_head.head_module.featmap_strides[{level}] is '
                f'{expected}. Change model.backbone.out_indices (or its '
                'patch_stride), which now gives strides '
                f'{tuple(strides)}')
    expected = neck.get('in_channels')
    if expected is None:
        return
    widened = [make_divisible(c, neck.get('widen_factor', 1.))
               for c in expected]
    if tuple(channels) not in (tuple(expected), tuple(widened)):
        level = next((i for i, (a, b) in enumerate(zip(channels, expected))
                      if a != b), min(len(channels), len(expected)))
        raise ValueError(
            f'level {level}: model.backbone gives {tuple(channels)} channels, '
            f'but model.neck.in_channels is {tuple(expected)}. Delete '
            'model.neck.in_channels: it is taken from the backbone')


def _check_head(neck: ConfigType, head: ConfigType,
                train_cfg: Optional[ConfigType]) -> None:
    module = head['head_module']
    for key in ('out_channels', 'widen_factor'):
        key_in_head = key.replace('out_', 'in_')
        ours, theirs = neck.get(key), module.get(key_in_head)
        if key == 'out_channels' and None not in (ours, theirs):
            ours, theirs = list(ours), list(theirs)
        if None not in (ours, theirs) and ours != theirs:
            raise ValueError(
                f'model.neck.{key} is {ours}, but '
                f'model.bbox_head.head_module.{key_in_head} is {theirs}: the '
                'head takes what the neck gives, so they must be equal')
    assigner = (train_cfg or {}).get('assigner', {})
    classes = assigner.get('num_classes', module['num_classes'])
    if classes != module['num_classes']:
        raise ValueError(
            f'model.train_cfg.assigner.num_classes is {classes}, but '
            'model.bbox_head.head_module.num_classes is '
            f'{module["num_classes"]}. Set `classes` in the config, which '
            'sets both')
