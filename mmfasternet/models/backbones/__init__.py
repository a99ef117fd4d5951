# SPDX-License-Identifier: Apache-2.0
from .fasternet import FasterNet, FasterNetBlock, PartialConv

__all__ = ['FasterNet', 'FasterNetBlock', 'PartialConv']
