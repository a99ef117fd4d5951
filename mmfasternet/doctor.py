# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an environment, and the commands that mend it.

``python -m mmfasternet.doctor`` prints the environment, each problem found,
what it breaks and what to type; the exit status is 1 if there is a problem.
Where ``import mmfasternet.models`` fails, the error says the same.

This module imports the standard library only, so it works where nothing else
does. What it asks other packages, it asks in another process: a broken one
may end the interpreter, and answers a second import differently.
"""
import argparse
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import distributions
from typing import Callable, Dict, Iterable, Iterator, List, Tuple

# What tools/setup_env.sh installs, and the extras of setup.cfg.
TORCH = 'torch==2.13.0'
OPENCV = 'opencv-python-headless<4.13'
PINNED = {
    'onedl': {
        'mmengine': 'onedl-mmengine==0.10.12',
        'mmcv': 'onedl-mmcv==2.3.6',
        'mmdet': 'onedl-mmdetection==3.5.1',
        'mmyolo': 'mmyolo==0.6.0',
        'mmpretrain': 'onedl-mmpretrain==1.3.6',
    },
    'openmmlab': {
        'mmengine': 'mmengine==0.10.7',
        'mmcv': 'mmcv==2.1.0',
        'mmdet': 'mmdet==3.3.0',
        'mmyolo': 'mmyolo==0.6.0',
    },
}
# the first with torch.serialization.get_unsafe_globals_in_checkpoint
OLDEST_TORCH = (2, 6)

# Which distributions write which module, those of OneDL first.
PROVIDERS = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'onedl-mmcv-cu*', 'mmcv', 'mmcv-full', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmyolo': ('mmyolo', ),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mim': ('onedl-mim', 'openmim'),
    'cv2': ('opencv-python-headless', 'opencv-python',
            'opencv-contrib-python-headless', 'opencv-contrib-python'),
}
NEEDED = ('mmengine', 'mmcv', 'mmdet')

# What is asked in the other process; each may set `answer`.
PROBES = {
    'numpy': 'import numpy; answer = numpy.__version__',
    'torch': 'import torch; answer = torch.__version__',
    'cuda': 'import torch; answer = torch.version.cuda or ""',
    'array': 'import numpy, torch; torch.from_numpy(numpy.zeros(1))',
    'gpu': 'import torch; torch.ones(1, device="cuda"); '
           'answer = torch.cuda.get_device_name()',
    'torchvision': 'import torchvision',
    'cv2': 'import cv2',
    'mmengine': 'import mmengine.runner',
    'mmcv': 'import mmcv.cnn',
    'mmcv.ops': 'from mmcv.ops import get_compiling_cuda_version as version; '
                'answer = version()',
    'mmdet': 'import mmdet.datasets, mmdet.models',
    'mmyolo': 'from mmfasternet.compat import import_mmyolo; '
              'import_mmyolo(); import mmyolo.datasets, mmyolo.models',
}
# Packages print when they are imported; only answers go to stdout.
_ASK = '''
import json, os, sys
path, probes = json.loads(sys.argv[1])
sys.path[:] = path
answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
for name, code in probes.items():
    scope = dict(answer='')
    try:
        exec(code, scope)
        line = name, True, str(scope['answer'])
    except BaseException as error:
        line = name, False, f'{type(error).__name__}: {error}'
    print(json.dumps(line), file=answers, flush=True)
'''


def _python() -> str:
    """How to call this interpreter from a shell."""
    if not sys.executable or shutil.which('python') == sys.executable:
        return 'python'
    return shlex.quote(sys.executable)


def _pip(arguments: str) -> str:
    return f'{_python()} -m pip {arguments}'


def _numbers(version: str) -> Tuple[int, ...]:
    """``'2.13.0+cpu'`` as ``(2, 13, 0)``."""
    match = re.match(r'\d+(\.\d+)*', version)
    return tuple(map(int, match[0].split('.'))) if match else ()


def _one_line(text: str) -> str:
    """Without line ends and the name of the user's home."""
    home = os.path.expanduser('~')
    line = ' '.join(text.split())[:400]
    return line.replace(home, '~') if len(home) > 1 else line


