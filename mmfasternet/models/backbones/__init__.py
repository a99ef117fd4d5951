# SPDX-License-Identifier: Apache-2.0
from .fasternet import FasterNet, FasterNetBlock, PartialConv
from .fasternet_layouts import FasterNetPretrained

__all__ = ['FasterNet', 'FasterNetBlock', 'FasterNetPretrained', 'PartialConv']
