"""Permissions: what a plugin says that it needs beyond its sandbox, and what a job grants it.

A need is text in the plugin's class; a grant is text in the job. Neither opens
anything by itself: the host works a grant out once, and the kernel holds the
plugin to what came of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args

#: Most of the machine's memory that one plugin may have, all its workers together.
MAX_MEMORY_FRACTION = 0.15
Kind = Literal["read", "write", "connect"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: What a plugin does with a grant, before the path or address.
VERBS: Mapping[str, str] = {"read": "read", "write": "write to", "connect": "connect to"}

_PLAIN = re.compile(r"[/A-Za-z~.][A-Za-z0-9_./:~@%+=-]*")
#: Text that YAML would take for something else.
_NOT_TEXT = {"~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", ".inf", ".nan"}


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a plugin says it needs.

    Attributes:
        kind: What it does with it.
        what: A path, or ``HOST:PORT``. In a plugin's source as written, ``{option}`` included;
            in ``Permissions`` as worked out for one job.
        reason: Why, in its author's words.
        line: Where it is written; 0 if unknown.
    """

    kind: Kind
    what: str
    reason: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class GrantedPath:
    """A file or folder that a plugin may use.

    Attributes:
        path: Where it is, without links in it.
        device: Number of the file system that holds it.
        inode: Its number there: what was checked is what is opened to the plugin, or nothing.
        write: Whether it may be changed; if not, read only.
    """

    path: str
    device: int
    inode: int
    write: bool


@dataclass(frozen=True, slots=True)
class Target:
    """Where a plugin may connect to.

    Attributes:
        host: Name in lower case, or address.
        port: 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one plugin of one job needs and what it is granted; nothing by default.

    Attributes:
        needs: What it states, worked out for this job.
        paths: Files and folders that it is granted.
        targets: Hosts that it is granted.
    """

    needs: tuple[Need, ...] = ()
    paths: tuple[GrantedPath, ...] = ()
    targets: tuple[Target, ...] = ()

    def granted(self) -> dict[Kind, list[str]]:
        """Return kind to what is granted, as text, every kind included."""
        return {
            "read": [each.path for each in self.paths if not each.write],
            "write": [each.path for each in self.paths if each.write],
            "connect": [str(each) for each in self.targets],
        }

    def lacking(self) -> list[Need]:
        """Return the needs that no grant covers."""
        return [need for need in self.needs if not any(covers(*grant, need) for grant in self._grants())]

    def reason_for(self, kind: Kind, granted: str) -> str | None:
        """Return why the plugin says that it needs what is granted; None if it did not ask for it."""
        reasons = [need.reason for need in self.needs if covers(kind, granted, need)]
        return "; ".join(dict.fromkeys(reasons)) or None

    def lines(self) -> Iterator[str]:
        """Yield each grant as a phrase: ``may read /data (its reason)``."""
        for kind, granted in self._grants():
            reason = self.reason_for(kind, granted)
            yield f"may {VERBS[kind]} {granted} ({reason or 'it did not ask for this'})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``run.json``."""
        needs: dict[str, dict[str, str]] = {}
        for need in self.needs:
            needs.setdefault(need.kind, {})[need.what] = need.reason
        return {"needs": needs, "granted": self.granted()}

    def _grants(self) -> Iterator[tuple[Kind, str]]:
        for kind, granted in self.granted().items():
            yield from ((kind, each) for each in granted)


def covers(kind: Kind, granted: str, need: Need) -> bool:
    """Tell whether a grant gives what a need asks for; what may be written may be read."""
    if need.kind == "connect" or kind == "connect":
        return kind == need.kind and granted == need.what
    return kind in (need.kind, "write") and PurePath(need.what).is_relative_to(granted)


def grant_line(kind: str, granted: Iterable[str]) -> str:
    """Return the line of a job that grants this: ``read: [/data, /models]``."""
    return f"{kind}: [{', '.join(map(_in_yaml, dict.fromkeys(granted)))}]"


def _in_yaml(text: str) -> str:
    plain = _PLAIN.fullmatch(text) is not None and text not in _NOT_TEXT and not text.endswith(":")
    return text if plain else json.dumps(text, ensure_ascii=False)
