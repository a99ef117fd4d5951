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
import difflib
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
from typing import Iterator, List, NamedTuple, Tuple

ROOT = Path(__file__).parents[1]
PRELOADED = ('torch', 'mmengine.runner', 'mmdet.datasets', 'mmdet.evaluation',
             'mmdet.structures', 'matplotlib.pyplot', 'hypothesis', 'pytest')
# The sources of a room below mmfasternet, and the tests below tests that
# should notice, fast ones first.
ROOMS = dict(
    models=(['models'], [
        'test_models/test_task_modules.py', 'test_models/test_dense_heads.py',
        'test_models/test_fasternet.py', 'test_models/test_detector.py',
        'test_engine/test_level_assignment.py', 'test_deploy/test_fold.py',
        'test_models/test_mmyolo_detectors.py',
        'test_models/test_mmdet_detectors.py',
        'test_checkpoint/test_fasternet_layouts.py'
    ]),
    checkpoint=(['checkpoint'], [
        'test_checkpoint/test_checkpoint.py',
        'test_checkpoint/test_fasternet_layouts.py',
        'test_tools/test_verify_weights.py',
        'test_tools/test_model_converters.py', 'test_hostile_files.py'
    ]),
    fold=(['deploy/fold.py', 'deploy/modules.py'],
          ['test_deploy/test_fold.py', 'test_deploy/test_export.py']),
    evaluation=(['evaluation'], [
        'test_evaluation/test_average_precision.py',
        'test_evaluation/test_detection_quality.py',
        'test_visualization/test_figures.py', 'test_tools/test_compare.py'
    ]),
    readers=(['datasets/readers'], [
        'test_datasets/test_readers.py', 'test_datasets/test_layouts.py',
        'test_tools/test_voc2coco.py', 'test_tools/test_prepare.py'
    ]),
    datasets=([
        'datasets/checks', 'datasets/images.py', 'datasets/files.py',
        'datasets/digits.py', 'datasets/collate.py'
    ], [
        'test_datasets/test_digits.py', 'test_datasets/test_checks.py',
        'test_tools/test_dataset_tools.py'
    ]),
    config=(['config'], [
        'test_config/test_config.py', 'test_tools/test_train_test_arguments.py'
    ]),
    engine=(['engine'], [
        'test_engine/test_optimizers.py',
        'test_engine/test_level_assignment.py', 'test_engine/test_resume.py',
        'test_engine/test_hooks.py', 'test_engine/test_long_runs.py'
    ]),
    deploy=([
        'deploy/engines', 'deploy/exporting.py', 'deploy/files.py',
        'deploy/images.py', 'deploy/info.py', 'deploy/loading.py',
        'deploy/onnx_nms.py', 'deploy/postprocess.py', 'deploy/predictor.py',
        'deploy/quantization.py', 'deploy/trained.py', 'deploy/video.py',
        'deploy/exported_detector.py'
    ], [
        'test_deploy/test_predictor.py', 'test_deploy/test_export.py',
        'test_deploy/test_export_arguments.py', 'test_deploy/test_demos.py',
        'test_deploy/test_quantization.py'
    ]),
    visualization=(['visualization'], [
        'test_visualization/test_fonts.py',
        'test_visualization/test_figures.py', 'test_tools/test_vis_network.py'
    ]),
    analysis=(['analysis'], [
        'test_analysis', 'test_tools/test_benchmark.py',
        'test_tools/test_compare.py', 'test_tools/test_vis_network.py'
    ]),
    ops=(['ops'], ['test_ops/test_ops.py']),
    compat=(['compat'], ['test_compat', 'test_tools/test_distributed.py']),
)
# Mutants that change nothing that anybody could see: the file, the changed
# line, and why.
EQUIVALENT: List[Tuple[str, str, str]] = []


class Mutant(NamedTuple):
    """A piece of a file, in bytes, and what stands there instead."""

    path: str
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        return source[:self.start] + self.text.encode() + source[self.end:]

    def lines(self) -> Tuple[int, str, str]:
        """The number of the first line that differs, the lines, before and
        after."""
        source = (ROOT / self.path).read_bytes()
        old = source.decode().splitlines()
        new = self.apply(source).decode().splitlines()
        _, a, b, c, d = next(
            change for change in difflib.SequenceMatcher(
                None, old, new, autojunk=False).get_opcodes()
            if change[0] != 'equal')
        return a + 1, *(' '.join(line.strip() for line in part)
                        for part in (old[a:b], new[c:d]))

    def reason(self) -> str:
        """Why it is equivalent, if it is."""
        _, _, new = self.lines()
        return next((reason for path, line, reason in EQUIVALENT
                     if path == self.path and line == new), '')


