"""The job file, typed: what to train, on what, with which plugins.

``read_job`` reads a file, lays flags over it and checks everything that can be
told without looking at plugins, models or data. Every fault is shown at once,
each with file, line, column and key (or the flag it came from) and what would
be right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from ..hooks.permissions import MAX_MEMORY_FRACTION
from .flags import DEFAULT_CHOICES, DEFAULT_METRIC, DEFAULT_METRICS, apply_flags
from .problems import Path, Problem, describe, explain, suggest, with_period
from .python_job import apply_keys
from .yaml_document import Document, dump_yaml, read_yaml


def _as_choice(value: object) -> object:
    """Let a bare name stand for ``{name: it}``."""
    return {"name": value} if isinstance(value, str) else value


#: The name of several losses, and its option that lists them: ``loss: [A, B]`` is short for that.
SUM, TERMS = "sum", "terms"
MAX_TERMS = 16


def _as_losses(value: object) -> object:
    """Let a bare name, or a list of losses, stand for a mapping."""
    return {"name": SUM, TERMS: value} if isinstance(value, list) else _as_choice(value)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Choice(_Strict):
    """Something chosen by name, with its own options beside the name."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        """Everything beside the name."""
        return dict(self.model_extra or {})

    def file_form(self) -> Any:
        """Return it as it would be written in a file where it may be a bare name."""
        return {"name": self.name, **self.options} if self.options else self.name


Named = Annotated[Choice, BeforeValidator(_as_choice)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Workers = Annotated[int, Field(ge=1, le=256)]
Threads = Annotated[int, Field(ge=1, le=1024)]
#: torch makes about two of each, and a worker is ended beyond 128.
WorkerThreads = Annotated[int, Field(ge=1, le=60)]
#: Less than the kernel's own limit of a wait, 2^31 milliseconds.
Seconds = Annotated[float, Field(gt=0, le=10**6)]
Fraction = Annotated[float, Field(gt=0, le=MAX_MEMORY_FRACTION)]
Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=10**9)]
#: A word, or what each class has: told apart first, so that a fault is that of one of the two.
SampleWeights = Annotated[
    Annotated[str, Field(min_length=1), Tag("word")]
    | Annotated[dict[str | int, Weight], Field(min_length=1), Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, Mapping) else "word"),
]


class EarlyStopping(_Strict):
    """When to stop before the end, judged by the job's metric at each evaluation."""

    patience: Count = Field(description="Evaluations without a better metric after which training stops")
    min_delta: float = Field(0.0, ge=0, description="Gain that counts as better")


class Ema(_Strict):
    """An exponential moving average of the weights."""

    decay: float = Field(0.999, gt=0, lt=1, description="Share of the average that an update leaves")
    every: Count = Field(1, description="Steps between updates")
    warmup: bool = Field(
        True, description="The n-th update leaves at most (1 + n) / (10 + n): the first weights go sooner"
    )


class Swa(_Strict):
    """Stochastic weight averaging: the mean of the weights in the last part of the run."""

    start: float = Field(0.75, ge=0, lt=1, description="Share of the steps after which it begins")
    every: Count | None = Field(None, description="Steps between the weights that go in; by default an epoch")


class Averaging(_Strict):
    """Averages of the weights that are kept beside them."""

    ema: Ema | None = Field(None, description="An exponential moving average; `{}` with all defaults")
    swa: Swa | None = Field(None, description="Stochastic weight averaging; `{}` with all defaults")

    @model_validator(mode="after")
    def _name_one(self) -> Averaging:
        if self.ema is None and self.swa is None:
            raise ValueError(
                "names no average; write 'averaging: ema', 'averaging: swa', or {ema: {}, swa: {}}"
            )
        return self


class StartFrom(_Strict):
    """The weights that a run starts from."""

    run: str = Field(min_length=1, description="Folder of a run, or a `.safetensors` file")
    checkpoint: Literal["best", "last"] | Annotated[int, Field(ge=0, le=10**9)] = Field(
        "best", description="Which state of a run: `best`, `last`, or the one after so many steps"
    )
    weights: Literal["model", "ema", "swa"] = Field(
        "model", description="Whose: the model's own, or an average that the run has kept to its end"
    )
    exclude: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="Patterns of the names of tensors that are left as they are made"
    )


