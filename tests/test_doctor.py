# SPDX-License-Identifier: Apache-2.0
"""Each problem is made in an environment of fake packages, and found."""
import configparser
import os
import platform
import re
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from mmfasternet import doctor
from mmfasternet.environment import (
    PROBES,
    Environment,
    ask,
    installed_versions,
    machine,
)

REPO = Path(doctor.__file__).parents[1]
ONEDL = {
    'mmfasternet': '0.1.0',
    'torch': '2.13.0',
    'numpy': '2.2.6',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'mmyolo': '0.6.0',
    'opencv-python-headless': '4.12.0.88',
    'setuptools': '82.0.0',
    'pyyaml': '6.0.3',
    'safetensors': '0.8.0',
    'scikit_learn': '1.9.1',  # one name, spelled in two ways
}
OPENMMLAB = {
    'onedl-mmengine': None,
    'onedl-mmcv': None,
    'onedl-mmdetection': None,
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'setuptools': '80.0.0',
}
TORCH = '''
__version__ = '2.13.0+cpu'
class version:
    cuda = None
class cuda:
    get_device_name = lambda: 'NVIDIA H200'
def from_numpy(array): pass
def ones(size, device): raise AssertionError('not compiled with CUDA')
'''
MODULES = {
    'numpy.py': '__version__ = "2.2.6"\ndef zeros(size): pass',
    'torch.py': TORCH,
    'cv2.py': 'import numpy',
    'mmengine/__init__.py': '',
    'mmengine/runner.py': 'import cv2, torch',
    'mmengine/utils.py': 'def digit_version(v): return v.split(".")',
    'mmcv/__init__.py': 'import mmengine.runner; __version__ = "2.3.6"',
    'mmcv/cnn.py': '',
    'mmcv/ops.py': 'def get_compiling_cuda_version(): return "not available"',
    'mmdet/__init__.py': '',
    'mmdet/datasets.py': 'import mmcv.ops',
    'mmdet/models.py': '',
    'mmyolo/__init__.py': 'import mmdet.models',
    'mmyolo/datasets.py': '',
    'mmyolo/models.py': '',
}
GPU = TORCH.replace('None', '"12.8"')
NO_DRIVER = GPU.replace('AssertionError', 'RuntimeError')
NEITHER = dict.fromkeys(('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'))
NO_MODULES = dict.fromkeys(
    ('mmengine/runner.py', 'mmengine/utils.py', 'mmengine/__init__.py',
     'mmcv/__init__.py', 'mmcv/cnn.py', 'mmcv/ops.py', 'mmdet/__init__.py',
     'mmdet/datasets.py', 'mmdet/models.py'))
INSTALL = "MMCV_WITH_OPS=0 PYTHON -m pip install -e '.[onedl]'"
INSTALL_MM = INSTALL.replace('onedl', 'openmmlab-lite')
MMCV = INSTALL.replace('-e', '--no-cache-dir -e')
MMCV_MM = INSTALL_MM.replace('-e', '--no-cache-dir -e')
NUMPY = "PYTHON -m pip install --force-reinstall --no-deps 'numpy<2.3'"
HEADLESS = "PYTHON -m pip install --no-deps 'opencv-python-headless<4.13'"

