# SPDX-License-Identifier: GPL-3.0-only
"""The networks of the heads of YOLOv8.

Another head of mmyolo trains as it is where it has a ``head_module``. What
knows the classes here: ``detectors.level_fitting`` (do the widths fit),
``detectors.teacher`` (can it be distilled) and ``deploy.detector_folding``
(has it a deploy form).
"""
from .yolov8_head_module import YOLOv8HeadModule
from .yolov8_pconv_head_module import YOLOv8PConvHeadModule

__all__ = ['YOLOv8HeadModule', 'YOLOv8PConvHeadModule']
