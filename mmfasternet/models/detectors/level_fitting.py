# SPDX-License-Identifier: GPL-3.0-only
# GPL because it calls mmyolo, which is GPL-3.0.
"""Whether backbone, neck and head fit: found by running them.

Necks and heads of mmyolo count widths in different ways, so nothing is
computed here: each is built and run once on PyTorch's meta device, which
computes nothing and changes no state.
"""
import contextlib
from typing import Any, Iterator, NamedTuple, Optional, Sequence, Tuple

import torch
from mmdet.utils import ConfigType
from mmengine.logging import print_log
from mmyolo.models.utils import make_divisible
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mmfasternet.registry import MODELS

_SIZE = 256  # pixels a side, a multiple of every stride


class _Shapes(TorchFunctionMode):
    """Without what changes no shape, which the meta device is slow at."""

    unneeded = (F.batch_norm, Tensor.fill_, Tensor.zero_, Tensor.normal_,
                Tensor.uniform_)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.unneeded and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Build and run modules for the shapes of what they give."""
    with torch.device('meta'), torch.no_grad(), _Shapes():
        yield


class Levels(NamedTuple):
    """Channels and strides of feature maps, in order."""
    channels: Tuple[int, ...]
    strides: Tuple[int, ...]

    @classmethod
    def of(cls, maps: Any) -> 'Levels':
        """Of the maps of an image of that size."""
        maps = (maps, ) if isinstance(maps, Tensor) else maps
        return cls(
            tuple(x.shape[1] for x in maps),
            tuple(_SIZE // x.shape[-1] for x in maps))

    def maps(self) -> Tuple[Tensor, ...]:
        """Maps of these widths and strides."""
        return tuple(
            torch.zeros(1, c, _SIZE // s, _SIZE // s)
            for c, s in zip(self.channels, self.strides))


def fit_levels(backbone: ConfigType,
               neck: ConfigType,
               head_module: ConfigType,
               train_cfg: Optional[ConfigType] = None) -> ConfigType:
    """The config of a neck that takes what the backbone gives.

    Args:
        backbone, neck, head_module, train_cfg (dict): Parts of ``model``.

    Raises:
        ValueError: If they do not fit together, naming level and key.
    """
    with shapes_only():
        levels = backbone_levels(backbone)
        head = _built(head_module)
        neck, outs = _fit_neck(levels, neck, tuple(head.featmap_strides))
        try:
            head(outs.maps())
        except Exception as error:
            raise ValueError(
                _why_the_head_differs(outs, neck, head_module,
                                      error)) from error
    for key, assigner in (train_cfg or {}).items():
        wanted = head_module['num_classes']
        if key.endswith('assigner') and assigner.get('num_classes',
                                                     wanted) != wanted:
            raise ValueError(
                f'model.train_cfg.{key}.num_classes is '
                f'{assigner["num_classes"]}, but '
                f'model.bbox_head.head_module.num_classes is {wanted}. Set '
                '`classes` in a config of ours, in others both')
    return neck


def _built(cfg: ConfigType) -> torch.nn.Module:
    model = MODELS.build(dict(cfg))
    model.eval()  # which returns None for some
    return model


def backbone_levels(backbone: ConfigType) -> Levels:
    """Channels and strides of the outputs of a backbone config.

    They are read from ``out_channels`` and ``out_strides`` if the backbone
    has both, and otherwise from the shapes of a forward pass.

    Args:
        backbone (dict): Config of the backbone.

    Raises:
        ValueError: If the backbone cannot run on the meta device.
    """
    with shapes_only():
        model = _built(backbone)
        if hasattr(model, 'out_channels') and hasattr(model, 'out_strides'):
            return Levels(tuple(model.out_channels), tuple(model.out_strides))
        try:
            return Levels.of(
                model(
                    torch.zeros(1, backbone.get('in_channels', 3), _SIZE,
                                _SIZE)))
        except Exception as error:
            raise ValueError(
                f'cannot find the output widths of model.backbone '
                f'({backbone["type"]}): it has no out_channels and '
                f'out_strides, and a dry run failed with: {error}') from error


def output_levels(model: torch.nn.Module) -> Levels:
    """Channels and strides of what the neck of a built detector gives.

    Args:
        model (nn.Module): In eval mode, on the meta device.
    """
    return Levels.of(model.extract_feat(torch.zeros(1, 3, _SIZE, _SIZE)))


def _fit_neck(levels: Levels, neck: ConfigType,
              strides: Tuple[int, ...]) -> Tuple[ConfigType, Levels]:
    """The neck's config for these levels, and what it gives."""
    given = neck.get('in_channels')
    levels = _all_levels(levels, given, strides)
    if given is None:
        neck, model = _neck_for(levels, neck)
        inputs = levels
    else:
        model = _built(neck)
        inputs = Levels(_widths_taken(model, neck, levels), levels.strides)
        if inputs != levels:
            _refuse_written(model, levels, given)
            neck = dict(
                type='mmfasternet.ProjectedNeck',
                in_channels=[c for c in levels.channels if c],
                out_channels=inputs.channels,
                neck=neck)
            print_log(f'model.neck takes {inputs.channels} channels: '
                      'convolutions bring the maps of the backbone to them',
                      'current')
    outs = Levels.of(model(inputs.maps()))
    for level, (got, wanted) in enumerate(zip(outs.strides, strides)):
        if got != wanted:
            raise ValueError(
                f'level {level} of model.backbone has stride {got}, but '
                f'model.bbox_head.head_module.featmap_strides[{level}] is '
                f'{wanted}. Change model.backbone.out_indices (or its '
                f'patch_stride), which now gives strides {levels.strides}')
    return neck, outs


