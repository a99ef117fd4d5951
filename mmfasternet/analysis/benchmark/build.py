# SPDX-License-Identifier: Apache-2.0
"""The networks that are timed, as PyTorch modules and as ONNX files."""
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from mmfasternet.analysis.benchmark import paper
from mmfasternet.deploy.engines import ENGINES


class Network(nn.Module):
    """A detector from images to raw class logits and box distances.

    No pixels are normalised, no boxes decoded, and there is no NMS.

    Args:
        model (nn.Module): A model of MMEngine.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """What ``mode='tensor'`` gives for ``(N, C, H, W)``."""
        return self.model(images, mode='tensor')


class Copy(nn.Module):
    """A copy of float32 from memory to memory, too large for a cache."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_buffer('copied', torch.zeros(numbers))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(numbers, )`` to the same."""
        return self.copied.copy_(x)


def import_models(target: str) -> None:
    """Import what :func:`build_network` will need, which takes memory."""
    if target.partition(':')[0] not in ('product', 'copy'):
        import mmfasternet.models  # noqa: F401


def build_network(target: str,
                  cfg_options: Optional[Dict[str, Any]] = None) -> nn.Module:
    """Build what a candidate names, in evaluation mode, with random weights
    unless a checkpoint is named."""
    torch.manual_seed(0)
    kind, _, name = target.partition(':')
    if kind == 'product':
        network = nn.Linear(int(name), int(name), bias=False)
    elif kind == 'copy':
        network = Copy(int(name))
    elif kind in ('backbone', 'operator') and not name.startswith(':'):
        network = paper.build(target)
    else:
        network = _build_from_config(target, cfg_options)
    return network.eval().requires_grad_(False)


def _build_from_config(target: str,
                       cfg_options: Optional[Dict[str, Any]]) -> nn.Module:
    # here: a matrix product needs none of it
    import mmfasternet.models  # noqa: F401  makes mmyolo importable
    from mmfasternet.checkpoint import load_model_weights
    from mmfasternet.config import build_model, load_config
    config, _, checkpoint = target.partition(',')
    cfg = load_config(config, cfg_options)
    model = build_model(cfg)
    if checkpoint:
        load_model_weights(model, checkpoint)
    return Network(model)


def export_network(network: nn.Module, shape: Sequence[int],
                   path: Union[str, Path]) -> None:
    """Write a network to ONNX, as tools/deploy/export.py does."""
    ENGINES['onnxruntime'].write(network, torch.zeros(tuple(shape)), path)
