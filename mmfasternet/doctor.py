# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an environment, and the commands that fix it.

``python -m mmfasternet.doctor`` prints the environment, each problem found,
what it breaks and what to type; the exit status is 1 if there is a problem.
Where ``import mmfasternet.models`` fails, the error says the same.

This module imports the standard library only, so it works where nothing else
does.
"""
import argparse
import os
import platform
import re
import shlex
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator, List, Tuple

from mmfasternet.environment import NEEDED, PROVIDERS, Environment
from mmfasternet.version import __version__

# tools/setup_env.sh reads these two here; other versions are setup.cfg's
TORCH = 'torch==2.13.0'
OPENCV = 'opencv-python-headless<4.13'
# the first with torch.serialization.get_unsafe_globals_in_checkpoint
OLDEST_TORCH = (2, 6)
PYTHONS = ((3, 10), (3, 14))

REQUIRED = {
    'pyyaml': 'configs',
    'safetensors': 'pretrained weights',
    'scikit-learn': 'the digits of the quick start'
}


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


@dataclass(frozen=True)
class Problem:
    """Something wrong."""

    what: str  #: What is wrong.
    breaks: str  #: What does not work because of it.
    commands: Tuple[str, ...]  #: What to type to fix it.
    is_note: bool = False  #: Whether what most people need works all the same.


def _uninstall(names: Iterable[str]) -> Tuple[str, ...]:
    names = ' '.join(names)
    return (_pip(f'uninstall -y {names}'), ) if names else ()


def _install(env: Environment, *modules: str) -> Tuple[str, ...]:
    """Take away what writes these modules, and install all that is missing.

    mmcv comes without operators, so without a compiler and for any torch; not
    from pip's cache, where one that was compiled for another torch may be.
    """
    extra = 'openmmlab-lite' if env.families == ['openmmlab'] else 'onedl'
    cache = '--no-cache-dir ' if 'mmcv' in modules else ''
    names = [name for m in modules for name in env.providers(m)]
    return (*_uninstall(names),
            'MMCV_WITH_OPS=0 ' + _pip(f"install {cache}-e '.[{extra}]'"),
            *_install_opencv(['opencv-python', 'opencv-python-headless']))


def _install_opencv(present: Iterable[str]) -> Tuple[str, ...]:
    return (*_uninstall(present), _pip(f"install --no-deps '{OPENCV}'"))


def _install_torch(env: Environment) -> Tuple[str, ...]:
    """Torch, and mmcv without what was compiled for another one."""
    mmcv = _install(env, 'mmcv') if env.providers('mmcv') else ()
    return (_pip(f'install --force-reinstall {TORCH}'), *mmcv)


def _check_python(env: Environment) -> Iterator[Problem]:
    if not PYTHONS[0] <= env.python[:2] <= PYTHONS[1]:
        version, first, last = ('.'.join(map(str, v))
                                for v in (env.python, *PYTHONS))
        yield Problem(
            f'Python {version} is not one of {first} to {last}',
            'perhaps everything; nothing here is tested on it',
            (f'PYTHON=python{last} bash tools/setup_env.sh', ))


def _check_bare(env: Environment) -> Iterator[Problem]:
    """Often it was made and not activated; pip may be kept out of this one."""
    if not env.families and not env.versions.keys() & {'torch', 'mmfasternet'}:
        yield Problem(
            f'nothing that mmfasternet needs is installed in {sys.prefix}',
            'everything',
            ('bash tools/setup_env.sh', 'source .venv/bin/activate'))


def _check_torch_and_numpy(env: Environment) -> Iterator[Problem]:
    numpy = _pip("install --force-reinstall --no-deps 'numpy<2.3'")
    torch = env.answers.get('torch')
    oldest = '.'.join(map(str, OLDEST_TORCH))
    if 'numpy' in env.errors:
        yield Problem(env.failure('numpy'), 'everything', (numpy, ))
    if torch is None:
        yield Problem(
            env.failure('torch'), 'everything', _install_torch(env))
    elif _numbers(torch) < OLDEST_TORCH:
        yield Problem(f'torch {torch} is older than {oldest}', 'everything',
                      _install_torch(env))
    if 'array' in env.errors and torch and 'numpy' in env.answers:
        yield Problem(
            f'torch {torch} cannot read arrays of NumPy '
            f'{env.answers["numpy"]}: {env.errors["array"]}',
            'loading of images, so training and prediction',
            (numpy, *_install_torch(env)))


def _check_torchvision(env: Environment) -> Iterator[Problem]:
    """One for another PyTorch, such as that of the index beside one for CPUs;
    mmdet imports it where it is."""
    error = env.errors.get('torchvision')
    if error and 'torchvision' in env.versions and 'torch' in env.answers:
        yield Problem(
            f'torchvision {env.versions["torchvision"]} is not for torch '
            f'{env.answers["torch"]}: {error}', 'every detector',
            _uninstall(['torchvision']))


def _check_families(env: Environment) -> Iterator[Problem]:
    if len(env.families) > 1:
        names = [name for m in NEEDED for name in env.providers(m)]
        yield Problem(
            f'Two families are mixed: {", ".join(names)}',
            'OneDL and OpenMMLab write the same modules over each other',
            _install(env, *NEEDED))


def _check_missing(env: Environment) -> Iterator[Problem]:
    missing = [
        module for module in (*NEEDED, 'mmyolo')
        if module in env.errors and not env.providers(module)
    ] + [name for name in REQUIRED if name not in env.versions]
    needed = [name for name in missing if name != 'mmyolo']
    if needed:
        breaks = sorted({REQUIRED.get(name, 'everything') for name in needed})
        yield Problem(f'{", ".join(needed)}: missing', ', '.join(breaks),
                      _install(env))
    elif missing:
        yield Problem('mmyolo: missing', _BREAKS['mmyolo'], _install(env),
                      is_note=True)


def _check_doubles(env: Environment) -> Iterator[Problem]:
    for module in PROVIDERS:
        names = env.providers(module)
        if len(names) < 2 or module in NEEDED and len(env.families) > 1:
            continue
        yield Problem(
            f'{" and ".join(names)} both write the module {module}',
            'which files are whose is chance',
            _install_opencv(names) if module == 'cv2' else _install(
                env, module))


# What fails where a module does not import; each needs those before it.
_BREAKS = {
    'cv2': 'everything',
    'mmengine': 'everything',
    'mmcv': 'everything',
    'mmcv.ops': 'every detector: they need NMS, an operator of mmcv',
    'mmdet': 'every detector',
    'mmyolo': "the YOLOv8 configs; MMDetection's detectors work",
}


def _check_imports(env: Environment) -> Iterator[Problem]:
    if env.errors.keys() & {'numpy', 'torch'} or any(_check_torchvision(env)):
        return  # these fail for that reason
    for module in filter(env.errors.get, _BREAKS):
        if env.providers(module.split('.')[0]) or module == 'cv2':
            yield Problem(
                env.failure(module), _BREAKS[module],
                _fix_import(env, module))
        return


def _fix_import(env: Environment, module: str) -> Tuple[str, ...]:
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
    if module == 'cv2':
        return _install_opencv(env.providers('cv2'))
    return _install(env, module)


def _check_gpu(env: Environment) -> Iterator[Problem]:
    if env.answers.get('cuda') and 'gpu' in env.errors:
        yield Problem(
            f'torch is made for CUDA {env.answers["cuda"]}, but no GPU is '
            f'usable: {env.errors["gpu"]}',
            'nothing where there is no GPU; otherwise training runs on the '
            'CPU until the NVIDIA driver is installed, or is new enough',
            ('nvidia-smi', ),
            is_note=True)
    if 'gpu' in env.answers and env.answers.get('mmcv.ops') == 'not available':
        yield Problem(
            "mmcv's operators are compiled for the CPU only, and there is a "
            'GPU', 'validation and prediction on the GPU, which need NMS; '
            "mmfasternet's own runs there", _install(env, 'mmcv'))


def _check_setuptools(env: Environment) -> Iterator[Problem]:
    found = env.versions.get('setuptools', '')
    if 'mmengine' in env.versions and not (0, ) < _numbers(found) < (82, ):
        yield Problem(
            f'mmengine {env.versions["mmengine"]} needs pkg_resources, which '
            'setuptools has up to 81; here is '
            f'{"setuptools " + found if found else "no setuptools"}',
            "each config on 'mmyolo::...', so YOLOv8",
            (_pip("install 'setuptools<81'"), ))


# What is wrong further down is often a consequence of what is further up.
CHECKS: Tuple[Callable[[Environment], Iterator[Problem]], ...] = (
    _check_python, _check_torch_and_numpy, _check_torchvision,
    _check_families, _check_missing, _check_doubles, _check_imports,
    _check_gpu, _check_setuptools)


def find_problems(env: Environment) -> List[Problem]:
    """Everything that is wrong, in the order in which to fix it.

    Args:
        env (Environment): The environment.

    Returns:
        list[Problem]: The problems, then the notes.
    """
    found = list(_check_bare(env)) or [
        problem for check in CHECKS for problem in check(env)
    ]
    return sorted(found, key=lambda problem: problem.is_note)


def describe(problems: Iterable[Problem]) -> str:
    """What is wrong, what it breaks and what to type, as text."""
    parts = []
    for problem in problems:
        commands = '\n          '.join(problem.commands)
        kind = 'note' if problem.is_note else 'problem'
        parts.append(f'{kind}: {problem.what}\n'
                     f'  breaks: {problem.breaks}\n'
                     f'  fix:    {commands}')
    return '\n\n'.join(parts)


def describe_environment(env: Environment) -> str:
    """The environment as aligned text, one fact a line, for an issue."""
    versions, answers = env.versions, env.answers
    rows = {
        'mmfasternet': __version__ +
        ('' if 'mmfasternet' in versions else ', not installed'),
        'Python': '.'.join(map(str, env.python)) + f' in {sys.prefix}',
        'platform': platform.platform(),
        'CPU cores': len(os.sched_getaffinity(0)) if hasattr(
            os, 'sched_getaffinity') else os.cpu_count(),
        'free disk here': f'{shutil.disk_usage(".").free / 2**30:.1f} GiB',
        'torch': f'{answers["torch"]}, CUDA: {answers["cuda"] or "none"}'
        if 'cuda' in answers else versions.get('torch', 'none'),
        'GPU': answers.get('gpu', 'none usable'),
    }
    for module in PROVIDERS:
        rows[module] = ', '.join(f'{name} {versions[name]}'
                                 for name in env.providers(module)) or 'none'
    ours = re.fullmatch('none: (.+)', answers.get('mmcv.ops', ''))
    rows['mmcv operators'] = (
        f'of mmfasternet.ops, by {ours[1]}' if ours else
        f'compiled, CUDA: {answers["mmcv.ops"]}'
        if 'mmcv.ops' in answers else 'none usable')
    for name in ('numpy', 'setuptools', 'torchvision', 'albumentations',
                 'scikit-learn', 'safetensors', 'pyyaml'):
        rows[name] = versions.get(name, 'none')
    return '\n'.join(f'{name:<16}{value}' for name, value in rows.items())


def _count(problems: List[Problem]) -> str:
    number = sum(not problem.is_note for problem in problems)
    return {0: 'everything needed is here', 1: '1 problem'}.get(
        number, f'{number} problems')


_WHERE = "Type the commands in mmfasternet's checkout."


@contextmanager
def diagnosed() -> Iterator[None]:
    """Let an import that fails because of the environment say so.

    Raises:
        ImportError: If something in the block raises and the environment has
            a problem; it holds the problems and what fixes them.
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
        'commands that fix it. The exit status is 1 if there are problems; '
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
