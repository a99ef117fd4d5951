# SPDX-License-Identifier: Apache-2.0
"""Change the code in small ways, one at a time: do the tests notice?

``python tests/mutation.py --room checkpoint --number 20`` takes 20 mutants of
a part of the package at random, runs the tests of that part on each until one
fails, and prints the share that was caught, and what was not. It is not part
of the test suite: a mutant that survives costs as long as its tests do.

Those are the tests that run a changed line, or start a process that may; the
run without a change finds out which. Each run is in a process of its own on a
copy of the working tree. The process is forked from this one, which has
imported what is slow to import, but nothing of mmfasternet.
"""
import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Iterator, List, Optional, Set, Tuple

import pytest
from coverage_map import Coverage, Selection, select_tests
from mutants import ROOT, Mutant, mutants_of

PRELOADED = ('mmyolo.models', 'mmyolo.datasets', 'mmdet.apis', 'pandas',
             'matplotlib.pyplot', 'hypothesis', 'onnxruntime')
STARTED: Set[int] = set()  # processes that have not ended
# The sources of a room below mmfasternet, and the tests that should notice
# below tests, fast ones first.
ROOMS = dict(
    models=('models', 'test_models/test_task_modules.py test_models/'
            'test_dense_heads.py test_models/test_fasternet.py test_models/'
            'test_detector.py test_models/test_distillation.py test_deploy/'
            'test_folding.py test_models/'
            'test_mmyolo_detectors.py test_models/test_mmdet_detectors.py'),
    checkpoint=('checkpoint', 'test_checkpoint test_tools/'
                'test_verify_weights.py test_tools/test_model_converters.py'),
    fold=('deploy/detector_folding.py deploy/norm_folding.py '
          'deploy/deployed_detector.py',
          'test_deploy/test_folding.py test_deploy/test_ncnn.py'),
    evaluation=('evaluation', 'test_evaluation test_visualization/'
                'test_figures.py test_tools/test_compare.py'),
    readers=('datasets/readers', 'test_datasets/test_readers.py test_datasets/'
             'test_layouts.py test_tools/test_voc2coco.py'),
    datasets=('datasets/checks datasets/images.py datasets/files.py '
              'datasets/digits.py datasets/collate.py datasets/unlabelled.py '
              'datasets/from_config.py',
              'test_datasets/test_readers.py test_datasets/test_layouts.py '
              'test_datasets/test_digits.py test_datasets/test_checks.py '
              'test_engine/test_distilled_runs.py '
              'test_tools/test_dataset_tools.py'),
    config=('config', 'test_config test_tools/test_train_test_arguments.py '
            'test_tools/test_compare.py'),
    engine=('engine', 'test_engine'),
    deploy=('deploy/engines deploy/exporting.py deploy/result_files.py '
            'deploy/example_images.py deploy/info.py deploy/loading.py '
            'deploy/onnx_model.py deploy/onnx_nms.py deploy/postprocess.py '
            'deploy/predictor.py deploy/quantization.py deploy/video.py '
            'deploy/trained_predictor.py deploy/exported_detector.py',
            'test_deploy/test_predictor.py test_deploy/test_export.py '
            'test_deploy/test_demos.py test_deploy/test_quantization.py '
            'test_deploy/test_ncnn.py test_deploy/test_litert.py'),
    visualization=('visualization', 'test_visualization '
                   'test_tools/test_vis_network.py'),
    analysis=('analysis', 'test_analysis test_tools/test_benchmark.py '
              'test_tools/test_compare.py test_tools/test_vis_network.py'),
    ops=('ops', 'test_ops/test_ops.py'),
    commands=('cli.py doctor.py environment.py', 'test_cli.py test_doctor.py '
              'test_tools/test_train_test_arguments.py'),
)


def mutants_of_room(room: str) -> List[Mutant]:
    paths = [ROOT / 'mmfasternet' / name for name in ROOMS[room][0].split()]
    return [mutant for path in paths
            for file in ([path] if path.suffix else sorted(path.rglob('*.py')))
            for mutant in mutants_of(file)]


def preload() -> None:
    """What is slow to import, as mmfasternet imports it, but not that."""
    import mmcv
    if find_spec('mmcv._ext') is None:
        sys.modules['mmcv._ext'] = module = ModuleType('mmcv._ext')
        module.__getattr__ = operator
        module.__spec__ = ModuleSpec(module.__name__, None)
    mmcv.__version__, version = '2.0.1', mmcv.__version__
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    mmcv.__version__ = version


def operator(name: str):
    """One of mmfasternet, which is imported when it is called; where mmcv
    has none, mmdet would not try again."""
    if name.startswith('__'):
        raise AttributeError(name)

    def call(*args, **kwargs):
        from mmfasternet.ops import extension
        return getattr(extension, name)(*args, **kwargs)

    return call