@dataclass(frozen=True)
class Problem:
    """Something wrong.

    Args:
        what (str): What is wrong.
        breaks (str): What does not work because of it.
        commands (tuple[str]): What to type to mend it.
        is_note (bool): Whether what most people need works all the same.
            Defaults to False.
    """
    what: str
    breaks: str
    commands: Tuple[str, ...]
    is_note: bool = False


@dataclass(frozen=True)
class Environment:
    """What the checks look at.

    Args:
        python (tuple[int]): Version of the interpreter.
        versions (dict[str, str]): Version of each installed distribution.
        answers (dict[str, str]): What :data:`PROBES` answered.
        errors (dict[str, str]): How the others of them failed, in one line.
        free_gib (float): Free disk space of the current folder.
        writable (bool): Whether files can be made in the current folder.
    """
    python: Tuple[int, ...]
    versions: Dict[str, str]
    answers: Dict[str, str]
    errors: Dict[str, str]
    free_gib: float
    writable: bool

    @classmethod
    def here(cls) -> 'Environment':
        """The environment that this interpreter runs in."""
        answers, errors = ask(PROBES)
        return cls(
            python=tuple(sys.version_info[:3]),
            versions=installed_versions(),
            answers=answers,
            errors=errors,
            free_gib=shutil.disk_usage('.').free / 2**30,
            writable=os.access('.', os.W_OK))

    def providers(self, module: str) -> List[str]:
        """The installed distributions that write the module."""
        return [
            name for pattern in PROVIDERS[module] for name in self.versions
            if fnmatch(name, pattern)
        ]

    @property
    def families(self) -> List[str]:
        """Those of ``onedl`` and ``openmmlab`` of which there is a part."""
        names = [name for m in NEEDED for name in self.providers(m)]
        return sorted({
            'onedl' if name.startswith('onedl-') else 'openmmlab'
            for name in names
        })

    @property
    def pinned(self) -> Dict[str, str]:
        """What to install of each module, of the family that is there."""
        return PINNED[(self.families or ['onedl'])[0]]


def installed_versions() -> Dict[str, str]:
    """Version by normalised name of each installed distribution."""
    versions: Dict[str, str] = {}
    for dist in distributions():
        name = dist.metadata['Name']  # None for what pip left half-removed
        if name:
            name = re.sub('[-_.]+', '-', name).lower()
            versions.setdefault(name, dist.version)
    return versions


def ask(probes: Dict[str, str]) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Run each piece of code in another process.

    Args:
        probes (dict[str, str]): Python code, by name.

    Returns:
        tuple[dict, dict]: What each that worked answered, and in one line how
        each other one failed.
    """
    answers: Dict[str, str] = {}
    errors: Dict[str, str] = {}
    left = dict(probes)
    while left:
        question = json.dumps([sys.path, left], default=str)
        done = subprocess.run([sys.executable, '-c', _ASK, question],
                              capture_output=True,
                              text=True,
                              errors='replace')
        for line in done.stdout.splitlines():
            name, worked, text = json.loads(line)
            (answers if worked else errors)[name] = _one_line(text)
            del left[name]
        if left:  # the first of them ended the process
            name = next(iter(left))
            del left[name]
            errors[name] = f'the interpreter ended, {_end(done.returncode)}'
    return answers, errors


def _end(returncode: int) -> str:
    if returncode >= 0:
        return f'exit status {returncode}'
    return signal.Signals(-returncode).name


def _uninstall(names: Iterable[str]) -> Tuple[str, ...]:
    names = ' '.join(names)
    return (_pip(f'uninstall -y {names}'), ) if names else ()


def _build_tools() -> str:
    return _pip("install 'setuptools>=64,<82' wheel ninja psutil")


def _build_mmcv(env: Environment) -> Tuple[str, ...]:
    """Commands that put mmcv with operators for today's torch in place."""
    pin = env.pinned['mmcv']
    name = pin.partition('==')[0]
    build = _pip('install --no-build-isolation --no-deps --no-cache-dir '
                 f'--no-binary {name} {pin}')
    return (*_uninstall(env.providers('mmcv')), _build_tools(),
            f'MMCV_WITH_OPS=1 {build}')


