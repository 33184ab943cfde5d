"""Lay ``--set key=value`` and ``--plugin NAME[:key=value,…]`` over a job file; flags beat the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ..hooks.errors import JobError
from .problems import Path, Problem, suggest
from .yaml_document import Document, parse_value

#: Ways to try a job out with less than all of it.
FAST_DEV_RUN, OVERFIT = "--fast-dev-run", "--overfit"
_OPEN = {"[": "]", "{": "}", "(": ")"}
#: Keys whose value may be a bare name that stands for ``{name: it}``.
_CHOICES = ("model", "data", "loss", "metric", "schedule")

#: Those that a job need not name, and what they are then.
DEFAULT_CHOICES = {"loss": "cross_entropy", "metric": "accuracy", "schedule": "constant"}

#: Builtin loss to the metric of a job that names none.
DEFAULT_METRICS = {
    "bce": "binary_accuracy",
    "cross_entropy": "accuracy",
    "focal": "accuracy",
    "huber": "mae",
    "l1": "mae",
    "mse": "mse",
    "smooth_l1": "mae",
}
#: That of any other: it judges itself.
DEFAULT_METRIC = "loss"

_LENGTHS = ("epochs", "steps")
_NESTED = (*_CHOICES, "early_stopping", "averaging", "start_from", "sample_weights")


class _FlagError(Exception):
    """A flag cannot be applied; the message says why and what would be right."""


def apply_flags(
    document: Document, sets: Sequence[str], plugins: Sequence[str], settings: Collection[str]
) -> list[Problem]:
    """Change ``document`` as the flags say: plugins first, so that ``--set`` can reach those they add.

    Args:
        document: A job file's; changed in place.
        sets: Values of ``--set``.
        plugins: Values of ``--plugin``.
        settings: Keys that stand beside a plugin's name; all others are options of the plugin.

    Returns:
        Flags that cannot be applied, each with what would be right.
    """
    if not isinstance(document.value, dict):
        return []
    layer = _Layer(document, settings)
    problems = []
    for flag, texts, apply in (("--plugin", plugins, layer.plugin), ("--set", sets, layer.set)):
        for text in texts:
            layer.origin = f"{flag} {text}"
            try:
                apply(text)
            except _FlagError as error:
                problems.append(Problem((), str(error), origin=layer.origin))
    layer.keep_one_length()
    return problems


def options_of(texts: Sequence[str]) -> dict[str, Any]:
    """Return the options that flags of the form ``KEY=VALUE`` give one plugin; the later wins.

    Raises:
        JobError: One of them is of another form.
    """
    options: dict[str, Any] = {}
    for text in texts:
        try:
            (*outer, key), value = _key_and_value(text, "--set KEY=VALUE")
        except _FlagError as error:
            raise JobError(f"--set {text}: {error}") from error
        inside = options
        for part in outer:
            inner = inside.setdefault(part, {})
            if not isinstance(inner, dict):
                raise JobError(f"--set {text}: '{part}' is {inner!r}, which has no '{key}'")
            inside = inner
        inside[key] = value
    return options


def split_outside(text: str, separator: str) -> Iterator[str]:
    """Split at ``separator`` where it stands in no bracket and no quotes."""
    closing: list[str] = []
    quote = ""
    start = 0
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPEN:
            closing.append(_OPEN[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == separator and not closing:
            yield text[start:i]
            start = i + 1
    yield text[start:]


class _Layer:
    """Applies flags one by one; ``origin`` is the flag that is being applied."""

    def __init__(self, document: Document, settings: Collection[str]) -> None:
        self.document = document
        self.job: dict[str, Any] = document.value
        self.settings = settings
        self.origin = ""
        self._lengths: set[str] = set()

    def set(self, text: str) -> None:
        """Apply one ``--set``."""
        key, value = _key_and_value(text, "epochs=3 or plugins.optim.lr=0.01")
        if key[0] == "plugins" and len(key) > 1:
            self._set_plugin(key[1:], value)
            return
        if len(key) > 1 and key[0] not in _NESTED and self._find(key[0]) is not None:
            raise _FlagError(f"'{key[0]}' is a plugin of the job; write --set plugins.{text.strip()}")
        if key[0] in _LENGTHS:
            self._note_length(key[0], value)
        if key[0] in _CHOICES and len(key) > 1:
            self._spell_out(key[0])
        self._put(self.job, (), key, value)

    def plugin(self, text: str) -> None:
        """Apply one ``--plugin``."""
        name, colon, rest = text.partition(":")
        name = name.strip()
        if not name:
            raise _FlagError("names no plugin; write --plugin NAME or --plugin NAME:key=value,key=value")
        if self._find(name) is None:
            plugins = self.job.setdefault("plugins", [])
            if not isinstance(plugins, list):
                raise _FlagError("the file's 'plugins' is no list, so nothing can be added to it")
            plugins.append({name: {}})
            self._note(("plugins", len(plugins) - 1), (name,))
        for part in split_outside(rest, ",") if colon else ():
            if part.strip():
                key, value = _key_and_value(part, f"--plugin {name}:{_option_in(part)}=VALUE")
                self._set_plugin((name, *key), value)

    def keep_one_length(self) -> None:
        """Let ``--set steps=…`` replace the file's epochs, and the other way round."""
        if self._lengths == {"steps"}:
            self.job.pop("epochs", None)
        elif self._lengths == {"epochs"}:
            self.job.pop("steps", None)

    def _note_length(self, key: str, value: Any) -> None:
        if value is None:
            raise _FlagError(f"gives '{key}' no value; write a whole number, for example --set {key}=3")
        self._lengths.add(key)

    def _spell_out(self, key: str) -> None:
        """Let a choice that is a bare name, or the default, take options."""
        name = self.job.get(key)
        if name is None:
            name = DEFAULT_CHOICES.get(key)
            self._note((key,), ())
        if isinstance(name, str):
            self.job[key] = {"name": name}

    def _set_plugin(self, key: tuple[str, ...], value: Any) -> None:
        index = self._find(key[0])
        if index is None:
            known = [name for name in map(self._name, self._plugins()) if name]
            meant = suggest(key[0], known)
            # Of a slip nothing can be added; of another name it is not known here whether it is installed.
            added = "" if meant.endswith("?") else f" (--plugin {key[0]} adds it, if it is installed)"
            raise _FlagError(f"the job has no plugin '{key[0]}'; {meant}{added}")
        path: Path = ("plugins", index)
        if len(key) == 1:
            self.job["plugins"][index] = {self._name(self._plugins()[index]): value}
            self._note(path, (key[0],))
            return
        entry = self._plugins()[index]
        if not isinstance(entry, dict):
            entry = self.job["plugins"][index] = {entry: {}}
        if key[1] in self.settings:
            self._put(entry, path, key[1:], value)
            return
        name = self._name(entry)
        if entry.get(name) is None:
            entry[name] = {}
        self._put(entry, path, (str(name), *key[1:]), value)

    def _put(self, target: Any, path: Path, key: tuple[str, ...], value: Any) -> None:
        """Set ``value`` below ``target``, which lies at ``path``."""
        for depth, part in enumerate(key):
            last = depth == len(key) - 1
            here: str | int = part
            if isinstance(target, list):
                here = _index(part, len(target), ".".join(key[:depth]))
            elif not isinstance(target, dict):
                inside = ".".join(key[:depth])
                raise _FlagError(f"'{inside}' is a single value and holds no '{part}'; set '{inside}' itself")
            path = (*path, here)
            if last:
                target[here] = value
                self._note(path, ())
                return
            if isinstance(target, dict) and target.get(here) is None:
                target[here] = {}
                self._note(path, ())
            target = target[here]

    def _note(self, path: Path, below: Path) -> None:
        """Note that what lies at ``path`` comes from the flag being applied."""
        document = self.document
        for table in (document.origins, document.key_origins):
            for old in [known for known in table if known[: len(path)] == path]:
                del table[old]
        for noted in (path, (*path, *below)):
            document.origins[noted] = document.key_origins[noted] = self.origin

    def _plugins(self) -> list[Any]:
        plugins = self.job.get("plugins")
        return plugins if isinstance(plugins, list) else []

    def _name(self, entry: Any) -> Any:
        if isinstance(entry, dict):
            return next((key for key in entry if key not in self.settings), None)
        return entry

    def _find(self, name: str) -> int | None:
        """Return the index of the plugin that ``name``, or a number, means."""
        plugins = self._plugins()
        found = next((i for i, entry in enumerate(plugins) if self._name(entry) == name), None)
        if found is None and name.isdecimal() and int(name) < len(plugins):
            return int(name)
        return found


def _key_and_value(text: str, example: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise _FlagError(f"'{text}' is not KEY=VALUE; write for example {example}")
    try:
        return parts, parse_value(value)
    except ValueError as error:
        said = str(error).partition(": ")[2]
        raise _FlagError(f"the value of '{key.strip()}' {said}; quote it if it is text") from error


def _option_in(part: str) -> str:
    """Return the option that a part of ``--plugin`` names without a value; a placeholder if it names none."""
    return part.strip() if part.strip().isidentifier() else "OPTION"


def _index(part: str, length: int, inside: str) -> int:
    if not part.isdecimal() or int(part) >= length:
        raise _FlagError(
            f"'{inside}' is a list of {length}; '{part}' is none of its places (0 to {length - 1})"
        )
    return int(part)
