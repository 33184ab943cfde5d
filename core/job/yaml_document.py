"""Read YAML so that every value knows the line and column it came from.

YAML 1.2: ``1e-3`` is a number and ``no`` is text. Numbers are those that every part of a run can hold: whole
ones of 64 bits, and others that are neither NaN nor beyond what a float can be. Only plain data can come out
(mappings, lists, text, numbers, booleans, null), whatever tags a file carries.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..hooks.errors import JobError, shorten
from .problems import Path, Problem, dotted_path

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_NODES = 100_000
#: What messages, states and tensors can carry.
WHOLE_NUMBERS = range(-(2**63), 2**63)
#: Any more are not looked at: working out a number takes the square of its digits.
_MOST_DIGITS = 80
_SHOWN = 40


@dataclass
class Document:
    """The value of a YAML file and where its parts came from.

    Attributes:
        name: File name as the user spelled it.
        value: Plain data.
        origins: Path to the place of its value: ``FILE:LINE:COL``, or the flag that set it.
        key_origins: Path to the place of its key.
    """

    name: str
    value: Any = None
    origins: dict[Path, str] = field(default_factory=dict)
    key_origins: dict[Path, str] = field(default_factory=dict)

    def where(self, path: Path, *, at_key: bool = False) -> str:
        """Return where ``path``, or the nearest part above it that the document holds, was written."""
        for end in range(len(path), -1, -1):
            table = self.key_origins if at_key else self.origins
            found = table.get(path[:end]) or self.origins.get(path[:end])
            if found is not None:
                return found
        return self.name

    def _known(self, path: Path) -> Path:
        """Return ``path``, or the nearest part above it that the document holds."""
        return next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self.origins), ())

    def _flags_below(self, path: Path) -> list[str]:
        """Return the flags that set something inside of ``path``; none for the job as a whole."""
        inside = [place for known, place in self.origins.items() if path and known[: len(path)] == path]
        return [place for place in dict.fromkeys(inside) if self._is_flag(place)]

    def _is_flag(self, place: str) -> bool:
        return place != self.name and not place.startswith(f"{self.name}:")

    def is_flag_at(self, path: Path) -> bool:
        """Tell whether a flag gave what is at ``path``, and no file."""
        return self._is_flag(self.where(path))

    def told(self, path: Path, *, at_key: bool = False) -> str:
        """Return ``where``, with the flags that have changed what the file holds there, for a message."""
        where = self.where(path, at_key=at_key)
        flags = [] if at_key or self._is_flag(where) else self._flags_below(self._known(path))
        return f"{where}, changed by {' and '.join(flags)}" if flags else where

    def error(self, problems: list[Problem]) -> JobError:
        """Return all ``problems`` as one error, in the order of the file."""
        lines = {self._line(problem): None for problem in sorted(problems, key=self._position)}
        return JobError("\n".join(lines))

    def _line(self, problem: Problem) -> str:
        where = problem.origin or self.told(problem.path, at_key=problem.at_key)
        key = dotted_path(problem.path)
        return f"{where}: {key}: {problem.message}" if key else f"{where}: {problem.message}"

    def _position(self, problem: Problem) -> tuple[int, ...]:
        # Flags have no line; they come after the file that they beat.
        where = problem.origin or self.where(problem.path, at_key=problem.at_key)
        _, _, place = where.rpartition(f"{self.name}:")
        line, _, column = place.partition(":")
        return (int(line), int(column)) if line.isdigit() and column.isdigit() else (2**31, 0)


def read_yaml(path: FilePath | str, data: bytes | None = None) -> Document:
    """Read a file.

    Args:
        path: The file.
        data: What it holds, where somebody has read it already.

    Raises:
        JobError: It cannot be read, is no YAML, or repeats a key.
    """
    if data is None:
        data = _read(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JobError(f"{path}:{line}:1: is not UTF-8 text; save it as UTF-8") from error
    return parse_yaml(text, str(path))


def _read(path: FilePath | str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - keeps the user's spelling in errors
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such file; name a job file that exists") from error
    except IsADirectoryError as error:
        raise JobError(f"{path}: is a folder; name the job file in it") from error
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise JobError(f"{path}: is larger than {MAX_BYTES // 2**20} MiB; this is no job file")
    return data


def parse_yaml(text: str, name: str) -> Document:
    """Read YAML text; ``name`` stands for the file in messages.

    Raises:
        JobError: It is no YAML, or repeats a key.
    """
    try:
        node = YAML(typ="safe", pure=True).compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise JobError(f"{_mark_place(name, mark)}: {_yaml_problem(error)}") from error
    except RecursionError as error:
        raise JobError(f"{name}: is nested too deep; this is no job file") from error
    except YAMLError as error:
        raise JobError(f"{name}: is not YAML: {str(error).splitlines()[0]}") from error
    document = Document(name)
    builder = _Builder(document)
    if node is not None:
        document.value = builder.build(node, (), 0)
    if builder.problems:
        raise document.error(builder.problems)
    return document


def parse_value(text: str) -> Any:
    """Read the value of a flag as YAML; text that is no YAML of its own stays text.

    Raises:
        ValueError: It is not YAML.
    """
    try:
        return parse_yaml(text, "value").value
    except JobError as error:
        raise ValueError(str(error)) from error


def dump_yaml(value: object) -> str:
    """Return plain data as YAML that ``parse_yaml`` reads back to the same."""
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = False
    yaml.width = 110
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _mark_place(name: str, mark: StringMark | None) -> str:
    return name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"


def _yaml_problem(error: MarkedYAMLError) -> str:
    said = ": ".join(part for part in (error.context, error.problem) if part)
    hint = ""
    if "\\t" in said:
        hint = "; indent with spaces, not tabs"
    elif "another document" in said:
        hint = "; remove the line '---'"
    return f"is not YAML: {said}{hint}"


class _Builder:
    """Turns YAML nodes into plain data and notes their places."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: Node, path: Path, depth: int) -> Any:
        self.document.origins[path] = _mark_place(self.document.name, node.start_mark)
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            # An alias inside its own anchor has no end, and aliases of aliases grow without bound.
            limit = f"{MAX_DEPTH} levels deep or {MAX_NODES} values long"
            raise JobError(
                f"{self.document.where(path)}: {dotted_path(path)}: is more than {limit}; check its aliases"
            )
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Path, depth: int) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        result: dict[Any, Any] = {}
        # Merged keys come first, so that the places noted for keys written here win over theirs.
        for key_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
            if key_node.tag == _MERGE:
                merged |= self._merged(value_node, path, depth)
                continue
            key = self._key(key_node, path)
            here = (*path, key if isinstance(key, int) and not isinstance(key, bool) else str(key))
            if key in result:
                first = self.document.key_origins[here]
                self.document.key_origins[here] = _mark_place(self.document.name, key_node.start_mark)
                self.problems.append(
                    Problem(here, f"is written twice (first at {first}); keep one", at_key=True)
                )
            self.document.key_origins[here] = _mark_place(self.document.name, key_node.start_mark)
            result[key] = self.build(value_node, here, depth + 1)
        return merged | result

    def _merged(self, node: Node, path: Path, depth: int) -> dict[Any, Any]:
        """Return what ``<<: *anchor`` adds; the first of several anchors wins."""
        place = self.document.origins[path]
        value = self.build(node, path, depth + 1)
        self.document.origins[path] = place
        merged: dict[Any, Any] = {}
        for part in reversed(value if isinstance(value, list) else [value]):
            merged |= part if isinstance(part, Mapping) else {}
        return merged

    def _key(self, node: Node, path: Path) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self.problems.append(Problem(path, "has a key that is a list or a mapping; use text"))
        return None

    def _scalar(self, node: Node, path: Path) -> Any:
        text: str = node.value
        match str(node.tag).removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self._number(_whole_number, text, path)
            case "float":
                return self._number(_number, text, path)
            case "str" | "timestamp" | "value":
                return text
        self.problems.append(
            Problem(path, f"has the tag {node.tag}; write plain text, numbers, lists and mappings")
        )
        return None

    def _number(self, convert: Any, text: str, path: Path) -> Any:
        try:
            return convert(text)
        except OverflowError as error:
            self.problems.append(Problem(path, f"{shorten(text, _SHOWN)} {error}"))
        except ValueError:
            self.problems.append(Problem(path, f"'{text}' is no number; quote it if it is text"))
        return None


def _whole_number(text: str) -> int:
    if len(text) > _MOST_DIGITS or (number := _parsed_whole_number(text)) not in WHOLE_NUMBERS:
        raise OverflowError("is too large a number; whole numbers lie in -2^63 … 2^63 - 1")
    return number


def _parsed_whole_number(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign, digits = (-1, digits[1:]) if digits[:1] == "-" else (1, digits.removeprefix("+"))
    for prefix, base in (("0x", 16), ("0o", 8), ("0b", 2)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    return sign * int(digits)


def _number(text: str) -> float:
    digits = text.replace("_", "").lower()
    number = float(digits.replace(".inf", "inf").replace(".nan", "nan"))
    if math.isnan(number):
        raise OverflowError("is no number that anything can be set to; write a finite one")
    if math.isinf(number) and "inf" not in digits:
        raise OverflowError("is too large a number; the largest is about 1.8e308")
    return number
