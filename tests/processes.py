# SPDX-License-Identifier: Apache-2.0
"""Our scripts in processes of their own, without the seconds of imports.

A server imports what all of them do, once, and forks for each; what a test
says of the imports themselves, of signals or of a launcher needs a process of
``subprocess`` instead.
"""
import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(
    ['mmfasternet.models', 'mmdet.apis', 'mmyolo.models', 'mmyolo.datasets',
     'mmfasternet.engine', 'torch._dynamo'])


def run_script(*words, status=0, cwd='.', before=None, **env):
    """Run a script of this repository with arguments.

    Args:
        *words: The script's path and its arguments.
        status (int): The exit status that is expected.
        cwd (str | Path): Where it runs.
        before (Callable): Called there first; a function of a module.
        **env: Added to this process's environment.

    Returns:
        CompletedProcess: As of ``subprocess.run`` with captured texts.
    """
    words = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ('stdout', 'stderr')]
        process = SERVER.Process(
            target=_work,
            args=(words, files, str(cwd), before, {**os.environ, **env}))
        process.start()
        process.join()
        done = CompletedProcess(
            words, process.exitcode, *(file.read_text() for file in files))
    assert done.returncode == status, done.stdout + done.stderr
    return done


def leave_configs_unformatted():
    """A runner writes its config four times, and yapf takes a second for
    each; what is written is the same config."""
    from mmengine.config import config
    from yapf.yapflib import yapf_api
    for module in yapf_api, config:  # MMEngine 0.10.12, and before
        module.FormatCode = lambda text, **kwargs: (text, False)


def _work(words, files, cwd, before, environ):
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), descriptor)
    os.environ.clear()
    os.environ.update(environ)
    script = Path(words[0]).resolve()
    sys.path.insert(0, str(script.parent))  # as Python does
    os.chdir(cwd)
    sys.argv = words
    gc.freeze()  # see conftest.py
    leave_configs_unformatted()
    if before is not None:
        before()
    runpy.run_path(str(script), run_name='__main__')
