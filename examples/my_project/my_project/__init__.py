# SPDX-License-Identifier: GPL-3.0-only
"""A project on top of mmfasternet, with a registry scope of its own."""
from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry

MODELS = Registry('model', parent=ROOT, scope='my_project')
