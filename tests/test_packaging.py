# SPDX-License-Identifier: GPL-3.0-only
"""The built wheel, installed where there is no checkout."""
import json
import os
import re
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


def test_mim_and_the_hub_find_every_config_by_name():
    models = yaml.safe_load(Path('configs/metafile.yml').read_text())['Models']
    assert sorted(model['Config'] for model in models) == sorted(
        name for name in tracked()
        if re.fullmatch(r'configs/(?!_base_).*\.py', name))
    for model in models:
        assert model['Name'] == Path(model['Config']).stem
        # nobody has trained them
        assert set(model) == {'Name', 'In Collection', 'Config'}


def copy_of_the_sources(target):
    """So that nothing is left here."""
    names = run('git', 'ls-files', '-z', cwd='.').split('\0')
    for name in filter(None, names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target / name, follow_symlinks=False)
    return target


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Of an sdist."""
    folder = tmp_path_factory.mktemp('build')
    source = copy_of_the_sources(folder / 'source')
    run(sys.executable, '-c', 'from setuptools import build_meta as b; '
        f'b.build_sdist({str(folder)!r})', cwd=source)
    with tarfile.open(next(folder.glob('*.tar.gz'))) as sdist:
        sdist.extractall(folder / 'sdist', filter='data')
    unpacked = next((folder / 'sdist').iterdir())
    run(sys.executable, '-c', 'from setuptools import build_meta as b; '
        f'b.build_wheel({str(folder)!r})', cwd=unpacked)
    return next(folder.glob('*.whl'))


def environment(folder, with_pip=False):
    """An interpreter with what is installed here, pip as well, but us."""
    venv.create(folder, with_pip=with_pip)
    python = folder / 'bin/python'
    purelib = Path(
        run(python, '-c', 'import sysconfig; '
            'print(sysconfig.get_path("purelib"))', cwd=folder).strip())
    # a path, without the .pth files there that make our checkout importable
    (purelib / 'shared.pth').write_text(sysconfig.get_path('purelib'))
    return python


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """An interpreter with the wheel."""
    folder = tmp_path_factory.mktemp('venv')
    python = environment(folder)
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
for name in ('_base_/yolov8_fasternet', 'yolov8/yolov8_fasternet_n_bccd',
             'mask_rcnn/mask-rcnn_fasternet-s_fpn_1x_coco'):
    cfg = get_config(f'mmfasternet::{name}.py')
    assert '/site-packages/' in cfg.filename and '/site-packages/' in \\
        mmfasternet.__file__
    print('epochs', cfg.train_cfg.max_epochs)
from mmengine.hub import get_model
for name in ('yolov8/yolov8_fasternet_n',
             'retinanet/retinanet_fasternet-t0_fpn_1x_coco'):
    print('model', type(get_model(f'mmfasternet::{name}.py')).__name__)
''', cwd=tmp_path)
    assert [line for line in out.splitlines() if line.startswith('model')
            ] == ['model AnyBackboneYOLODetector', 'model RetinaNet']
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
    assert f'CautiousHead {7.5 * 1.5}' in out.splitlines()


# what mim imports, without what it would put in place of what is here
MIM_NEEDS = ('colorama', 'model-index', 'opendatalab', 'openxlab<0.1',
             'ordered-set', 'pandas', 'pytz', 'requests', 'urllib3', 'idna',
             'certifi', 'charset-normalizer')


def install_mim(python, mim):
    """From the package index, which the tests with mim need."""
    run(python, '-m', 'pip', 'install', '--no-deps', mim, *MIM_NEEDS, cwd='/')
    return [python, '-m', 'mim']


@pytest.mark.slow
def test_the_mim_walk(python, coco_options, tmp_path):
    mim = install_mim(python, 'openmim==0.3.9')
    package = next(python.parent.parent.glob('lib/*/site-packages'))
    assert 'mmfasternet ' in run(*mim, 'list', cwd=tmp_path)
    assert 'config id: yolov8_fasternet_s' in run(
        *mim, 'search', 'mmfasternet', cwd=tmp_path)
    assert '8,286,788' in run(
        *mim, 'run', 'mmfasternet', 'get_flops',
        package / 'mmfasternet/.mim/configs/yolov8_fasternet_s.py',
        cwd=tmp_path)
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

    # it writes a copy of the config for each value: a dotted name counts
    # there, and a knob ends in an error instead of training as before
    search = [*mim, 'gridsearch', 'mmfasternet', config, '--work-dir', 'grid',
              '--gpus', '0', '--search-args']
    run(*search, '--optim_wrapper.optimizer.lr 0.001 0.003', cwd=tmp_path)
    rates = {
        json.loads(line)['base_lr']
        for log in tmp_path.glob('grid_search_*/*/vis_data/scalars.json')
        for line in log.read_text().splitlines() if 'base_lr' in line
    }
    assert len(list(tmp_path.glob('grid_search_*/epoch_1.pth'))) == 2
    assert len(rates) >= 2
    with pytest.raises(AssertionError, match='error: max_epochs is 3 in'):
        run(*search, '--max_epochs 3', cwd=tmp_path)
    # there are no weights
    with pytest.raises(AssertionError, match="got {'weight'}"):
        run(*mim, 'download', 'mmfasternet', '--config', 'yolov8_fasternet_s',
            cwd=tmp_path)


@pytest.mark.slow
def test_mim_installs_a_checkout(tmp_path):
    source = copy_of_the_sources(tmp_path / 'source')
    python = environment(tmp_path / 'venv', with_pip=True)
    # openmim does not find today's editable installs, this one no wheels
    mim = install_mim(python, 'onedl-mim==0.5.1')
    run(*mim, 'install', '-e', '.', '--no-deps', '--no-build-isolation',
        cwd=source)
    assert 'mmfasternet ' in run(*mim, 'list', cwd=tmp_path)
    out = run(*mim, 'run', 'mmfasternet', 'get_flops',
              source / 'configs/yolov8_fasternet_n.py', cwd=tmp_path)
    assert '2,654,868' in out
    assert 'config id: yolov8_fasternet_s' in run(
        *mim, 'search', 'mmfasternet', cwd=tmp_path)


@pytest.mark.slow
def test_programs_of_mmdet_take_our_configs(python, coco_options, tmp_path):
    """From another folder; what they do not know is the order of imports."""
    config = tmp_path / 'mine.py'
    (base, ) = map(str, python.parent.parent.glob(
        'lib/*/site-packages/mmfasternet/.mim/configs/yolov8_fasternet_n.py'))
    config.write_text(f'_base_ = {base!r}\n' + '\n'.join(
        f'{key} = {value!r}' for key, value in coco_options.items()))
    run(python, '-c', f'''
import runpy, sys
import mmdet, mmfasternet
sys.argv = ['train.py', {str(config)!r}, '--work-dir', 'out']
runpy.run_path(mmdet.__path__[0] + '/.mim/tools/train.py',
               run_name='__main__')
''', cwd=tmp_path)
    out = run(python, '-c', f'''
import mmfasternet
import numpy as np
from mmdet.apis import DetInferencer
inferencer = DetInferencer({str(config)!r}, 'out/epoch_1.pth', device='cpu',
                           scope='mmyolo')
out = inferencer(np.zeros((64, 96, 3), np.uint8))
print('keys', sorted(out['predictions'][0]))
''', cwd=tmp_path)
    assert "keys ['bboxes', 'labels', 'scores']" in out
