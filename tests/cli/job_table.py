"""The table of a job's keys, as ``docs/job.md`` must carry it; run this file to print it."""

import json
from typing import Any

from ringfence.job import EarlyStopping, Job, PluginJob

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


def kind(schema: dict[str, Any]) -> str:
    """Say what a JSON schema admits."""
    if "anyOf" in schema:
        return " or ".join(kind(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "$ref" in schema:
        return {"Choice": "name, or mapping with `name`"}.get(schema["$ref"].rpartition("/")[2], "mapping")
    bounds = [
        f"{sign} {'2⁶³' if schema[key] == 2**63 else format(schema[key], 'g')}"
        for key, sign in _BOUNDS
        if key in schema
    ]
    return " ".join([_WORDS[schema["type"]], ", ".join(bounds)]).strip()


def default(schema: dict[str, Any], *, required: bool) -> str:
    """Say what stands for a key that is left out."""
    if required:
        return "needed"
    value = schema.get("default")
    if isinstance(value, dict):
        value = value["name"]
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`" if "default" in schema else "empty"


def rows(model: type) -> list[str]:
    """Return one row of the table for each key of ``model``."""
    schema = model.model_json_schema()
    return [
        f"| `{key}` | {kind(part)} | {default(part, required=key in schema.get('required', ()))} "
        f"| {part['description']} |"
        for key, part in schema["properties"].items()
    ]


TABLES = {"Job": rows(Job), "PluginJob": rows(PluginJob), "EarlyStopping": rows(EarlyStopping)}

if __name__ == "__main__":
    for name, table in TABLES.items():
        print(name, *table, sep="\n")
