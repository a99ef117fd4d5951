# SPDX-License-Identifier: Apache-2.0
"""Change the code in small ways, one at a time: do the tests notice?

``python tests/mutation.py --room checkpoint --number 20`` takes 20 mutants of
a part of the package at random, runs the tests of that part on each until one
fails, and prints the share that was caught, and what was not. It is no part
of the test suite: a mutant that survives costs as long as its tests do.

Each runs in a process of its own on a copy of the working tree. The process is
forked from this one, which has imported what is slow to import, but nothing of
mmfasternet.
"""
import argparse
import ast
import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

ROOT = Path(__file__).parents[1]
PRELOADED = ('torch', 'mmengine.runner', 'mmdet.datasets', 'mmdet.evaluation',
             'mmdet.structures', 'matplotlib.pyplot', 'hypothesis', 'pytest')
# The sources of a room below mmfasternet, and the tests that should notice
# below tests, fast ones first.
ROOMS = dict(
    models=('models', 'test_models/test_task_modules.py test_models/'
            'test_dense_heads.py test_models/test_fasternet.py test_models/'
            'test_detector.py test_models/test_distillation.py test_deploy/'
            'test_fold.py test_models/'
            'test_mmyolo_detectors.py test_models/test_mmdet_detectors.py'),
    checkpoint=('checkpoint', 'test_checkpoint test_tools/'
                'test_verify_weights.py test_tools/test_model_converters.py'),
    fold=('deploy/fold.py deploy/folding.py deploy/modules.py',
          'test_deploy/test_fold.py'),
    evaluation=('evaluation', 'test_evaluation test_visualization/'
                'test_figures.py test_tools/test_compare.py'),
    readers=('datasets/readers', 'test_datasets/test_readers.py test_datasets/'
             'test_layouts.py test_tools/test_voc2coco.py'),
    datasets=('datasets/checks datasets/images.py datasets/files.py '
              'datasets/digits.py datasets/collate.py datasets/unlabelled.py',
              'test_datasets/test_digits.py test_datasets/test_checks.py '
              'test_engine/test_distilled_runs.py '
              'test_tools/test_dataset_tools.py'),
    config=('config', 'test_config test_tools/test_train_test_arguments.py'),
    engine=('engine', 'test_engine'),
    deploy=('deploy/engines deploy/exporting.py deploy/files.py deploy/'
            'images.py deploy/info.py deploy/loading.py deploy/onnx_model.py '
            'deploy/onnx_nms.py deploy/postprocess.py deploy/predictor.py '
            'deploy/quantization.py deploy/trained.py deploy/video.py '
            'deploy/exported_detector.py',
            'test_deploy/test_predictor.py test_deploy/test_export.py '
            'test_deploy/test_demos.py test_deploy/test_quantization.py '
            'test_deploy/test_ncnn.py test_deploy/test_litert.py'),
    visualization=('visualization', 'test_visualization '
                   'test_tools/test_vis_network.py'),
    analysis=('analysis', 'test_analysis test_tools/test_benchmark.py '
              'test_tools/test_compare.py test_tools/test_vis_network.py'),
    ops=('ops', 'test_ops/test_ops.py'),
)
# Mutants that change nothing that anybody could see: the end of the path, the
# lines as they are changed, and why.
EQUIVALENT = (
    ('dense_heads/yolov8_head_module.py', (
        'low, high = -(51.0), 50.', 'low, high = -(49.0), 50.',
        'low, high = -50., (51.0)', 'low, high = -50., (49.0)',
        'for _ in range((101)):', 'for _ in range((99)):',
        'if ((-rate * bins).softmax(0) @ bins >= mean):',
        'if (-rate * bins).softmax((-1)) @ bins > mean:',
    ), 'the bisection ends at the same number'),
    ('detectors/levels.py', (
        '_SIZE = (257) # pixels a side, a multiple of every stride',
    ), 'a pixel more is cut off by the strides'),
    ('deploy/fold.py', (
        'mean, std = mean.flip((-1)), std.flip(0)',
        'mean, std = mean.flip(0), std.flip((-1))',
    ), 'they have one dimension'),
    ('evaluation/average_precision.py', (
        'precision = true / np.maximum(true + false, np.spacing((2)))',
        'precision = true / np.maximum(true + false, np.spacing((0)))',
    ), 'where nothing is found it divides 0, and elsewhere counts of 1 on'),
    ('evaluation/average_precision.py', (
        "ignored = np.array([b.get('iscrowd', (1)) for b in boxes], bool)",
        "ignored = np.array([b.get('iscrowd', (-1)) for b in boxes], bool)",
    ), 'pycocotools has asked each box for it before'),
    ('evaluation/errors.py', (
        "totals[box['category_id']] += not box.get('iscrowd', (1))",
        "totals[box['category_id']] += not box.get('iscrowd', (-1))",
        "crowd = np.array([bool(box.get('iscrowd'"
        ", (1))) for box in boxes], bool)",
        "crowd = np.array([bool(box.get('iscrowd'"
        ", (-1))) for box in boxes], bool)",
    ), 'pycocotools has asked each box for it before'),
)

