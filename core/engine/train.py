"""The training loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..hooks.errors import CutOffError, PluginError, RunAbortedError
from ..hooks.roles.optimizer import OPTIMIZER
from ..hooks.types import Allocate
from ..plugins.manager import Hooks
from ..plugins.number_words import counted
from ..plugins.observer import Observer, RunInfo
from ..plugins.stop_request import StopRequest
from ..reproducibility.deterministic import repeatable
from ..reproducibility.seeding import seed_run
from .checkpoints.checkpoint import Describe
from .checkpoints.fingerprint import Comparison, Fingerprint
from .data import Dataset, Normalise, batches
from .driver import Driver
from .final_evaluation import evaluate_finally, measure, measure_beside, restore_best, tell_not_finite
from .forks import ending_forks
from .progress import Progress
from .recovery.recover import end_at_snapshot, end_by_fault, recover
from .recovery.resume import resume_run, with_advice
from .recovery.snapshots import keep_last, refuse_used_folder, take_snapshot
from .schedules import Plateau
from .session import Session
from .setup import Setup
from .state import TrainState
from .step import FinishedStep, Prepared, Stepper, take_step
from .tensor_names import named_parameters
from .weights import Weights, weights_sha256

Status = Literal["completed", "stopped_early", "interrupted"]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run.

    Attributes:
        status: How it ended; a fault that ends it is raised instead.
        steps: Optimizer steps finished, those before a resume included.
        epochs: Passes over the training data finished, rounded down.
        final_metrics: ``loss`` and the job's metric on the validation data, or on the test data where those
            judge, as last evaluated; after an interruption that may be earlier than the last step, or empty.
            With ``restore_best`` those of the best step.
        best_metric: The best value of the metric, None if it was never evaluated.
        best_step: Where it was reached.
        weights_sha256: Over names, dtypes, shapes and bytes of parameters and buffers.
        checkpoint: The last checkpoint, None if none were asked for.
        seconds: Wall time of this call, from its first step.
        steps_per_second: Steps of this call by that time; 0 if there were none.
        final_metrics_step: Steps finished when those were evaluated, None if they were not.
        steps_given_up: Steps that were finished, and are not among ``steps``, as the next one was cut off.
        judged_by: What ``final_metrics`` and ``best_metric`` are of: ``"validation"`` or ``"test"``.
        test_metrics: The same figures on the test data, of a run that has come to its end; else empty.
        weights_from: The checkpoint that has these weights: the last, or the best with ``restore_best``.
    """

    status: Status
    steps: int
    epochs: int
    final_metrics: dict[str, float]
    best_metric: float | None
    best_step: int | None
    weights_sha256: str
    checkpoint: Path | None
    seconds: float
    steps_per_second: float
    final_metrics_step: int | None = None
    steps_given_up: int = 0
    judged_by: str = "test"
    test_metrics: dict[str, float] = field(default_factory=dict)
    weights_from: Path | None = None