class TurnJob(_Strict):
    """A part of the model, and what its turns minimise."""

    match: str = Field(min_length=1, description="Patterns of the names of its parameters, `|` between two")
    loss: Annotated[Choice, BeforeValidator(_as_losses)] = Field(description="As `loss` of the job")
    steps: Count = Field(1, description="Steps in a row")


def _as_start(value: object) -> object:
    """Let a bare path stand for ``{run: it}``."""
    return {"run": value} if isinstance(value, str) else value


def _as_average(value: object) -> object:
    """Let a bare name stand for ``{name: {}}``."""
    return {value: {}} if isinstance(value, str) else value


class PluginJob(_Strict):
    """One plugin of a job: its name, its options, and how it is to be run."""

    name: str = Field(description="Entry-point name of the plugin")
    options: dict[str, Any] = Field(default_factory=dict, description="Arguments of its constructor")
    workers: Workers = Field(
        1, description="Processes that share its budget; more than 1 only for augment plugins"
    )
    every: Count = Field(1, description="Steps between calls of a monitor")
    deadline_s: Seconds | None = Field(
        None, description="Longest that one call may take; by default what its role allows, 30 s as a rule"
    )
    start_deadline_s: Seconds = Field(60.0, description="Longest that importing and constructing it may take")
    on_failure: Literal["restart", "disable", "abort"] | None = Field(
        None, description="What a fault does; by default what its role says, `disable` for monitors"
    )
    isolation: Literal["sandbox", "trusted"] = Field(
        "sandbox", description="`trusted` runs it in the trainer's own process, without any protection"
    )
    memory_fraction: Fraction | None = Field(
        None, description="Share of the machine's memory; by default the job's, which it may not exceed"
    )
    threads: WorkerThreads = Field(1, description="Threads that torch may use inside one call")
    allow: list[Literal["stop", "evaluate"]] = Field(
        default_factory=list,
        description="What a monitor may ask for: that the run stop, or evaluate; the loop then waits for it",
    )
    read: list[str] = Field(
        default_factory=list, description="Files and folders that it may read besides its own code"
    )
    write: list[str] = Field(
        default_factory=list, description="Files and folders that it may read and change"
    )
    connect: list[str] = Field(
        default_factory=list, description="Hosts that it may connect to, each as `HOST:PORT`"
    )

    def file_form(self) -> dict[str, Any]:
        """Return the plugin as it would be written in a file."""
        fields = self.model_dump()
        settings = {key: fields[key] for key in PLUGIN_SETTINGS if fields[key] is not None}
        return {self.name: self.options, **settings}


PLUGIN_SETTINGS = tuple(name for name in PluginJob.model_fields if name not in {"name", "options"})


#: Tells the validators of ``Job`` that whoever asks makes messages of its own.
_IN_DOCUMENT = object()
_Made = TypeVar("_Made")


