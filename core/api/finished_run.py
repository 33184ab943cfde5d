"""A run that Python programs look at: what its folder holds, read within bounds, whoever it comes from."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..hooks.errors import JobError, visible
from ..job.job_file import Job, read_job
from ..tracking import run_folder
from ..tracking.untrusted_folder import Tree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ..inference.load import LoadedModel
    from ..report.entries import EventEntry, FaultEntry, PluginEntry, RunEntry
    from ..report.run_data import Curve, RunData
    from ..tracking.model_files import CheckpointName, WeightsName

_CHECKPOINT = re.compile(r"step-([0-9]{8,16})")
_DIGITS_SHOWN = 16


class Series(NamedTuple):
    """Numbers over the steps of a run: ``steps, values = run.metrics["train"]["loss"]``.

    Attributes:
        steps: (N,) int64, increasing: of an evaluation the steps that were finished, of anything else those
            that were finished before.
        values: (N,) float64; NaN where a number was not finite.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


class Run:
    """A run, as its folder tells of it; made by ``train`` and ``open_run``.

    What it tells is read when it is first asked for: of a run that goes on, open it again. What is damaged or
    missing is left out, and named in ``left_out``.

    Attributes:
        folder: Where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _data(self) -> RunData:
        from ..report.run_data import read_run  # noqa: PLC0415 - torch, which whoever opens a run may not need

        return read_run(self.folder)

    @property
    def record(self) -> RunEntry:
        """What ``run.json`` says of how it went, checked: ``final_metrics``, ``best_step`` and so on."""
        return self._data.record

    @property
    def status(self) -> str:
        """``running``, ``completed``, ``stopped_early``, ``interrupted``, ``aborted`` or ``failed``."""
        return self.record.get("status", "unknown")

    @property
    def error(self) -> str | None:
        """Why it was aborted or failed."""
        return self.record.get("error")

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the weights that it ended with; None before its end."""
        return self.record.get("weights_sha256")

    @cached_property
    def metrics(self) -> Mapping[str, Mapping[str, Series]]:
        """Every number over the steps, by part and name.

        ``metrics["train"]["loss"]``; the parts of the data that were evaluated, and as ``validation_ema`` and
        the like with averages of the weights; each plugin by its name, with what it logged:
        ``metrics["monitor"]["grad_norm"]``. A plugin that is called as a part is has its numbers under
        ``plugin:NAME``. Of more than 500,000 numbers of one origin every other step is missing.
        """
        from ..tracking.metrics_log import tag_of  # noqa: PLC0415 - as above

        data = self._data
        parts = {"train": data.train, "validation": data.validation, "test": data.test}
        parts |= {f"{part}_{name}": curves for (part, name), curves in data.averaged.items()}
        parts |= {tag_of(name): curves for name, curves in data.plugins.items()}
        return MappingProxyType(
            {part: _series(curves) for part, curves in parts.items() if curves},
        )

    @property
    def plugins(self) -> Sequence[PluginEntry]:
        """Each plugin in the job's order, as ``run.json`` has it: its cost, its restarts, its permissions."""
        return tuple(self._data.entries)

    @property
    def faults(self) -> Sequence[FaultEntry]:
        """Faults of plugins in order, each with its step, plugin, message and what was decided."""
        return tuple(self._data.faults)

    @property
    def events(self) -> Sequence[EventEntry]:
        """What the run told its user, in order, each with its step and time."""
        return tuple(self._data.events)

    @property
    def left_out(self) -> Sequence[str]:
        """What of the folder is not told of here, and why: damaged, too long, or no file at all."""
        return tuple(self._data.left_out.told())

    @property
    def report(self) -> Path | None:
        """The page of the run; None if there is none."""
        return self._file(run_folder.REPORT)

    @cached_property
    def job(self) -> Job:
        """The job that was run, with every default.

        Raises:
            JobError: It is missing or damaged.
        """
        data = run_folder.job_of(self.folder)
        if data is None:
            raise JobError(f"{self.folder}: {run_folder.JOB} is missing in it")
        return read_job(self.folder / run_folder.JOB, data=data).job

    @property
    def checkpoints(self) -> Mapping[int, Path]:
        """Step to the folder of its checkpoint, the oldest first."""
        try:
            names = Tree(self.folder).names(run_folder.CHECKPOINTS)
        except OSError:
            return MappingProxyType({})
        found = ((_CHECKPOINT.fullmatch(name), name) for name in names)
        steps = {int(match[1]): self.folder / run_folder.CHECKPOINTS / name for match, name in found if match}
        return MappingProxyType(dict(sorted(steps.items())))

    def load(
        self,
        checkpoint: CheckpointName = "best",
        *,
        code: str | None = None,
        trust_code: bool = False,
        device: str = "cpu",
        weights: WeightsName = "model",
        model: nn.Module | None = None,
    ) -> LoadedModel:
        """Rebuild the network that was trained, as ``ringfence.load`` does."""
        from ..inference.load import load  # noqa: PLC0415 - as torch above

        return load(
            self.folder,
            checkpoint,
            code=code,
            trust_code=trust_code,
            device=device,
            weights=weights,
            model=model,
        )

    def evaluate(self, data: Any = None, **settings: Any) -> dict[str, dict[str, float]]:
        """Measure the network on the data of its run, or on others, as ``ringfence.evaluate`` does."""
        from ..inference.evaluate_run import evaluate  # noqa: PLC0415 - as torch above

        return evaluate(self.folder, data, **settings)

    def predict(self, data: Any, out: str | os.PathLike[str] | None = None, **settings: Any) -> Any:
        """Predict ``data`` with the network that was trained, as ``ringfence.predict`` does."""
        from ..inference.predict import predict  # noqa: PLC0415 - as torch above

        return predict(self.folder, data, out, **settings)

    def _file(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() and not path.is_symlink() else None

    def __repr__(self) -> str:
        words = ", ".join(f"{name} {value}" for name, value in self._told())
        return f"<Run {str(self.folder)!r}: {words}>"

    def _repr_html_(self) -> str:
        """Return a small table for notebooks."""
        rows = [("run", str(self.folder)), *self._told()]
        cells = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in rows)
        return f"<table>{cells}</table>"

    def _told(self) -> list[tuple[str, str]]:
        """Return what is shown of it, name by name."""
        record = self.record
        told: list[tuple[str, Any]] = [("status", self.status), ("error", self.error)]
        told += [("steps", record.get("steps")), ("epochs", record.get("epochs"))]
        judged_by = record.get("judged_by", "test")
        parts = {"test": record.get("test_metrics", {}), judged_by: record.get("final_metrics", {})}
        told += [
            (visible(f"{part} {name}"), value)
            for part in reversed(parts)
            for name, value in parts[part].items()
        ]
        told += [("faults", len(self.faults) or None)]
        digest = self.weights_sha256
        told += [("weights", f"{digest[:_DIGITS_SHOWN]}…" if digest else None), ("report", self.report)]
        return [(name, _words(value)) for name, value in told if value is not None]


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Return the run in a folder, finished or not, whoever has made it; nothing of it is run.

    Args:
        folder: Of a run.

    Raises:
        JobError: It holds no run, or one of a later series.
    """
    path = Path(folder)
    run_folder.check_run(path)
    # The program may go elsewhere.
    return Run(path.absolute())


def _series(curves: Mapping[str, Curve]) -> Mapping[str, Series]:
    import numpy as np  # noqa: PLC0415 - as torch above

    return MappingProxyType(
        {
            name: Series(np.array(curve.steps, np.int64), np.array(curve.values, np.float64))
            for name, curve in curves.items()
        }
    )


def _words(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else visible(" ".join(str(value).split()))