def _install_opencv(present: Iterable[str]) -> Tuple[str, ...]:
    return (*_uninstall(present), _pip(f"install --no-deps '{OPENCV}'"))


def _install_onedl() -> Tuple[str, ...]:
    """The commands of README's "Install into your own environment"."""
    return (_build_tools(), 'MMCV_WITH_OPS=1 ' +
            _pip("install --no-build-isolation -e '.[onedl]'"),
            *_install_opencv(['opencv-python', 'opencv-python-headless']))


def _install_torch(env: Environment) -> Tuple[str, ...]:
    """Torch, and mmcv again, which is compiled for one version of it."""
    mmcv = _build_mmcv(env) if env.providers('mmcv') else ()
    return (_pip(f'install --force-reinstall {TORCH}'), *mmcv)


def _check_python(env: Environment) -> Iterator[Problem]:
    if not (3, 10) <= env.python[:2] <= (3, 12):
        version = '.'.join(map(str, env.python))
        yield Problem(
            f'Python {version} is none of 3.10, 3.11 and 3.12',
            'perhaps everything; nothing here is tested on it',
            ('PYTHON=python3.12 bash tools/setup_env.sh', ))


def _broken(env: Environment, module: str) -> str:
    error = env.errors[module]
    if f"No module named '{module}'" in error:
        return f'{module} is missing'
    return f'{module} does not import: {error}'


def _check_numpy(env: Environment) -> Iterator[Problem]:
    if 'numpy' in env.errors:
        yield Problem(
            _broken(env, 'numpy'), 'everything',
            (_pip("install --force-reinstall --no-deps 'numpy<2.3'"), ))


def _check_torch(env: Environment) -> Iterator[Problem]:
    version = env.answers.get('torch')
    if version is None:
        yield Problem(
            _broken(env, 'torch'), 'everything', _install_torch(env))
    elif _numbers(version) < OLDEST_TORCH:
        oldest = '.'.join(map(str, OLDEST_TORCH))
        yield Problem(f'torch {version} is older than {oldest}', 'everything',
                      _install_torch(env))


def _check_torch_with_numpy(env: Environment) -> Iterator[Problem]:
    works = 'numpy' in env.answers and 'torch' in env.answers
    if works and 'array' in env.errors:
        yield Problem(
            f'torch {env.answers["torch"]} cannot read arrays of NumPy '
            f'{env.answers["numpy"]}: {env.errors["array"]}',
            'loading of images, so training and prediction',
            (_pip("install --force-reinstall --no-deps 'numpy<2.3'"),
             *_install_torch(env)))


def _check_gpu(env: Environment) -> Iterator[Problem]:
    if env.answers.get('cuda') and 'gpu' in env.errors:
        yield Problem(
            f'torch is made for CUDA {env.answers["cuda"]}, but no GPU is '
            f'usable: {env.errors["gpu"]}',
            'nothing where there is no GPU; otherwise training runs on the '
            'CPU until the NVIDIA driver is installed, or is new enough',
            ('nvidia-smi', ),
            is_note=True)


def _check_families(env: Environment) -> Iterator[Problem]:
    if len(env.families) > 1:
        names = [name for m in NEEDED for name in env.providers(m)]
        yield Problem(
            f'Two families are mixed: {", ".join(names)}',
            'OneDL and OpenMMLab write the same modules over each other',
            (*_uninstall(names), *_install_onedl()))


def _check_missing(env: Environment) -> Iterator[Problem]:
    missing = [
        module for module in NEEDED
        if module in env.errors and not env.providers(module)
    ]
    if len(missing) == len(NEEDED):
        yield Problem('mmengine, mmcv and mmdet are missing', 'everything',
                      _install_onedl())
        return
    for module in missing:
        yield Problem(
            f'{module} is missing',
            'every detector' if module == 'mmdet' else 'everything',
            _build_mmcv(env) if module == 'mmcv' else
            (_pip(f'install {env.pinned[module]}'), ))


