# SPDX-License-Identifier: Apache-2.0
"""What is installed, and what of it works.

This module imports the standard library only. What it asks other packages,
it asks in another process: a broken one may end the interpreter, and answers
a second import differently.
"""
import json
import os
import platform
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from typing import Dict, List, Tuple

# Which distributions write which module, those of OneDL first.
PROVIDERS = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'onedl-mmcv-cu*', 'mmcv', 'mmcv-full', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmyolo': ('mmyolo', ),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
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
    'mmcv.ops': 'import mmfasternet; '
                'from mmcv.ops import get_compiling_cuda_version as version; '
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


def _one_line(text: str) -> str:
    """Without line ends and the name of the user's home."""
    home = os.path.expanduser('~')
    line = ' '.join(text.split())[:400]
    return line.replace(home, '~') if len(home) > 1 else line


@dataclass(frozen=True)
class Environment:
    """What the checks look at."""

    python: Tuple[int, ...]  #: Version of the interpreter.
    versions: Dict[str, str]  #: Version of each installed distribution.
    answers: Dict[str, str]  #: What :data:`PROBES` answered.
    errors: Dict[str, str]  #: How the others of them failed, in one line.

    @classmethod
    def here(cls) -> 'Environment':
        """The environment that this interpreter runs in."""
        return cls(
            tuple(sys.version_info[:3]), installed_versions(), *ask(PROBES))

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

    def failure(self, module: str) -> str:
        """How it does not import."""
        error = self.errors[module]
        if f"No module named '{module}'" in error:
            return f'{module} is missing'
        return f'{module} does not import: {error}'


def installed_versions() -> Dict[str, str]:
    """Version by normalised name of each installed distribution."""
    versions: Dict[str, str] = {}
    for dist in distributions():
        name = dist.metadata['Name']  # None for what pip left half-removed
        if name:
            name = re.sub('[-_.]+', '-', name).lower()
            versions.setdefault(name, dist.version)
    return versions


def machine(device: str) -> Dict[str, str]:
    """What measured figures depend on, by name.

    Args:
        device (str): PyTorch's, where they were measured.
    """
    cpu = platform.processor()
    with suppress(OSError):
        found = re.search(r'model name\s*:\s*(.+)',
                          Path('/proc/cpuinfo').read_text())
        cpu = found[1] if found else cpu
    described = dict(cpu=cpu, system=platform.platform(),
                     python=platform.python_version())
    if device != 'cpu':
        import torch
        described['device'] = torch.cuda.get_device_name(device)
    versions = installed_versions()
    shown = ('torch', 'onnxruntime', 'openvino', 'timm')
    return described | {k: versions[k] for k in shown if k in versions}


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
            name, code = next(iter(left)), done.returncode
            del left[name]
            end = (f'exit status {code}'
                   if code >= 0 else signal.Signals(-code).name)
            errors[name] = f'the interpreter ended, {end}'
    return answers, errors
