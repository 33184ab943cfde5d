"""Findings of the compatibility check, and the verdict that they make together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..hooks.errors import shorten

Decision = Literal["accepted", "refused", "could not tell"]

#: Rules of what is accepted by its text, to what the first line says then.
_NOT_TRIED = {"I-NOT-LOADED": ", not loaded"}
_PARTS_SHOWN = 3  # of a path: package/module.py rather than a whole folder tree
#: Of a verdict, whose findings quote a stranger's text.
_FINDINGS_SHOWN = 100
_CHARACTERS_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the check found.

    Attributes:
        rule: Stable id. ``E-`` refuses; ``U-`` could not be told; ``W-`` warns; ``I-`` informs.
        text: What, without the series.
        series: The series that it concerns.
        advice: What the plugin's author should do, or ``""``.
        path: File, or None.
        line: Line, 0 if there is none.
        settled_by_loading: True for a ``U-`` that importing the plugin in its sandbox decides.
    """

    rule: str
    text: str
    series: tuple[str, ...] = ()
    advice: str = ""
    path: Path | None = None
    line: int = 0
    settled_by_loading: bool = False

    @property
    def where(self) -> str:
        """File and line, or ``""``."""
        if self.path is None:
            return ""
        short = "/".join(self.path.parts[-_PARTS_SHOWN:])
        return f"{short}:{self.line}" if self.line else short

    @property
    def refuses(self) -> bool:
        """Tell whether a plugin with this finding cannot be used."""
        return self.rule.startswith("E-") or (self.rule.startswith("U-") and not self.settled_by_loading)

    def __str__(self) -> str:
        where = f"{self.where}  " if self.where else ""
        series = f" in {join_words(self.series)}" if self.series else ""
        return f"{self.rule:<16} {where}{shorten(self.text, _CHARACTERS_SHOWN)}{series}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a plugin: whether it fits, and why.

    Attributes:
        plugin: Entry-point name.
        distribution: Distribution that declares it.
        version: Its version.
        core: Version of the running core.
        window: The series that the plugin must work with, the last one running.
        declared: Its range as declared, for example ``ringfence>=0.1``; ``""`` if there is none.
        findings: What was found, refusals first.
    """

    plugin: str
    distribution: str
    version: str
    core: str
    window: tuple[str, ...]
    declared: str
    findings: tuple[Finding, ...] = ()

    @property
    def decision(self) -> Decision:
        """``"could not tell"`` is never acceptance: loading must still decide."""
        if any(finding.refuses for finding in self.findings):
            return "refused"
        if any(finding.settled_by_loading for finding in self.findings):
            return "could not tell"
        return "accepted"

    def with_findings(self, findings: Iterable[Finding]) -> Verdict:
        """Return the verdict after loading: ``findings`` replace what the text left open."""
        kept = [finding for finding in self.findings if not finding.settled_by_loading]
        return Verdict(
            self.plugin,
            self.distribution,
            self.version,
            self.core,
            self.window,
            self.declared,
            sort_findings([*kept, *findings]),
        )

    def message(self, *, to_user: bool = True) -> str:
        """Return the verdict with one finding a line, and what author and user can do.

        Args:
            to_user: Whether whoever reads it has the plugin installed, rather than its code at hand.
        """
        word = {"accepted": "OK", "refused": "REFUSED", "could not tell": "NOT YET KNOWN"}[self.decision]
        if self.decision == "accepted":
            word += next((_NOT_TRIED[f.rule] for f in self.findings if f.rule in _NOT_TRIED), "")
        needs = f"core {self.core} needs a plugin valid for {join_words(self.window)}"
        lines = [f"{word}  plugin '{self.plugin}' ({self.distribution} {self.version})   {needs}"]
        lines += [f"  {finding}" for finding in self.findings[:_FINDINGS_SHOWN]]
        more = len(self.findings) - _FINDINGS_SHOWN
        lines += [f"  … and {more} more"] if more > 0 else []
        if self.decision == "refused":
            advice = list(dict.fromkeys(f.advice for f in self.findings if f.refuses and f.advice))
            told = shorten("; ".join(advice), _CHARACTERS_SHOWN)
            lines += [f"  plugin author:   {told}"] if told else []
            other = f"install another release of {self.distribution}, or take '{self.plugin}' out of the job"
            if any(finding.rule == "E-EXCLUDES-CORE" for finding in self.findings):
                other = f"install a core that {self.declared} admits; or {other}"
            lines += [f"  you:             {other}"] if to_user else []
        elif self.decision == "could not tell":
            lines += ["  it is decided when the plugin is loaded in its sandbox"]
        if self.findings:
            rules = dict.fromkeys(finding.rule for finding in self.findings)
            lines += [f"  rules:           ringfence plugins explain {' '.join(rules)}"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "core": self.core,
            "window": list(self.window),
            "declared": self.declared,
            "decision": self.decision,
            "findings": [
                {
                    "rule": finding.rule,
                    "text": finding.text,
                    "series": list(finding.series),
                    "advice": finding.advice,
                    "path": None if finding.path is None else str(finding.path),
                    "line": finding.line,
                }
                for finding in self.findings
            ],
        }


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return each finding once: refusals, then what is unknown, warnings, information."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: "EUWI".index(finding.rule[0])))


def join_words(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    if len(names) < 2:  # noqa: PLR2004 - one name stands alone
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
