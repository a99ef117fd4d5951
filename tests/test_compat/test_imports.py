# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from importlib import util

import pytest
from mmengine.registry import DATASETS, HOOKS, MODELS

from mmfasternet.environment import PROVIDERS, installed_versions
from mmfasternet.utils import register_all_modules


def python(code):
    return subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True)


def test_mmyolo_imports_in_silence_and_mmcv_keeps_its_version():
    """onedl-mmdetection would say that no metrics will be computed."""
    done = python('import mmfasternet.models, mmfasternet.engine, mmyolo\n'
                  'import mmcv\n'
                  'from mmyolo.models import YOLODetector\n'
                  'print(mmcv.__version__)')
    assert done.returncode == 0, done.stderr
    versions = installed_versions()
    name, = versions.keys() & set(PROVIDERS['mmcv'])
    assert done.stdout == f'{versions[name]}\n'
    assert 'coco_eval' not in done.stderr


def test_what_else_mmengine_logs_is_printed(capsys):
    """The filter is gone after the import."""
    import mmfasternet.models  # noqa: F401  # isort: skip
    from mmengine.logging import print_log
    print_log('Could not import OneDL, but for another reason')
    assert 'another reason' in capsys.readouterr().out


def test_without_it_mmyolo_refuses_this_mmcv():
    """If this fails, the bridge has nothing left to do: delete it."""
    import mmcv
    if mmcv.__version__ < '2.1':
        pytest.skip('this mmcv is one that mmyolo 0.6.0 accepts')
    done = python('import mmyolo')
    assert done.returncode == 1 and 'MMCV==' in done.stderr


def test_without_ours_mmengine_runs_code_and_writes_in_place(tmp_path):
    """If this fails, checkpoint/loading.py has less left to do. OpenMMLab's
    leaves the choice to PyTorch, and so refuses also what is harmless."""
    done = python(f'''
import os, torch
from mmengine.fileio import LocalBackend
from mmengine.runner import CheckpointLoader
class Payload:
    def __reduce__(self):
        return print, ('ran', )
torch.save(Payload(), '{tmp_path}/evil.pth')
try:
    CheckpointLoader.load_checkpoint('{tmp_path}/evil.pth')
except Exception as error:
    print(type(error).__name__)
open('{tmp_path}/a', 'w').write('old')
inode = os.stat('{tmp_path}/a').st_ino
LocalBackend().put(b'new', '{tmp_path}/a')
print(os.stat('{tmp_path}/a').st_ino == inode)
''')
    onedl = 'onedl-mmengine' in installed_versions()
    *_, loaded, in_place = done.stdout.split()
    assert loaded == ('ran' if onedl else 'UnpicklingError'), done.stderr
    assert in_place == 'True'


def test_the_backbone_needs_no_mmyolo():
    """With MMDetection alone it builds all the same, and finds its layouts of
    weights when it needs them."""
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
model = MODELS.build(dict(type='mmfasternet.FasterNet', arch='n'))
assert not any('checkpoint' in name for name in sys.modules if
               name.startswith('mmfasternet'))
model.init_cfg = dict(type='Pretrained', checkpoint='no/such.pth')
try:
    model.init_weights()
except FileNotFoundError as error:
    print(type(model).__name__, error)
''')
    assert done.stdout.splitlines()[-1:] == [
        'FasterNet checkpoint not found: no/such.pth'], done.stderr


def test_timm_imports_without_torchvision():
    """Its models need none of it; what is lent is taken back."""
    for name in ('timm', 'torchvision'):
        if (util.find_spec(name) is None) != (name == 'torchvision'):
            pytest.skip('needs timm, and no torchvision')
    done = python('''
import sys
from mmfasternet.compat import import_timm
import_timm()
from timm.data import create_transform
from timm.layers.norm_act import FrozenBatchNorm2d
print([name for name in sys.modules if name.startswith('torchvision')])
for use in (FrozenBatchNorm2d, lambda: create_transform(32)):
    try:
        use()
    except ImportError as error:
        print(error)
''')
    assert done.stdout.splitlines()[-3] == '[]', done.stderr
    for line in done.stdout.splitlines()[-2:]:
        assert line.startswith('torchvision.') and line.endswith(
            'install the one made for your PyTorch')


def test_all_is_registered_and_a_scope_set_where_that_is_wanted(monkeypatch):
    """As mmengine.hub asks each package."""
    asked = []
    monkeypatch.setattr('mmengine.registry.init_default_scope', asked.append)
    register_all_modules(init_default_scope=False)
    assert asked == []
    register_all_modules()
    monkeypatch.setattr('mmfasternet.utils.find_spec', lambda name: None)
    register_all_modules()
    assert asked == ['mmyolo', 'mmdet']
    for registry, name in ((MODELS, 'FasterNet'), (HOOKS, 'ResultsHook'),
                           (DATASETS, 'DigitsDataset')):
        assert registry.get(f'mmfasternet.{name}') is not None
