"""``metrics.csv``: the numbers of ``metrics.jsonl`` for spreadsheets, made of it once a run has ended.

So it needs no roll-back of its own: a run that is resumed has it made anew.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .json_lines import MAX_METRICS_BYTES, LongJournalError, bounds_of, read_lines
from .one_line import one_line
from .run_folder import METRICS
from .untrusted_folder import Tree

METRICS_CSV = "metrics.csv"
#: Numbers that have a column of their own. Any other has a row, with its name and value in the last columns.
_COLUMNS = ("loss", "metric", "lr_factor", "samples", "best", "time")
HEADER = ("step", "epoch", "kind", *_COLUMNS, "plugin", "name", "value")
#: What a spreadsheet takes as the beginning of a formula; the last four are as wide as Chinese characters.
_FORMULAS = "=+-@\uff1d\uff0b\uff0d\uff20"
#: Where a cell may begin: in half of the world a semicolon parts them, and one may be in quotes.
_BEGIN = re.compile(rf"(^|;)([\s\"']*)(?=[{re.escape(_FORMULAS)}])")
_MAX_TEXT = 400
_CHUNK_CHARACTERS = 1 << 20
#: Not numbers, or in columns of their own.
_KEYS = frozenset(("kind", "step", "epoch", "plugin"))
_SPELLED = frozenset(("NaN", "Infinity", "-Infinity"))


def write_metrics_csv(folder: Path) -> None:
    """Write ``metrics.csv`` from the ``metrics.jsonl`` of a run, up to the bounds of a journal.

    Args:
        folder: The run's, which may come from anybody.

    Raises:
        OSError: It cannot be written. Where ``metrics.jsonl`` cannot be read, it ends there.
    """
    tree = Tree(folder)
    tree.write(METRICS_CSV, _chunks(tree))


def text_cell(text: str, most: int = _MAX_TEXT) -> str:
    """Return a stranger's text, cut to ``most``, as a cell that no spreadsheet takes as a formula."""
    return _BEGIN.sub(r"\1'\2", one_line(text[:most]))


def _chunks(tree: Tree) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for row in _rows(tree):
        writer.writerow(row)
        if buffer.tell() >= _CHUNK_CHARACTERS:
            yield buffer.getvalue().encode(errors="replace")
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode(errors="replace")


def _rows(tree: Tree) -> Iterator[list[object]]:
    metric = ""
    # The report, which reads it as well, says where it is too long or why it cannot be read.
    with contextlib.suppress(LongJournalError, OSError):
        for line in read_lines(tree, METRICS, bounds_of(MAX_METRICS_BYTES)):
            record = line.record or {}
            if record.get("kind") == "run":
                metric = str(record.get("metric"))
            elif isinstance(record.get("kind"), str):
                yield from _rows_of(record, metric)


def _rows_of(record: Mapping[str, Any], metric: str) -> Iterator[list[object]]:
    """Yield the row of a step or an evaluation, and one for each number without a column."""
    begin = [_number(record.get("step")), _number(record.get("epoch")), text_cell(record["kind"])]
    plugin = str(record.get("plugin") or "")
    numbers = {
        "metric" if key == metric != "loss" else key: _number(value)
        for key, value in record.items()
        if key not in _KEYS
    }
    if metric == "loss" and record["kind"] != "train":
        numbers["metric"] = numbers.get("loss", "")
    if not plugin:
        yield [*begin, *(numbers.get(column, "") for column in _COLUMNS), "", "", ""]
        numbers = {name: value for name, value in numbers.items() if name not in _COLUMNS}
    for name, value in numbers.items():
        if value != "":
            own = text_cell(name.removeprefix(f"{plugin}/"))
            yield [*begin, *("" for _ in _COLUMNS), text_cell(plugin), own, value]


def _number(value: object) -> object:
    """Return a number as it is written; nothing for what is none."""
    if isinstance(value, bool):
        return str(value).lower()
    spelled = isinstance(value, str) and value in _SPELLED
    return value if spelled or isinstance(value, int | float) else ""
