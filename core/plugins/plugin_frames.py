"""The plugin's own part of a traceback, which a sandbox has sent as text: no file that it names is opened."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..hooks.errors import shorten

_OURS = Path(__file__).parents[1]
_FRAME = '  File "'
_PLACE = re.compile(r'  File "(?P<file>[^"\n]{1,4096})", line (?P<line>\d{1,7})')
#: What the fault handler of Python writes as a process dies of a signal; the innermost frame comes first.
DUMP = "Fatal Python error: "
_DUMPED = re.compile(r'(  File "[^"\n]+", line \d+) (in .+)')
_PACKAGES = ("site-packages", "dist-packages")
_MAX_SOURCE_CHARACTERS = 120


class Spot(NamedTuple):
    """A line of a plugin's.

    Attributes:
        file: Its path, as the plugin says.
        line: Counted from 1.
        source: The line itself, ``""`` if it is not known.
    """

    file: str
    line: int
    source: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f": {self.source}" if self.source else "")


def own_frames(lines: Iterable[str]) -> list[str]:
    """Return a traceback with the plugin's frames and the last one, without all others."""
    kept: list[list[str]] = []
    for framed, blocks in itertools.groupby(_blocks(lines), _is_frame):
        together = list(blocks)
        kept += _with_last(together) if framed else together
    return list(itertools.chain.from_iterable(kept))


def spot(traceback: str) -> Spot | None:
    """Return the plugin's line that a traceback ends in, None if there is none."""
    last = traceback.rpartition("Traceback (most recent call last):")[2].splitlines()
    own = _own([block for block in _blocks(last) if _is_frame(block)])
    found = _PLACE.match(own[-1][0]) if own else None
    if found is None:
        return None
    source = own[-1][1].strip() if len(own[-1]) > 1 else ""
    return Spot(found["file"], int(found["line"]), shorten(source, _MAX_SOURCE_CHARACTERS))


def spot_in(traceback: str, files: Iterable[Path]) -> tuple[Path, int] | None:
    """Return which of ``files`` a traceback names last, and the line, None if it names none."""
    known = {str(file): file for file in files}
    named = [found for found in _PLACE.finditer(traceback) if found["file"] in known]
    return (known[named[-1]["file"]], int(named[-1]["line"])) if named else None


def raised_at(traceback: str) -> str:
    """Return the plugin's line that a traceback ends in for the end of a message, ``""`` if there is none."""
    found = spot(traceback)
    return "" if found is None else f" ({found})"


def split_dump(lines: list[str]) -> tuple[list[str], str]:
    """Return what a process printed before it died of a signal, and where it was, as a traceback."""
    at = next((n for n in reversed(range(len(lines))) if lines[n].startswith(DUMP)), None)
    if at is None:
        return lines, ""
    dump = lines[at:]
    # Without a current one it was a thread of a library; the main one, which waits for it, is the last.
    heads = [n for n, line in enumerate(dump) if line.endswith("(most recent call first):")]
    current = [n for n in heads if dump[n].startswith("Current thread")] or heads[-1:]
    frames = itertools.takewhile(_DUMPED.match, dump[current[0] + 1 :]) if current else ()
    called = [_DUMPED.sub(r"\1, \2", frame) for frame in frames]
    return lines[:at], "\n".join(["Traceback (most recent call last):", *reversed(called)]) if called else ""


def _blocks(lines: Iterable[str]) -> list[list[str]]:
    """Return each frame with the lines that belong to it, and each other line by itself."""
    blocks: list[list[str]] = []
    for line in lines:
        if blocks and _is_frame(blocks[-1]) and line.startswith("    "):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return blocks


def _is_frame(block: list[str]) -> bool:
    return block[0].startswith(_FRAME)


def _with_last(frames: list[list[str]]) -> list[list[str]]:
    own = _own(frames)
    return own if not own or own[-1] is frames[-1] else [*own, frames[-1]]


def _own(frames: list[list[str]]) -> list[list[str]]:
    """Return the frames of the plugin: its first one tells where its code lies."""
    inside = list(itertools.dropwhile(lambda frame: _leads_there(_file(frame)), frames))
    if not inside:
        return []
    first = _file(inside[0])
    home = first if first.parent.name in _PACKAGES else first.parent
    return [frame for frame in inside if _file(frame).is_relative_to(home)]


def _file(frame: list[str]) -> Path:
    return Path(frame[0].removeprefix(_FRAME).partition('"')[0])


def _leads_there(file: Path) -> bool:
    """Tell whether a file is ringfence's, but for its plugins, or one of Python's way to an import."""
    ours = file.is_relative_to(_OURS) and not file.is_relative_to(_OURS / "builtin")
    return ours or file.parent.name == "importlib" or str(file).startswith("<")
