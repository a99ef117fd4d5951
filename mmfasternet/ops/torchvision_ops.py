# SPDX-License-Identifier: Apache-2.0
"""The operators of torchvision, if it is there and fits this PyTorch."""
__all__ = ['OPS']

try:
    from torchvision import ops as OPS
except (ImportError, RuntimeError):  # RuntimeError: made for another PyTorch
    OPS = None