@repeatable()
@ending_forks()
def train(
    setup: Setup,
    hooks: Hooks,
    *,
    observer: Observer | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    fingerprint: Fingerprint | None = None,
    allocate: Allocate | None = None,
    stop: StopRequest | None = None,
    drivers: Sequence[Driver[Session]] = (),
    describe: Describe | None = None,
) -> Result:
    """Train the setup's model in place.

        seed torch; restore the latest checkpoint, or take a snapshot of the start
        while steps are left:
            try:
                stream = hooks.stream(batches from this step on)
                for each step:
                    stop if asked to
                    take_step(stream)                          # see step.take_step
                    let each driver act
                    evaluate, judge, snapshot, checkpoint when each is due
            except PluginError:
                restart the plugin, restore the snapshot       # or abort with a checkpoint
            except CutOffError:
                restore the snapshot, write it, stop           # asked to, and there is no time left
            except anything else:                              # the model's, the loss's, a full disk's
                restore the snapshot, write it, end with the error

    The end of the run is always evaluated and, if ``checkpoints`` is given, kept. Then the best weights are
    restored, if asked for, and once the test data are looked at: all that is decided before follows from the
    validation data, where there are such.
    The caller closes ``hooks``.

    Args:
        setup: Model, data and configuration, tried together.
        hooks: The plugins, started.
        observer: Told what happens; nobody by default.
        checkpoints: Folder for checkpoints; None writes none.
        resume: Go on from the latest intact checkpoint in ``checkpoints``.
        fingerprint: What a resumed run must agree with, and what of it may differ.
        allocate: Where the host buffers of parameters and gradients come from.
        stop: Looked at between steps; once it is made the run checkpoints and ends as interrupted. Looked at
            between the batches of an evaluation too, which is then left out, and made when it is resumed.
            Once it is over, what is under way is cut off, and the run ends as it was at its last snapshot:
            so the plugins are given it as well.
        drivers: Act between steps and at the end, in this order.
        describe: Gives the ``model.json`` of a checkpoint; without it they have none.

    Returns:
        What became of the run.

    Raises:
        CheckpointError: Checkpoints cannot be written or read.
        RunAbortedError: A plugin's fault, gradients that are not finite, or whatever the model or the
            loss raised, ended the run; a checkpoint of its last snapshot was written.
        CutOffError: ``stop`` was over before the first snapshot was taken; nothing was trained.
        PluginError: A plugin failed for good before the first snapshot was taken, or in the first step in a
            way in which it would fail again; nothing was trained.
    """  # fmt: skip
    stop = stop or StopRequest()
    model, device = setup.model, setup.device
    weights = Weights(model, device, allocate, setup.frozen)
    seed_run(setup.config.seed)
    run = Session(
        setup=setup,
        hooks=hooks,
        state=TrainState(model, weights, device, Progress(), drivers),
        stepper=Stepper(
            model=model,
            weights=weights,
            loss=setup.config.loss,
            normalise=Normalise(setup.data, device),
            hooks=hooks,
            device=device,
            stop=stop,
        ),
        observer=observer or Observer(),
        checkpoints=checkpoints,
        fingerprint=fingerprint or Fingerprint(),
        stop=stop,
        describe=describe,
    )
    compared = Comparison()
    if resume:
        compared = resume_run(run)
    else:
        refuse_used_folder(run)
    run.resumed, run.first_step = resume, run.progress.step
    run.stop.check("the start of the run")
    run.observer.started(_info(run))
    run.told.update(run.setup.tried.told)
    for sentence in (*compared.told, *run.setup.tried.told):
        run.observer.event(sentence)
    if run.checkpoint is None:
        _keep_first(run)
    else:
        # A run that ends before its next checkpoint can be resumed from this one.
        run.observer.checkpointed(run.checkpointed_step, run.checkpoint)
    started = time.perf_counter()
    try:
        with run.state.weights.pinned():
            status = _train_until_done(run)
    except RunAbortedError as error:
        raise with_advice(error, run, compared, run.first_step) from error.__cause__
    finally:
        if run.alternation is not None:
            run.alternation.end()
    seconds = time.perf_counter() - started
    progress = run.progress
    left = progress if run.best is None else run.best.progress
    return Result(
        status=status,
        steps=progress.step,
        epochs=run.setup.plan.epoch(progress.step),
        final_metrics=dict(left.metrics),
        best_metric=progress.best_metric,
        best_step=progress.best_step,
        weights_sha256=weights_sha256(model),
        checkpoint=run.checkpoint,
        seconds=seconds,
        steps_per_second=(progress.step - run.first_step) / seconds,
        final_metrics_step=left.evaluated_step if left.metrics else None,
        steps_given_up=run.steps_given_up,
        judged_by=run.setup.data.judged_by,
        test_metrics=dict(run.test_metrics),
        weights_from=run.checkpoint if run.best is None else run.best.path,
    )


def _info(run: Session) -> RunInfo:
    data = run.setup.data
    return RunInfo(
        first_step=run.progress.step,
        steps_total=run.setup.steps_total,
        steps_per_epoch=run.setup.plan.steps_per_epoch,
        train_samples=len(data.train),
        test_samples=_count(data.test),
        parameters=sum(tensor.numel() for tensor in named_parameters(run.state.model).values()),
        device=str(run.state.device),
        metric=run.setup.config.metric,
        higher_is_better=run.setup.objective.metric.higher_is_better,
        validation_samples=_count(data.validation),
        judged_by=data.judged_by,
        directions={name: each.higher_is_better for name, each in run.setup.objective.metrics.items()},
    )


def _count(part: Dataset | None) -> int:
    return 0 if part is None else len(part)


def _keep_first(run: Session) -> None:
    """Take the snapshot that the first steps go back to, over faults of plugins."""
    while True:
        try:
            take_snapshot(run, checkpoint=run.checkpoints is not None)
        except PluginError as error:
            recover(run, error)
        else:
            return


