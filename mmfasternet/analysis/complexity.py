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


def parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in network.parameters())


def count(network: nn.Module, shape: Sequence[int]) -> Tuple[int, int]:
    """Parameters and MACs of a network that is called with images alone, of
    ``shape`` ``(N, C, H, W)``."""
    network = copy.deepcopy(network).to('meta')
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(tuple(shape), device='meta'))
    return parameters(network), counter.get_total_flops() // 2


def count_complexity(cfg, shape: Sequence[int],
                     train: bool = False) -> Dict[str, Tuple[int, int]]:
    """Parameters and MACs of a detector and its modules.

    Args:
        cfg (Config): The config.
        shape (Sequence[int]): Height and width of the input.
        train (bool): Count in training mode. Defaults to False.

    Returns:
        dict[str, tuple[int, int]]: Parameters and MACs by module name, ``''``
        for the whole detector.

    Raises:
        ValueError: If the model cannot be built, or takes no such input.
    """
    from mmfasternet.config import build_model
    counter = FlopCounterMode(display=False, depth=None)
    with torch.device('meta'), torch.no_grad():
        model = build_model(cfg).train(train)
        image = torch.zeros(
            1, cfg.model.backbone.get('in_channels', 3), *shape)
        try:
            with counter:
                model(image, mode='tensor')
        except RuntimeError as error:
            raise ValueError(
                f'{cfg.filename} takes no input of {shape[0]}x{shape[1]} '
                f'(height x width): {str(error).splitlines()[0]}') from error
    flops = {name.partition('.')[2]: sum(per_operator.values())
             for name, per_operator in counter.get_flop_counts().items()}

    def macs(name: str, module: nn.Module) -> int:
        # a module whose `forward` is not called itself counts by its children
        if name in flops:
            return flops[name] // 2
        return sum(macs(f'{name}.{child_name}'.lstrip('.'), child)
                   for child_name, child in module.named_children())

    return {name: (parameters(module), macs(name, module))
            for name, module in model.named_modules()}
