# SPDX-License-Identifier: Apache-2.0
"""FasterNet, "Run, Don't Walk: Chasing Higher FLOPS for Faster Neural
Networks", CVPR 2023, https://arxiv.org/abs/2303.03667 (v3).

Written from the paper. Module attribute names, and so the state-dict keys,
are those of the authors' release (https://github.com/JierunChen/FasterNet),
so that its checkpoints load unchanged.
"""
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import build_activation_layer
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfasternet.registry import MODELS

from .fasternet_layers import (
    BasicStage,
    NormCfg,
    PatchEmbed,
    PatchMerging,
    build_norm,
)

_PRETRAINED = ('Pretrained', PretrainedInit)
_PUBLISHED_INIT = dict(
    type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.)


@MODELS.register_module()
class FasterNet(BaseModule):
    """FasterNet as a dense-prediction backbone or an ImageNet classifier.

    Args:
        arch (str | dict): One of ``'t0'``, ``'t1'``, ``'t2'``, ``'s'``,
            ``'m'``, ``'l'`` (paper, Table 6), ``'n'`` (ours, smaller than T0,
            not in the paper), or a dict with ``embed_dim`` (int) and
            ``depths`` (four ints) and optionally ``act`` (activation type)
            and ``drop_path_rate`` (float). Defaults to ``'t0'``.
        in_channels (int): Channels of the input image. Defaults to 3.
        n_div (int): The PConv convolves ``1/n_div`` of the channels.
            Defaults to 4 (paper, Table 5).
        mlp_ratio (float): Hidden channels of the 1x1 convolutions as a
            multiple of the block's channels. Defaults to 2 (Table 6).
        patch_size (int): Kernel size of the stem. Defaults to 4 (Table 6);
            larger than the stride, the patches overlap and are padded.
        patch_stride (int): Stride of the stem. Defaults to 4.
        patch_size2 (int): Kernel size of the merging layers. Defaults to 2;
            3 lets them overlap.
        patch_stride2 (int): Stride of the merging layers. Defaults to 2.
        drop_path_rate (float, optional): Stochastic depth, growing linearly
            from 0 at the first block to this rate at the last. Defaults to
            None, the rate of the paper's ImageNet recipe for ``arch``.
        layer_scale_init_value (float): Initial value of the layer scale, 0
            for none. Defaults to 0, as published.
        norm_cfg (dict, optional): Config of the normalisation; None for none.
            Defaults to ``dict(type='BN')``.
        act_cfg (dict, optional): Config of the activation. Defaults to None,
            the activation published for ``arch``.
        out_indices (Sequence[int]): Stages to return, each with a norm of its
            own. Stages 0 to 3 have strides 4, 8, 16, 32. Stages after the
            last one named are not built. Defaults to ``(1, 2, 3)``.
        output_norm (bool): Whether the returned stages are normalised, as
            in the authors' detectors. Defaults to True.
        frozen_stages (int): -1 freezes nothing, 0 the stem, ``k`` the stem
            and the first ``k`` stages with their output norms. Frozen parts
            get no gradient and stay in evaluation mode. Defaults to -1.
        norm_eval (bool): Keep all batch norms in evaluation mode, so that
            their statistics do not move. Defaults to False.
        with_cp (bool): Activation checkpointing: less memory for about a
            third more time. Defaults to False.
        num_classes (int): 0 for dense prediction; greater than 0 adds the
            ImageNet classifier instead of the output norms. Defaults to 0.
        feature_dim (int): Features before the classifier. Defaults to 1280,
            as published.
        init_cfg (dict | list[dict], optional): Initialisation. Defaults to
            None, the published one: truncated normal of std 0.02 for the
            convolutions and the classifier. ``dict(type='Pretrained',
            checkpoint=...)`` loads any layout of FasterNet weights, see
            ``FasterNetPretrained`` of mmfasternet.checkpoint.pretrained.

    Attributes:
        out_channels (tuple[int]): Channels of each output, in order.
        out_strides (tuple[int]): Stride of each output, in order.
        width_list (list[int]): Channels of all four stages.

    Raises:
        TypeError: If ``arch`` is neither a name nor a dict, or
            ``out_indices`` is not a sequence of ints.
        ValueError: If an argument is outside the range given above.

    Example:
        >>> import torch
        >>> from mmfasternet.models import FasterNet
        >>> model = FasterNet(arch='t0').eval()
        >>> for feature in model(torch.rand(1, 3, 640, 640)):
        ...     print(tuple(feature.shape))
        (1, 80, 80, 80)
        (1, 160, 40, 40)
        (1, 320, 20, 20)
    """

    # Paper, Tables 6 and 8; the rate is the ImageNet recipe's. `n` is ours:
    # docs/en/comparison.md has what led to it.
    arch_settings: Dict[str, dict] = {
        'n': dict(
            embed_dim=32, depths=(1, 2, 4, 1), act='ReLU', drop_path_rate=0.),
        't0': dict(
            embed_dim=40, depths=(1, 2, 8, 2), act='GELU', drop_path_rate=0.),
        't1': dict(
            embed_dim=64, depths=(1, 2, 8, 2), act='GELU',
            drop_path_rate=0.02),
        't2': dict(
            embed_dim=96, depths=(1, 2, 8, 2), act='ReLU',
            drop_path_rate=0.05),
        's': dict(
            embed_dim=128, depths=(1, 2, 13, 2), act='ReLU',
            drop_path_rate=0.1),
        'm': dict(
            embed_dim=144, depths=(3, 4, 18, 3), act='ReLU',
            drop_path_rate=0.2),
        'l': dict(
            embed_dim=192, depths=(3, 4, 18, 3), act='ReLU',
            drop_path_rate=0.3),
    }

    def __init__(self,
                 arch: Union[str, dict] = 't0',
                 in_channels: int = 3,
                 n_div: int = 4,
                 mlp_ratio: float = 2.,
                 patch_size: int = 4,
                 patch_stride: int = 4,
                 patch_size2: int = 2,
                 patch_stride2: int = 2,
                 drop_path_rate: Optional[float] = None,
                 layer_scale_init_value: float = 0.,
                 norm_cfg: NormCfg = dict(type='BN'),
                 act_cfg: Optional[dict] = None,
                 out_indices: Sequence[int] = (1, 2, 3),
                 output_norm: bool = True,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 num_classes: int = 0,
                 feature_dim: int = 1280,
                 init_cfg: Union[dict, Sequence[dict], None] = None) -> None:
        super().__init__(init_cfg=init_cfg or dict(_PUBLISHED_INIT))
        setting = self._arch_setting(arch)
        self.embed_dim = setting['embed_dim']
        self.depths = tuple(setting['depths'])
        self.num_stages = len(self.depths)
        self.width_list = [self.embed_dim * 2**i for i in range(4)]
        self.num_features = self.width_list[-1]
        self.num_classes = num_classes
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_indices = self._checked_indices(out_indices)
        if not -1 <= frozen_stages <= self.num_stages:
            raise ValueError(f'frozen_stages must be between -1 and '
                             f'{self.num_stages}, got {frozen_stages}')
        if drop_path_rate is None:
            drop_path_rate = setting['drop_path_rate']
        if act_cfg is None:
            act_cfg = dict(type=setting['act'])

        rates = torch.linspace(
            0, drop_path_rate, sum(self.depths), device='cpu').tolist()
        last = self.num_stages if num_classes else self.out_indices[-1] + 1
        self.patch_embed = PatchEmbed(in_channels, self.embed_dim, patch_size,
                                      patch_stride, norm_cfg)
        # Even positions are stages, odd ones merging layers, as published.
        self.stages = nn.ModuleList()
        for i in range(last):
            if i:
                self.stages.append(
                    PatchMerging(self.width_list[i - 1], patch_size2,
                                 patch_stride2, norm_cfg))
            first = sum(self.depths[:i])
            self.stages.append(
                BasicStage(
                    drop_path=rates[first:first + self.depths[i]],
                    with_cp=with_cp,
                    dim=self.width_list[i],
                    n_div=n_div,
                    mlp_ratio=mlp_ratio,
                    layer_scale_init_value=layer_scale_init_value,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg))

        if num_classes:
            self.avgpool_pre_head = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(self.num_features, feature_dim, 1, bias=False),
                build_activation_layer(act_cfg))
            self.head = nn.Linear(feature_dim, num_classes)
        else:
            self.out_channels = tuple(self.width_list[i]
                                      for i in self.out_indices)
            self.out_strides = tuple(patch_stride * patch_stride2**i
                                     for i in self.out_indices)
            for i in self.out_indices:
                self.add_module(
                    f'norm{2 * i}',
                    build_norm(norm_cfg if output_norm else None,
                               self.width_list[i]))
        self._freeze()

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``; pretrained weights come last.

        Raises:
            CheckpointError: If pretrained weights cannot be had or do not
                fit, see ``FasterNetPretrained``.
        """
        init_cfg = self.init_cfg
        cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
        others = [cfg for cfg in cfgs if cfg['type'] not in _PRETRAINED]
        # by name: the layouts of weights are a layer above this one
        pretrained = [
            dict(cfg, type='mmfasternet.FasterNetPretrained') for cfg in cfgs
            if cfg['type'] in _PRETRAINED
        ]
        others += [cfg.pop('scratch') for cfg in pretrained
                   if 'scratch' in cfg]
        if not others and not any(c['checkpoint'] for c in pretrained):
            others = [_PUBLISHED_INIT]
        self.init_cfg = others + pretrained
        try:
            super().init_weights()
        finally:
            self.init_cfg = init_cfg

    @classmethod
    def _arch_setting(cls, arch: Union[str, dict]) -> dict:
        """The complete setting of a name or a custom dict."""
        if isinstance(arch, str):
            if arch not in cls.arch_settings:
                raise ValueError(f'arch must be one of '
                                 f'{", ".join(cls.arch_settings)} or a dict, '
                                 f'got {arch!r}')
            return cls.arch_settings[arch]
        if not isinstance(arch, dict):
            raise TypeError(f'arch must be a str or a dict, got {arch!r}')
        allowed = ('embed_dim', 'depths', 'act', 'drop_path_rate')
        unknown = sorted(set(arch) - set(allowed))
        missing = sorted({'embed_dim', 'depths'} - set(arch))
        if unknown or missing:
            raise ValueError(
                f'a custom arch takes the keys {", ".join(allowed)} of which '
                f'the first two are required; unknown: {unknown}, missing: '
                f'{missing}')
        depths = arch['depths']
        if len(depths) != 4 or any(int(d) != d or d < 1 for d in depths):
            raise ValueError(
                f'depths must be four positive ints, got {depths!r}')
        return dict(dict(act='ReLU', drop_path_rate=0.), **arch)

    def _checked_indices(self, out_indices: Sequence[int]) -> Tuple[int, ...]:
        if isinstance(out_indices, (str, int)) or not all(
                isinstance(i, int) for i in out_indices):
            raise TypeError('out_indices must be a sequence of ints, got '
                            f'{out_indices!r}')
        out_indices = tuple(out_indices)
        stages = range(self.num_stages)
        if not out_indices or any(i not in stages for i in out_indices) or \
                out_indices != tuple(sorted(set(out_indices))):
            raise ValueError(
                f'out_indices must name stages of 0 to {self.num_stages - 1} '
                f'in ascending order, each once, got {out_indices!r}')
        return out_indices

    def _freeze(self) -> None:
        """Stop gradients and statistics of the frozen part."""
        if self.frozen_stages < 0:
            return
        count = max(2 * self.frozen_stages - 1, 0)
        frozen = [self.patch_embed, *self.stages[:count]]
        frozen += [
            getattr(self, f'norm{2 * i}') for i in self.out_indices
            if i < self.frozen_stages and not self.num_classes
        ]
        for module in frozen:
            module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'FasterNet':
        """Set the mode, except for what is frozen; returns self."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        """Features of an image batch.

        Args:
            x (Tensor): ``(N, in_channels, H, W)``; H and W need not be
                multiples of 32.

        Returns:
            tuple[Tensor] | Tensor: One map
            ``(N, out_channels[i], H // out_strides[i], W // out_strides[i])``
            per entry of ``out_indices``, normalised unless ``output_norm`` is
            False; with ``num_classes``, the logits ``(N, num_classes)``.

        Raises:
            ValueError: If the images have another number of channels.
        """
        expected = self.patch_embed.proj.in_channels
        if x.shape[1] != expected:
            raise ValueError(
                f'the images have {x.shape[1]} channels, but '
                f'model.backbone.in_channels is {expected}. Change it, or '
                'what LoadImageFromFile (color_type) and '
                'model.data_preprocessor (mean, std) make of the images')
        outs = []
        x = self.patch_embed(x)
        for position, stage in enumerate(self.stages):
            x = stage(x)
            if not self.num_classes and position % 2 == 0 and \
                    position // 2 in self.out_indices:
                outs.append(getattr(self, f'norm{position}')(x))
        if self.num_classes:
            return self.head(self.avgpool_pre_head(x).flatten(1))
        return tuple(outs)