# The check; other distributions and other files than those above; what is
# said, and one of the commands.
PROBLEMS = [
    ('torch_and_numpy', {}, {'numpy.py': 'raise ImportError("no ABI")'},
     'numpy does not import: ImportError: no ABI', NUMPY),
    ('torch_and_numpy', {'torch': None}, {'torch.py': None},
     'torch is missing',
     'PYTHON -m pip install --force-reinstall torch==2.13.0'),
    ('torch_and_numpy', {},
     {'torch.py': 'raise OSError("libcudart.so:\\n no file")'},
     'torch does not import: OSError: libcudart.so: no file',
     'PYTHON -m pip install --force-reinstall torch==2.13.0'),
    ('torch_and_numpy', {},
     {'torch.py': TORCH.replace('2.13.0+cpu', '2.5.1')},
     'torch 2.5.1 is older than 2.6', MMCV),
    ('torch_and_numpy', {},
     {'torch.py': TORCH.replace('pass', 'raise RuntimeError("no numpy")')},
     'torch 2.13.0+cpu cannot read arrays of NumPy 2.2.6: RuntimeError: no',
     NUMPY),
    ('torchvision', {'torchvision': '0.28.0'},
     {'torchvision.py': 'raise RuntimeError("torchvision::nms is not here")',
      'mmdet/models.py': 'import torchvision'},
     'torchvision 0.28.0 is not for torch 2.13.0+cpu: RuntimeError: torchv',
     'PYTHON -m pip uninstall -y torchvision'),
    ('families', {'mmcv': '2.1.0'}, {},
     'Two families are mixed: onedl-mmengine, onedl-mmcv, mmcv, onedl-mmdet',
     'PYTHON -m pip uninstall -y onedl-mmengine onedl-mmcv mmcv '
     'onedl-mmdetection'),
    ('missing', NEITHER, NO_MODULES, 'mmengine, mmcv, mmdet: missing',
     INSTALL),
    ('missing', {'onedl-mmcv': None},
     {name: None for name in MODULES if name.startswith('mmcv')},
     'mmcv: missing', INSTALL),
    ('missing', {**OPENMMLAB, 'mmdet': None},
     {name: None for name in MODULES if name.startswith('mmdet')},
     'mmdet: missing', INSTALL_MM),
    ('missing', {'pyyaml': None, 'safetensors': None,
                 'scikit_learn': None}, {},
     'pyyaml, safetensors, scikit-learn: missing', INSTALL),
    ('doubles', {**OPENMMLAB, 'mmcv-lite': '2.1.0'}, {},
     'mmcv and mmcv-lite both write the module mmcv', MMCV_MM),
    ('doubles', {'opencv-python': '4.12.0.88'}, {},
     'opencv-python-headless and opencv-python both write the module cv2',
     'PYTHON -m pip uninstall -y opencv-python-headless opencv-python'),
    ('imports', {'opencv-python-headless': None}, {'cv2.py': None},
     'cv2 is missing', HEADLESS),
    ('imports', {'opencv-python-headless': None, 'opencv-python': '4.12'},
     {'cv2.py': 'raise ImportError("libGL.so.1: cannot open shared object")'},
     'cv2 does not import: ImportError: libGL.so.1: cannot open', HEADLESS),
    ('imports', {}, {'mmengine/runner.py': 'import mmengine.nothing'},
     'mmengine does not import: ModuleNotFoundError: No module named '
     "'mmengine.nothing'", 'PYTHON -m pip uninstall -y onedl-mmengine'),
    ('imports', {**OPENMMLAB, 'mmcv': None, 'mmcv-lite': '2.1.0'},
     {'mmcv/ops.py': 'raise ImportError(__file__ + ": _ZNK")'},
     'mmcv.ops does not import: ImportError: ~/mmcv/ops.py: _ZNK', MMCV_MM),
    ('imports', {}, {'mmcv/ops.py': 'import os; os.kill(os.getpid(), 11)'},
     'mmcv.ops does not import: the interpreter ended, SIGSEGV', MMCV),
    ('imports', {}, {'mmdet/datasets.py': 'import imaug.augmenters'},
     "mmdet does not import: ModuleNotFoundError: No module named 'imaug'",
     'PYTHON -m pip install imaug'),
    ('imports', OPENMMLAB,
     {'mmdet/__init__.py': 'raise AssertionError("MMCV==2.2.0 is used")'},
     'mmdet does not import: AssertionError: MMCV==2.2.0', MMCV_MM),
    ('imports', {}, {'mmyolo/models.py': 'raise AttributeError("changed")'},
     'mmyolo does not import: AttributeError: changed',
     'PYTHON -m pip uninstall -y mmyolo'),
    ('gpu', {},
     {'torch.py': GPU.replace('raise AssertionError', 'return str')},
     "mmcv's operators are compiled for the CPU only", MMCV),
    ('setuptools', {**OPENMMLAB, 'setuptools': '82.0.0'}, {},
     'mmengine 0.10.7 needs pkg_resources, which setuptools has up to 81; '
     'here is setuptools 82.0.0',
     "PYTHON -m pip install 'setuptools<81'"),
    ('setuptools', {**OPENMMLAB, 'setuptools': None}, {},
     'mmengine 0.10.7 needs pkg_resources, which setuptools has up to 81; '
     'here is no setuptools', "PYTHON -m pip install 'setuptools<81'"),
]
NOTES = [
    ('missing', {'mmyolo': None},
     {name: None for name in MODULES if name.startswith('mmyolo')},
     'mmyolo: missing', INSTALL),
    ('gpu', {}, {'torch.py': NO_DRIVER},
     'torch is made for CUDA 12.8, but no GPU is usable: RuntimeError: not',
     'nvidia-smi'),
]
@pytest.fixture(scope='module')
def bare_python(tmp_path_factory):
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, symlinks=True)
    return folder / 'bin/python'


