"""The weights that a job's ``start_from`` names: read from a run or a file, and given to the model.

Weights are all that is taken: what else a run's folder holds is no permission, and nothing of it is built,
imported or unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor

from ..engine.checkpoints import durable_files
from ..engine.setup import Setup
from ..engine.take_weights import TakenWeights, take_weights
from ..engine.tensor_names import named_buffers, named_parameters
from ..hooks.errors import CheckpointError, visible
from ..job.job_file import JobFile, StartFrom
from ..job.problems import Path, Problem, suggest
from ..plugins.machine_memory import machine_bytes
from ..tensors import tensor_file
from ..tensors.tensor_file import TensorFileError
from ..tracking.model_files import read_state
from ..tracking.model_record import read_model_record

_SUFFIX = ".safetensors"
#: Names that a sentence tells, and that ``run.json`` lists.
_TOLD = 5
_LISTED = 100
_WORDS = {
    "missing": "not there, and left as they were made",
    "other_form": "of another form, and left as they were made",
    "excluded": "left out, as the job says",
    "extra": "there, but not in this model",
}


@dataclass(frozen=True, slots=True)
class StartWeights:
    """What a run started from.

    Attributes:
        source: As the job names it.
        which: Of a run: which of its states, and whose weights.
        taken: What became of each tensor.
        told: What was told as it was read, as sentences.
    """

    source: str
    which: str
    taken: TakenWeights
    told: Sequence[str]

    def sentences(self) -> Iterator[str]:
        """Yield what was taken, and what did not fit, by name."""
        yield from self.told
        of_run = f" ({self.which})" if self.which else ""
        yield f"started from {self.source}{of_run}: {len(self.taken.taken)} tensors are its weights"
        for key, words in _WORDS.items():
            names = getattr(self.taken, key)
            if names:
                more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
                yield visible(f"{len(names)} tensors are {words}: {', '.join(names[:_TOLD])}{more}")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data: how many tensors of each kind, and the first names of those that did not fit."""
        counts = {key: len(getattr(self.taken, key)) for key in ("taken", *_WORDS)}
        names = {f"{key}_names": list(getattr(self.taken, key)[:_LISTED]) for key in _WORDS}
        return {"source": self.source, "which": self.which, **counts, **names}


def start_weights(job_file: JobFile, base: FilePath, setup: Setup) -> StartWeights | None:
    """Give the model of a run that is about to start the weights that its job names; None if it names none.

    Args:
        job_file: The job.
        base: Folder that its relative paths start from.
        setup: Of the run; its model has its final shapes.

    Raises:
        JobError: They cannot be read, none of them fits, or a pattern names nothing.
    """
    asked = job_file.job.start_from
    if asked is None:
        return None
    where: Path = ("start_from", "run")
    if where not in job_file.document.origins:
        where = ("start_from",)
    told: list[str] = []
    path = base / os.path.expanduser(asked.run)  # noqa: PTH111 - raises nothing
    try:
        values, which = _read(path, asked, told)
    except CheckpointError as error:
        raise job_file.error([Problem(where, str(error))]) from error
    problems = list(_unmatched(asked, setup, values))
    if problems:
        raise job_file.error(problems)
    taken = take_weights(setup.model, values, asked.exclude)
    if not taken.taken:
        names = ", ".join(list(values)[:_TOLD]) or "no tensor"
        message = f"nothing of {path} fits the model of this job: it holds {names}"
        raise job_file.error([Problem(where, visible(message))])
    return StartWeights(asked.run, which, taken, told)


def _read(path: FilePath, asked: StartFrom, told: list[str]) -> tuple[Mapping[str, Tensor], str]:
    """Return tensors by name, and which state of a run they are.

    Raises:
        CheckpointError: There are none, or they are damaged or too many.
    """
    if path.is_dir():
        record = read_model_record(path)
        state = read_state(path, record, asked.checkpoint, weights=asked.weights, tell=told.append)
        if state.extra_state:
            told.append(
                f"{path}: what its modules keep beside their weights is not taken: "
                f"{', '.join(list(state.extra_state)[:_TOLD])}"
            )
        which = asked.weights if asked.weights != "model" else asked.checkpoint
        return state.tensors, f"step {which}" if isinstance(which, int) else which
    if asked.model_fields_set & {"checkpoint", "weights"}:
        raise CheckpointError(
            f"{path} is no folder of a run, so that it has no checkpoint and no average to name"
        )
    if not path.exists():
        raise CheckpointError(f"there is no {path}; name the folder of a run, or a {_SUFFIX} file")
    if path.suffix != _SUFFIX:
        raise CheckpointError(
            f"{path} is neither the folder of a run nor a {_SUFFIX} file; other files are not read, since to "
            "load them may run code: convert it with safetensors.torch.save_file"
        )
    return _read_file(path.resolve()), ""


def _read_file(path: FilePath) -> Mapping[str, Tensor]:
    try:
        data, _ = durable_files.read_file(path, machine_bytes() // 4)
        return tensor_file.read(data).tensors
    except (durable_files.UnreadableError, TensorFileError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {visible(str(error))}") from error


def _unmatched(asked: StartFrom, setup: Setup, values: Mapping[str, Tensor]) -> Iterator[Problem]:
    names = {**named_parameters(setup.model), **named_buffers(setup.model), **values}
    for i, pattern in enumerate(asked.exclude):
        if not any(fnmatchcase(name, pattern) for name in names):
            message = f"'{pattern}' matches no tensor of the model; {suggest(pattern, names)}"
            yield Problem(("start_from", "exclude", i), message)