def _check_doubles(env: Environment) -> Iterator[Problem]:
    for module in PROVIDERS:
        names = env.providers(module)
        mixed = module in NEEDED and len(env.families) > 1
        if len(names) < 2 or mixed or module == 'cv2':
            continue
        keep = f'{names[0]}=={env.versions[names[0]]}'
        yield Problem(
            f'{" and ".join(names)} both write the module {module}',
            'which files are whose is chance', _build_mmcv(env)
            if module == 'mmcv' else
            (*_uninstall(names), _pip(f'install {keep}')))


# What fails where a module does not import; each needs those before it.
_BREAKS = {
    'mmengine': 'everything',
    'mmcv': 'everything',
    'mmcv.ops': "every detector: NMS and RoIAlign are mmcv's operators",
    'mmdet': 'every detector',
    'mmyolo': 'the YOLOv8 configs',
}


def _check_imports(env: Environment) -> Iterator[Problem]:
    if env.errors.keys() & {'numpy', 'torch', 'cv2'}:
        return  # these fail for that reason
    for module, breaks in _BREAKS.items():
        if module not in env.errors:
            continue
        if env.providers(module.split('.')[0]):
            yield Problem(
                _broken(env, module), breaks, _mend_import(env, module))
        return


def _mend_import(env: Environment, module: str) -> Tuple[str, ...]:
    error = env.errors[module]
    module = module.split('.')[0]
    absent = re.match(r"ModuleNotFoundError: No module named '(\w+)", error)
    if absent and absent[1] not in PROVIDERS:
        names = {'PIL': 'pillow', 'pkg_resources': "'setuptools<81'"}
        return (_pip(f'install {names.get(absent[1], absent[1])}'), )
    # mmdet and mmyolo assert the versions of the others
    asserted = re.match('AssertionError: (MMCV|MMEngine|MMDetection)==', error)
    if asserted:
        module = asserted[1].lower().replace('detection', 'det')
    if module == 'mmcv':
        return _build_mmcv(env)
    pin = env.pinned[module]
    return (_pip(f'install --force-reinstall --no-deps {pin}'), )


def _check_operators_on_gpu(env: Environment) -> Iterator[Problem]:
    if 'gpu' in env.answers and env.answers.get('mmcv.ops') == 'not available':
        yield Problem(
            "mmcv's operators are compiled for the CPU only, and there is a "
            'GPU', 'validation and prediction on the GPU, which need NMS '
            "(compiling needs CUDA's nvcc)", _build_mmcv(env))


def _check_versions(env: Environment) -> Iterator[Problem]:
    if len(env.families) > 1:
        return
    others: List[str] = []
    commands: List[str] = []
    for module, pin in env.pinned.items():
        for name in env.providers(module):
            version = env.versions[name].partition('+')[0]
            if version == pin.partition('==')[2]:
                continue
            others.append(f'{name} {version} instead of {pin}')
            commands += (_build_mmcv(env) if module == 'mmcv' else
                         [_pip(f'install {pin}')])
    if others:
        yield Problem(
            f'other versions than in setup.cfg: {", ".join(others)}',
            'perhaps nothing; these are not tested',
            tuple(commands),
            is_note=True)


def _check_mmyolo(env: Environment) -> Iterator[Problem]:
    if 'mmyolo' in env.errors and not env.providers('mmyolo'):
        yield Problem(
            'mmyolo is missing',
            "the YOLOv8 configs; MMDetection's detectors work",
            (_pip(f'install {env.pinned["mmyolo"]}'), ),
            is_note=True)


def _check_pkg_resources(env: Environment) -> Iterator[Problem]:
    setuptools = env.versions.get('setuptools')
    if setuptools and _numbers(setuptools) < (82, ):
        return
    found = f'setuptools {setuptools}' if setuptools else 'no setuptools'
    configs = "each config on 'mmyolo::...', so YOLOv8"
    breaks = {
        'mmengine': configs,
        'mmengine-lite': configs,
        'openmim': 'the command mim'
    }
    for name in sorted(breaks.keys() & env.versions.keys()):
        yield Problem(
            f'{name} {env.versions[name]} needs pkg_resources, which '
            f'setuptools has up to 81; here is {found}',
            breaks[name], (_pip("install 'setuptools<81'"), ),
            is_note=name == 'openmim')


