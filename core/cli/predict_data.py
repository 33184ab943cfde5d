"""The command ``ringfence predict``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ..hooks.errors import shorten, visible
from ..inference.outputs.prediction_file import check_out
from ..inference.predict import PredictRequest
from ..inference.prediction_loop import Written, write_predictions
from ..plugins.number_words import counted
from ..tracking.one_line import one_line

_EVERY_S = 5.0
_CLASSES_SHOWN = 10
_NAME_SHOWN = 40


def predict_data(request: PredictRequest, out: Path, *, probabilities: bool, overwrite: bool) -> str:
    """Write predictions, and return what to tell of them.

    Args:
        request: What is predicted with which model.
        out: The file.
        probabilities: Write those of all classes.
        overwrite: Replace a file that is there.

    Raises:
        RingfenceError: As ``ringfence.predict``.
        KeyboardInterrupt: A signal ended it; nothing is left of the file.
    """
    check_out(out, overwrite=overwrite)
    with signals_as_ctrl_c():
        predictor, source = request.opened()
        known = len(source.notes)
        tell(source.notes)
        written = write_predictions(
            predictor,
            source,
            out,
            batch_size=request.batch_size,
            probabilities=probabilities,
            overwrite=overwrite,
            progress=_telling_progress(source.count),
        )
    tell(written.notes[known:])
    return _summary(written)


def tell(sentences: Sequence[str]) -> None:
    """Write sentences to standard error, a line each."""
    for sentence in sentences:
        sys.stderr.write(visible(f"{sentence}\n"))


@contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end what is under way as Ctrl-C does: in order."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _telling_progress(count: int | None) -> Callable[[int], None]:
    """Return what tells of progress now and then, where it takes long."""
    last = time.monotonic()
    of = "" if count is None else f" of {count:,}"

    def progress(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY_S:
            last = now
            tell([f"{done:,}{of} samples"])

    return progress


def _summary(written: Written) -> str:
    lines = [f"{counted(written.count, 'prediction')} in {written.path}"]
    counts = [
        f"{one_line(shorten(name, _NAME_SHOWN))}: {count:,}"
        for name, count in list(written.class_counts.items())[:_CLASSES_SHOWN]
    ]
    if counts:
        more = len(written.class_counts) - len(counts)
        lines.append(", ".join(counts) + (f" and {more:,} classes more" if more else ""))
    if written.not_finite:
        lines.append(f"of {written.not_finite:,} the model's outputs are not finite: they have no class")
    return visible("\n".join(lines))
