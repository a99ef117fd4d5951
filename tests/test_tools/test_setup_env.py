# SPDX-License-Identifier: Apache-2.0
"""The set-up of the environment, with a stand-in for Python and pip that
writes down what it is called with."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PYTHON = r"""#!/bin/sh
echo "$*" >> "$CALLS"
for last; do :; done
case "$*" in
    '-m venv '*)
        mkdir -p "$last/bin"
        cp "$0" "$last/bin/python"
        echo "VIRTUAL_ENV=\"$last\"" > "$last/bin/activate"
        touch "$last/pip" ;;
    *' --version') [ -e "$(dirname "$0")/../pip" ] ;;
    *' cache dir') echo "$CACHE" ;;
    *' wheel '*-w*)
        while [ "$1" != -w ]; do shift; done
        mkdir -p "$2"
        : > "$2/onedl_mmcv-2.3.6-py3-none-any.whl" ;;
    *tools/train.py*)
        mkdir -p "$4"
        : > "$4/best_epoch_15.pth" ;;
    *tools/test.py*) echo '| class | AP |' ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """What the set-up reads, where a careless script stumbles."""
    folder = tmp_path / 'mein Ordner' / 'Prüfung 日本'
    for name in ('tools/setup_env.sh', 'tools/quickstart.sh', 'setup.cfg',
                 'mmfasternet/doctor.py'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, folder / name)
    python = tmp_path / 'a b' / 'python'
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    return folder


@pytest.fixture
def set_up(tmp_path):
    """Run the set-up of a checkout; what Python was called with."""

    def run(folder, cwd=tmp_path, script='setup_env.sh', **env):
        calls = tmp_path / 'calls'
        calls.write_text('')
        done = subprocess.run(
            ['bash', os.path.relpath(folder / 'tools' / script, cwd)],
            cwd=cwd, capture_output=True, text=True,
            env={'PATH': os.environ['PATH'], 'CALLS': str(calls),
                 'CACHE': str(tmp_path / 'cache'),
                 'PYTHON': str(tmp_path / 'a b' / 'python'), **env})
        assert done.returncode == 0, done.stdout + done.stderr
        return calls.read_text()

    return run


def test_it_runs_from_any_folder_and_once(checkout, set_up):
    calls = set_up(checkout)
    assert f'-m venv --clear {checkout}/.venv\n' in calls
    assert ' install -q --no-build-isolation ' in calls
    assert not set_up(checkout, cwd=checkout)
    assert not set_up(checkout, cwd=checkout / 'tools')


def test_an_interrupted_one_goes_on(checkout, set_up):
    set_up(checkout)
    (checkout / '.venv/complete').unlink()
    calls = set_up(checkout)
    assert '-m venv' not in calls
    assert ' install ' in calls
    (checkout / '.venv/complete').unlink()
    (checkout / '.venv/pip').unlink()  # while Python made the folder
    assert '-m venv --clear' in set_up(checkout)


def test_a_moved_checkout_gets_an_environment_of_its_place(checkout, set_up):
    set_up(checkout)
    moved = checkout.rename(checkout.parent / 'moved')
    assert f'-m venv --clear {moved}/.venv\n' in set_up(moved)
    assert not set_up(moved)


def test_other_versions_are_installed(checkout, set_up):
    set_up(checkout)
    doctor = checkout / 'mmfasternet/doctor.py'
    doctor.write_text(doctor.read_text().replace('<4.13', '<4.12'))
    calls = set_up(checkout)
    assert 'opencv-python-headless<4.12' in calls
    assert '-m venv' not in calls


def test_a_home_that_cannot_be_written(checkout, set_up):
    calls = set_up(checkout, CACHE='/dev/null/pip')
    assert f' -w {checkout}/.venv/mmfasternet/no-operators ' in calls


@pytest.mark.parametrize('stack, venv', [
    (None, '.venv'), ('openmmlab', '.venv-openmmlab')])
def test_the_quick_start_uses_the_environment_it_makes(checkout, set_up, stack,
                                                       venv):
    env = dict(script='quickstart.sh', **dict(STACK=stack) if stack else {})
    calls = set_up(checkout, **env).splitlines()
    assert [c.split()[0] for c in calls[-3:]] == [
        'tools/train.py', 'tools/test.py', 'demo/image_demo.py']
    assert [p.name for p in checkout.glob('.venv*')] == [venv]
    assert not set_up(checkout, **env)  # all of it is there
