"""The registry of losses and metrics: names and options of a job, builtin or of the user's own."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ..hooks.errors import JobError, RingfenceError, visible
from ..imports.user_frames import user_frame
from ..job.dataclass_options import check_fields
from ..job.function_options import OptionError, check_call, check_options
from ..job.job_file import MAX_TERMS, SUM, TERMS, Choice
from ..job.object_names import is_object_name, label_of
from ..job.problems import Problem, describe
from ..job.user_code import is_import_path, load_function, suggest_own
from .given_loss import given_loss
from .loss import Loss, Term
from .loss_sum import LossSum
from .losses import LOSSES
from .metrics import LOSS, METRICS, Metric, TargetForm
from .own_metric import facts_of, metric_of_class, metric_of_object

_PARTS = ("output", "target")
_FOR_TERMS = (*_PARTS, "weight")
_FOR_METRICS = (*_PARTS, "label")
_FOR_OWN_METRICS = (*_FOR_METRICS, "higher_is_better", "key")
#: What a line of numbers says beside the metrics.
_TAKEN = frozenset({"best", "epoch", "kind", "part", "plugin", "samples", "step", "time"})
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_loss(choice: Choice) -> list[Problem]:
    """Return what is wrong with a loss, by path below its key; nothing is imported."""
    if choice.name != SUM:
        parts = () if choice.name in LOSSES and LOSSES[choice.name].by_model else _PARTS
        return _check_loss(choice.name, choice.options, parts)
    terms = choice.options.get(TERMS)
    problems = [
        Problem((name,), f"is no option of several losses, which have only '{TERMS}'", at_key=True)
        for name in choice.options
        if name != TERMS
    ]
    if not isinstance(terms, list) or not terms:
        return [*problems, Problem((TERMS,), "expected a list of losses: [{name: …, weight: 1.0}, …]")]
    if len(terms) > MAX_TERMS:
        problems.append(Problem((TERMS,), f"has {len(terms)} losses; at most {MAX_TERMS} are taken"))
    for place, term in enumerate(terms):
        try:
            name, options = _term(term)
        except TypeError as error:
            found = [Problem((), str(error))]
        else:
            found = _check_loss(name, options, _FOR_TERMS)
        problems += [dataclasses.replace(p, path=(TERMS, place, *p.path)) for p in found]
    return problems


def make_loss(
    choice: Choice, base: Path, device: torch.device, given: Mapping[str, Any] | None = None
) -> Loss:
    """Return the loss of a job; what it names by import path is imported.

    Args:
        choice: Checked by ``check_loss``.
        base: Folder where modules are looked for too.
        device: Where the loop runs.
        given: Objects by key, ``loss`` or ``loss[0]``, in the place of what has that name.

    Raises:
        JobError: It cannot be imported or made.
    """
    objects = given or {}
    if choice.name != SUM:
        return _single(choice.name, choice.options, base, device, objects.get(LOSS))
    terms = []
    for place, written in enumerate(choice.options[TERMS]):
        name, options = _term(written)
        own, rest = _apart(options, _FOR_TERMS)
        loss = _loss(name, rest, base, device, objects.get(f"{LOSS}[{place}]"))
        terms.append(
            Term(_short(name), loss, float(own.get("weight", 1.0)), own.get("output"), own.get("target"))
        )
    return LossSum(tuple(_told_apart(terms)))


def task_of(loss: Loss) -> Literal["auto", "classification", "regression"]:
    """Return what a loss is for, which tells readers of data what to predict where nothing else does."""
    kinds = {term.loss.classes for term in loss.terms}
    if len(kinds) > 1 or None in kinds:
        return "auto"
    return "classification" if True in kinds else "regression"


def check_metric(choice: Choice) -> list[Problem]:
    """Return what is wrong with a metric, by path below its key; nothing is imported."""
    is_own = is_import_path(choice.name) or is_object_name(choice.name)
    own, rest = _apart(choice.options, _FOR_OWN_METRICS if is_own else _FOR_METRICS)
    problems = _check_own(own)
    if is_own:
        return problems
    if choice.name not in METRICS:
        return [Problem(("name",), f"'{choice.name}' is unknown; {suggest_own(choice.name, METRICS)}")]
    if choice.name == LOSS and choice.options:
        return [*problems, Problem((), "is the loss itself, which takes no options")]
    try:
        check_options(METRICS[choice.name].build or _nothing, rest)
    except OptionError as error:
        problems += error.problems
    return problems


def make_metrics(
    choices: Mapping[str, Choice],
    base: Path,
    form: TargetForm,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Metric]:
    """Return the metrics of a job by the names that they are told under; the first one judges.

    One that is listed twice counts once.

    Args:
        choices: By key of the job, each checked by ``check_metric``.
        base: Folder where modules are looked for too.
        form: Of the targets.
        given: Objects by key, in the place of what has that name.

    Raises:
        JobError: One cannot be imported or made, or two are called alike.
    """
    made: dict[str, Metric] = {}
    seen: list[Choice] = []
    for key, choice in choices.items():
        if choice in seen and key not in (given or {}):
            continue
        seen.append(choice)
        label = str(choice.options.get("label", _short(choice.name)))
        if label in made or not (_is_free(label) or choice.name == LOSS):
            raise JobError(
                f"{key}: what it measures would be called '{label}', as something else is; give it a name: "
                f"{{name: {choice.name}, label: …}}"
            )
        made[label] = _metric(choice, label, base, form, (given or {}).get(key))
    return made


def _single(name: str, options: Mapping[str, Any], base: Path, device: torch.device, given: Any) -> Loss:
    own, rest = _apart(options, _PARTS)
    loss = _loss(name, rest, base, device, given)
    return LossSum((Term("", loss, 1.0, own.get("output"), own.get("target")),)) if own else loss


def _loss(name: str, options: Mapping[str, Any], base: Path, device: torch.device, given: Any) -> Loss:
    if given is None and not is_import_path(name):
        return LOSSES[name](**options)
    with _telling(f"loss '{name}'"):
        value = load_function(name, base) if given is None else given
        if inspect.isclass(value):
            check_call(value, options)
            value = value(**options)
        elif options:
            # The first two are outputs and targets, whatever they are called.
            check_call(value, options, [*inspect.signature(value).parameters][:2])
            value = partial(value, **options)
    if not callable(value):
        raise JobError(
            f"loss '{name}': is a {visible(type(value).__name__)}, which cannot be called with outputs and "
            "targets"
        )
    return given_loss(value, device)


def _metric(choice: Choice, label: str, base: Path, form: TargetForm, given: Any) -> Metric:
    is_own = given is not None or is_import_path(choice.name)
    own, rest = _apart(choice.options, _FOR_OWN_METRICS if is_own else _FOR_METRICS)
    parts = {part: own[part] for part in _PARTS if part in own}
    if not is_own:
        builtin = METRICS[choice.name]
        if not rest:
            return dataclasses.replace(builtin, **parts) if parts else builtin
        checked = check_options(builtin.build or _nothing, rest)
        return dataclasses.replace(builtin, build=partial(builtin.build or _nothing, **checked), **parts)
    if given is not None and not inspect.isclass(given):
        return dataclasses.replace(metric_of_object(given, form, label), **parts)
    with _telling(f"metric '{choice.name}'"):
        value = load_function(choice.name, base) if given is None else given
        check_call(value, rest, facts_of(form))
    more = {key: own[key] for key in ("higher_is_better", "key") if key in own}
    return metric_of_class(value, rest, form, label, **more, **parts)


def _term(written: Any) -> tuple[str, dict[str, Any]]:
    """Return name and options of one of several losses, as the job has it.

    Raises:
        TypeError: It is written in another way; the message says how it is to be.
    """
    name = written.get("name") if isinstance(written, Mapping) else written
    if not isinstance(name, str) or not name:
        raise TypeError(f"expected the name of a loss, or {{name: …, weight: 1.0}}, got {describe(written)}")
    if name == SUM:
        raise TypeError("several losses inside of several; list them all at once")
    if name in LOSSES and LOSSES[name].by_model:
        raise TypeError(f"loss '{name}' stands alone: the model returns the whole of it")
    return name, {k: v for k, v in written.items() if k != "name"} if isinstance(written, Mapping) else {}


def _check_loss(name: str, options: Mapping[str, Any], ours: Sequence[str]) -> list[Problem]:
    own, rest = _apart(options, ours)
    problems = _check_own(own)
    if is_import_path(name) or is_object_name(name):
        return problems
    if name not in LOSSES:
        return [Problem(("name",), f"'{name}' is unknown; {suggest_own(name, LOSSES)}")]
    return problems + check_fields(LOSSES[name], rest, f"loss '{name}'")


def _check_own(own: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem((name,), f"expected {_WANTED[name][0]}, got {describe(value)}")
        for name, value in own.items()
        if not _WANTED[name][1](value)
    ]


def _apart(options: Mapping[str, Any], ours: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that say what to do with a loss or a metric, and its own."""
    own = {name: value for name, value in options.items() if name in ours and value is not None}
    return own, {name: value for name, value in options.items() if name not in ours}


