# SPDX-License-Identifier: GPL-3.0-only
"""The built wheel, installed where there is no checkout."""
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml


def run(*command, cwd, **env):
    clean = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**clean, **env},
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def tracked():
    names = run('git', 'ls-files', '-z', 'configs', 'tools', cwd='.')
    return [name for name in names.split('\0') if name]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Of an sdist of a copy of the sources, so that nothing is left here."""
    folder = tmp_path_factory.mktemp('build')
    source = folder / 'source'
    names = run('git', 'ls-files', '-z', cwd='.').split('\0')
    for name in filter(None, names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, source / name, follow_symlinks=False)
    run(sys.executable, '-c', 'from setuptools import build_meta as b; '
        f'b.build_sdist({str(folder)!r})', cwd=source)
    with tarfile.open(next(folder.glob('*.tar.gz'))) as sdist:
        sdist.extractall(folder / 'sdist', filter='data')
    unpacked = next((folder / 'sdist').iterdir())
    run(sys.executable, '-c', 'from setuptools import build_meta as b; '
        f'b.build_wheel({str(folder)!r})', cwd=unpacked)
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """An interpreter with the wheel and what is installed here, but us."""
    folder = tmp_path_factory.mktemp('venv')
    venv.create(folder, with_pip=True)
    python = folder / 'bin/python'
    purelib = Path(
        run(python, '-c', 'import sysconfig; '
            'print(sysconfig.get_path("purelib"))', cwd=folder).strip())
    # a path, without the .pth files there that make our checkout importable
    (purelib / 'shared.pth').write_text(sysconfig.get_path('purelib'))
    run(python, '-m', 'pip', 'install', '--no-deps', '--no-index', wheel,
        cwd=folder)
    return python


def test_the_wheel_carries_configs_tools_and_licences(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {
            name: archive.read(name)
            for name in archive.namelist() if not name.endswith('/')
        }
    for name in tracked():
        assert files[f'mmfasternet/.mim/{name}'] == Path(name).read_bytes()
    assert yaml.safe_load(files['mmfasternet/.mim/model-index.yml'])
    assert sum('licenses/' in name for name in files) == 2


def test_mmengine_reads_installed_configs_from_any_folder(python, tmp_path):
    out = run(python, '-c', '''
import mmfasternet
from mmengine.hub import get_config
for name in ('_base_/yolov8_fasternet', '_base_/../yolov8_fasternet_n_bccd',
             'mask_rcnn/mask-rcnn_fasternet-s_fpn_1x_coco'):
    cfg = get_config(f'mmfasternet::{name}.py')
    assert '/site-packages/' in cfg.filename and '/site-packages/' in \\
        mmfasternet.__file__
    print('epochs', cfg.train_cfg.max_epochs)
''', cwd=tmp_path)
    assert [line for line in out.splitlines() if line.startswith('epochs')
            ] == ['epochs 500', 'epochs 30', 'epochs 12']


def test_a_project_on_top_builds_with_the_wheel(python, tmp_path):
    project = shutil.copytree('examples/my_project', tmp_path / 'project')
    out = run(python, '-c', '''
from mmengine.registry import MODELS, init_default_scope
from mmfasternet.config import load_config
cfg = load_config('configs/mine.py')
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
assert cfg.optim_wrapper.optimizer.lr == 0.001
assert cfg.train_cfg.max_epochs == 3
print(type(model.bbox_head).__name__, model.bbox_head.loss_bbox.loss_weight)
''', cwd=project, PYTHONPATH='.')
    assert out.splitlines()[-1] == f'CautiousHead {7.5 * 1.5}'


@pytest.mark.slow
def test_the_mim_walk(python, coco_options, tmp_path):
    """With openmim, which the test installs; it needs the package index."""
    run(python, '-m', 'pip', 'install', '--no-deps', 'openmim==0.3.9',
        'colorama', 'model-index', 'opendatalab', 'openxlab<0.1',
        'ordered-set', 'pandas', 'pytz', 'requests', 'urllib3', 'idna',
        'certifi', 'charset-normalizer', cwd=tmp_path)
    mim = [python, '-m', 'mim']
    assert 'mmfasternet ' in run(*mim, 'list', cwd=tmp_path)
    assert 'can not find matching models' in run(
        *mim, 'search', 'mmfasternet', cwd=tmp_path)
    assert '8,652,356' in run(
        *mim, 'run', 'mmfasternet', 'get_flops',
        f'{python.parent.parent}/lib/python{sys.version_info[0]}.'
        f'{sys.version_info[1]}/site-packages/mmfasternet/.mim/configs/'
        'yolov8_fasternet_s.py', cwd=tmp_path)
    options = [
        f'{key}={value}'.replace(' ', '')
        for key, value in coco_options.items()
    ]
    run(*mim, 'train', 'mmfasternet', 'yolov8_fasternet_s.py', '--work-dir',
        'out', '--cfg-options', *options, cwd=tmp_path)
    config = tmp_path / 'out/yolov8_fasternet_s.py'
    assert 'bbox_mAP_copypaste' in run(
        *mim, 'test', 'mmfasternet', config, '--checkpoint',
        'out/epoch_1.pth', cwd=tmp_path)
