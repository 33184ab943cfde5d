"""The block that is shown before the first step: data, model and plan, in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..hooks.errors import shorten, visible
from ..plugins.machine_memory import MIB
from ..plugins.number_words import counted

#: Of a line where the output is no terminal; and the least that a terminal is taken for.
_WIDTH = 110
_LEAST_WIDTH = 40
#: Classes whose samples are told one by one, and characters of the name of one, or of a layer.
_CLASSES_TOLD = 12
_MAX_NAME = 40
_LABELS = {"data": "data   ", "model": "model  ", "plan": "plan   "}
_INDENT = "       "
_PARTS = {"train": "training", "validation": "validation", "test": "test"}


def start_lines(facts: Mapping[str, Any], width: int | None = None) -> list[str]:
    """Return the facts of a run as lines for people.

    Args:
        facts: As ``start_facts`` returns them.
        width: Characters of a line of the terminal; None if the output is none.
    """
    width = max(width or _WIDTH, _LEAST_WIDTH)
    blocks = (("data", _data_words), ("model", _model_words), ("plan", _plan_words))
    lines = []
    for name, words in blocks:
        first, *rest = words(facts[name], width - len(_INDENT))
        lines += _wrapped(first, width, _LABELS[name])
        for text in rest:
            lines += _wrapped(text, width, _INDENT)
    return lines


def _wrapped(text: str, width: int, begin: str) -> list[str]:
    """Return one fact in as many lines as it needs; a row of the table, which begins with spaces, in one."""
    if text.startswith(" "):
        return [(begin + text)[:width]]
    return textwrap.wrap(
        visible(text), width, initial_indent=begin, subsequent_indent=f"{_INDENT}  ", break_on_hyphens=False
    )


def _data_words(data: Mapping[str, Any], _width: int) -> Iterator[str]:
    numbers = "" if data["range"] is None else f" from {data['range'][0]:g} to {data['range'][1]:g}"
    normalised = ", normalised" if data["normalised"] else ""
    inputs = "" if data["shape"] is None else f"{_shape(data['shape'])} {data['dtype']}{numbers}{normalised}"
    yield f"{data['name']}: {'; '.join(filter(None, (inputs, data.get('trees'))))}"
    classes, names = data["classes"], data["class_names"]
    for part, facts in data["parts"].items():
        yield f"{counted(facts['samples'], f'{_PARTS[part]} sample')}{_class_words(facts, classes, names)}"
    if "drawn_by_weight" in data:
        seen = f"about {data['distinct']:,} different ones an epoch"
        yield f"drawn by weight: {data['drawn_by_weight']}; {seen}"


def _class_words(part: Mapping[str, Any], classes: int | None, names: Sequence[str]) -> str:
    if classes is None:
        return ""
    if part.get("uncounted"):
        return f" of {classes:,} classes"
    if "a_class" not in part:
        how = "one at each position" if part.get("by_position") else "as probabilities"
        return f" of {classes:,} classes, {how}"
    empty = f", {part['empty_classes']:,} without any" if part["empty_classes"] else ""
    if classes > _CLASSES_TOLD:
        low, high = part["a_class"]
        return f" of {classes:,} classes, {low:,} to {high:,} of each{empty}"
    named = names or [str(number) for number in range(classes)]
    counts = "  ".join(f"{_short(name)} {count:,}" for name, count in zip(named, part["counts"], strict=True))
    return f": {counts}{empty}"


def _model_words(model: Mapping[str, Any], width: int) -> Iterator[str]:
    parameters, trained = model["parameters"], model["trained"]
    told = "all trained" if trained == parameters else f"{trained:,} trained, {parameters - trained:,} frozen"
    macs = "" if model["macs"] is None else f", {_large(model['macs'])} MACs a sample"
    yield f"{model['name']}: {parameters:,} parameters, {told}; {model['bytes'] / MIB:.1f} MiB{macs}"
    started = model["started_from"]
    if started is not None:
        lost = sum(started[key] for key in ("missing", "other_form", "excluded"))
        new = f", {counted(lost, 'tensor')} new" if lost else ""
        yield f"started from {started['source']}: {counted(started['taken'], 'tensor')} taken{new}"
    yield from _layer_table(model["layers"], model["layers_left_out"], width)


def _layer_table(rows: Sequence[Mapping[str, Any]], left_out: int, width: int) -> Iterator[str]:
    """Yield the rows, the output of each beside it; on a narrow terminal names and kinds give way first."""
    cells = [
        (
            _layer_name(row),
            _short(row["kind"]),
            "—" if row["output"] is None else _shape(row["output"]),
            f"{row['parameters'] * row['count']:,}",
        )
        for row in rows
    ]
    name, kind, output, parameters = (max(map(len, column)) for column in zip(*cells, strict=True))
    over = 8 + name + kind + output + parameters - width
    kind = max(kind - max(over, 0), 0) if over < kind else 0
    gap = len(rows) - len(rows) // 2
    for place, (first, second, third, last) in enumerate(cells):
        if left_out and place == gap:
            yield f"  … and {left_out:,} more"
        middle = f"  {second[:kind]:<{kind}}" if kind else ""
        yield f"  {first:<{name}}{middle}  {third:<{output}}  {last:>{parameters}}"


def _layer_name(row: Mapping[str, Any]) -> str:
    name = _short(row["name"]) or "(own)"
    return f"{name} x{row['count']}" if row["count"] > 1 else name


def _plan_words(plan: Mapping[str, Any], _width: int) -> Iterator[str]:
    accumulated = f" times {plan['grad_accum_steps']}" if plan["grad_accum_steps"] > 1 else ""
    yield (
        f"{counted(plan['steps'], 'step')}, {_epochs(plan['epochs'])} of {plan['steps_per_epoch']:,}; "
        f"batches of {plan['batch_size']:,}{accumulated}; on {plan['device']}, "
        f"{counted(plan['threads'], 'thread')}"
    )
    yield (
        f"{counted(plan['evaluations'], 'evaluation')}, every {counted(plan['eval_every'], 'step')}; "
        f"{counted(plan['checkpoints'], 'checkpoint')}, every {plan['checkpoint_every']:,}"
    )
    averages = f", averages of the weights: {', '.join(plan['averages'])}" if plan["averages"] else ""
    yield f"loss {plan['loss']}, metric {plan['metric']}, schedule {plan['schedule']}{averages}"
    yield f"plugins: {' → '.join(plan['plugins'])}"


def _short(name: str) -> str:
    return visible(shorten(" ".join(name.split()), _MAX_NAME))


def _epochs(epochs: float) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs:g} epochs"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def _large(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
