"""``ringfence.evaluate``: how well the model of a run does on its own data, or on others of that kind."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets.arrays import Task
from ..datasets.dataset_registry import DATASETS, load_data
from ..datasets.split import HoldOut
from ..engine.config import resolve_device
from ..engine.data import Data, Dataset
from ..engine.data_digest import digest_data
from ..engine.evaluate import evaluate as measure
from ..engine.forks import ending_forks
from ..engine.loss import Loss
from ..engine.metrics import TargetForm
from ..engine.objective import Objective
from ..engine.objective_registry import check_loss, check_metric, make_loss, make_metrics, task_of
from ..engine.preprocessing import Preprocessing
from ..engine.tensor_names import named_buffers, named_parameters
from ..hooks.errors import JobError, shorten, visible
from ..hooks.types import derive_seed
from ..job.flags import options_of, split_outside
from ..job.job_file import Job, JobFile, judges_of, losses_of, read_job
from ..job.object_names import is_object_name
from ..job.problems import dotted_path, suggest
from ..job.user_code import is_import_path
from ..plugins.machine_memory import machine_bytes
from ..plugins.number_words import counted
from ..reproducibility.deterministic import repeatable
from ..reproducibility.generator_states import preserved_rng
from ..reproducibility.seeding import seed_everything
from ..tracking import run_folder
from ..tracking.model_files import CheckpointName, Tell, WeightsName
from ..tracking.model_record import ModelRecord, read_model_record
from ..tracking.own_runs import Permission, permitted
from ..tracking.preprocessing_file import read_preprocessing
from .forward_size import forward_bytes
from .inputs.sample_form import form_of
from .labelled_data import labelled_pair, labelled_path, read_parts
from .load import LoadedModel, check_batch_size, load_model

_CPU = torch.device("cpu")
_PAIR = 2
#: Keys of a job that say by what it is judged.
_JUDGES = ("loss", "metric", "metrics")
#: Under which name data are told that a reader has not parted.
_WHOLE = "data"
_MAX_THREADS = 64
_SHOWN = 40
_OBJECT = ", and no file can name it"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """What is to be measured on what.

    Attributes:
        permission: The run's folder, and what of it may be followed.
        data: As in ``evaluate``.
        checkpoint: Which state of the run.
        weights: Whose weights.
        device: Where the model is to be; None: where the run was.
        batch_size: Samples of one forward pass; None: as many as the run's evaluations had.
        skip_unreadable: Leave out photos of a folder that cannot be read.
        tell: Told, as sentences, of what the user should know.
        model: As in ``load``.
    """

    permission: Permission
    data: Any = None
    checkpoint: CheckpointName = "best"
    weights: WeightsName = "model"
    device: str | None = None
    batch_size: int | None = None
    skip_unreadable: bool = False
    tell: Tell = field(default=lambda _: None)
    model: nn.Module | None = None


def evaluate(
    run: str | os.PathLike[str],
    data: Any = None,
    *,
    checkpoint: CheckpointName = "best",
    weights: WeightsName = "model",
    device: str | None = None,
    batch_size: int | None = None,
    skip_unreadable: bool = False,
    code: str | None = None,
    trust_code: bool = False,
    model: nn.Module | None = None,
) -> dict[str, dict[str, float]]:
    """Measure the model of a run, as ``ringfence evaluate`` does.

    Args:
        run: Folder of the run; it may be anybody's.
        data: None: the validation and test data of the run itself, which give the run's own numbers. A path:
            a folder with one folder of images for each class, ``inputs`` and ``targets`` of a ``.npz`` or
            ``.safetensors`` file, or rows with a target where the run's data were a table or texts.
            ``"folder:path=DIR"`` or ``{"name": "folder", "path": DIR}``: a reader of jobs with its options,
            of which every part is measured. A pair of arrays: inputs and targets.
        checkpoint: ``"best"``, ``"last"``, or a number of steps.
        weights: ``"model"``, or ``"ema"`` or ``"swa"`` where the run kept such an average.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``; by default that of the job.
        batch_size: Samples of one forward pass; by default as many as the run's evaluations had.
        skip_unreadable: Leave out photos of a folder that cannot be read; which, a warning tells.
        code: As in ``load``.
        trust_code: As in ``load``. What the folder names as its data is followed if the run is your own, or
            with this.
        model: As in ``load``, of a run that was given its model as an object.

    Returns:
        Name of the part of the data to its ``loss``, the job's metric, and the number of ``samples``; what
        has no parts is called ``data``.

    Raises:
        CheckpointError: The folder holds no model, or none that is whole.
        DataError: The data cannot be read, or do not fit the model.
        JobError: The folder names what you have not permitted, or holds no job.
    """

    def warn(sentence: str) -> None:
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)

    request = EvaluateRequest(
        permission=permitted(Path(run), code=code, trust_code=trust_code),
        data=data,
        checkpoint=checkpoint,
        weights=weights,
        device=device,
        batch_size=batch_size,
        skip_unreadable=skip_unreadable,
        tell=warn,
        model=model,
    )
    return evaluate_run(request)


@ending_forks()
def evaluate_run(request: EvaluateRequest) -> dict[str, dict[str, float]]:
    """Return what is asked for; see ``evaluate``."""
    folder = request.permission.folder
    check_batch_size(request.batch_size)
    record = read_model_record(folder)
    job_file = _job_of(request.permission)
    job = job_file.job
    # Before all else: what is not permitted is told at once, and nothing of it is imported.
    base, loss = _permitted_loss(request, job_file)
    with _threads(job.threads):
        parts = _parts(request, record, job_file, base, task_of(loss))
        metrics = make_metrics(judges_of(job), base, TargetForm.of(next(iter(parts.values()))))
        objective = Objective(loss, next(iter(metrics)), metrics)
        layer_bytes = 0 if request.model is not None else forward_bytes(request.permission, record)
        model = load_model(
            request.permission,
            request.checkpoint,
            device=request.device or job.device,
            weights=request.weights,
            tell=request.tell,
            model=request.model,
        )
        wanted = request.batch_size or job.eval_batch_size
        most = machine_bytes() // 4 // max(1, layer_bytes)
        if min(wanted, max(map(len, parts.values()))) > most:
            request.tell(
                f"a batch of {wanted} is more than this machine holds of the model's layers: it has "
                f"{counted(max(1, most), 'sample')} here, which may change the last digits"
            )
        batch_size = max(1, min(wanted, most))
        with repeatable():
            return {name: _measured(model, part, objective, batch_size) for name, part in parts.items()}


def _measured(model: LoadedModel, part: Dataset, objective: Objective, batch_size: int) -> dict[str, float]:
    objective.check_data(part)
    network = model.network

    def normalise(inputs: Tensor) -> Tensor:
        return (inputs - model.mean) / model.std if model.is_normalised else inputs

    metrics = measure(
        network,
        part,
        objective,
        normalise,
        batch_size=batch_size,
        device=model.scale.device,
        # What a model changes in evaluation it must not take to the next part.
        unsteady=frozenset((*named_parameters(network), *named_buffers(network))),
    )
    return {**(metrics or {}), "samples": len(part)}


def _permitted_loss(request: EvaluateRequest, job_file: JobFile) -> tuple[Path, Loss]:
    """Return the folder that the job's relative paths start from, and its loss.

    Raises:
        JobError: The job wants what nobody has permitted, or names a loss or a metric that there is not.
    """
    job = job_file.job
    _check_judges(job)
    own = Path(request.permission.folder, run_folder.JOB)
    if request.data is None:
        if is_object_name(job.data.name):
            raise JobError(f"the run's data were an object of a Python program{_OBJECT}; name data (data=…)")
        try:
            base = request.permission.base_of(job_file, own, keys=("data", *_JUDGES))
        except JobError as error:
            raise JobError(f"{error}; here data of your own are named with --data (data=…)") from error
    else:
        base = request.permission.base_of(job_file, own, keys=_JUDGES)
    return base, make_loss(job.loss, base, resolve_device(request.device or job.device))


def _parts(
    request: EvaluateRequest, record: ModelRecord, job_file: JobFile, base: Path, task: Task
) -> dict[str, Dataset]:
    """Return the samples to measure on, by the name of their part."""
    data, form = request.data, form_of(record, read_preprocessing(request.permission.folder))
    if data is None:
        return _own_parts(request, record, job_file.job, base, task, form.preprocessing)
    if isinstance(data, tuple | list) and len(data) == _PAIR:
        return {_WHOLE: labelled_pair(data[0], data[1], record, form)}
    if isinstance(data, str | os.PathLike) and not _is_reader(os.fspath(data)):
        path, skips = Path(data).expanduser(), request.skip_unreadable
        return {_WHOLE: labelled_path(path, record, form, skip_unreadable=skips, tell=request.tell)}
    name, options = _reader(data)
    with _as_in_a_run():
        return read_parts(name, options, record, form, base=Path.cwd(), task=task)


def _own_parts(
    request: EvaluateRequest,
    record: ModelRecord,
    job: Job,
    base: Path,
    task: Task,
    kept: Preprocessing | None,
) -> dict[str, Dataset]:
    with _as_in_a_run():
        data = _read_own(job, base, task, record, kept)
    digest = digest_data(data)
    changed = [name for name, text in digest.items() if record.data_digest.get(name, text) != text]
    reduction = run_folder.read_record(request.permission.folder).get("reduction")
    if changed and isinstance(reduction, dict):
        kind = visible(shorten(str(reduction.get("kind")), _SHOWN))
        request.tell(f"the run was cut down ({kind}) and used a part of its data: these are numbers of all")
    elif changed:
        request.tell(
            f"the data are no longer those of the run ({', '.join(changed)}): these are not its own numbers"
        )
    return {name: part for name, part in data.parts().items() if name != "train"}


def _read_own(job: Job, base: Path, task: Task, record: ModelRecord, kept: Preprocessing | None) -> Data:
    """Read the data with the split that the run had; its job says what was held out, and none before 0.4."""
    held_out = job.validation_fraction or 0.0
    # Of none the data brought the validation part themselves, if there was one.
    asked = HoldOut(held_out, own_part=not held_out and "validation" in record.data_digest)
    return load_data(job.data.name, job.data.options, base=base, task=task, asked=asked, known=kept)


def _is_reader(text: str) -> bool:
    """Tell a reader, with or without options, from a path."""
    return text.partition(":")[0] in DATASETS or (is_import_path(text) and not Path(text).exists())


def _reader(data: Any) -> tuple[str, Mapping[str, Any]]:
    """Return name and options of a reader of jobs.

    Raises:
        JobError: It is written in another way.
    """
    if isinstance(data, Mapping) and isinstance(data.get("name"), str):
        return data["name"], {key: value for key, value in data.items() if key != "name"}
    if not isinstance(data, str):
        raise JobError(
            f"the data are a {type(data).__name__}; give a path, a reader as in 'folder:path=DIR', a mapping "
            "with 'name', or a pair of arrays"
        )
    name, _, options = data.partition(":")
    if name not in DATASETS:
        function, _, options = options.partition(":")
        if "=" in function and "." not in name:
            # No function is called so: they are the options of a reader.
            raise JobError(f"--data {data}: there is no reader '{name}'; {suggest(name, DATASETS)}")
        name = f"{name}:{function}"
    try:
        return name, options_of([text for text in split_outside(options, ",") if text])
    except JobError as error:
        raise JobError(f"--data {data}: {str(error).removeprefix('--set ')}") from error


def _job_of(permission: Permission) -> JobFile:
    folder, data = permission.folder, permission.job_data
    if data is None:
        raise JobError(f"{folder}: holds no {run_folder.JOB}, which says by which loss and metric to measure")
    return read_job(folder / run_folder.JOB, data=data)


def _check_judges(job: Job) -> None:
    """Check the names and options of losses and metrics of a job, which may be anybody's.

    Raises:
        JobError: There are none of such names, or with such options.
    """
    for key, choice in {**losses_of(job), **judges_of(job)}.items():
        if is_object_name(choice.name):
            raise JobError(
                f"the run's {key} was an object of a Python program{_OBJECT}; measure what ringfence.predict "
                "returns with it"
            )
    found = [("loss", problem) for problem in check_loss(job.loss)]
    found += [(key, problem) for key, choice in judges_of(job).items() for problem in check_metric(choice)]
    if found:
        told = (f"{key} {dotted_path(problem.path)}: {problem.message}" for key, problem in found)
        raise JobError("; ".join(told))


@contextlib.contextmanager
def _as_in_a_run() -> Iterator[None]:
    """Let a function of the user's draw the samples that it drew for the run, and put generators back."""
    with preserved_rng(_CPU):
        seed_everything(derive_seed(0, "data"))
        yield


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Take as many threads as the run had: the last bits depend on it."""
    before = torch.get_num_threads()
    # A job may be anybody's, and the library of threads ends the process if it cannot have them.
    torch.set_num_threads(min(count or before, max(_MAX_THREADS, os.cpu_count() or 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
