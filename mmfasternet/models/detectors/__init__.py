# SPDX-License-Identifier: GPL-3.0-only
from .any_backbone_yolo_detector import AnyBackboneYOLODetector
from .distilled_yolo_detector import DistilledYOLODetector

__all__ = ['AnyBackboneYOLODetector', 'DistilledYOLODetector']