class Job(_Strict):
    """A job, resolved: every key has its value.

    ``Job(model="cnn", data="mnist10k", epochs=1, plugins=[{"optim": {"algorithm": "adamw", "lr": 1e-3}}])``
    is what a file with these keys is.

    Raises:
        JobError: A key is wrong; the message lists all that are, each with what would be right.
    """

    model: Named = Field(
        description="`mlp`, `cnn`, `resnet18`, `vit`, `transformer`, `lstm`, `unet`, or your own "
        "`module:function`"
    )
    data: Named = Field(
        description="`mnist10k`, `idx`, `folder`, `arrays`, `table`, `text`, `segmentation`, `detection`, "
        "`webdataset`, or your own `module:function`"
    )
    epochs: Count | None = Field(None, description="Passes over the training data; either this or `steps`")
    steps: Count | None = Field(None, description="Optimizer steps; either this or `epochs`")
    batch_size: Count = Field(64, description="Samples of one forward pass")
    grad_accum_steps: Count = Field(1, description="Batches whose gradients make one optimizer step")
    eval_batch_size: Count = Field(512, description="Samples of one forward pass in evaluation")
    loss: Annotated[Choice, BeforeValidator(_as_losses)] = Field(
        Choice(name=DEFAULT_CHOICES["loss"]),
        description="`cross_entropy`, `focal`, `bce`, `dice`, `mse`, `l1`, `huber`, `smooth_l1`, `cosine`, "
        "`ctc`, `info_nce`, `model`, your own `module:function`, or a list of several",
    )
    alternate: list[TurnJob] = Field(
        default_factory=list,
        max_length=32,
        description="Parts of the model that are trained by turns, each with a loss of its own, as in a GAN; "
        "`loss` is then that of evaluations",
    )
    metric: Named = Field(
        Choice(name=DEFAULT_CHOICES["metric"]),
        description="`accuracy`, `top5_accuracy`, `f1`, `precision`, `recall`, `auroc`, `iou`, `dice`, "
        "`perplexity`, `binary_accuracy`, `binary_f1`, `binary_precision`, `binary_recall`, `binary_auroc`, "
        "`mse`, `mae`, `r2`, `loss`, or your own `module:function`; by default that which fits the loss",
    )
    metrics: list[Named] = Field(
        default_factory=list,
        max_length=32,
        description="Metrics that are measured beside the one that judges; the first judges where the job "
        "names none",
    )
    averaging: Annotated[Averaging | None, BeforeValidator(_as_average)] = Field(
        None, description="Averages of the weights, evaluated and saved beside them: `ema`, `swa`, or both"
    )
    schedule: Named = Field(
        Choice(name=DEFAULT_CHOICES["schedule"]),
        description="`constant`, `linear`, `cosine`, `cosine_restarts`, `polynomial`, `step`, `multistep`, "
        "`exponential`, `one_cycle`, `plateau`, or your own `module:function`",
    )
    validation_fraction: Share | None = Field(
        None,
        description="Share of the training samples that is held out to judge the run by, where the data "
        "bring no validation part; by default 0.1. With 0 the test data judge",
    )
    sample_weights: SampleWeights | None = Field(
        None,
        description="By what the samples of an epoch are drawn, with replacement: `balanced` (each class "
        "equally often), class to weight, or your own `module:function` of the training targets",
    )
    early_stopping: EarlyStopping | None = Field(None, description="Stop when the metric no longer improves")
    start_from: Annotated[StartFrom | None, BeforeValidator(_as_start)] = Field(
        None,
        description="Folder of a run or `.safetensors` file whose weights the model starts with, by name",
    )
    freeze: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="Patterns of the names of parameters that stay as they are"
    )
    restore_best: bool = Field(
        False, description="End with the weights of the best checkpoint: they are tested, and left"
    )
    eval_every: Count | None = Field(None, description="Steps between evaluations; by default each epoch")
    checkpoint_every: Count | None = Field(
        None, description="Steps between checkpoints; by default each epoch"
    )
    snapshot_every: Count = Field(
        100, description="Steps between the snapshots in memory that a plugin's restart goes back to"
    )
    keep_checkpoints: Count = Field(3, description="How many of the latest checkpoints stay on disk")
    stop_within_s: Seconds = Field(
        5.0, description="Longest that a step may still take after Ctrl-C or SIGTERM, before it is given up"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Decides every random number of the run")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$", description="`auto`, `cpu`, `cuda` or `cuda:N`"
    )
    threads: Threads | None = Field(
        None, description="Threads of the trainer; by default `OMP_NUM_THREADS`, or one a core"
    )
    memory_fraction: Fraction | None = Field(
        None,
        description="Share of the machine's memory for each plugin, never more than 0.15; by default "
        "that, or less where many plugins share 0.9",
    )
    base_folder: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Folder that relative paths and modules start from; by default the job file's"
    )
    plugins: list[PluginJob] = Field(
        default_factory=list, description="Plugins, in the order in which they run"
    )

    @model_validator(mode="before")
    @classmethod
    def _judge_by_loss(cls, data: Any) -> Any:
        """Give a job that names no metric the first that it lists, or the one that goes with its loss."""
        if not isinstance(data, dict) or data.get("metric") is not None:
            return data
        beside, loss = data.get("metrics"), data.get("loss") or DEFAULT_CHOICES["loss"]
        if isinstance(beside, list) and beside:
            return {**data, "metric": beside[0]}
        name = loss.get("name") if isinstance(loss, dict) else loss
        known = isinstance(name, str) and DEFAULT_METRICS.get(name)
        return {**data, "metric": known or DEFAULT_METRIC}

    @model_validator(mode="wrap")
    @classmethod
    def _name_faults(cls, data: Any, build: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Take a program's values as a file's, and say in the same words what is wrong with them."""
        if info.context is _IN_DOCUMENT or not isinstance(data, Mapping):
            return build(data)
        document = Document("Job()")
        return _checked(document, apply_keys(document, data, document.name), build)

    def base(self, file: FilePath) -> FilePath:
        """Return the folder that relative paths start from, absolute.

        Args:
            file: The job's.
        """
        return (file.parent / os.path.expanduser(self.base_folder or "")).resolve()  # noqa: PTH111 - raises nothing

    def based(self, folder: FilePath) -> Job:
        """Return the job as it is to be written to a file that lies elsewhere.

        Args:
            folder: That its relative paths start from.
        """
        return self.model_copy(update={"base_folder": str(folder)})

    def to_yaml(self) -> str:
        """Return the job as a file that reads back to an equal job."""
        return dump_yaml(self.file_form())

    def file_form(self) -> dict[str, Any]:
        """Return the job as it would be written in a file."""
        data = {key: value for key, value in self.model_dump().items() if key != "plugins"}
        data["metric"] = self.metric.file_form()
        data["metrics"] = [metric.file_form() for metric in self.metrics]
        # A key without a value means its default, and both epochs and steps would be refused.
        written = {key: value for key, value in data.items() if value is not None}
        return written | {"plugins": [plugin.file_form() for plugin in self.plugins]}


def judges_of(job: Job, given: Collection[str] = ()) -> dict[str, Choice]:
    """Return the metrics of a job, by the keys under which it has them: the first one judges.

    Args:
        job: The job.
        given: Keys for which a program has given an object.
    """
    listed = {f"metrics[{i}]": choice for i, choice in enumerate(job.metrics)}
    is_first = job.metrics[:1] == [job.metric] and "metric" not in given
    return listed if is_first else {"metric": job.metric, **listed}


def losses_of(job: Job) -> dict[str, Choice]:
    """Return the loss of a job, or each of several, by the keys under which it has them."""
    terms = job.loss.options.get(TERMS) if job.loss.name == SUM else None
    if not isinstance(terms, list):
        return {"loss": job.loss}
    named = ({"name": term} if isinstance(term, str) else term for term in terms)
    return {
        f"loss[{i}]": Choice(**{str(key): value for key, value in term.items()})
        for i, term in enumerate(named)
        if isinstance(term, Mapping) and isinstance(term.get("name"), str) and term["name"]
    }


def weights_of(job: Job) -> dict[str, Choice]:
    """Return by what a job draws samples, by its key, if that is a word."""
    asked = job.sample_weights
    return {"sample_weights": Choice(name=asked)} if isinstance(asked, str) else {}


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job and the file it was read from, for messages about what only later steps can tell.

    Attributes:
        job: The resolved job.
        document: Where each of its values was written.
    """

    job: Job
    document: Document

    def option_path(self, plugin: int, *rest: str | int) -> Path:
        """Return the path of the options of the plugin at index ``plugin``, or of a part of them."""
        return ("plugins", plugin, self.job.plugins[plugin].name, *rest)

    def error(self, problems: list[Problem]) -> Exception:
        """Return the problems as one error that names file, line and key."""
        return self.document.error(problems)


def read_job(
    path: FilePath | str,
    sets: Sequence[str] = (),
    plugins: Sequence[str] = (),
    *,
    data: bytes | None = None,
    keys: Mapping[str, Any] | None = None,
) -> JobFile:
    """Read a job file and lay flags over it, or the values of a program.

    Args:
        path: The YAML file.
        sets: Values of ``--set``: ``key=value``.
        plugins: Values of ``--plugin``: ``NAME[:key=value,…]``.
        data: What the file holds, where somebody has read it already.
        keys: A program's, as ``apply_keys`` takes them.

    Raises:
        JobError: The file or a flag is wrong; the message lists all faults.
    """
    document = read_yaml(path, data)
    problems = apply_flags(document, sets, plugins, PLUGIN_SETTINGS)
    return check_job(document, [*problems, *apply_keys(document, keys or {})])


def check_job(document: Document, problems: Sequence[Problem] = ()) -> JobFile:
    """Return the job that ``document`` holds.

    Args:
        document: What was read.
        problems: Faults found so far, shown with those found here.

    Raises:
        JobError: There is at least one fault.
    """
    return JobFile(
        _checked(document, problems, lambda data: Job.model_validate(data, context=_IN_DOCUMENT)), document
    )


def _checked(
    document: Document, problems: Sequence[Problem], build: Callable[[dict[str, Any]], _Made]
) -> _Made:
    """Return what ``build`` makes of a document, or raise one error with all that is wrong."""
    found = list(problems)
    if not isinstance(document.value, dict):
        found.append(Problem((), "a job is a mapping; it starts like 'model: cnn' on a line of its own"))
        raise document.error(found)
    data, names = _normalise(document.value, found)
    made: _Made | None = None
    try:
        made = build(data)
    except ValidationError as error:
        told = {problem.path for problem in problems}
        faults = (_problem(record, names, data) for record in error.errors(include_url=False))
        found += [fault for fault in faults if fault.path not in told]
    found += _across_keys(data)
    if found or made is None:
        raise document.error(found)
    return made


def _normalise(value: Mapping[Any, Any], problems: list[Problem]) -> tuple[dict[str, Any], dict[int, str]]:
    """Bring plugin entries to the form of ``PluginJob``.

    Returns:
        The job's data; and index of a plugin to its name, to find its options in the file.
    """
    data = {str(key): item for key, item in value.items()}
    names: dict[int, str] = {}
    if isinstance(data.get("plugins"), list):
        entries = [_entry(item, ("plugins", i), problems) for i, item in enumerate(data["plugins"])]
        data["plugins"] = entries
        names = {i: entry["name"] for i, entry in enumerate(entries)}
        problems += _repetitions(names)
    return data, names


def _entry(item: object, path: Path, problems: list[Problem]) -> dict[str, Any]:
    """Split one entry of ``plugins`` into name, options and settings."""
    if isinstance(item, str) and item:
        return {"name": item}
    if not isinstance(item, Mapping) or not item:
        problems.append(Problem(path, "expected a plugin: its name, or 'NAME: {option: value}'"))
        return {"name": ""}
    keys = [str(key) for key in item]
    settings = {str(key): value for key, value in item.items() if str(key) in PLUGIN_SETTINGS}
    others = [key for key in keys if key not in PLUGIN_SETTINGS]
    if not others:
        problems.append(
            Problem(path, f"names no plugin, only settings ({', '.join(keys)}); add 'NAME: {{…}}'")
        )
        return {"name": "", **settings}
    # The name is the key whose value looks like options; a second such key is a misspelt setting.
    name = next((key for key in others if item[key] is None or isinstance(item[key], Mapping)), others[0])
    problems += [_no_setting(key, name, path) for key in others if key != name]
    options = item[name]
    if options is not None and not isinstance(options, Mapping):
        message = "expected the plugin's options as a mapping, like '{lr: 0.01}'"
        problems.append(Problem((*path, name), message))
        options = None
    bad = [key for key in options or {} if not isinstance(key, str)]
    problems += [Problem((*path, name), f"has an option named {key!r}; names are text") for key in bad]
    return {"name": name, "options": dict(options or {}), **settings}


def _no_setting(key: str, name: str, path: Path) -> Problem:
    message = (
        f"is no setting of a plugin; {with_period(suggest(key, PLUGIN_SETTINGS))} "
        f"Options of '{name}' go inside its braces; "
    )
    return Problem((*path, key), message + "another plugin starts with '- '", at_key=True)


def _repetitions(names: Mapping[int, str]) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for i, name in names.items():
        if name and first.setdefault(name, i) != i:
            message = f"'{name}' is listed twice (first as plugins[{first[name]}]); a job uses a plugin once"
            problems.append(Problem(("plugins", i), message))
    return problems


def _problem(record: Mapping[str, Any], names: Mapping[int, str], data: Mapping[str, Any]) -> Problem:
    """Turn one of pydantic's records into a problem at its place in the file."""
    path = _place(record["loc"], names)
    match record["type"], path:
        case "extra_forbidden", _:
            return Problem(path, f"unknown key; {_did_you_mean(path, data)}", at_key=True)
        case "missing", _:
            return Problem(path, f"is missing; {_what(path)}")
        case (
            "model_type" | "dict_type" | "model_attributes_type",
            ("model" | "data" | "loss" | "metric" | "schedule",) | ("metrics", _),
        ):
            return Problem(path, f"{explain(record)}; write a name, or {{name: …, option: …}}")
        case "less_than_equal", (*_, "memory_fraction"):
            message = (
                f"{record['input']} is more than {MAX_MEMORY_FRACTION}, the most that a plugin may have "
            )
            return Problem(path, message + "of the machine's memory; it may be lowered, never raised")
        case "list_type", ("plugins",):
            first = next(iter(record["input"]), "NAME") if isinstance(record["input"], Mapping) else "NAME"
            return Problem(path, f"{explain(record)}; write each plugin after a dash: '- {first}: {{…}}'")
        case "list_type", ("freeze" | "metrics",) | ("start_from", "exclude") | (
            "plugins",
            _,
            "read" | "write" | "connect",
        ):
            return Problem(path, f"{explain(record)}; write '{path[-1]}: […]'")
        case _, ("start_from", "checkpoint", _):
            message = (
                f"expected best, last, or a checkpoint's number of steps, got {describe(record['input'])}"
            )
            return Problem(path[:2], message)
        case "string_pattern_mismatch", ("device",):
            return Problem(path, f"expected auto, cpu, cuda or cuda:N, got '{record['input']}'")
    return Problem(path, explain(record))


def _place(path: Path, names: Mapping[int, str]) -> Path:
    """Return where a file has what pydantic calls ``path``."""
    match path:
        case ("plugins", int(i), "options", *rest):
            return ("plugins", i, names[i], *rest)
        case ("sample_weights", "word" | "mapping", *rest):
            # Behind a key that is none of a class stands more.
            return ("sample_weights", *rest[:1])
    return path


def _did_you_mean(path: Path, data: Mapping[str, Any]) -> str:
    """Return what an unknown key may have been meant to be: an option of a plugin, if one has it."""
    key = str(path[-1])
    plugins = data.get("plugins") if len(path) == 1 else None
    for plugin in plugins if isinstance(plugins, list) else []:
        if key in plugin.get("options", {}):
            return f"did you mean that of the plugin '{plugin['name']}', plugins.{plugin['name']}.{key}?"
    return suggest(key, _known_keys(path))


_NESTED: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "early_stopping": EarlyStopping,
        "averaging": Averaging,
        "ema": Ema,
        "swa": Swa,
        "start_from": StartFrom,
    }
)


