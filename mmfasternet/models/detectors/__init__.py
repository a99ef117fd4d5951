# SPDX-License-Identifier: GPL-3.0-only
from .any_backbone_yolo_detector import AnyBackboneYOLODetector

__all__ = ['AnyBackboneYOLODetector']