def _short(name: str) -> str:
    """Return what something is called that a job names: of an import path the last part."""
    return re.split(r"[.:]", label_of(name))[-1]


def _told_apart(terms: Sequence[Term]) -> Iterator[Term]:
    """Yield terms with names of their own: alike ones by the part that they take, or else by their place."""
    alike = Counter(term.name for term in terms)
    for place, term in enumerate(terms):
        if alike[term.name] > 1:
            part = place if term.output is None else term.output
            yield dataclasses.replace(term, name=f"{term.name}_{part}")
        else:
            yield term


def _is_key(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_free(label: str) -> bool:
    return label not in _TAKEN and label != LOSS and not label.startswith(f"{LOSS}_")


#: Wants of our own beside the options of a loss or a metric: what it is to be, and whether a value is that.
_WANTED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "output": ("a key or a place of what the model returns", _is_key),
    "target": ("a key or a place of the targets", _is_key),
    "weight": ("a number above 0", lambda v: _is_number(v) and 0 < v < math.inf),
    "label": (
        "a name of letters, digits, '_', '.' and '-' that nothing else in a line of numbers has",
        lambda v: isinstance(v, str) and bool(_LABEL.fullmatch(v)) and _is_free(v),
    ),
    "higher_is_better": ("true or false", lambda v: isinstance(v, bool)),
    "key": ("text", lambda v: isinstance(v, str)),
}


def _nothing(*_: Any) -> None:
    """Take no options: there is nothing to be made of the loss."""


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Say what of the user's own could not be made, and where."""
    try:
        yield
    except RingfenceError:
        raise
    except (OptionError, ValueError) as error:
        raise JobError(f"{what}: {error}") from error
    except Exception as error:
        raise JobError(f"{what}: raised {type(error).__name__}: {error}; at {user_frame(error)}") from error
