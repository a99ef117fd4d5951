# SPDX-License-Identifier: Apache-2.0
from .fasternet import FasterNet
from .fasternet_layers import BasicStage, FasterNetBlock, PartialConv

__all__ = ['BasicStage', 'FasterNet', 'FasterNetBlock', 'PartialConv']