def start_tests(tree: Path, tests: List[str], plugin: object) -> int:
    """The process id of a fork in which pytest runs on a copy of the tree."""
    child = os.fork()
    if child:
        STARTED.add(child)
        return child
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()  # so that a time limit ends what the tests have started, too
    with open(f'{tree}.log', 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ['PYTHONPATH'] = str(tree)
    status = 3
    with contextlib.suppress(BaseException):
        status = pytest.main(['-x', '-q', '-p', 'no:cacheprovider',
                              f'--basetemp={tree}.tmp', *tests], [plugin])
        if isinstance(plugin, Coverage):
            Path(f'{tree}.json').write_text(json.dumps(plugin.tests))
    sys.stdout.flush()
    os._exit(int(status))


def first_to_end(limits: dict) -> Tuple[int, int]:
    """Of processes with their time limits, and its status, -1 if too late."""
    while True:
        for child, limit in limits.items():
            done, status = os.waitpid(child, os.WNOHANG)
            if not done and time.monotonic() < limit:
                continue
            kill(child)
            if not done:
                os.waitpid(child, 0)
            return child, os.waitstatus_to_exitcode(status) if done else -1
        time.sleep(0.05)


def kill(child: int) -> None:
    """What was started, and all that it has started."""
    STARTED.discard(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def copies(folder: Path, number: int) -> List[Path]:
    """Of the working tree."""
    ignored = shutil.ignore_patterns('.git', '.venv*', '__pycache__',
                                     'work_dirs', 'data')
    return [shutil.copytree(ROOT, folder / f'{i}', symlinks=True,
                            ignore=ignored) for i in range(number)]


def covered(tests: List[str], limit: float, folder: Path) -> Optional[dict]:
    """What each test runs; None if one fails, whose words are printed."""
    tree, = copies(folder / 'plain', 1)
    child = start_tests(tree, tests, Coverage(tree))
    if first_to_end({child: time.monotonic() + limit})[1]:
        print('the tests fail as they are\n'
              + Path(f'{tree}.log').read_text()[-20000:])
        return None
    return json.loads(Path(f'{tree}.json').read_text())


def tried(mutants: List[Mutant], tests: List[str], known: dict,
          args: argparse.Namespace, folder: Path) -> Iterator[tuple]:
    """Each mutant, and the exit status of its tests."""
    trees = deque(copies(folder / 'mutants', args.jobs))
    waiting, running, serial = deque(mutants), {}, 10**9
    while waiting or running:
        if waiting and trees:
            mutant, tree, serial = waiting.popleft(), trees.popleft(), \
                serial + 1
            path = tree / mutant.path
            path.write_bytes(mutant.apply(path.read_bytes()))
            os.utime(path, (serial, serial))  # no old .pyc fits
            chosen = select_tests(mutant, known)
            limit = 60 + 3 * sum(known[name]['seconds'] for name in chosen)
            child = start_tests(tree, tests, Selection(chosen, known))
            running[child] = (mutant, tree,
                              time.monotonic() + min(args.limit, limit))
            continue
        child, status = first_to_end({c: x[2] for c, x in running.items()})
        mutant, tree, _ = running.pop(child)
        shutil.copy2(ROOT / mutant.path, tree / mutant.path)
        trees.append(tree)
        yield mutant, status


def try_room(room: str, args: argparse.Namespace, folder: Path) -> None:
    """Print the score of a room and its survivors."""
    mutants = mutants_of_room(room)
    random.Random(args.seed).shuffle(mutants)
    chosen = mutants[args.skip:args.skip + args.number]
    to_run = [mutant for mutant in chosen if not mutant.is_equivalent()]
    tests = [f'tests/{name}' for name in ROOMS[room][1].split()]
    kept = args.coverage and args.coverage / f'{room}.json'
    if kept and kept.exists():
        known = json.loads(kept.read_text())
    else:
        known = covered(tests, args.limit, folder)
    if known is None:
        return
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(known))
    seconds = sum(test['seconds'] for test in known.values())
    print(f'{room}: {len(mutants)} mutants; its {len(known)} tests take '
          f'{seconds:.0f} s', flush=True)
    caught = 0
    for mutant, status in tried(to_run, tests, known, args, folder):
        caught += status != 0
        if status == 0 or args.verbose:
            place, old, new = mutant.describe()
            print(f'{"caught" if status else "SURVIVED"} {place}\n'
                  f'  - {old}\n  + {new}', flush=True)
    print(f'{room}: {caught} of {len(to_run)} caught '
          f'({caught / max(1, len(to_run)):.0%}), '
          f'{len(chosen) - len(to_run)} equivalent', flush=True)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--room', nargs='+', choices=list(ROOMS),
                        default=list(ROOMS), help='parts (default: all)')
    parser.add_argument('--number', type=int, default=20,
                        help='mutants of each room (default: 20)')
    parser.add_argument('--skip', type=int, default=0,
                        help='the first ones of this seed (default: 0)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--jobs', type=int, default=os.cpu_count(),
                        help='processes (default: one for each core)')
    parser.add_argument('--limit', type=float, default=900,
                        help='seconds that a run may take (default: 900)')
    parser.add_argument('--coverage', type=Path,
                        help='folder that keeps which test runs which line, '
                        'from one call to the next (default: found out anew)')
    parser.add_argument('--list', action='store_true',
                        help='print the mutants and run nothing')
    parser.add_argument('--verbose', action='store_true',
                        help='name those that are caught, too')
    return parser.parse_args()


def main():
    args = parse_args()
    if args.list:
        for room in args.room:
            for mutant in mutants_of_room(room):
                print('{}\n  - {}\n  + {}'.format(*mutant.describe()))
        return
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    # an end as any other: it leaves no folder and no process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    preload()
    for room in args.room:
        with tempfile.TemporaryDirectory(prefix='mutation') as folder:
            try:
                try_room(room, args, Path(folder))
            finally:
                for child in [*STARTED]:
                    kill(child)


if __name__ == '__main__':
    main()