def _check_opencv(env: Environment) -> Iterator[Problem]:
    names = env.providers('cv2')
    if len(names) > 1:
        yield Problem(
            f'OpenCV is installed {len(names)} times: {", ".join(names)}',
            'they write the same cv2; uninstalling one breaks the others',
            _install_opencv(names))
    elif 'cv2' in env.errors and 'numpy' not in env.errors:
        yield Problem(
            f'OpenCV: {_broken(env, "cv2")}', 'everything',
            _install_opencv(names))


def _check_torchvision(env: Environment) -> Iterator[Problem]:
    if ('torchvision' in env.versions and 'torchvision' in env.errors
            and 'torch' not in env.errors):
        yield Problem(
            _broken(env, 'torchvision'),
            'mmpretrain and timm; nothing here needs it',
            (_pip('uninstall -y torchvision'), ),
            is_note=True)


def _check_albumentations(env: Environment) -> Iterator[Problem]:
    version = env.versions.get('albumentations')
    if version is None:
        return
    # MMDetection's Albu passes every key of the sample, to which 1.4.7 and
    # later object, or switches that off, which exists since 1.4.11
    if 'onedl-mmdetection' in env.versions:
        fits, wanted = _numbers(version) >= (1, 4, 11), '>=1.4.11,<2'
    else:
        fits, wanted = _numbers(version) < (1, 4, 7), '<1.4.7'
    if not fits:
        yield Problem(
            f'albumentations {version} does not fit this mmdet, which needs '
            f'{wanted}', "mmyolo's own YOLOv8 configs (mmdet.Albu); those "
            'here do not use it',
            (_pip(f"install 'albumentations{wanted}'"), ),
            is_note=True)


def _check_requirements(env: Environment) -> Iterator[Problem]:
    uses = {
        'pyyaml': 'configs',
        'safetensors': 'pretrained weights',
        'scikit-learn': 'the digits of the quick start'
    }
    missing = [name for name in uses if name not in env.versions]
    if missing:
        yield Problem(f'{", ".join(missing)}: missing',
                      ', '.join(uses[name] for name in missing),
                      (_pip(f'install {" ".join(missing)}'), ))


def _check_mmfasternet(env: Environment) -> Iterator[Problem]:
    if 'mmfasternet' not in env.versions:
        yield Problem(
            'mmfasternet is not installed',
            'python tools/train.py and the like, unless PYTHONPATH names the '
            'checkout',
            (_pip('install --no-build-isolation --no-deps -e .'), ),
            is_note=True)


def _check_disk(env: Environment) -> Iterator[Problem]:
    elsewhere = 'python tools/train.py CONFIG --work-dir FOLDER_ELSEWHERE'
    if not env.writable:
        yield Problem('the current folder is not writable',
                      'training, which writes to work_dirs here',
                      (elsewhere, ), True)
    if env.free_gib < 1:
        yield Problem(
            f'the disk of the current folder is full: {env.free_gib:.2f} GiB '
            'free', 'training, which writes checkpoints to work_dirs here',
            (elsewhere, ), True)


# What is wrong further down is often a consequence of what is further up.
CHECKS: Tuple[Callable[[Environment], Iterator[Problem]], ...] = (
    _check_python,
    _check_numpy,
    _check_torch,
    _check_torch_with_numpy,
    _check_families,
    _check_missing,
    _check_doubles,
    _check_opencv,
    _check_imports,
    _check_operators_on_gpu,
    _check_pkg_resources,
    _check_requirements,
    _check_mmyolo,
    _check_mmfasternet,
    _check_versions,
    _check_gpu,
    _check_torchvision,
    _check_albumentations,
    _check_disk,
)


