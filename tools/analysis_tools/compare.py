# SPDX-License-Identifier: GPL-3.0-only
"""Train detectors by one recipe with several seeds, and report what differs.

DETECTOR is [NAME=]PATH, where PATH is a config (its model is taken; options
for it follow as ,KEY=VALUE), the work directory of a training run (several
of one NAME are seeds of one detector), or a .json of detections on the
validation images (COCO's results, as tools/test.py --json-prefix writes
them). The first DETECTOR is the one to compare with.
The report is report.md with pictures and report.html, one file, in the work
directory. What was interrupted goes on with the same command.
"""
import shlex
import sys
from pathlib import Path
from subprocess import CalledProcessError

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.models  # noqa: F401  # isort: skip
from mmfasternet import cli
from mmfasternet.analysis.benchmark.candidates import baseline_of, cross
from mmfasternet.analysis.benchmark.race import Pair, measure
from mmfasternet.analysis.benchmark.report import write_json
from mmfasternet.analysis.comparison import report
from mmfasternet.analysis.comparison.runs import prepare
from mmfasternet.deploy.engines import ENGINES
from mmfasternet.environment import machine
from mmfasternet.evaluation.average_precision import (
    Evaluation,
    read_detections,
    read_truth,
)
from mmfasternet.visualization.comparison import plot_all


def parse_args():
    parser = cli.tool_parser(__doc__)
    parser.add_argument(
        'detectors', nargs='+', metavar='DETECTOR', help='what to compare')
    parser.add_argument(
        '--recipe', metavar='CONFIG',
        help='whose data, schedule, optimizer and hooks all configs are '
        'trained with (default: the first config)')
    parser.add_argument(
        '--seeds', type=cli.seed, nargs='+', default=[1, 2, 3],
        help='with which each config is trained (default: 1 2 3)')
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/compare'),
        help='the dir to save training runs and report '
        '(default: work_dirs/compare)')
    parser.add_argument(
        '--amp', action='store_true',
        help='train all in mixed precision; on CPU in bfloat16')
    parser.add_argument(
        '--unmodified', action='store_true',
        help="train mmyolo's own detector and assigner, instead of what "
        'computes the same faster; to compare the speed of training')
    parser.add_argument(
        '--ann-file', type=Path,
        help='truth of the validation images (default: of the configs)')
    parser.add_argument(
        '--samples', type=cli.positive_int, default=1000,
        help='of the bootstrap over the images (default: 1000)')
    parser.add_argument(
        '--backends', nargs='*', choices=list(ENGINES),
        default=['onnxruntime', 'openvino'],
        help='that the latency is measured on; none to leave it out '
        '(default: onnxruntime openvino)')
    parser.add_argument(
        '--runs', type=cli.positive_int, default=30,
        help='rounds of the measurement of latency (default: 30)')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def evaluate(runs, ann_file):
    """Of each detector the evaluations of its seeds."""
    files = dict.fromkeys(
        [ann_file] if ann_file else
        [run.val('annotations').resolve() for run in runs if run.config])
    if len(files) != 1:
        raise ValueError(
            'the detectors are compared on one set of validation images, name '
            f'its --ann-file; the configs have {len(files)}: '
            f'{", ".join(map(str, files)) or "none"}')
    (path, ) = files
    truth = read_truth(path)
    evaluations = {}
    for run in runs:
        evaluations.setdefault(run.name, []).append(
            Evaluation(truth, read_detections(run.detections(), truth)))
    return evaluations


def benchmark(runs, args):
    """Size and latency of one run of each detector that has a config, by
    backend and precision, then by detector."""
    first = {}
    for run in runs:
        if run.config:
            first.setdefault(run.name, run)
    if not (first and args.backends):
        return {}
    names = {str(run.config): name for name, run in first.items()}
    baseline, *_ = first.values()
    shape = baseline.settings.get('img_scale', (640, 640))[::-1]
    pairs = []
    for target in names:
        found, notes = cross(target, args.backends, None, [1], [1], shape)
        for note in notes:
            print(f'left out: {note}')
        pairs += [Pair(candidate, baseline_of(
            candidate, str(baseline.config), shape)) for candidate in found]
    results, ways = measure(pairs, args.runs), {}
    write_json(args.work_dir / 'benchmark.json', results, 'cpu')
    for result in results:
        c = result.candidate
        ways.setdefault(f'{c.backend} {c.precision}', {})[
            names[c.target]] = result
    return ways


def introduction(runs, evaluations):
    """What was compared, where, and by which command."""
    parts = [f'# {" against ".join(evaluations)}',
             '; '.join(f'{k} {v}' for k, v in machine('cpu').items())]
    recipe = next((run for run in runs if run.config), None)
    if recipe:
        cfg = recipe.settings
        images = next(iter(evaluations.values()))[0].image_ids
        parts.append(
            f'Validation images: {len(images)} (`{recipe.val("annotations")}`)'
            f'; {cfg.train_cfg.max_epochs} epochs, '
            f'{cfg.train_dataloader.batch_size} images' +
            (f' of {"x".join(map(str, cfg.img_scale))}' if 'img_scale' in cfg
             else '') + ' per step.')
    return [*parts, f'```bash\npython {shlex.join(sys.argv)}\n```']


def main():
    args = parse_args()
    arguments = ['--amp'] if args.amp else []
    try:
        with cli.clear_errors():
            cli.make_folder(args.work_dir)
            runs = prepare(args.detectors, args.recipe, args.seeds,
                           args.work_dir, args.cfg_options or {},
                           args.unmodified)
            if args.ann_file:
                read_truth(args.ann_file)
            for i, run in enumerate(runs):
                print(f'[{i + 1}/{len(runs)}] {run.name}, seed {run.seed}',
                      flush=True)
                run.train(arguments)
            evaluations = evaluate(runs, args.ann_file)
            ways = benchmark(runs, args)
    except CalledProcessError as error:
        # its own message stands above
        sys.exit(f'error: {Path(error.cmd[1]).name} ended with '
                 f'{error.returncode}; what is done stays, and the same '
                 'command goes on')
    parts = [*introduction(runs, evaluations), '## Accuracy',
             report.accuracy(evaluations, args.samples)]
    logs = {}
    for run in runs:
        logs.setdefault(run.name, []).append(run.log())
    costs = report.cost(logs, ways, arguments)
    if costs:
        parts += ['## Size and speed', costs]
    parts += ['## Errors', report.errors(evaluations), '## Pictures']
    folder = next((run.val('images') for run in runs if run.config), None)
    page = report.write(args.work_dir, '\n\n'.join(parts),
                        plot_all(evaluations, logs, ways, folder))
    print(f'written: {page} and report.md beside it')


if __name__ == '__main__':
    main()
