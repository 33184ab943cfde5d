"""Make what a job names: data, model, loss and schedule; and see that they fit before anything is started."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from ..datasets.dataset_registry import check_data, load_data
from ..datasets.split import HoldOut
from ..datasets.weighting import BALANCED, weigh_samples
from ..engine.alternation import Turn
from ..engine.averaging import (
    ExponentialMovingAverage,
    Rule,
    StochasticWeightAverage,
    WeightAverage,
    first_update,
)
from ..engine.config import EarlyStopping, TrainConfig, resolve_device
from ..engine.data import Data, Plan
from ..engine.forks import ending_forks
from ..engine.freezing import match_parameters
from ..engine.loss import Loss
from ..engine.metrics import TargetForm
from ..engine.objective_registry import (
    check_loss,
    check_metric,
    make_loss,
    make_metrics,
    task_of,
)
from ..engine.read_data import ReadDataset
from ..engine.schedules import SCHEDULES, GivenSchedule, Schedule, try_schedule
from ..engine.setup import Setup
from ..engine.tensor_names import named_parameters
from ..engine.trial import try_out
from ..hooks.errors import DataError, JobError
from ..hooks.types import derive_seed
from ..imports.user_frames import user_frame
from ..job.dataclass_options import check_fields
from ..job.function_options import OptionError, check_call
from ..job.job_file import TERMS, Choice, Job, JobFile, judges_of, losses_of, weights_of
from ..job.object_names import is_object_name, missing_object
from ..job.problems import Path, Problem, dotted_path, suggest
from ..job.user_code import is_import_path, load_function
from ..models.data_shape import ImageTooSmallError
from ..models.model_registry import build_model, check_model
from ..plugins.number_words import counted
from ..reproducibility.seeding import seed_all
from .given_objects import data_maker, model_maker
from .parameter_patterns import matches_nothing
from .reduced_run import Reduction

_Made = TypeVar("_Made")


def check_names(job_file: JobFile, given: Collection[str] = ()) -> list[Problem]:
    """Return what is wrong with names and options, as far as can be told without reading data.

    Args:
        job_file: The job.
        given: Keys for which a program has given an object.
    """
    job = job_file.job
    names = {key: choice.name for key, choice in choices_of(job, given).items()}
    missing = {key: name for key, name in names.items() if is_object_name(name) and key not in given}
    problems = [
        Problem(_name_path(_path_of(key), job_file), missing_object(key.partition("[")[0], name))
        for key, name in missing.items()
    ]
    known_otherwise = {*given, *missing}
    for key, choice, check in (("model", job.model, check_model), ("data", job.data, check_data)):
        problems += [] if key in known_otherwise else _check_choice(key, choice, check, job_file)
    problems += _check_schedule(job.schedule, job_file)
    asked = job.sample_weights
    if (
        isinstance(asked, str)
        and asked != BALANCED
        and not is_object_name(asked)
        and not is_import_path(asked)
    ):
        known = f"expected {BALANCED}, a mapping of class to weight, or your own module:function"
        problems.append(Problem(("sample_weights",), f"'{asked}' is unknown; {known}"))
    problems += [_placed(problem, ("loss",), job_file) for problem in check_loss(job.loss)]
    for i, turn in enumerate(job.alternate):
        problems += [
            _placed(problem, ("alternate", i, "loss"), job_file) for problem in check_loss(turn.loss)
        ]
    for key, choice in judges_of(job, given).items():
        problems += [_placed(problem, _path_of(key), job_file) for problem in check_metric(choice)]
    try:
        resolve_device(job.device)
    except JobError as error:
        problems.append(Problem(("device",), str(error)))
    return problems


def choices_of(job: Job, given: Collection[str]) -> dict[str, Choice]:
    """Return what a job names that may be of the user's own, by key: an object may stand for each.

    Args:
        job: The job.
        given: Keys for which a program has given one.
    """
    own = {**losses_of(job), **judges_of(job, given), **weights_of(job)}
    return {"model": job.model, "data": job.data, **own}


def _with_length(data: Data, config: TrainConfig) -> Data:
    """Return data whose training part, if it is a stream, is as long as the run.

    Raises:
        JobError: The run is to end after passes over a stream, whose length nobody knows.
    """
    train = data.train
    if not isinstance(train, ReadDataset) or not train.is_stream:
        return data
    if config.steps is None:
        raise JobError(
            "the training data have no length, so that nobody can tell what an epoch is; write steps in its "
            "place, and eval_every and checkpoint_every if it is to be looked at before its end"
        )
    count = config.steps * config.batch_size * config.grad_accum_steps
    return dataclasses.replace(data, train=dataclasses.replace(train, count=count))


@ending_forks()
def build(
    job_file: JobFile,
    base: FilePath,
    given: Mapping[str, Any] = MappingProxyType({}),
    hold_out: HoldOut | None = None,
    reduction: Reduction | None = None,
) -> Setup:
    """Read the data, build the model, and try them together.

    Args:
        job_file: Checked by ``check_names``.
        base: Folder that relative paths and the user's own modules start from.
        given: Key to the object that a program has given in place of what the job names.
        hold_out: What to hold out for validation; by default what the job says.
        reduction: How the run is cut down, if it is.

    Raises:
        JobError: The model cannot be built, or a number does not fit the data.
        DataError: The data cannot be read, or does not fit model, loss or metric.
    """
    job = job_file.job
    device = _with_place("device", job_file, lambda: resolve_device(job.device))
    loss = _with_place("loss", job_file, lambda: make_loss(job.loss, base, device, given))
    config = _with_place("", job_file, lambda: _config(job_file, loss, base))
    # A function of the user's that draws from a global generator gives the same samples at each start, and
    # whatever the job's seed: those that are for testing must stay so.
    seed_all(derive_seed(0, "data"))
    task = task_of(loss)
    makers = {
        "model": model_maker(given["model"]) if "model" in given else None,
        "data": data_maker(given["data"], job.data.name) if "data" in given else None,
    }
    asked = hold_out or HoldOut(job.validation_fraction)
    data = _with_place(
        "data",
        job_file,
        lambda: load_data(
            job.data.name, job.data.options, base=base, task=task, given=makers["data"], asked=asked
        ),
    )
    data = _with_place("epochs", job_file, lambda: _with_length(data, config))
    weights, drawn = None, job.sample_weights
    if drawn is not None:
        own = given.get("sample_weights")
        weights = _with_place("sample_weights", job_file, lambda: weigh_samples(drawn, data.train, base, own))
    form = TargetForm.of(data.train)
    metrics = _with_place("metric", job_file, lambda: make_metrics(judges_of(job, given), base, form, given))
    config = dataclasses.replace(config, metric=next(iter(metrics)), metrics=metrics)
    if reduction is not None:
        plan = Plan(len(data.train), config.batch_size, config.grad_accum_steps)
        steps = _with_place("schedule", job_file, lambda: config.steps_total(plan.steps_per_epoch))
        data, config = reduction.reduced(data, config, steps)
        # They are of all samples, and few could be drawn by them again and again.
        weights = None
    # The first weights come from the global generators; nothing before may have moved them.
    seed_all(derive_seed(job.seed, "model"))
    model = _with_place(
        "model",
        job_file,
        lambda: build_model(job.model.name, job.model.options, data, base=base, given=makers["model"]),
    )
    frozen = _frozen(job_file, model)
    config = dataclasses.replace(config, turns=_turns(job_file, model, frozen, base))
    setup = _with_place("schedule", job_file, lambda: Setup.of(model, data, config, frozen, weights))
    source = str(job.data.options.get("path", job.data.name))
    _with_place("schedule", job_file, lambda: _try_schedule(setup))
    for part, dataset in data.parts().items():
        _with_place("loss", job_file, partial(setup.objective.check_data, dataset, part, source))
    for turn in config.turns:
        _with_place("alternate", job_file, partial(try_out, _with_loss(setup, turn.loss)))
    return dataclasses.replace(setup, tried=_with_place("model", job_file, lambda: try_out(setup)))


def averages_of(job_file: JobFile, setup: Setup, reduction: Reduction | None = None) -> list[WeightAverage]:
    """Return what averages the weights of a run as its job asks for it.

    Args:
        job_file: The job.
        setup: Of the run.
        reduction: How it is cut down, if it is.

    Raises:
        JobError: The run is too short for one of them.
    """
    asked = job_file.job.averaging
    rules: dict[str, Rule] = {}
    if asked is not None and asked.ema is not None:
        rules["ema"] = ExponentialMovingAverage(asked.ema.decay, asked.ema.every, asked.ema.warmup)
    if asked is not None and asked.swa is not None:
        rules["swa"] = StochasticWeightAverage(asked.swa.start, asked.swa.every)
    if reduction is not None:
        rules = {name: reduction.rule(rule) for name, rule in rules.items()}
    problems = [
        Problem(
            ("averaging", name),
            f"would average nothing: the run has {counted(setup.steps_total, 'step')}, "
            f"{setup.plan.steps_per_epoch} an epoch; choose a smaller 'every'"
            f"{' or an earlier start' * (name == 'swa')}",
        )
        for name, rule in rules.items()
        if first_update(rule, setup) is None
    ]
    if problems:
        raise job_file.error(problems)
    return [WeightAverage(rule, setup) for rule in rules.values()]


def _config(job_file: JobFile, loss: Loss, base: FilePath) -> TrainConfig:
    """Return the settings, but for the metrics, which are made for the data."""
    job = job_file.job
    stopping = job.early_stopping
    return TrainConfig(
        batch_size=job.batch_size,
        epochs=job.epochs,
        steps=job.steps,
        grad_accum_steps=job.grad_accum_steps,
        eval_batch_size=job.eval_batch_size,
        loss=loss,
        schedule=_schedule(job.schedule, base),
        early_stopping=EarlyStopping(stopping.patience, stopping.min_delta) if stopping else None,
        restore_best=job.restore_best,
        eval_every=job.eval_every,
        checkpoint_every=job.checkpoint_every,
        snapshot_every=job.snapshot_every,
        keep_checkpoints=job.keep_checkpoints,
        seed=job.seed,
        device=job.device,
    )


def _turns(job_file: JobFile, model: nn.Module, frozen: Collection[str], base: FilePath) -> tuple[Turn, ...]:
    """Return the parts of the model that are trained by turns.

    Raises:
        JobError: A pattern names none, a loss cannot be made, or a parameter has no turn.
    """
    job, problems, turns = job_file.job, list[Problem](), list[Turn]()
    trained = [name for name in named_parameters(model) if name not in frozen]
    for i, turn in enumerate(job.alternate):
        matched: set[str] = set()
        for pattern in turn.match.split("|"):
            found = set(match_parameters(model, pattern)).intersection(trained)
            if not found:
                problems.append(Problem(("alternate", i, "match"), matches_nothing(pattern, trained)))
            matched |= found
        try:
            loss = make_loss(turn.loss, base, resolve_device(job.device))
        except JobError as error:
            problems.append(Problem(("alternate", i, "loss"), str(error).removeprefix("loss ")))
        else:
            turns.append(Turn(frozenset(matched), loss, turn.steps))
    left = [name for name in trained if turns and not any(name in turn.parameters for turn in turns)]
    if left and not problems:
        message = f"no turn trains '{left[0]}'; name all parameters, or freeze those that are to stay"
        problems.append(Problem(("alternate",), message))
    if problems:
        raise job_file.error(problems)
    return tuple(turns)


def _with_loss(setup: Setup, loss: Loss) -> Setup:
    objective = dataclasses.replace(setup.objective, loss=loss)
    return dataclasses.replace(
        setup, config=dataclasses.replace(setup.config, loss=loss), objective=objective
    )


def _schedule(choice: Choice, base: FilePath) -> Schedule:
    """Return the schedule of a job.

    Raises:
        JobError: A function of the user's cannot be imported, or does not take the options.
    """
    if not is_import_path(choice.name):
        return SCHEDULES[choice.name](**choice.options)
    try:
        function = load_function(choice.name, base)
        # Step and number of steps, whatever they are called there.
        check_call(function, choice.options, list(inspect.signature(function).parameters)[:2])
    except (OptionError, ValueError) as error:
        raise JobError(f"schedule '{choice.name}': {error}") from error
    return GivenSchedule(choice.name, function, choice.options)


def _try_schedule(setup: Setup) -> None:
    """Ask a function of the user's for factors, before the run does.

    Raises:
        JobError: It raises, or returns what is none.
    """
    schedule = setup.config.schedule
    if not isinstance(schedule, GivenSchedule):
        return
    try:
        try_schedule(schedule, setup.steps_total)
    except JobError:
        raise
    except Exception as error:
        raise JobError(
            f"schedule '{schedule.name}': raised {type(error).__name__}: {error}; at {user_frame(error)}"
        ) from error


def _frozen(job_file: JobFile, model: nn.Module) -> set[str]:
    """Return the parameters that the job's patterns name.

    Raises:
        JobError: A pattern names none, or nothing would be left to train.
    """
    problems, frozen = [], set[str]()
    for i, pattern in enumerate(job_file.job.freeze):
        matched = match_parameters(model, pattern)
        frozen.update(matched)
        if not matched:
            problems.append(Problem(("freeze", i), matches_nothing(pattern, named_parameters(model))))
    trained = {name for name, p in named_parameters(model).items() if p.requires_grad}
    if frozen and not trained - frozen:
        problems.append(Problem(("freeze",), "leaves no parameter to train; freeze fewer"))
    if problems:
        raise job_file.error(problems)
    return frozen


def _with_place(key: str, job_file: JobFile, make: Callable[[], _Made]) -> _Made:
    """Run ``make``; an error then says where in the job its cause was written."""
    path: Path = (key,) if key else ()
    try:
        return make()
    except (JobError, DataError) as error:
        # Some messages start with the key that they are about.
        first = str(error).partition(" ")[0]
        path = (first,) if first in Job.model_fields else path
        if isinstance(error, ImageTooSmallError) and "size" in job_file.job.data.options:
            path = ("data", "size")
        text = str(error).removeprefix(f"{path[0]} ") if path else str(error)
        raise type(error)(f"{job_file.document.told(path)}: {dotted_path(path) or 'job'}: {text}") from error


def _check_choice(
    key: str, choice: Choice, check: Callable[[str, Mapping[str, Any]], object], job_file: JobFile
) -> list[Problem]:
    try:
        check(choice.name, choice.options)
    except OptionError as error:
        return [dataclasses.replace(p, path=(key, *p.path)) for p in error.problems]
    except (JobError, DataError) as error:
        return [Problem(_name_path((key,), job_file), str(error).removeprefix(f"{key} "))]
    return []


def _check_schedule(choice: Choice, job_file: JobFile) -> list[Problem]:
    if is_import_path(choice.name):
        return []
    if choice.name not in SCHEDULES:
        message = f"'{choice.name}' is unknown; {suggest(choice.name, SCHEDULES)}"
        return [Problem(_name_path(("schedule",), job_file), message)]
    problems = check_fields(SCHEDULES[choice.name], choice.options, f"schedule '{choice.name}'")
    return [dataclasses.replace(p, path=("schedule", *p.path)) for p in problems]


def _placed(problem: Problem, path: Path, job_file: JobFile) -> Problem:
    """Return a problem of a loss or a metric with its path in the job, as the job has written it."""
    below = problem.path
    if below[:1] == (TERMS,) and (*path, TERMS) not in job_file.document.origins:
        below = below[1:]
    if below[-1:] == ("name",):
        return dataclasses.replace(problem, path=_name_path((*path, *below[:-1]), job_file))
    return dataclasses.replace(problem, path=(*path, *below))


def _path_of(key: str) -> Path:
    """Return the path of a key that may end with the place in a list, as in ``metrics[0]``."""
    name, _, place = key.partition("[")
    return (name, int(place.removesuffix("]"))) if place else (name,)


def _name_path(path: Path, job_file: JobFile) -> Path:
    """Return where a choice's name was written: at its own place if there is a bare name."""
    return (*path, "name") if (*path, "name") in job_file.document.origins else path