# ------------------------------------------------------------ the operators
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
DROPPED = ('abs', 'min', 'max', 'clamp', 'clip')


def changed(node: ast.AST, **fields) -> ast.AST:
    """A copy with other fields."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def comparison(node: ast.Compare) -> Iterator[ast.AST]:
    for i, op in enumerate(node.ops):
        for other in COMPARISONS[type(op)]:
            yield changed(
                node, ops=[*node.ops[:i], other(), *node.ops[i + 1:]])


def and_or(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield changed(
        node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())


def arithmetic(node: ast.BinOp) -> Iterator[ast.AST]:
    text = isinstance(node.left, (ast.Constant, ast.JoinedStr)) and \
        not isinstance(getattr(node.left, 'value', ''), (int, float))
    if type(node.op) in ARITHMETIC and not text:
        yield changed(node, op=ARITHMETIC[type(node.op)]())


def constant(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)


def negation(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand


def call(node: ast.Call) -> Iterator[ast.AST]:
    args = node.args
    plain = not any(isinstance(a, ast.Starred) for a in args) and getattr(
        node.func, 'id', '') != 'isinstance'
    for i in range(len(args) - 1 if plain else 0):
        yield changed(
            node, args=[*args[:i], args[i + 1], args[i], *args[i + 2:]])
    for i in range(len(node.keywords)):
        yield changed(
            node, keywords=[*node.keywords[:i], *node.keywords[i + 1:]])
    name = getattr(node.func, 'id', getattr(node.func, 'attr', None))
    if name in DROPPED and isinstance(node.func, ast.Attribute):
        yield node.func.value
    elif name in DROPPED and args and plain:
        yield args[0]


def returned(node: ast.Return) -> Iterator[ast.AST]:
    if not isinstance(node.value, (ast.Constant, type(None))):
        yield ast.Return(ast.Constant(None))


def sliced(node: ast.Slice) -> Iterator[ast.AST]:
    for end in ('lower', 'upper'):
        value = getattr(node, end)
        if value is not None:
            yield changed(
                node, **{end: ast.BinOp(value, ast.Add(), ast.Constant(1))})


def called_for_nothing(node: ast.Expr) -> Iterator[ast.AST]:
    if isinstance(node.value, ast.Call):
        yield ast.Pass()


def attribute_set(node: ast.Assign) -> Iterator[ast.AST]:
    if all(isinstance(t, (ast.Attribute, ast.Subscript))
           for t in node.targets):
        yield ast.Pass()


OPERATORS = {
    ast.Compare: comparison, ast.BoolOp: and_or, ast.BinOp: arithmetic,
    ast.Constant: constant, ast.UnaryOp: negation, ast.Call: call,
    ast.Return: returned, ast.Slice: sliced, ast.Expr: called_for_nothing,
    ast.Assign: attribute_set
}


def visited(node: ast.AST) -> Iterator[ast.AST]:
    """What may be changed: neither annotations nor texts for people."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ('annotation', 'returns'):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(
                    child, (ast.JoinedStr, ast.Raise)):
                yield from visited(child)


