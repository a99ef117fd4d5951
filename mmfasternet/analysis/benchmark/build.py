# SPDX-License-Identifier: Apache-2.0
"""The networks that are timed, as PyTorch modules."""
from typing import Any, Dict, Optional

import torch
from torch import Tensor, nn

from mmfasternet.analysis.benchmark import paper


class Copy(nn.Module):
    """A copy of float32 from memory to memory, too large for a cache."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_buffer('copied', torch.zeros(numbers))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(numbers, )`` to the same."""
        return self.copied.copy_(x)


def build_network(target: str,
                  cfg_options: Optional[Dict[str, Any]] = None) -> nn.Module:
    """Build what a candidate names, in evaluation mode, with random weights
    unless a checkpoint is named.

    Called with images alone, a model of MMEngine gives what its mode 'tensor'
    is: no pixels are normalised, no boxes decoded, and there is no NMS.
    """
    torch.manual_seed(0)
    kind, _, number = target.partition(':')
    if kind == 'product':
        network = nn.Linear(int(number), int(number), bias=False)
    elif kind == 'copy':
        network = Copy(int(number))
    elif found := paper.find(target):
        network = found.build()
    else:
        network = _build_from_config(target, cfg_options)
    network.eval()  # which returns None for some
    return network.requires_grad_(False)


def _build_from_config(target: str,
                       cfg_options: Optional[Dict[str, Any]]) -> nn.Module:
    # here: a matrix product needs none of it
    import mmfasternet.models  # noqa: F401  makes mmyolo importable
    from mmfasternet.checkpoint import load_model_weights
    from mmfasternet.config import build_model, load_config
    config, _, checkpoint = target.partition(',')
    model = build_model(load_config(config, cfg_options))
    if checkpoint:
        load_model_weights(model, checkpoint)
    return model
