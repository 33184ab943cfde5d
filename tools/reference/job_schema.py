"""The JSON schema of a job as its file has it, which is what editors are to check."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

import docstrings
from options import inlined, object_schema
from pydantic import TypeAdapter

from ringfence.compat.source.plugin_source import Parameter
from ringfence.datasets.dataset_registry import DATASETS
from ringfence.discovery.catalog import Found, catalog, source_of
from ringfence.engine.losses import LOSSES
from ringfence.engine.metrics import METRICS
from ringfence.engine.schedules import SCHEDULES
from ringfence.job.annotation_types import option_type
from ringfence.job.job_file import MAX_TERMS, PLUGIN_SETTINGS, Job, PluginJob
from ringfence.models.model_registry import MODELS

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_OWN = {"type": "string", "pattern": ":"}
_PART = {"anyOf": [{"type": "string"}, {"type": "integer"}]}


def _no_options(_: object) -> None:
    """Take none."""


#: Key of a job to the names that may stand there and what takes their options.
CHOICES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "model": MODELS,
    "data": DATASETS,
    "loss": LOSSES,
    "metric": {name: metric.build or _no_options for name, metric in METRICS.items()},
    "schedule": SCHEDULES,
}
#: Those of them whose value may be a function of the user's.
OPEN = ("model", "data", "loss", "metric", "schedule")
#: Options of any loss or metric, which say what to do with it.
BESIDE: dict[str, dict[str, dict[str, Any]]] = {
    "loss": {"output": _PART, "target": _PART},
    "metric": {"output": _PART, "target": _PART, "label": {"type": "string"}},
}


def schema() -> dict[str, Any]:
    """Return the schema."""
    job = inlined(Job.model_json_schema())
    properties = job["properties"]
    for key, known in CHOICES.items():
        properties[key] = {
            "description": properties[key]["description"],
            "anyOf": _choice(known, is_open=key in OPEN, beside=BESIDE.get(key, {})),
            **({"default": properties[key]["default"]["name"]} if "default" in properties[key] else {}),
        }
    one_loss = properties["loss"]["anyOf"]
    terms = {"type": "array", "items": {"anyOf": _weighed(one_loss)}, "minItems": 1, "maxItems": MAX_TERMS}
    properties["loss"]["anyOf"] = [*one_loss, terms]
    properties["alternate"]["items"]["properties"]["loss"] = {"$ref": "#/properties/loss"}
    properties["metrics"]["items"] = {"anyOf": properties["metric"]["anyOf"]}
    properties["plugins"]["items"] = {"anyOf": [{"type": "string", "minLength": 1}, _entry()]}
    return {
        "$schema": _DRAFT,
        "title": "ringfence job",
        **job,
        "description": "What ringfence is to train, on what, with which plugins.",
        "oneOf": [_length("epochs"), _length("steps")],
    }


def text() -> str:
    """Return it as it is written."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _weighed(forms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the forms of a loss with a weight among several."""
    weight = {"type": "number", "exclusiveMinimum": 0, "default": 1.0}
    return [
        {**form, "properties": {**form["properties"], "weight": weight}} if "properties" in form else form
        for form in forms
    ]


def _choice(
    known: Mapping[str, Callable[..., Any]], *, is_open: bool, beside: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what may stand for a choice: a bare name, or a mapping with the name and its options."""
    options = {name: object_schema(known[name]) for name in sorted(known)}
    bare = [name for name, each in options.items() if not each.get("required")]
    forms: list[dict[str, Any]] = [{"enum": bare}]
    forms += [
        {
            "type": "object",
            "properties": {"name": {"const": name}, **each["properties"], **beside},
            "required": ["name", *each.get("required", ())],
            "additionalProperties": False,
        }
        for name, each in options.items()
    ]
    if is_open:
        forms += [_OWN, {"type": "object", "properties": {"name": _OWN}, "required": ["name"]}]
    return forms


def _entry() -> dict[str, Any]:
    """Return an entry of ``plugins``: settings, and one key more, which names the plugin."""
    settings = inlined(PluginJob.model_json_schema())["properties"]
    shipped = [found for found in catalog().plugins.values() if found.distribution == "ringfence"]
    named = {found.name: _plugin(found) for found in sorted(shipped, key=lambda found: found.name)}
    return {
        "type": "object",
        "properties": {**{name: settings[name] for name in PLUGIN_SETTINGS}, **named},
        "additionalProperties": {"type": ["object", "null"]},
        "not": {"propertyNames": {"enum": list(PLUGIN_SETTINGS)}},
    }


def _plugin(found: Found) -> dict[str, Any]:
    """Return the options of a plugin that comes with ringfence, read from its text as the loader does."""
    source = source_of(found)
    said = docstrings.parse(source.docstring or "")
    options = {parameter.name: _option(parameter, said) for parameter in source.parameters}
    required = [parameter.name for parameter in source.parameters if parameter.required]
    return {
        "description": said.summary,
        "type": "object" if required else ["object", "null"],
        "properties": options,
        "required": required,
        "additionalProperties": source.takes_any_option,
    }


def _option(parameter: Parameter, said: docstrings.Docstring) -> dict[str, Any]:
    option = inlined(TypeAdapter(option_type(parameter.annotation).type).json_schema())
    if not option["properties"]:
        del option["properties"]
    description = said.entries("Args").get(parameter.name)
    if description:
        option["description"] = description.rstrip(".")
    if not parameter.required and parameter.default_text:
        try:
            option["default"] = ast.literal_eval(parameter.default_text)
        except ValueError:
            # A name, whose value the text does not tell.
            return option
    return option


def _length(key: str) -> dict[str, Any]:
    """Say that ``key`` tells how long to train; a null is as good as no key."""
    return {"required": [key], "properties": {key: {"type": "integer"}}}
