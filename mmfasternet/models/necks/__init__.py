# SPDX-License-Identifier: GPL-3.0-only
from .projected_neck import ProjectedNeck
from .yolov8_sppf_pafpn import YOLOv8SPPFPAFPN

__all__ = ['ProjectedNeck', 'YOLOv8SPPFPAFPN']
