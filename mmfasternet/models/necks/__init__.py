# SPDX-License-Identifier: GPL-3.0-only
from .yolov8_sppf_pafpn import YOLOv8SPPFPAFPN

__all__ = ['YOLOv8SPPFPAFPN']
