# SPDX-License-Identifier: Apache-2.0
"""The layers of FasterNet, https://arxiv.org/abs/2303.03667 (v3)."""
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Iterator, Optional, Sequence

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

NormCfg = Optional[dict]


def build_norm(norm_cfg: NormCfg, channels: int) -> nn.Module:
    """Normalisation of ``channels`` channels, the identity for None."""
    if norm_cfg is None:
        return nn.Identity()
    return build_norm_layer(norm_cfg, channels)[1]


def _overlap(kernel_size: int, stride: int) -> int:
    """Padding with which a patch that overlaps its neighbours keeps ``H/s``.

    None for the published patches, which do not overlap.
    """
    return max(kernel_size - stride + 1, 0) // 2


@contextmanager
def _paused_running_stats(module: nn.Module) -> Iterator[None]:
    """Normalise by batch statistics without recording them a second time."""
    norms = [
        (m, m.momentum, m.num_batches_tracked.clone())
        for m in module.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats and m.training
    ]
    for norm, _, _ in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, momentum, count in norms:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


class PartialConv(nn.Module):
    """Partial convolution (PConv), section 3.2 of the paper.

    A 3x3 convolution of the first ``dim // n_div`` channels; the other
    channels pass through untouched. The input is never modified in place:
    writing the result back into a slice of it would corrupt the shortcut of
    the block around it.

    Args:
        dim (int): Number of input and output channels.
        n_div (int): Inverse of the partial ratio, 4 in the paper.
    """

    def __init__(self, dim: int, n_div: int = 4) -> None:
        super().__init__()
        if n_div < 1 or dim // n_div < 1:
            raise ValueError(
                f'n_div must be between 1 and the number of channels ({dim}) '
                f'so that at least one channel is convolved, got {n_div}')
        self.dim_conv3 = dim // n_div
        self.dim_untouched = dim - self.dim_conv3
        self.partial_conv3 = nn.Conv2d(
            self.dim_conv3, self.dim_conv3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, dim, H, W)`` to the same shape."""
        convolved, untouched = torch.split(
            x, [self.dim_conv3, self.dim_untouched], dim=1)
        return torch.cat((self.partial_conv3(convolved), untouched), dim=1)


class FasterNetBlock(nn.Module):
    """PConv, then 1x1 - norm - act - 1x1, added to the block's input.

    Args:
        dim (int): Number of input and output channels.
        n_div (int): Inverse of the partial ratio of the PConv.
        mlp_ratio (float): Hidden channels of the two 1x1 as a multiple of
            ``dim``.
        drop_path (float): Probability of dropping the residual branch.
        layer_scale_init_value (float): Initial value of a learned factor per
            channel of the residual branch; 0 for none, as in the paper.
        norm_cfg (dict, optional): Config of the normalisation.
        act_cfg (dict): Config of the activation.
    """

    def __init__(self, dim: int, n_div: int, mlp_ratio: float,
                 drop_path: float, layer_scale_init_value: float,
                 norm_cfg: NormCfg, act_cfg: dict) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.spatial_mixing = PartialConv(dim, n_div)
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, hidden, 1, bias=False),
            build_norm(norm_cfg, hidden), build_activation_layer(act_cfg),
            nn.Conv2d(hidden, dim, 1, bias=False))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        if layer_scale_init_value:
            self.layer_scale = nn.Parameter(
                torch.full((dim, ), float(layer_scale_init_value)))
        else:
            self.layer_scale = None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, dim, H, W)`` to the same shape."""
        branch = self.mlp(self.spatial_mixing(x))
        if self.layer_scale is not None:
            branch = self.layer_scale.view(1, -1, 1, 1) * branch
        return x + self.drop_path(branch)


class BasicStage(nn.Module):
    """A stack of :class:`FasterNetBlock` at one resolution.

    Args:
        drop_path (Sequence[float]): One probability per block; its length is
            the depth of the stage.
        with_cp (bool): Recompute each block in the backward pass instead of
            keeping its activations.
        **block: The other arguments of :class:`FasterNetBlock`.
    """

    def __init__(self, drop_path: Sequence[float], with_cp: bool,
                 **block) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.blocks = nn.Sequential(
            *(FasterNetBlock(drop_path=rate, **block) for rate in drop_path))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, dim, H, W)`` to the same shape."""
        if not (self.with_cp and self.training and torch.is_grad_enabled()):
            return self.blocks(x)
        for block in self.blocks:
            # the second forward pass must not move the running statistics
            x = checkpoint(
                block,
                x,
                use_reentrant=False,
                context_fn=partial(self._contexts, block))
        return x

    @staticmethod
    def _contexts(block: nn.Module):
        return nullcontext(), _paused_running_stats(block)


class PatchEmbed(nn.Module):
    """The stem: one strided convolution and a norm.

    Args:
        in_channels (int): Channels of the image.
        embed_dim (int): Channels of the output.
        patch_size (int): Kernel size.
        patch_stride (int): Stride.
        norm_cfg (dict, optional): Config of the normalisation.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int,
                 patch_stride: int, norm_cfg: NormCfg) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_channels,
            embed_dim,
            patch_size,
            patch_stride,
            padding=_overlap(patch_size, patch_stride),
            bias=False)
        self.norm = build_norm(norm_cfg, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, embed_dim, H/s, W/s)``."""
        return self.norm(self.proj(x))


class PatchMerging(nn.Module):
    """Between stages: a strided convolution that doubles the channels.

    Args:
        dim (int): Channels of the input.
        patch_size (int): Kernel size.
        patch_stride (int): Stride.
        norm_cfg (dict, optional): Config of the normalisation.
    """

    def __init__(self, dim: int, patch_size: int, patch_stride: int,
                 norm_cfg: NormCfg) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(
            dim,
            2 * dim,
            patch_size,
            patch_stride,
            padding=_overlap(patch_size, patch_stride),
            bias=False)
        self.norm = build_norm(norm_cfg, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, dim, H, W)`` to ``(N, 2 * dim, H/s, W/s)``."""
        return self.norm(self.reduction(x))
