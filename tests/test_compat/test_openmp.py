# SPDX-License-Identifier: Apache-2.0
"""Waiting threads sleep early, unless the user has chosen otherwise."""
import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = '''
import sys, os
import mmfasternet
print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))
'''


@pytest.mark.parametrize('chosen, spins', [
    ({}, '3000'),
    (dict(GOMP_SPINCOUNT='7'), '7'),
    (dict(OMP_WAIT_POLICY='ACTIVE'), 'None'),
])
def test_it_is_said_before_pytorch_is_there(chosen, spins):
    """PyTorch's OpenMP reads its environment once, when it is loaded."""
    env = {k: v for k, v in os.environ.items()
           if k not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    done = subprocess.run([sys.executable, '-c', CODE], capture_output=True,
                          text=True, check=True, env={**env, **chosen})
    assert done.stdout.split() == ['False', spins]


@pytest.mark.parametrize('tool', [
    'tools/train.py', 'tools/test.py', 'demo/image_demo.py',
    'demo/video_demo.py', 'demo/web_demo.py'])
def test_tools_import_us_first(tool):
    names = []
    for node in ast.parse(Path(tool).read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
    others = [name.split('.')[0] for name in names]
    assert next(name for name in others
                if name not in sys.stdlib_module_names) == 'mmfasternet'