@pytest.fixture
def fakes(tmp_path):
    """Fill a folder with packages; mmfasternet is the real one."""

    def fill(versions, modules):
        (tmp_path / 'mmfasternet').symlink_to(REPO / 'mmfasternet')
        for name, version in {**ONEDL, **versions}.items():
            if version is not None:
                info = tmp_path / f'{name}-{version}.dist-info'
                info.mkdir()
                (info / 'METADATA').write_text(
                    f'Metadata-Version: 2.1\nName: {name}\n'
                    f'Version: {version}\n')
        for name, code in {**MODULES, **modules}.items():
            if code is not None:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text(code)
        return tmp_path

    return fill


def run(python, *arguments, path, **env):
    return subprocess.run([str(python), *arguments],
                          capture_output=True,
                          text=True,
                          cwd=path,
                          env={
                              **os.environ, 'PYTHONPATH': str(path),
                              **env
                          })


def consult(python, path):
    """Exit status, and the problems as (kind, what, breaks, commands)."""
    done = run(python, '-m', 'mmfasternet.doctor', path=path, HOME=str(path))
    assert not done.stderr
    assert str(path) not in done.stdout
    found = re.findall(
        r'^(problem|note): (.+)\n  breaks: (.+)\n  fix:    ((?:.+\n)+)',
        done.stdout, re.MULTILINE)
    number = sum(kind == 'problem' for kind, *_ in found)
    verdict = {
        0: 'everything needed is here',
        1: '1 problem'
    }.get(number, f'{number} problems')
    assert f'\n\n{verdict}\n' in done.stdout
    assert done.returncode == (number > 0)
    return [(kind, what, [
        line.strip().replace(str(python), 'PYTHON')
        for line in commands.splitlines()
    ]) for kind, what, _, commands in found]


def name_of(case):
    return f'{case[0]}-{case[3][:30]}'


@pytest.mark.parametrize('case', PROBLEMS, ids=name_of)
def test_a_problem_is_the_one_that_is_found(case, bare_python, fakes):
    _, versions, modules, said, command = case
    (kind, what, commands), *others = consult(bare_python,
                                              fakes(versions, modules))
    assert kind == 'problem'
    assert what.startswith(said)
    assert command in commands
    assert not others  # consequences are not listed


@pytest.mark.parametrize('case', NOTES, ids=name_of)
def test_a_note_is_no_problem(case, bare_python, fakes):
    _, versions, modules, said, command = case
    (kind, what, commands), = consult(bare_python, fakes(versions, modules))
    assert kind == 'note'
    assert what.startswith(said)
    assert command in commands


def test_a_python_that_is_not_tested():
    problem, = doctor.find_problems(replace(healthy(), python=(3, 19, 0)))
    assert problem.what.startswith('Python 3.19.0 is not one of 3.10 to 3.')
    assert problem.commands[0].startswith('PYTHON=python3.')
    for python in doctor.PYTHONS:
        for patch in (0, 9):
            assert not doctor.find_problems(
                replace(healthy(), python=(*python, patch)))


