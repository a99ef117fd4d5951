# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-accumulates (MACs) of networks and detectors.

Convolutions and matrix products are counted, as in the FasterNet paper;
norms, activations and decoding are not. Nothing is computed: networks run on
the meta device.
"""
import copy
from typing import Dict, Sequence, Tuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(network: nn.Module, shape: Sequence[int]
          ) -> Dict[str, Tuple[int, int]]:
    """Parameters and MACs by the name of the module, ``''`` for all, of a
    network that is called with images alone, of ``shape`` ``(N, C, H, W)``."""
    network = copy.deepcopy(network).to('meta')
    counter = FlopCounterMode(display=False, depth=None)
    with torch.device('meta'), torch.no_grad(), counter:
        network(torch.zeros(tuple(shape)))
    flops = {name.partition('.')[2]: sum(per_operator.values())
             for name, per_operator in counter.get_flop_counts().items()}

    def macs(name: str, module: nn.Module) -> int:
        # a module whose `forward` is not called itself counts by its children
        if name in flops:
            return flops[name] // 2
        return sum(macs(f'{name}.{child_name}'.lstrip('.'), child)
                   for child_name, child in module.named_children())

    return {
        name: (sum(p.numel() for p in module.parameters()), macs(name, module))
        for name, module in network.named_modules()
    }


def count_complexity(cfg, shape: Sequence[int],
                     train: bool = False) -> Dict[str, Tuple[int, int]]:
    """The same of the model of a config, for an input of height and width
    ``shape``, in training mode or not.

    Raises:
        ValueError: If the model cannot be built, or takes no such input.
    """
    from mmfasternet.config import build_model
    with torch.device('meta'):
        model = build_model(cfg).train(train)
    try:
        return count(
            model, (1, cfg.model.backbone.get('in_channels', 3), *shape))
    except RuntimeError as error:
        raise ValueError(
            f'{cfg.filename} takes no input of {shape[0]}x{shape[1]} '
            f'(height x width): {str(error).splitlines()[0]}') from error
