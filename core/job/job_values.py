"""The keys of a job as a run's folder keeps it, which may come from anybody: looked at, never run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..hooks.errors import JobError, shorten, visible
from .yaml_document import parse_yaml

#: A longer job is not looked into: to read YAML takes a second for each MB.
MAX_JOB_CHARACTERS = 64 << 10
_MAX_VALUE = 120
_MAX_DEPTH = 8
#: Where relative paths start, and what is told plugin by plugin.
_APART = frozenset({"base_folder", "plugins"})


def read_job(text: str) -> Mapping[str, Any]:
    """Return the keys of ``job.yaml``, which may come from anybody; none where it is no job or very long."""
    if len(text) > MAX_JOB_CHARACTERS:
        return {}
    try:
        value = parse_yaml(text, "job.yaml").value
    except (JobError, RecursionError):
        return {}
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else {}


def plugin_parts(plugin: object) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Return name, options and settings of an entry of ``plugins``: a name, or the options under it."""
    if not isinstance(plugin, Mapping):
        return str(plugin), {}, {}
    if "name" in plugin:
        options = plugin.get("options")
        rest = {key: value for key, value in plugin.items() if key not in ("name", "options")}
        return str(plugin["name"]), options if isinstance(options, Mapping) else {}, rest
    name, *_ = plugin
    options = plugin[name]
    rest = {key: value for key, value in plugin.items() if key != name}
    return str(name), options if isinstance(options, Mapping) else {}, rest


def plugins_of(job: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Return name, options and settings of each plugin of a job."""
    plugins = job.get("plugins")
    return [plugin_parts(plugin) for plugin in plugins if plugin] if isinstance(plugins, list) else []


def flat_values(
    job: Mapping[str, Any], has_settings: Callable[[str], bool] = lambda _: True
) -> dict[str, str]:
    """Return key to value of a job as text, with dots between the parts of a key.

    Args:
        job: What ``read_job`` returned.
        has_settings: Tells of a plugin whether its settings are taken, beside its options.
    """
    values = dict(_flatten({key: value for key, value in job.items() if key not in _APART}, ""))
    plugins = plugins_of(job)
    if plugins:
        values["plugins"] = text_of(", ".join(name for name, _, _ in plugins))
    for name, options, settings in plugins:
        values |= _flatten({**(settings if has_settings(name) else {}), **options}, f"plugins.{name}.")
    return values


def _flatten(value: Mapping[str, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, one in value.items():
        if isinstance(one, Mapping) and one and depth < _MAX_DEPTH:
            # What is chosen by name stands for its name, as a job may write it.
            rest = {name: option for name, option in one.items() if name != "name"}
            if "name" in one:
                yield f"{prefix}{key}", text_of(one["name"])
            yield from _flatten(rest, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", text_of(one)


def text_of(value: object) -> str:
    """Return a value as text that a terminal can show, of bounded length."""
    told = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return shorten(visible(told), _MAX_VALUE)