def find_problems(env: Environment) -> List[Problem]:
    """Everything that is wrong, in the order in which to mend it.

    Args:
        env (Environment): The environment.

    Returns:
        list[Problem]: The problems, then the notes.
    """
    found = [problem for check in CHECKS for problem in check(env)]
    return sorted(found, key=lambda problem: problem.is_note)


def describe(problems: Iterable[Problem]) -> str:
    """The problems as text.

    Args:
        problems (iterable[Problem]): The problems.

    Returns:
        str: For each what is wrong, what it breaks and what to type.
    """
    parts = []
    for problem in problems:
        commands = '\n          '.join(problem.commands)
        kind = 'note' if problem.is_note else 'problem'
        parts.append(f'{kind}: {problem.what}\n'
                     f'  breaks: {problem.breaks}\n'
                     f'  mend:   {commands}')
    return '\n\n'.join(parts)


def describe_environment(env: Environment) -> str:
    """The environment as aligned text, to paste into an issue.

    Args:
        env (Environment): The environment.

    Returns:
        str: One line for each fact.
    """
    rows = {**_system(env), **_stack(env)}
    return '\n'.join(f'{name:<16}{value}' for name, value in rows.items())


def _system(env: Environment) -> Dict[str, str]:
    from mmfasternet.version import __version__
    try:
        size = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
        memory = f'{size / 2**30:.1f} GiB'
    except (AttributeError, ValueError):
        memory = 'unknown'
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, 'sched_getaffinity') else os.cpu_count())
    return {
        'mmfasternet': __version__,
        'Python': '.'.join(map(str, env.python)) + f' in {sys.prefix}',
        'platform': platform.platform(),
        'CPU cores': str(cores),
        'memory': memory,
        'free disk here': f'{env.free_gib:.1f} GiB',
    }


def _stack(env: Environment) -> Dict[str, str]:
    rows = {'torch': env.versions.get('torch', 'none')}
    if 'cuda' in env.answers:
        build = env.answers['cuda'] or 'none'
        rows['torch'] = f'{env.answers["torch"]}, CUDA: {build}'
    rows['GPU'] = env.answers.get('gpu', 'none usable')
    for module in PROVIDERS:
        rows[module] = ', '.join(
            f'{name} {env.versions[name]}'
            for name in env.providers(module)) or 'none'
    rows['mmcv operators'] = 'none usable'
    if 'mmcv.ops' in env.answers:
        rows['mmcv operators'] = f'usable, CUDA: {env.answers["mmcv.ops"]}'
    for name in ('numpy', 'setuptools', 'torchvision', 'albumentations',
                 'scikit-learn', 'safetensors', 'pyyaml'):
        rows[name] = env.versions.get(name, 'none')
    return rows


def _count(problems: List[Problem]) -> str:
    number = sum(not problem.is_note for problem in problems)
    if not number:
        return 'everything needed is here'
    return '1 problem' if number == 1 else f'{number} problems'


_WHERE = "Type the commands in mmfasternet's checkout."


@contextmanager
def diagnosed() -> Iterator[None]:
    """Let an import that fails because of the environment say so.

    Raises:
        ImportError: If something in the block raises and the environment has
            a problem; it holds the problems and what mends them.
    """
    try:
        yield
    except Exception as error:
        problems = [
            problem for problem in find_problems(Environment.here())
            if not problem.is_note
        ]
        if not problems:
            raise
        raise ImportError(
            f'mmfasternet cannot be imported here: {_count(problems)}\n\n'
            f'{describe(problems)}\n\n{_WHERE} More about this environment: '
            f'{_python()} -m mmfasternet.doctor') from error


def main() -> int:
    """Print the environment and its problems; the exit status."""
    argparse.ArgumentParser(
        prog='python -m mmfasternet.doctor',
        description='Say what is wrong with the environment, and the '
        'commands that mend it. The exit status is 1 if there are problems; '
        'notes do not count.'
    ).parse_args()
    env = Environment.here()
    problems = find_problems(env)
    print(describe_environment(env), _count(problems), sep='\n\n')
    if problems:
        print('', describe(problems), '', _WHERE, sep='\n')
    return int(any(not problem.is_note for problem in problems))


if __name__ == '__main__':
    sys.exit(main())
