# SPDX-License-Identifier: GPL-3.0-only
from .yolov8_head_module import YOLOv8HeadModule
from .yolov8_pconv_head_module import YOLOv8PConvHeadModule

__all__ = ['YOLOv8HeadModule', 'YOLOv8PConvHeadModule']
