"""The page with every key of the job file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from job_schema import CHOICES, OPEN
from options import object_schema

from ringfence.job.job_file import Averaging, EarlyStopping, Ema, Job, PluginJob, StartFrom, Swa

#: Numbers that are best read as powers.
_ROUND = {2**63: "2⁶³", 10**9: "10⁹", 10**6: "10⁶"}
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_WORDS = {
    "array": "list",
    "boolean": "true or false",
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "object": "mapping",
    "string": "text",
}
_HEAD = """\
# Every key of a job

<!-- Made by `python tools/reference` from the schema that jobs are checked with. Change it there. -->

[The job file](../job.md) tells how a job is written and which flags beat it. This page has every key, with
its type, what it is if it is left out, and what it means. A key that is not here is refused, with the nearest
one that is.

An editor can know all this: `ringfence schema > job.schema.json` writes the JSON schema, and the first line
of a job names it:

```yaml
# yaml-language-server: $schema=job.schema.json
```

## Keys
"""
_SETTINGS = """
## Settings of a plugin

They stand beside the plugin's name, not among its options. Options are the plugin's own: `ringfence plugins
show NAME` lists them.
"""
_PARTS = {
    "early_stopping": EarlyStopping,
    "start_from": StartFrom,
    "averaging": Averaging,
    "averaging.ema": Ema,
    "averaging.swa": Swa,
}
_CHOICES = {
    "model": "\n## model\n\n[Models](../models.md) tells what each is.\n",
    "data": "\n## data\n\n[Data](../data.md) tells what each reads.\n",
    "loss": "\n## loss\n\n[The job file](../job.md#loss) tells what each is for.\n",
    "metric": "\n## metric\n\n[The job file](../job.md#metric) tells what each is for.\n",
    "schedule": "\n## schedule\n\n[The job file](../job.md#schedule) tells the shape of each.\n",
}


def text() -> str:
    """Return the page."""
    lines = [_HEAD, *_key_table(Job)]
    for key, part in _PARTS.items():
        lines += [f"\n## {key}\n", *_key_table(part)]
    lines += [_SETTINGS, *_key_table(PluginJob, but=("name", "options"))]
    for key, known in CHOICES.items():
        lines.append(_CHOICES[key])
        lines += _option_table({name: object_schema(known[name]) for name in sorted(known)})
        if key in OPEN:
            lines.append(
                "\n`module:function` names one of your own; the keys beside `name` are its arguments."
            )
    return "\n".join(lines) + "\n"


def kind(schema: dict[str, Any]) -> str:
    """Say what a JSON schema admits."""
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(kind(part) for part in schema.get("anyOf") or schema["oneOf"])
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return {"Choice": "name, or mapping with `name`"}.get(schema["$ref"].rpartition("/")[2], "mapping")
    if schema.get("format") == "path":
        return "path"
    if "type" not in schema:
        return "anything"
    word = _WORDS[schema["type"]]
    if "prefixItems" in schema:
        word = f"list of {len(schema['prefixItems'])}: {kind(schema['prefixItems'][0])}"
    elif isinstance(schema.get("items"), dict) and "type" in schema["items"]:
        word = f"list of: {kind(schema['items'])}"
    bounds = [
        f"{sign} {_ROUND.get(schema[key]) or format(schema[key], 'g')}"
        for key, sign in _BOUNDS
        if key in schema
    ]
    return " ".join([word, ", ".join(bounds)]).strip()


def _default(schema: dict[str, Any], *, required: bool) -> str:
    if required:
        return "needed"
    value = schema.get("default")
    if isinstance(value, dict):
        value = value["name"]
    shown = value if isinstance(value, str) else json.dumps(value)
    return f"`{shown}`" if "default" in schema else "empty"


def _key_table(model: type[Any], but: tuple[str, ...] = ()) -> Iterator[str]:
    schema = model.model_json_schema()
    yield "| key | type | if left out | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, part in schema["properties"].items():
        if key not in but:
            required = key in schema.get("required", ())
            yield f"| `{key}` | {kind(part)} | {_default(part, required=required)} | {part['description']} |"


def _option_table(schemas: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "| name | option | type | if left out | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for name, schema in schemas.items():
        if not schema["properties"]:
            yield f"| `{name}` | none | | | |"
        for option, part in schema["properties"].items():
            required = option in schema.get("required", ())
            cells = (kind(part), _default(part, required=required), part.get("description", ""))
            yield f"| `{name}` | `{option}` | {' | '.join(cells)} |"
