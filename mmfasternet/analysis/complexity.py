# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-accumulates of a detector."""
from typing import Dict, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_complexity(cfg: Config,
                     shape: Sequence[int],
                     train: bool = False) -> Dict[str, Tuple[int, int]]:
    """Parameters and MACs of a detector and its modules.

    Convolutions and matrix products are counted, as in the FasterNet paper;
    norms, activations and decoding are not. Nothing is computed: the model
    runs on the meta device.

    Args:
        cfg (Config): The config.
        shape (Sequence[int]): Height and width of the input.
        train (bool): Count in training mode.

    Returns:
        dict[str, tuple[int, int]]: Parameters and MACs by module name, ``''``
        for the whole detector.
    """
    init_default_scope(cfg.get('default_scope', 'mmyolo'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model).train(train)
        channels = cfg.model.backbone.get('in_channels', 3)
        image = torch.zeros(1, channels, *shape)
        counter = FlopCounterMode(display=False, depth=None)
        with counter, torch.no_grad():
            model(image, mode='tensor')
    flops = {
        name.partition('.')[2]: sum(per_operator.values())
        for name, per_operator in counter.get_flop_counts().items()
    }

    def macs(name: str, module: nn.Module) -> int:
        # a module whose `forward` is not called itself counts by its children
        if name in flops:
            return flops[name] // 2
        return sum(
            macs(f'{name}.{child_name}'.lstrip('.'), child)
            for child_name, child in module.named_children())

    return {
        name: (sum(p.numel() for p in module.parameters()), macs(name, module))
        for name, module in model.named_modules()
    }