def _known_keys(path: Path) -> list[str]:
    match path:
        case (("early_stopping" | "averaging" | "start_from") as key, _):
            return list(_NESTED[key].model_fields)
        case ("averaging", ("ema" | "swa") as key, _):
            return list(_NESTED[key].model_fields)
        case _:
            return list(Job.model_fields)


def _what(path: Path) -> str:
    match path:
        case (str(key),):
            return f"add '{key}: …' ({Job.model_fields[key].description})"
        case (("early_stopping" | "start_from") as part, str(key)):
            return f"add '{key}: …' ({_NESTED[part].model_fields[key].description})"
        case (str(choice), "name") if choice in Job.model_fields:
            return f"add 'name: …' ({Job.model_fields[choice].description})"
        case (*_, key):
            return f"add '{key}: …'"
    return "add it"


def _across_keys(data: Mapping[str, Any]) -> list[Problem]:
    """Check what no key alone can tell."""
    problems = []
    given = [key for key in ("epochs", "steps") if data.get(key) is not None]
    if not given:
        problems.append(Problem((), "says neither epochs nor steps; add 'epochs: 10' or 'steps: 1000'"))
    elif len(given) > 1:
        problems.append(Problem(("steps",), "epochs and steps are both given; keep one", at_key=True))
    fraction = data.get("memory_fraction")
    plugins = data.get("plugins")
    for i, plugin in enumerate(plugins if isinstance(plugins, list) else []):
        own = plugin.get("memory_fraction")
        if isinstance(own, float) and isinstance(fraction, float) and fraction < own <= MAX_MEMORY_FRACTION:
            message = (
                f"{own} is more than the job's memory_fraction, {fraction}; a plugin may take less, not more"
            )
            problems.append(Problem(("plugins", i, "memory_fraction"), message))
    return problems