def healthy():
    return Environment(
        python=(3, 11, 7),
        versions={k.replace('_', '-'): v
                  for k, v in ONEDL.items()},
        answers={
            **dict.fromkeys(PROBES, ''), 'torch': '2.13.0'
        },
        errors={})


@pytest.mark.parametrize('module, breaks', [
    ('cv2', 'everything'), ('mmengine', 'everything'), ('mmcv', 'everything'),
    ('mmcv.ops', 'every detector'), ('mmdet', 'every detector'),
    ('mmyolo', "the YOLOv8 configs; MMDetection's detectors work")])
def test_what_breaks_without_a_module(module, breaks):
    problem, = doctor.find_problems(
        replace(healthy(), errors={module: 'ImportError: no'}))
    assert problem.breaks.split(': ')[0] == breaks


@pytest.mark.parametrize('name, breaks', [
    ('pyyaml', 'configs'), ('safetensors', 'pretrained weights'),
    ('scikit-learn', 'the digits of the quick start'),
    ('pyyaml, safetensors, scikit-learn',
     'configs, pretrained weights, the digits of the quick start')])
def test_what_breaks_without_a_package(name, breaks):
    env = healthy()
    versions = {k: v for k, v in env.versions.items()
                if k not in name.split(', ')}
    problem, = doctor.find_problems(replace(env, versions=versions))
    assert (problem.what, problem.breaks) == (f'{name}: missing', breaks)


@pytest.mark.parametrize('module, package', [
    ('PIL', 'pillow'), ('pkg_resources', "'setuptools<81'"),
    ('terminaltables', 'terminaltables')])
def test_what_to_install_for_a_module(module, package):
    problem, = doctor.find_problems(replace(healthy(), errors={
        'mmdet': f"ModuleNotFoundError: No module named '{module}'"}))
    assert [command.split(' -m ')[1] for command in problem.commands] == [
        f'pip install {package}']


def test_the_report_for_an_issue(monkeypatch):
    """One fact a line, of what is there and of what is not."""
    monkeypatch.setattr(os, 'sched_getaffinity', {0: {1, 2, 5}}.get)
    env = healthy()
    here = replace(
        env, versions={**env.versions, 'opencv-python': '4.11'},
        answers=dict(env.answers, cuda='12.8', gpu='H200',
                     **{'mmcv.ops': '12.6'}))
    nothing = Environment((3, 11, 7), {}, {}, {'gpu': 'no'})
    rows, none = ({line[:16].strip(): line[16:] for line in
                   doctor.describe_environment(x).splitlines()}
                  for x in (here, nothing))
    assert rows == dict(
        none, **{
            'mmfasternet': doctor.__version__, 'torch': '2.13.0, CUDA: 12.8',
            'GPU': 'H200', 'mmengine': 'onedl-mmengine 0.10.12',
            'mmcv': 'onedl-mmcv 2.3.6', 'mmdet': 'onedl-mmdetection 3.5.1',
            'mmyolo': 'mmyolo 0.6.0',
            'cv2': 'opencv-python-headless 4.12.0.88, opencv-python 4.11',
            'mmcv operators': 'compiled, CUDA: 12.6', 'numpy': '2.2.6',
            'setuptools': '82.0.0', 'scikit-learn': '1.9.1',
            'safetensors': '0.8.0', 'pyyaml': '6.0.3'})
    assert rows['CPU cores'] == '3'
    assert none['mmfasternet'].endswith(', not installed')
    assert {none[name] for name in ('torch', 'mmcv', 'cv2', 'numpy',
                                    'mmpretrain')} == {'none'}
    assert none['GPU'] == none['mmcv operators'] == 'none usable'
    assert 'torch           2.13.0, CUDA: none\n' in \
        doctor.describe_environment(env)


def test_it_says_how_it_is_called_and_what_its_exit_status_is(
        monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['doctor.py', '--help'])
    with pytest.raises(SystemExit):
        doctor.main()
    said = ' '.join(capsys.readouterr().out.split())
    assert said.startswith('usage: python -m mmfasternet.doctor [-h]')
    assert 'The exit status is 1 if there are problems' in said