def mutants_of(path: str) -> List[Mutant]:
    """All of a file, in its order."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in visited(ast.parse(source)):
        for other in OPERATORS.get(type(node), lambda node: ())(node):
            text = ast.unparse(ast.fix_missing_locations(other))
            if isinstance(other, ast.expr) and not isinstance(
                    node, ast.Slice):
                text = f'({text})'
            mutant = Mutant(
                path, starts[node.lineno - 1] + node.col_offset,
                starts[node.end_lineno - 1] + node.end_col_offset, text)
            with contextlib.suppress(SyntaxError):
                ast.parse(mutant.apply(source))
                found.append(mutant)
    return found


def mutants_of_room(room: str) -> List[Mutant]:
    paths = []
    for name in ROOMS[room][0]:
        path = ROOT / 'mmfasternet' / name
        paths += [path] if path.suffix else sorted(path.rglob('*.py'))
    return [mutant for path in paths
            for mutant in mutants_of(str(path.relative_to(ROOT)))]


# ------------------------------------------------------------ running them
def copy_tree(folder: Path) -> Path:
    """What the tests need of the working tree."""
    ignored = shutil.ignore_patterns('.*', '__pycache__', 'work_dirs', 'data')
    return Path(shutil.copytree(ROOT, folder, ignore=ignored))


def run_tests(tree: Path, tests: List[str], log: Path) -> int:
    """The process id of a fork in which pytest runs."""
    child = os.fork()
    if child:
        return child
    os.setsid()  # so that a time limit ends what the tests have started, too
    with log.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ['PYTHONPATH'] = str(tree)
    sys.argv = ['pytest']
    status = 3
    with contextlib.suppress(BaseException):
        import pytest
        status = pytest.main([
            '-x', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist',
            f'--basetemp={tree}-tmp', *tests])
    sys.stdout.flush()
    os._exit(int(status))


def wait(children: List[int], limits: List[float]) -> Tuple[int, int]:
    """The first child that ends or is out of time, and its status."""
    while True:
        for child, limit in zip(children, limits):
            done, status = os.waitpid(child, os.WNOHANG)
            if done or time.monotonic() > limit:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                if not done:
                    os.waitpid(child, 0)
                return child, os.waitstatus_to_exitcode(status) if done else -1
        time.sleep(0.05)


def tried(mutants, tests, jobs, limit, folder) -> Iterator[Tuple]:
    """Each mutant and the exit status of its tests, -1 if out of time."""
    trees = deque(copy_tree(folder / f'{i}') for i in range(jobs))
    waiting, running, serial = deque(mutants), {}, 10**9
    while waiting or running:
        if waiting and trees:
            mutant, tree = waiting.popleft(), trees.popleft()
            if mutant:
                path, serial = tree / mutant.path, serial + 1
                path.write_bytes(mutant.apply(path.read_bytes()))
                os.utime(path, (serial, serial))  # no old .pyc fits
            child = run_tests(tree, tests, folder / f'{tree.name}.log')
            running[child] = mutant, tree, time.monotonic() + limit
            continue
        child, status = wait(
            list(running), [limit for *_, limit in running.values()])
        mutant, tree, _ = running.pop(child)
        if mutant:
            shutil.copy2(ROOT / mutant.path, tree / mutant.path)
        trees.append(tree)
        yield mutant, status, (folder / f'{tree.name}.log').read_text()


def try_room(room: str, args: argparse.Namespace) -> None:
    """Print the score of a room and its survivors."""
    mutants = mutants_of_room(room)
    random.Random(args.seed).shuffle(mutants)
    chosen = mutants[args.skip:args.skip + args.number]
    tests = [f'tests/{name}' for name in ROOMS[room][1]]
    with tempfile.TemporaryDirectory(prefix='mutation') as folder:
        begin = time.monotonic()
        (_, status, log), = tried(
            [None], tests, 1, args.limit, Path(folder) / 'plain')
        if status:
            sys.exit(f'{room}: the tests fail as they are\n{log[-5000:]}')
        seconds = time.monotonic() - begin
        print(f'{room}: {len(mutants)} mutants, their tests take '
              f'{seconds:.0f} s', flush=True)
        limit = min(args.limit, 3 * seconds + 60)
        caught, equivalent = 0, 0
        to_run = [m for m in chosen if not m.reason()]
        equivalent = len(chosen) - len(to_run)
        for mutant, status, _ in tried(
                to_run, tests, args.jobs, limit, Path(folder) / 'mutants'):
            caught += status != 0
            number, old, new = mutant.lines()
            if status == 0 or args.verbose:
                print(f'{"caught" if status else "SURVIVED"} '
                      f'{mutant.path}:{number}\n  - {old}\n  + {new}',
                      flush=True)
    print(f'{room}: {caught} of {len(to_run)} caught '
          f'({caught / max(1, len(to_run)):.0%}), {equivalent} equivalent',
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--room', nargs='+', choices=list(ROOMS),
                        default=list(ROOMS), help='parts (default: all)')
    parser.add_argument('--number', type=int, default=20,
                        help='mutants of each room (default: 20)')
    parser.add_argument('--skip', type=int, default=0,
                        help='of those of this seed (default: 0)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--jobs', type=int, default=os.cpu_count(),
                        help='processes (default: one for each core)')
    parser.add_argument('--limit', type=float, default=900,
                        help='seconds of one mutant at most (default: 900)')
    parser.add_argument('--list', action='store_true',
                        help='print the mutants, run nothing')
    parser.add_argument('--verbose', action='store_true',
                        help='name those that are caught, too')
    args = parser.parse_args()
    if args.list:
        for room in args.room:
            for mutant in mutants_of_room(room):
                number, old, new = mutant.lines()
                print(f'{mutant.path}:{number}\n  - {old}\n  + {new}')
        return
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for room in args.room:
        try_room(room, args)


if __name__ == '__main__':
    main()
