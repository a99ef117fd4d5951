# SPDX-License-Identifier: Apache-2.0
"""What may be changed in a file, one small thing at a time.

:mod:`mutation` runs the tests on it.
"""
import ast
import contextlib
from pathlib import Path
from typing import Iterator, NamedTuple, Tuple

ROOT = Path(__file__).parents[1]
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
    ('detectors/level_fitting.py', (
        '_SIZE = (257) # pixels a side, a multiple of every stride',
    ), 'a pixel more is cut off by the strides'),
    ('backbones/fasternet_layers.py', (
        'return max(kernel_size - stride + 1, (1)) // 2',
    ), 'half of 1 is 0, too'),
    ('checkpoint/reading.py', (
        'multiarray = np.zeros((2)).__reduce__()[0], '
        'np.float64(0).__reduce__()[0]',
        'multiarray = np.zeros((0)).__reduce__()[0], '
        'np.float64(0).__reduce__()[0]',
        'multiarray = np.zeros(1).__reduce__()[0], '
        'np.float64((1)).__reduce__()[0]',
        'multiarray = np.zeros(1).__reduce__()[0], '
        'np.float64((-1)).__reduce__()[0]',
    ), 'the function is the same for every array and every number'),
    ('checkpoint/download.py', (
        'while block := file.read((2) << 20):',
        'while block := file.read(1 << (21)):',
        'while block := file.read(1 << (19)):',
    ), 'the pieces of a file are together the file'),
    ('checkpoint/download.py', (
        "file = re.sub(r'[?#].*', '', name).rsplit('/', (2))[-1]",
    ), 'the last part is the same'),
    ('cli.py', ('value = low - (2)', ), 'as that less 1 it is refused'),
    ('cli.py', (
        'text = error.args[(-1)] if type(error) is KeyError else error',
    ), 'a KeyError has one'),
    ('config/loading.py', (
        'close = difflib.get_close_matches(name, node, n=(2), cutoff=.9) or [',
        'close = (difflib.get_close_matches(name, node, cutoff=0.9)) or [',
    ), 'the first is the best one'),
    ('checks/annotations.py', (
        "at_end = getattr(error, 'pos', (1)) >= len(text.rstrip()) - 1",
        "at_end = getattr(error, 'pos', (-1)) >= len(text.rstrip()) - 1",
    ), 'the only error without a place is of a number of 4301 digits'),
    ('datasets/images.py', (
        'return ((1), 0), 1, ()', 'return ((-1), 0), 1, ()',
        'return (0, (1)), 1, ()', 'return (0, (-1)), 1, ()',
    ), 'only the area is asked for'),
    ('deploy/deployed_detector.py', (
        'return pair[(-1)] if len(pair) == 1 else pair',
    ), 'the first of one is the last'),
    ('necks/yolov8_sppf_pafpn.py', (
        'out_channels: Sequence[int] = ((255), 512, 1024),',
        'out_channels: Sequence[int] = (256, (511), 1024),',
        'out_channels: Sequence[int] = (256, 512, (1023)),',
    ), 'widths are rounded up to multiples of 8'),
    ('deploy/detector_folding.py', (
        'mean, std = mean.flip((-1)), std.flip(0)',
        'mean, std = mean.flip(0), std.flip((-1))',
    ), 'they have one dimension'),
    ('engine/seeded_batches.py', (
        'return index, (_seed(self.sampler.seed, OF_IMAGES, index, turn))',
        'self._position += (2)',
    ), 'other random numbers, as different from image to image'),
    ('hooks/results_hook.py', (
        'if runner.iter > (-1) and self.path.is_file():',
    ), 'a table has no row of iteration 0 to be kept'),
    ('readers/coco.py', (
        "same = all((map(operator.is_, coco['annotations'], annotations)))",
    ), 'of two that are one, either is the other'),
    ('datasets/digits.py', (
        'contrast = (rng.uniform(60, 130) / (-1 if colour.mean() > 127 '
        'else 1))',
    ), 'of 1 and -1 it is the same'),
    ('datasets/images.py', (
        "image, digest_size=(17), salt=b'%dx%d' % size).digest(),",
        "image, digest_size=(15), salt=b'%dx%d' % size).digest(),",
    ), 'as unlikely to be equal'),
    ('hooks/resume_hook.py', (
        'if isinstance(found[(-1)], Exception):',
    ), 'it has one'),
    ('hooks/progress_bar_hook.py', (
        'self._drawn = self._memory = (1)',
        'self._drawn = self._memory = (-1)',
    ), 'long ago, and less than any memory'),
    ('detectors/distilled_yolo_detector.py', (
        'number = rows.new_full((len(metas), ), -(2))',
    ), 'any number below 0 is that of none'),
    ('detectors/distilled_yolo_detector.py', (
        'features=sum((map(feature_imitation, wanted.features, projected))))',
    ), 'both are brought to mean 0 and variance 1, and then it is a distance'),
    ('benchmark/build.py', (
        'torch.manual_seed((1))', 'torch.manual_seed((-1))',
    ), 'any weights do, if they are the same each time'),
    ('benchmark/worker.py', (
        'np.reshape(seconds, (runs + 1, -(2))).sum(1)[1:])))',
    ), 'NumPy takes any negative number for the rest'),
    ('inspection/statistics.py', (
        'varies = (norm >= 1e-06 * values.norm(dim=1, keepdim=True))',
    ), 'of a channel of zeros 0 / 0 is not a number, too'),
    ('benchmark/race.py', (
        "channels_last=(True), compile=False, options='{}')",
    ), 'a matrix has no channels'),
    ('environment.py', (
        "done = (subprocess.run([sys.executable, '-c', _ASK, question], "
        "capture_output=True, errors='replace'))",
    ), 'what is said of errors makes it text'),
    ('visualization/evaluation.py', (
        'known = [k for k in range(len(names)) if curves[(-1), k] >= 0]',
    ), 'a class without boxes has -1 at every recall'),
    ('inspection/statistics.py', (
        'dead = ((peaks[module] <= DEAD * rms)).double().mean().item() \\',
    ), 'a float32 is that product of float64 by chance only'),
    ('engines/__init__.py', (
        "with (_quiet('torch.export', 'torch.onnx', 'onnxscript')):",
        "with (_quiet('torch.onnx', 'onnxscript', 'torch.export')):",
    ), 'all of them are silent'),
    ('engines/ncnn.py', (
        '0.2, 1, (82))', '0.2, 1, (80))',
    ), 'steps as small, of which the best one is taken'),
    ('evaluation/average_precision.py', (
        'RECALLS = (np.linspace(1, 0, 101))',
    ), 'only the mean over all of them is taken'),
    ('evaluation/average_precision.py', (
        'return Cell(np.zeros((1), int), empty, empty, truth)',
    ), 'of nothing no image is asked for'),
    ('evaluation/average_precision.py', (
        'cells = (np.array(evaluation.evalImgs + [None]))[:-1].reshape(shape)',
    ), 'with None among them NumPy takes them for objects'),
    ('evaluation/detection_quality.py', (
        'id=len(annotations) + (2), image_id=image,',
    ), 'any number but 0 names a box'),
    ('evaluation/average_precision.py', (
        'precision = true / np.maximum(true + false, np.spacing((2)))',
        'precision = true / np.maximum(true + false, np.spacing((0)))',
    ), 'where nothing is found it divides 0, and elsewhere counts of 1 on'),
    ('evaluation/average_precision.py', (
        "ignored = np.array([b.get('iscrowd', (1)) for b in boxes], bool)",
        "ignored = np.array([b.get('iscrowd', (-1)) for b in boxes], bool)",
    ), 'pycocotools has asked each box for it before'),
    ('evaluation/detection_quality.py', (
        "return evaluation.eval['precision'][0, :, :, (-1), 0]",
        "return evaluation.eval['precision'][0, :, :, 0, (-1)]",
        "return evaluation.eval['precision'][(-1), :, :, 0, 0]",
    ), 'of each there is one: a threshold, a range of areas, a limit'),
    ('evaluation/detection_quality.py', (
        'area=(1), # of any area it counts',
    ), 'as it says'),
    ('evaluation/detection_errors.py', (
        "totals[box['category_id']] += not box.get('iscrowd', (1))",
        "totals[box['category_id']] += not box.get('iscrowd', (-1))",
        "crowd = np.array([bool(box.get('iscrowd'"
        ", (1))) for box in boxes], bool)",
        "crowd = np.array([bool(box.get('iscrowd'"
        ", (-1))) for box in boxes], bool)",
    ), 'pycocotools has asked each box for it before'),
    ('evaluation/detection_errors.py', (
        'best, best_other = (x.max(initial=(-1)) for x in (same, other))',
        "same = np.where((labels == row['label']) & ~crowd, overlap, (-1))",
        "other = np.where((labels != row['label']) & ~crowd, overlap, (-1))",
    ), 'no overlap is less than 0, and of none both say background'),
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
EITHER_WAY = ('min', 'max', 'minimum', 'maximum')
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

    def lines(self) -> Tuple[int, int]:
        """The numbers of its first and last line."""
        source = (ROOT / self.path).read_bytes()
        return tuple(source.count(b'\n', 0, at) + 1
                     for at in (self.start, self.end))

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
    swapped = plain and name not in ('isinstance', *EITHER_WAY) and (
        name != 'transpose' or len(args) > 2)
    for i in range(len(args) - 1 if swapped else 0):
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