def _train_until_done(run: Session) -> Status:
    """Train to the end, over faults of plugins."""
    try:
        while True:
            try:
                return _train_from_here(run)
            except PluginError as error:
                if not recover(run, error):
                    return "interrupted"
    except CutOffError as error:
        end_at_snapshot(run, error)
        # What the end had come to is made anew when the run is resumed.
        run.best, run.test_metrics = None, {}
        return "interrupted"
    except BaseException as error:
        ended = end_by_fault(run, error)
        if ended is error:
            raise
        raise ended from error


def _train_from_here(run: Session) -> Status:
    """Train from the present step until the end, an interruption or a plugin's fault."""
    run.uncounted.clear()
    run.progress.epoch_loss = run.progress.epoch_loss.at(run.progress.step)
    _show_metrics(run)
    if _is_evaluation_missing(run) and _evaluate(run):
        take_snapshot(run, checkpoint=run.checkpoints is not None)
    progress, steps_total, stop = run.progress, run.setup.steps_total, run.stop
    with _stream(run) as stream, ending_forks():
        while progress.step < steps_total and not progress.stopped_early:
            if stop.is_made():
                keep_last(run)
                return "interrupted"
            _one_step(run, stream)
    judged = run.progress.evaluated_step == run.progress.step or _evaluate(run)
    keep_last(run)
    if not judged or not _finish(run):
        return "interrupted"
    if run.state.drivers:
        _tell_trained(run)
    return "stopped_early" if run.progress.stopped_early else "completed"


def _finish(run: Session) -> bool:
    """Restore the best weights if asked to, and look at the test data; False if that was stopped."""
    last = run.snapshot
    if run.setup.config.restore_best:
        restore_best(run)
    if evaluate_finally(run):
        return True
    if run.best is not None and last is not None:
        # It goes on from its last weights, and is left with those until then.
        run.state.restore(last)
        run.best = None
    return False


def _tell_trained(run: Session) -> None:
    """Let drivers work on a run that is evaluated and kept, and hold them to its weights."""
    kept = weights_sha256(run.state.model)
    for driver in run.state.drivers:
        driver.trained(run)
        if weights_sha256(run.state.model) != kept:
            raise RuntimeError(
                f"driver '{driver.name}' changed the model in trained(), once it was evaluated and kept; "
                "have it work on a copy"
            )


def _one_step(run: Session, stream: Iterator[Prepared]) -> None:
    stepper, progress = run.stepper, run.progress
    if run.alternation is not None:
        stepper.loss = run.alternation.begin(progress.step)
    sizes = run.setup.plan.sizes(progress.step)
    step = take_step(stepper, stream, sizes)
    if progress.step == run.first_step:
        # What cannot be saved is to be known now, and not at the first checkpoint.
        run.hooks.try_state(OPTIMIZER.name)
    progress.step += 1
    if run.hooks.observers:
        run.hooks.poll()
        if run.hooks.askers:
            _grant(run, run.hooks.asked())
        if run.hooks.shows_metrics:
            _count_loss(run, step, sizes)
    _record(run, step, sum(sizes))
    for driver in run.state.drivers:
        driver.between_steps(run)
    checkpoint = run.checkpoints is not None and progress.step % run.checkpoint_every == 0
    if progress.step % run.eval_every == 0 or progress.step == progress.asked_step:
        if not _evaluate(run):
            return
        checkpoint = checkpoint or _is_best_to_keep(run)
    if checkpoint or progress.step % run.setup.config.snapshot_every == 0:
        take_snapshot(run, checkpoint=checkpoint)


