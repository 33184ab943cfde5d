"""What ``ringfence schema`` prints; nothing is imported for it, so that an editor may ask at any time."""

from __future__ import annotations

from pathlib import Path

#: Made by ``tools/reference`` from the schema that jobs are checked with; a test holds it fresh.
FILE = Path(__file__).parents[1] / "job" / "job.schema.json"


def schema_text() -> str:
    """Return the JSON schema of a job file."""
    return FILE.read_text(encoding="utf-8")