COMPARISONS = {
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt], ast.In: [ast.NotIn], ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot], ast.IsNot: [ast.Is]
}
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult
}
DROPPED = ('abs', 'min', 'max', 'clamp', 'clip', 'round', 'sorted')


class Mutant(NamedTuple):
    """A file, a range of its bytes, and what stands there instead."""

    path: str
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        return source[:self.start] + self.text.encode() + source[self.end:]

    def describe(self) -> Tuple[str, str, str]:
        """Where it is, and the line or lines before and after."""
        source = (ROOT / self.path).read_bytes()
        first = source.rfind(b'\n', 0, self.start) + 1
        last = source.find(b'\n', self.end)
        new = self.apply(source)
        lines = (source[first:last], new[first:len(new) - len(source) + last])
        place = f'{self.path}:{source.count(b"%c" % 10, 0, first) + 1}'
        return place, *(' '.join(x.decode().split()) for x in lines)

    def is_equivalent(self) -> bool:
        line = self.describe()[2]
        return any(self.path.endswith(path) and line in lines
                   for path, lines, _ in EQUIVALENT)


def changed(node: ast.AST, **fields) -> ast.AST:
    """A copy with other fields."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def mutated(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield changed(
                    node, ops=[*node.ops[:i], other(), *node.ops[i + 1:]])
    elif isinstance(node, ast.BoolOp):
        yield changed(
            node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not isinstance(getattr(node.left, 'value', 0), str):
            yield changed(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.UnaryOp) and isinstance(
            node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Call):
        yield from _mutated_call(node)
    elif isinstance(node, ast.Slice):
        for end in ('lower', 'upper'):
            if getattr(node, end) is not None:
                yield changed(node, **{end: ast.BinOp(
                    getattr(node, end), ast.Add(), ast.Constant(1))})
    elif isinstance(node, ast.Return) and not isinstance(
            node.value, (ast.Constant, type(None))):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) or \
            isinstance(node, ast.Assign) and all(
                isinstance(t, (ast.Attribute, ast.Subscript))
                for t in node.targets):
        yield ast.Pass()


def _mutated_call(node: ast.Call) -> Iterator[ast.AST]:
    name = getattr(node.func, 'id', getattr(node.func, 'attr', None))
    args, words = node.args, node.keywords
    plain = not any(isinstance(a, ast.Starred) for a in args)
    for i in range(len(args) - 1 if plain and name != 'isinstance' else 0):
        yield changed(
            node, args=[*args[:i], args[i + 1], args[i], *args[i + 2:]])
    for i in range(len(words)):
        yield changed(node, keywords=[*words[:i], *words[i + 1:]])
    if name in DROPPED and isinstance(node.func, ast.Attribute):
        yield node.func.value
    elif name in DROPPED and args and plain:
        yield args[0]


def visited(node: ast.AST) -> Iterator[ast.AST]:
    """What may be changed: neither annotations nor texts for people."""
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name not in ('annotation', 'returns') and isinstance(
                    child, ast.AST) and not isinstance(
                    child, (ast.JoinedStr, ast.Raise)):
                yield from visited(child)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All of a file, in its order."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in visited(ast.parse(source)):
        for other in mutated(node):
            text = ast.unparse(ast.fix_missing_locations(other))
            if text == ast.unparse(node):  # two equal arguments
                continue
            is_value = isinstance(other, ast.expr) and not isinstance(
                node, ast.Slice)
            mutant = Mutant(
                str(path.relative_to(ROOT)),
                starts[node.lineno - 1] + node.col_offset,
                starts[node.end_lineno - 1] + node.end_col_offset,
                f'({text})' if is_value else text)
            with contextlib.suppress(SyntaxError):
                ast.parse(mutant.apply(source))
                yield mutant


def mutants_of_room(room: str) -> List[Mutant]:
    paths = [ROOT / 'mmfasternet' / name for name in ROOMS[room][0].split()]
    return [mutant for path in paths
            for file in ([path] if path.suffix else sorted(path.rglob('*.py')))
            for mutant in mutants_of(file)]


def start_tests(tree: Path, tests: List[str]) -> int:
    """The process id of a fork in which pytest runs on a copy of the tree."""
    child = os.fork()
    if child:
        return child
    os.setsid()  # so that a time limit ends what the tests have started, too
    with open(f'{tree}.log', 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ['PYTHONPATH'] = str(tree)
    status = 3
    with contextlib.suppress(BaseException):
        import pytest
        status = pytest.main(['-x', '-q', '-p', 'no:cacheprovider',
                              f'--basetemp={tree}.tmp', *tests])
    sys.stdout.flush()
    os._exit(int(status))


def first_to_end(limits: dict) -> Tuple[int, int]:
    """Of processes with their time limits, and its status, -1 if too late."""
    while True:
        for child, limit in limits.items():
            done, status = os.waitpid(child, os.WNOHANG)
            if not done and time.monotonic() < limit:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            if not done:
                os.waitpid(child, 0)
            return child, os.waitstatus_to_exitcode(status) if done else -1
        time.sleep(0.05)


def tried(mutants: List[Optional[Mutant]], tests: List[str], jobs: int,
          limit: float, folder: Path) -> Iterator[tuple]:
    """Each mutant, the exit status of its tests, and what they said."""
    ignored = shutil.ignore_patterns('.git', '.venv*', '__pycache__',
                                     'work_dirs', 'data')
    trees = deque(
        shutil.copytree(ROOT, folder / f'{i}', symlinks=True, ignore=ignored)
        for i in range(jobs))
    waiting, running, serial = deque(mutants), {}, 10**9
    while waiting or running:
        if waiting and trees:
            mutant, tree, serial = waiting.popleft(), trees.popleft(), \
                serial + 1
            if mutant:
                path = tree / mutant.path
                path.write_bytes(mutant.apply(path.read_bytes()))
                os.utime(path, (serial, serial))  # no old .pyc fits
            running[start_tests(tree, tests)] = (mutant, tree,
                                                 time.monotonic() + limit)
            continue
        child, status = first_to_end({c: x[2] for c, x in running.items()})
        mutant, tree, _ = running.pop(child)
        if mutant:
            shutil.copy2(ROOT / mutant.path, tree / mutant.path)
        trees.append(tree)
        yield mutant, status, Path(f'{tree}.log').read_text()


def try_room(room: str, args: argparse.Namespace) -> None:
    """Print the score of a room and its survivors."""
    mutants = mutants_of_room(room)
    random.Random(args.seed).shuffle(mutants)
    chosen = mutants[args.skip:args.skip + args.number]
    to_run = [mutant for mutant in chosen if not mutant.is_equivalent()]
    tests = [f'tests/{name}' for name in ROOMS[room][1].split()]
    with tempfile.TemporaryDirectory(prefix='mutation') as folder:
        begin = time.monotonic()
        (_, status, log), = tried([None], tests, 1, args.limit,
                                  Path(folder) / 'plain')
        if status:
            print(f'{room}: the tests fail as they are\n{log[-5000:]}')
            return
        seconds = time.monotonic() - begin
        print(f'{room}: {len(mutants)} mutants; its tests take '
              f'{seconds:.0f} s', flush=True)
        caught = 0
        for mutant, status, _ in tried(
                to_run, tests, args.jobs, min(args.limit, 3 * seconds + 60),
                Path(folder) / 'mutants'):
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
                        help='seconds that a mutant may take (default: 900)')
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
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for room in args.room:
        try_room(room, args)


if __name__ == '__main__':
    main()
