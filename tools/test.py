# SPDX-License-Identifier: GPL-3.0-only
"""Test (and evaluate) a detector."""
import os.path as osp
from pathlib import Path

# first: it makes mmyolo importable, or says what is missing
import mmfasternet.models  # noqa: F401  # isort: skip
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import ConfigDict
from mmengine.evaluator import DumpResults

from mmfasternet import cli
from mmfasternet.checkpoint import CheckpointError, require_fit
from mmfasternet.config import (
    load_config,
    prepare_launch,
    require_data,
    require_sound_data,
    use_split,
)
from mmfasternet.datasets.from_config import leaf_datasets
from mmfasternet.deploy import use_exported
from mmfasternet.deploy.engines import EXPORTED, require_followed


def parse_args():
    parser = cli.tool_parser('Test (and evaluate) a detector')
    cli.add_checkpoint(parser)
    cli.add_engine(parser, exported_only=True, threads=False)
    parser.add_argument(
        '--split',
        choices=['val', 'test'],
        help='what to test on: `val` of val_dataloader, `test` of the knob '
        'test_ann_file (default: what test_dataloader names)')
    parser.add_argument(
        '--work-dir',
        help='the directory to save the file containing evaluation metrics')
    parser.add_argument(
        '--out',
        help='output result file (must be a .pkl file) in pickle format')
    parser.add_argument(
        '--json-prefix',
        help='write the detections to PREFIX.bbox.json in COCO format, '
        'without evaluating them')
    parser.add_argument(
        '--tta', action='store_true', help='use test-time augmentation')
    parser.add_argument(
        '--show', action='store_true', help='show prediction results')
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='switch model to deployment mode')
    parser.add_argument(
        '--show-dir',
        help='directory where painted images will be saved, below '
        'work_dir/timestamp')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='the interval of show (s)')
    cli.add_cfg_options(parser)
    cli.add_launcher(parser)
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, got {args.out}')
    if args.json_prefix is not None and not osp.basename(args.json_prefix):
        parser.error('--json-prefix must end in a name, like '
                     f'{args.json_prefix}val')
    cli.set_local_rank(args)
    return args


def use_tta(cfg):
    """Wrap the model and take the augmented pipeline."""
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise ValueError(f'--tta needs `{key}` in {cfg.filename}')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        # fixed batch shapes would undo the scales of the augmentation
        if 'batch_shapes_cfg' in dataset:
            dataset.batch_shapes_cfg = None
        dataset.pipeline = cfg.tta_pipeline


def show_results(cfg, args):
    """Let MMDetection's hook draw what is found."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise ValueError('--show and --show-dir need default_hooks.'
                         f'visualization in {cfg.filename}')
    hook.update(draw=True, show=args.show, wait_time=args.wait_time,
                test_out_dir=args.show_dir)
    if str(hook.type).endswith('DetVisualizationHook'):
        hook.type = 'mmfasternet.PictureFoldersHook'


def write_detections(cfg, prefix):
    """Let COCO's evaluator write them instead of evaluating."""
    given = cfg.get('test_evaluator') or []
    found = [evaluator for evaluator in (
        given if isinstance(given, list) else [given])
             if 'CocoMetric' in str(evaluator.get('type'))]
    if len(found) != 1:
        raise ValueError(f'--json-prefix needs one CocoMetric, {cfg.filename} '
                         f'has {len(found)} in test_evaluator')
    found[0].update(format_only=True, outfile_prefix=prefix)


def use_asked_split(cfg, args):
    """What the command line says of the data, all of it or an error."""
    lost = [key for key in args.cfg_options or () if key.startswith(
        ('test_dataloader', 'test_evaluator'))]
    if lost:
        raise ValueError(f'--split {args.split} takes val_dataloader and '
                         f'val_evaluator, {", ".join(lost)} would not count: '
                         'name val_... instead, or leave out --split')
    use_split(cfg, args.split)


def main():
    args = parse_args()
    setup_cache_size_limit_of_dynamo()

    with cli.clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        cfg.get('model', {}).pop('teacher', None)  # that is for training
        if not osp.isfile(args.checkpoint) and '://' not in args.checkpoint:
            raise FileNotFoundError(f'checkpoint not found: {args.checkpoint}')
        found = args.json_prefix and f'{args.json_prefix}.bbox.json'
        for path in filter(None, (args.out, found)):
            cli.require_output(path)
        if args.show_dir and osp.isabs(args.show_dir):
            cli.make_folder(Path(args.show_dir))
        if args.split is not None:
            use_asked_split(cfg, args)
        require_data(cfg, 'test')
        require_sound_data(cfg, 'test')
        exported = args.checkpoint.endswith(EXPORTED)
        if exported:
            if args.tta or args.launcher != 'none':
                raise ValueError('an exported file is tested without --tta, '
                                 'in one process')
            require_followed(args.checkpoint, args.cfg_options, 'model.')
            use_exported(cfg, args.checkpoint, args.backend, args.precision)
        elif args.backend or args.precision != 'fp32':
            raise ValueError('--backend and --precision are for exported '
                             f'files, {args.checkpoint} is a checkpoint')
        elif args.tta:
            use_tta(cfg)
        if args.show or args.show_dir:
            show_results(cfg, args)
        if args.json_prefix is not None:
            write_detections(cfg, args.json_prefix)
        prepare_launch(cfg, args.launcher)
    cli.set_work_dir(cfg, args)
    cfg.load_from = None if exported else args.checkpoint
    if args.deploy:
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []),
                            dict(type='SwitchToDeployHook')]

    cfg.pop('runner_type', None)  # that is for training
    runner = cli.build_runner(cfg)
    if args.out is not None:
        runner.test_evaluator.metrics.append(
            DumpResults(out_file_path=args.out))
    with cli.clear_errors(CheckpointError, FileNotFoundError,
                          ValueError), cli.clear_build_errors(
                          ), cli.clear_data_errors():
        if not exported:
            require_fit(runner.model, args.checkpoint,
                        cfg.get('metainfo', {}).get('classes', ()))
        runner.test()


if __name__ == '__main__':
    main()