def test_the_version_is_that_of_what_is_imported(monkeypatch, tmp_path):
    """Of the first of two; what pip left half-removed has no name."""
    for folder, text in (('a', 'Name: Some_Thing\nVersion: 1.0'),
                         ('b', 'Name: some.thing\nVersion: 2.0'),
                         ('c', 'Summary: none')):
        info = tmp_path / folder / 'thing-1.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\n{text}\n')
    monkeypatch.setattr(sys, 'path', [str(tmp_path / x) for x in 'abc'])
    assert installed_versions() == {'some-thing': '1.0'}


def test_a_process_that_ends_itself_says_how():
    answers, errors = ask(dict(
        ends='import os; os._exit(3)', works='answer = 1'))
    assert answers == dict(works='1')
    assert errors == dict(ends='the interpreter ended, exit status 3')
    # which nohup has every process ignore
    _, errors = ask(dict(
        ends='import os, signal\n'
        'signal.signal(signal.SIGHUP, signal.SIG_DFL)\n'
        'os.kill(os.getpid(), signal.SIGHUP)'))
    assert errors == dict(ends='the interpreter ended, SIGHUP')


def test_what_a_measurement_depends_on(monkeypatch):
    monkeypatch.setattr(Path, 'read_text', lambda self: 'processor\t: 0\n'
                        'model name\t: A CPU at 3 GHz\nflags\t: a b\n')
    monkeypatch.setattr('mmfasternet.environment.installed_versions', lambda: {
        'torch': '2', 'numpy': '3', 'timm': '4'})
    monkeypatch.setattr('torch.cuda.get_device_name', {'cuda:1': 'A'}.get)
    found = machine('cpu')
    assert found == dict(
        cpu='A CPU at 3 GHz', system=platform.platform(),
        python=platform.python_version(), torch='2', timm='4')
    assert machine('cuda:1') == dict(found, device='A')


def test_problems_come_before_notes():
    env = healthy()
    versions = {**env.versions}
    del versions['safetensors']
    answers = {**env.answers, 'cuda': '12.8'}
    found = doctor.find_problems(
        replace(
            env, versions=versions, answers=answers, errors={'gpu': 'no'}))
    assert [problem.is_note for problem in found] == [False, True]


def test_every_check_has_its_test():
    tested = {f'_check_{name}' for name, *_ in PROBLEMS + NOTES}
    tested.add('_check_python')
    assert {check.__name__ for check in doctor.CHECKS} == tested


@pytest.mark.parametrize('versions', [{}, OPENMMLAB], ids=['onedl', 'mm'])
def test_nothing_is_found_where_nothing_is_wrong(versions, bare_python, fakes):
    """A chatty package disturbs nobody."""
    path = fakes(versions, {'numpy.py': MODULES['numpy.py'] + '\nprint("hi")'})
    assert consult(bare_python, path) == []


def test_this_environment_is_in_order():
    """It passes; what is installed besides may be worth a note."""
    done = run(sys.executable, '-m', 'mmfasternet.doctor', path=REPO)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(
        re.split(r' {2,}|(?<=operators) ', line, maxsplit=1)
        for line in done.stdout.split('\n\n')[0].splitlines())
    import torch
    assert rows['torch'].startswith(torch.__version__)
    assert rows['Python'] == f'{platform.python_version()} in {sys.prefix}'
    import mmcv._ext
    compiled = getattr(mmcv._ext, '__file__', '').endswith('.so')
    assert rows['mmcv operators'].startswith(
        'compiled' if compiled else 'of mmfasternet.ops, by ')


def test_it_runs_where_there_is_nothing(bare_python, tmp_path):
    (tmp_path / 'mmfasternet').symlink_to(REPO / 'mmfasternet')
    assert consult(bare_python, tmp_path) == [
        ('problem', 'nothing that mmfasternet needs is installed in '
         f'{bare_python.parents[1]}',
         ['bash tools/setup_env.sh', 'source .venv/bin/activate'])]


