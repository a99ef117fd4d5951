# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest


def python(code):
    return subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True)


def test_mmyolo_imports_and_mmcv_keeps_its_version():
    done = python('import mmfasternet.models, mmyolo, mmcv\n'
                  'from mmyolo.models import YOLODetector\n'
                  'print(mmcv.__version__)')
    assert done.returncode == 0, done.stderr
    try:
        installed = version('onedl-mmcv')
    except PackageNotFoundError:
        installed = version('mmcv')
    assert done.stdout.split()[-1] == installed


def test_without_it_mmyolo_refuses_this_mmcv():
    """If this fails, the bridge has nothing left to do: delete it."""
    import mmcv
    if mmcv.__version__ < '2.1':
        pytest.skip('this mmcv is one that mmyolo 0.6.0 accepts')
    done = python('import mmyolo')
    assert done.returncode == 1 and 'MMCV==' in done.stderr


def test_the_backbone_needs_no_mmyolo():
    """With MMDetection alone the backbone builds all the same."""
    done = python('''
import sys
sys.modules['mmyolo'] = None
import importlib.util as util
find_spec = util.find_spec
util.find_spec = lambda name, *a: None if name == 'mmyolo' else find_spec(
    name, *a)
from mmengine.registry import MODELS, init_default_scope
import mmfasternet.models
init_default_scope('mmdet')
print(type(MODELS.build(dict(type='mmfasternet.FasterNet'))).__name__)
''')
    assert done.stdout.split()[-1:] == ['FasterNet'], done.stderr
