# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import IO, Any, Dict, List, Optional

import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner
from torch.utils.data import IterableDataset

from mmfasternet.checkpoint import (
    CheckpointError,
    compare_tensors,
    get_checkpoint,
    newest_checkpoint,
    require_fitting,
    unwrapped,
)
from mmfasternet.compat import mmengine_runner as compat
from mmfasternet.engine.seeded_batches import (
    OF_EPOCHS,
    OF_ITERATIONS,
    SeededBatches,
    set_seed,
)
from mmfasternet.engine.training_context import by_epoch
from mmfasternet.registry import HOOKS

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

TensorDict = Dict[str, torch.Tensor]
_KEY = 'resume'  # in the `meta` of a checkpoint


@HOOKS.register_module()
class ResumeHook(Hook):
    """Let a resumed training run end as one that nobody has interrupted.

    MMEngine keeps weights, optimizer, averaged weights, schedulers and
    counters. This hook adds what is missing for equal bits:

    - The training goes on within the epoch, at the image where the checkpoint
      was saved. ``CheckpointHook(by_epoch=False, interval=500)`` saves there.
    - Random numbers follow from the seed and the place: for an image from the
      seed of the sampler, the epoch and the index, for an iteration from the
      seed of the run and its number. No process has a state that could be
      lost, and neither the number of workers nor that of processes changes
      how an image is augmented.
    - Without a path, ``resume=True`` takes the newest checkpoint that is
      whole, and one of another model is refused.
    - A work directory into which another process trains is refused.
    - Without ``resume``, what an earlier training run has left in the work
      directory is moved aside, and a ``load_from`` of which nothing fits the
      model is refused.
    - A validation that was due at the checkpoint, but may have been cut off,
      is done first.

    With another number of processes or images per iteration than before it
    goes on after the same number of images, and says that it is not the same
    training. Transforms that remember earlier images (``use_cached`` of
    MMDetection's mosaic) are not covered, nor is an ``IterableDataset``.
    """

    priority = 'LOWEST'  # the other hooks have begun

    def __init__(self) -> None:
        self._offset = 0  # batches of this epoch that were trained before
        self._start = (-1, 0)  # epoch and iteration at which it began
        self._is_validated = False
        self._saved: Optional[Dict[str, Any]] = None  # to go on from
        self._batches: Optional[SeededBatches] = None
        self._lock: Optional[IO] = None  # open as long as this run

    # -------------------------------------------------------- to go on from
    def before_run(self, runner: Runner) -> None:
        if not compat.is_training(runner):
            return
        # torchrun tells its restart only to the machine where one has died
        wanted = max(
            dist.all_gather_object(compat.resume_request(runner)),
            key=lambda wish: (wish[0], wish[1] is None))
        own = runner.model.state_dict()  # FSDP gathers it from all
        found: List[Any] = [None]
        if dist.is_main_process():
            try:
                self._lock = _claimed(Path(runner.work_dir))
                # of a process that was killed while it wrote
                for part in Path(runner.work_dir).glob('.*.part'):
                    part.unlink(missing_ok=True)
                found = [_chosen(runner, own, *wanted)]
            except (CheckpointError, OSError) as error:
                found = [error]
        dist.broadcast_object_list(found)
        if isinstance(found[0], Exception):
            raise found[0]
        if wanted[0] and found[0] is None:
            runner.logger.info(f'nothing to resume in {runner.work_dir}: the '
                               'training begins')
        compat.set_resume_request(runner, wanted[0] and found[0] is not None,
                           found[0])
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.max_keep_ckpts == 1:
                runner.logger.info(
                    'max_keep_ckpts=1 removes the only checkpoint before the '
                    'next one is written; 2 are kept')
                hook.max_keep_ckpts = 2

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if compat.is_training(runner) and compat.resume_request(runner)[0]:
            self._saved = checkpoint['meta'].get(_KEY)

    # ------------------------------------------------------------ training
    def before_train(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        if loader.batch_sampler is None or isinstance(loader.dataset,
                                                      IterableDataset):
            runner.logger.warning('the data set has no index, so a resumed '
                                  'run sees other images')
            return
        self._batches = SeededBatches(loader, runner.seed)
        if self._saved is not None:
            self._go_on(runner)
        if by_epoch(runner):
            compat.begin_within_epoch(runner, lambda: self._offset)
        elif isinstance(self._batches.sampler, InfiniteSampler):
            # it would load and drop what it has trained on before
            self._batches.skip(runner.iter)
            compat.begin_at_iteration(runner, runner.iter)
        if self._saved is not None and not self._offset and \
                not self._is_validated and compat.is_validation_due(runner):
            runner.logger.info('validating first: the checkpoint was saved '
                               'before its validation')
            runner.val_loop.run()

    def _go_on(self, runner: Runner) -> None:
        self._batches.sampler.seed = self._saved['seed']
        self._is_validated = bool(self._saved.get('validated'))
        self._offset = self._saved['batches']
        now = self._shape()
        before = {key: self._saved[key] for key in now}
        if before != now:
            images = self._offset * before['images_per_iteration']
            self._offset = min(images // now['images_per_iteration'],
                               len(self._batches))
            runner.logger.warning(
                f'the checkpoint is of a run with {before}, this one '
                f'has {now}: epoch {runner.epoch + 1} goes on after '
                f'{images} images, but it is another training run')

    def _shape(self) -> Dict[str, int]:
        values = (dist.get_world_size(),
                  dist.get_world_size() * self._batches.batch_size,
                  len(self._batches))
        return dict(zip(_SHAPE, values))

    def before_train_epoch(self, runner: Runner) -> None:
        if self._batches is not None and by_epoch(runner):
            self._batches.epoch = runner.epoch
            self._batches.skip(self._offset)
            self._start = runner.epoch, runner.iter - self._offset
        set_seed(runner.seed, OF_EPOCHS, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        self._is_validated = False
        set_seed(runner.seed, OF_ITERATIONS, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        self._offset = 0

    def before_val_epoch(self, runner: Runner) -> None:
        # nothing is saved until its end
        self._is_validated = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not compat.is_training(runner) or self._batches is None:
            return
        meta = checkpoint['meta']
        epoch, iteration = self._start
        counts = compat.accumulative_counts(runner)
        if meta['iter'] % counts and meta['iter'] < runner.max_iters:
            runner.logger.warning(
                'this checkpoint lacks the gradients of '
                f'{meta["iter"] % counts} iterations: save every multiple '
                f'of {counts}')
        meta[_KEY] = dict(
            seed=self._batches.sampler.seed,
            # none, where the epoch has ended or the next one not begun
            batches=meta['iter'] - iteration if meta['epoch'] == epoch else 0,
            validated=self._is_validated,
            **self._shape())


_SHAPE = ('processes', 'images_per_iteration', 'iterations_per_epoch')


# what a training run leaves in its work directory, and the next replaces;
# other files there, such as weights to start from, are the user's
_RESULTS = ('epoch_*.pth', 'iter_*.pth', 'best_*.pth', 'results.csv',
            'results.png', 'pr_curves.png', 'confusion_matrix.png',
            'best_images.png', 'worst_images.png')


def _claimed(folder: Path) -> Optional[IO]:
    """An open file, which no other process gets from this folder until it is
    closed, however this process ends."""
    if fcntl is None:
        return None
    file = (folder / '.lock').open('w')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise CheckpointError(
            f'another training run is writing into {folder}: wait for its '
            'end, or give this one another --work-dir') from None
    except OSError:  # not every network file system can
        pass
    return file


def _chosen(runner: Runner, own: TensorDict, resume: bool,
            given: Optional[str]) -> Optional[str]:
    """The checkpoint to go on from or to begin with, after a look at it."""
    if resume:
        name = given or newest_checkpoint(runner.work_dir)
        if name is not None:
            _require_resumable(own, str(name))
        return name and str(name)
    if given is not None:
        data = get_checkpoint(given, keep=True)
        _require_any_fit(own, data, given)
        if 'state_dict' not in data and any(
                isinstance(hook, EMAHook) for hook in runner.hooks):
            raise CheckpointError(
                f'load_from={given}: EMAHook wants the weights under '
                '"state_dict", save them so: torch.save(dict(state_dict='
                'weights), path)')
    _set_aside(runner, given)
    return given


def _require_any_fit(own: TensorDict, data: Any, name: str) -> None:
    """Refuse weights of another model, with which nothing would be loaded."""
    tensors = data.get('state_dict', data) if isinstance(data, dict) else {}
    tensors = {k: v for k, v in tensors.items() if isinstance(v, torch.Tensor)}
    fit = compare_tensors(unwrapped(own), unwrapped(tensors))
    if not fit.fitting:
        raise CheckpointError(
            f'load_from={name}: none of its {len(tensors)} tensors fits the '
            f'{len(own)} of the model, so training would begin from scratch. '
            'Weights of a backbone are model.backbone.init_cfg.checkpoint '
            '(knob `pretrained`)' +
            ''.join(f'; {words}' for words in fit.shapes[:2]))


def _set_aside(runner: Runner, needed: Optional[str]) -> None:
    """Move what an earlier training run has left where this one writes."""
    folder = Path(runner.work_dir)
    old = [
        path for pattern in _RESULTS for path in folder.glob(pattern)
        if needed is None or path.resolve() != Path(needed).resolve()
    ]
    if not old:
        return
    target = folder / f'before_{runner.timestamp}'
    target.mkdir(exist_ok=True)
    for path in old:
        path.rename(target / path.name)
    (folder / 'last_checkpoint').unlink(missing_ok=True)
    runner.logger.warning(
        f'{folder} holds an earlier training run, and this one does not '
        f'resume it: its {len(old)} checkpoints and results are in {target} '
        'now')


def _require_resumable(own: TensorDict, name: str) -> None:
    """Refuse what a run cannot go on from, before anything takes it."""
    data = get_checkpoint(name, keep=True)
    require_fitting(own, data, name)
    meta = data.get('meta')
    saved = meta.get(_KEY) if isinstance(meta, dict) else None
    if not isinstance(data.get('optimizer'), dict) or not _are_counts(
            meta, 'epoch', 'iter') or not (
                saved is None  # in those of others
                or _are_counts(saved, 'seed', 'batches', *_SHAPE)):
        raise CheckpointError(
            f'{name} is not a checkpoint that a run can go on from, it '
            'lacks the optimizer or the place: to begin one with its '
            'weights use --cfg-options load_from=... instead')
    averaged = data.get('ema_state_dict')
    if averaged is not None:
        # the raw weights are there, the averaged ones in the other place
        if isinstance(averaged, dict):
            averaged = {k: v for k, v in averaged.items() if k != 'steps'}
        require_fitting(own, dict(state_dict=averaged), name)


def _are_counts(values: Any, *names: str) -> bool:
    return isinstance(values, dict) and all(
        isinstance(values.get(name), int) and values[name] >= 0
        for name in names)