@pytest.mark.parametrize('part', ['mmfasternet', 'torch', 'mmcv'])
def test_what_is_begun_is_completed(part):
    """By pip, in the environment that somebody has chosen for it."""
    errors = dict.fromkeys(PROBES, 'ModuleNotFoundError')
    found = doctor.find_problems(
        Environment((3, 11, 7), {part: '1'}, {}, errors))
    assert len(found) > 1
    assert all('pip install' in ' '.join(p.commands) for p in found)


def test_a_broken_stack_is_one_error_that_says_so(tmp_path):
    """The real environment, but for mmcv."""
    (tmp_path / 'mmcv.py').write_text('raise ImportError("broken on purpose")')
    done = run(
        sys.executable, '-c', 'import mmfasternet.models',
        path=tmp_path, PYTHONPATH=f'{tmp_path}{os.pathsep}{REPO}')
    assert done.returncode == 1
    original, error = done.stderr.split('ImportError: mmfasternet cannot ')
    assert 'direct cause of the following' in original
    assert 'ImportError: broken on purpose' in original
    assert error.startswith('be imported here: 1 problem\n\nproblem: mmcv ')
    assert 'mmcv does not import: ImportError: broken on purpose' in error
    assert 'MMCV_WITH_OPS=0' in error
    assert error.rstrip().endswith('-m mmfasternet.doctor')


@pytest.mark.parametrize(
    'tool', ['tools/train.py', 'tools/test.py', 'demo/image_demo.py'])
def test_tools_say_so_too(tool, bare_python, tmp_path):
    done = run(bare_python, REPO / tool, '-h', path=tmp_path,
               PYTHONPATH=str(REPO))
    assert done.returncode == 1
    assert 'ImportError: mmfasternet cannot be imported here' in done.stderr
    assert 'source .venv/bin/activate' in done.stderr


def test_an_error_of_another_kind_stays_what_it_is(bare_python, fakes):
    """Nothing is wrong with these packages, but they are not PyTorch."""
    done = run(bare_python, '-c', 'import mmfasternet.models',
               path=fakes({}, {}))
    assert "ImportError: cannot import name 'build_" in done.stderr
    assert 'mmfasternet cannot' not in done.stderr
    assert 'direct cause' not in done.stderr


def test_the_original_error_is_the_cause(monkeypatch):
    """Also where a note is found beside the problem."""
    env = replace(healthy(), python=(3, 9, 0), answers={
        **healthy().answers, 'cuda': '12.8'
    }, errors={'gpu': 'none'})
    monkeypatch.setattr(Environment, 'here', lambda: env)
    error = AttributeError('of mmengine')
    with pytest.raises(ImportError) as info, doctor.diagnosed():
        raise error
    assert info.value.__cause__ is error
    assert 'Python 3.9.0' in str(info.value)
    assert 'note: ' not in str(info.value)


def test_the_versions_are_those_of_the_set_up():
    config = configparser.ConfigParser()
    config.read(REPO / 'setup.cfg')
    assert {'onedl', 'openmmlab-lite'} <= set(config['options.extras_require'])
    set_up = (REPO / 'tools/setup_env.sh').read_text()
    for name in ('TORCH', 'OPENCV'):
        done = subprocess.run(
            ['bash', '-c', re.search(r'pinned\(\) .*', set_up)[0] +
             f'\npinned {name}'], cwd=REPO, capture_output=True, text=True)
        assert done.stdout.strip() == getattr(doctor, name)
    requires = config['options']['install_requires'].split()
    assert set(doctor.REQUIRED) <= {
        re.split('[<>=]', name)[0] for name in requires}
    first, last = ('.'.join(map(str, python)) for python in doctor.PYTHONS)
    assert config['options']['python_requires'] == f'>={first}'
    assert f' {last}\n' in config['metadata']['classifiers'] + '\n'
    oldest = '.'.join(map(str, doctor.OLDEST_TORCH))
    assert f'torch>={oldest}.0' in requires
    assert f'\n        TORCH={oldest}.0\n' in set_up