def _count_loss(run: Session, step: FinishedStep, sizes: Sequence[int]) -> None:
    """Count the loss of a step among those of its epoch, and show the monitors the mean when that ends."""
    weight, progress, an_epoch = step.weight, run.progress, run.setup.plan.steps_per_epoch
    if weight is None:
        loss, targets = run.stepper.loss, step.first_batch.targets
        weight = sizes[0] if loss.is_by_sample(targets) else sum(loss.over_step([targets], sizes)[1])
    run.uncounted.append((step.loss, weight))
    if progress.step % an_epoch == 0:
        run.count_losses()
        progress.epoch_loss = progress.epoch_loss.ended(progress.step // an_epoch, an_epoch)
        _show_metrics(run)


def _grant(run: Session, asked: Mapping[str, str]) -> None:
    """Do what plugins that may ask for it want after the step that was just taken."""
    progress = run.progress
    if "evaluate" in asked:
        progress.asked_step = progress.step
    if "stop" in asked:
        progress.stop_asked = progress.stopped_early = True
        run.observer.event(f"stopped at step {progress.step}: plugin '{asked['stop']}' asked for it")


def _is_best_to_keep(run: Session) -> bool:
    """Tell whether the run may have to come back to the step that it has just finished."""
    wanted = run.setup.config.restore_best and run.checkpoints is not None
    return wanted and run.progress.best_step == run.progress.step


def _record(run: Session, step: FinishedStep, samples: int) -> None:
    observer, info = run.observer, step.info
    if info.global_step == 0:
        observer.sampled(step.first_batch, info)
    observer.step(info, step.loss.item() if observer.wants_loss(info) else None, samples)


@contextlib.contextmanager
def _stream(run: Session) -> Iterator[Iterator[Prepared]]:
    """Give the batches from the present step on; workers let go of them at the end.

    What an evaluation says of the learning rate holds from the next step on, whose batch is ready by then.
    """
    config, steps_total = run.setup.config, run.setup.steps_total
    stream = run.hooks.stream(
        batches(
            run.setup.data.train,
            run.setup.plan,
            config.seed,
            first_step=run.progress.step,
            steps_total=steps_total,
            lr_factor=lambda step: config.schedule.factor(step, steps_total),
            as_stored=bool(run.hooks.at.batch.methods),
        )
    )
    try:
        yield _slowed(stream, run.progress) if isinstance(config.schedule, Plateau) else stream
    finally:
        if isinstance(stream, Generator):
            stream.close()


def _slowed(stream: Iterator[Prepared], progress: Progress) -> Iterator[Prepared]:
    for batch, step in stream:
        yield batch, replace(step, lr_factor=step.lr_factor * progress.plateau.factor)


def _is_evaluation_missing(run: Session) -> bool:
    """Tell whether the run was stopped in the middle of an evaluation."""
    progress = run.progress
    due = progress.step % run.eval_every == 0 or progress.step == progress.asked_step
    return progress.step > 0 and progress.evaluated_step != progress.step and due


def _evaluate(run: Session) -> bool:
    """Evaluate and judge; sets ``progress.stopped_early`` when patience is at its end.

    Returns:
        Whether it came to its end; the run is to stop if not.
    """
    config, progress = run.setup.config, run.progress
    metrics = measure(run, run.setup.data.judging)
    beside = None if metrics is None else measure_beside(run)
    if metrics is None or beside is None:
        return False
    if run.checkpointed_step == progress.step:
        # That was written when this evaluation was left out; it is to be known which is the best.
        run.checkpointed_step = -1
    early = config.early_stopping
    best = progress.judge(
        metrics,
        config.metric,
        run.setup.objective.metric,
        patience=None if early is None else early.patience,
        min_delta=0.0 if early is None else early.min_delta,
    )
    epoch, part = run.setup.plan.epoch(progress.step), run.setup.data.judged_by
    _show_metrics(run)
    run.observer.evaluated(progress.step, epoch, metrics, best=best)
    for name, figures in beside.items():
        run.observer.evaluated_beside(progress.step, epoch, figures, part=part, name=name)
    tell_not_finite(run, run.setup.data.judged_by, metrics)
    if isinstance(config.schedule, Plateau):
        _look_for_plateau(run, config.schedule, metrics[config.metric])
    if progress.stopped_early and early is not None and not progress.stop_asked:
        run.observer.event(
            f"stopped at step {progress.step}: {config.metric} has not improved by more than "
            f"{early.min_delta} in {early.patience} evaluations"
        )
    return True


def _show_metrics(run: Session) -> None:
    """Have the monitors shown the last evaluation and the last epoch from now on."""
    progress = run.progress
    step, epoch = progress.evaluated_step, progress.epoch_loss
    shown = {**progress.metrics, "step": float(step)} if step >= 0 else {}
    if epoch.mean is not None:
        shown |= {"train_loss": epoch.mean, "epoch": float(epoch.epoch)}
    run.hooks.metrics = shown


def _look_for_plateau(run: Session, schedule: Plateau, value: float) -> None:
    progress, seen = run.progress, run.progress.plateau
    better = run.setup.objective.metric.higher_is_better
    progress.plateau = schedule.after(seen, value, higher_is_better=better)
    if progress.plateau.factor != seen.factor:
        run.observer.event(
            f"from step {progress.step} on the learning rate is multiplied by {progress.plateau.factor:g}, "
            f"{seen.factor:g} before: {run.setup.config.metric} has not improved in "
            f"{counted(schedule.patience + 1, 'evaluation')}"
        )