def _all_levels(levels: Levels, given: Optional[Sequence[int]],
                strides: Tuple[int, ...]) -> Levels:
    """With those of 0 channels that a P6 neck has beyond the backbone's."""
    count = len(strides if given is None else given)
    missing = count - len(levels.strides)
    if given is not None and missing > 0 and len(strides) == count and \
            strides[:-missing] == levels.strides:
        return Levels(levels.channels + (0, ) * missing, strides)
    if missing:
        raise ValueError(
            f'model.backbone gives {len(levels.strides)} levels of strides '
            f'{levels.strides}, but ' +
            (f'model.bbox_head.head_module.featmap_strides has {count}: '
             f'{strides}' if given is None else
             f'model.neck.in_channels has {count}: {tuple(given)}') +
            '. Choose model.backbone.out_indices so that the two agree')
    return levels


def _neck_for(levels: Levels,
              neck: ConfigType) -> Tuple[ConfigType, torch.nn.Module]:
    """A neck whose ``in_channels`` are taken from the backbone."""
    factor = neck.get('widen_factor', 1.)
    for widths in (levels.channels,
                   [round(c / factor) for c in levels.channels]):
        fitted = {**neck, 'in_channels': list(widths)}
        model = _built(fitted)
        if _widths_taken(model, fitted, levels) == levels.channels:
            return fitted, model
    raise ValueError(
        f'model.neck ({neck["type"]}) with widen_factor {factor} takes no '
        f'{levels.channels} channels, which model.backbone gives: set '
        'model.neck.in_channels to those of its own backbone, and '
        'convolutions bring the maps to them')


def _refuse_written(model: torch.nn.Module, levels: Levels,
                    given: Sequence[int]) -> None:
    """Of a neck that takes any widths, other ones are a mistake."""
    if not getattr(model, 'takes_any_channels', False):
        return
    level = [a == b for a, b in zip(levels.channels, given)].index(False)
    raise ValueError(
        f'level {level}: model.backbone gives {levels.channels} channels, but '
        f'model.neck.in_channels is {tuple(given)}. Leave it out, or set '
        'model.neck.in_channels=None: it is taken from the backbone')


def _widths_taken(model: torch.nn.Module, neck: ConfigType,
                  levels: Levels) -> Tuple[int, ...]:
    """The widths that a neck takes, as written or as it scales them."""
    factor, written = neck.get('widen_factor', 1.), neck['in_channels']
    errors = []
    for widths in (written, [int(c * factor) for c in written],
                   [make_divisible(c, factor) for c in written]):
        try:
            model(Levels(tuple(widths), levels.strides).maps())
            return tuple(widths)
        except Exception as error:
            errors.append(error)
    raise ValueError(
        f'model.neck ({neck["type"]}) cannot take in_channels '
        f'{tuple(written)}, as they are or times widen_factor {factor}, with '
        f'out_channels {neck.get("out_channels")}: {errors[-1]}'
    ) from errors[-1]


def _why_the_head_differs(outs: Levels, neck: ConfigType, module: ConfigType,
                          error: Exception) -> str:
    neck = neck.get('neck', neck)
    rule = ': the head takes what the neck gives, so they must be equal'
    for key, theirs in (('out_channels', 'in_channels'),
                        ('widen_factor', 'widen_factor')):
        ours, wanted = (list(x) if isinstance(x, (tuple, list)) else x
                        for x in (neck.get(key), module.get(theirs)))
        if None not in (ours, wanted) and ours != wanted:
            return f'model.neck.{key} is {ours}, but model.bbox_head.' \
                f'head_module.{theirs} is {wanted}{rule}'
    return f'model.neck gives {outs.channels} channels, which model.' \
        f'bbox_head.head_module ({module["type"]}) with in_channels ' \
        f'{module.get("in_channels")} does not take{rule} ({error})'
