"""Numbers for MLflow; offline, its folder of files, which ``mlflow ui`` shows."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..hooks.errors import JobError
from .faults import explained
from .follow import Numbers
from .logger import Logger

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
#: MLflow would have a data base instead, which its small package does not bring.
_FILES = {"MLFLOW_ALLOW_FILE_STORE": "true"}
_SERVER = "MLFLOW_TRACKING_URI"
#: What MLflow lets stand in names, but for the slash: a name below another one would be a file and a folder.
_OTHER = re.compile(r"[^A-Za-z0-9_\-. ]")
_MAX_NAME = 200
_MAX_AT_ONCE = 500
_MAX_PARAMS = 100


class MlflowLogger(Logger):
    """Logs to MLflow.

    Args:
        run: Name of the run.
        job: Its parameters.
        project: The experiment.
        place: Folder; MLflow makes ``mlruns/`` in it.
        online: Whether to log to the server that ``MLFLOW_TRACKING_URI`` names instead.

    Raises:
        JobError: No server is named; from any method, MLflow says what is wrong.
    """

    def __init__(self, run: str, job: Mapping[str, str], project: str, place: Path, *, online: bool) -> None:
        server = os.environ.get(_SERVER)
        if online and not server:
            raise JobError(f"--online: no server is named; set {_SERVER} to its address")
        os.environ |= _QUIET if online else {**_QUIET, **_FILES}
        from mlflow import entities  # noqa: PLC0415 - an extra, and only here
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 - as above

        self._uri = str(server) if online else (place / "mlruns").as_uri()
        self._entities: Any = entities
        self._fault: type[Exception] = MlflowException
        with explained("mlflow", self._fault):
            self._client: Any = MlflowClient(tracking_uri=self._uri)
            found = self._client.get_experiment_by_name(project)
            experiment = self._client.create_experiment(project) if found is None else found.experiment_id
            self._id = self._client.create_run(experiment, run_name=run).info.run_id
            params = [entities.Param(_name(key), value) for key, value in job.items()]
            for begin in range(0, len(params), _MAX_PARAMS):
                self._client.log_batch(self._id, params=params[begin : begin + _MAX_PARAMS])

    def log(self, numbers: Iterable[Numbers]) -> None:
        """Take numbers."""
        now = time.time()
        metrics = [
            self._entities.Metric(_name(name), value, int(1000 * (one.time or now)), one.step)
            for one in numbers
            for name, value in one.values.items()
        ]
        with explained("mlflow", self._fault):
            for begin in range(0, len(metrics), _MAX_AT_ONCE):
                self._client.log_batch(self._id, metrics=metrics[begin : begin + _MAX_AT_ONCE])

    def _end(self, *, is_good: bool) -> None:
        with explained("mlflow", self._fault):
            self._client.set_terminated(self._id, "FINISHED" if is_good else "FAILED")

    def where(self) -> str:
        """Return what shows it."""
        return f"see it with: mlflow ui --backend-store-uri {self._uri}"


def _name(name: str) -> str:
    """Return a name that MLflow takes, and that as a path leads nowhere else."""
    first, slash, rest = name.partition("/")
    parts = [_OTHER.sub("_", part.replace("/", "."))[:_MAX_NAME].strip(". ") or "_" for part in (first, rest)]
    return "/".join(parts) if slash else parts[0]
