"""What has to hold of a run that came through its faults."""

import re
from collections import Counter

from .job import CHECKPOINT_EVERY
from .schedule import Schedule

#: How a trainer ends by itself: completed, or stopped with a checkpoint.
_OWN_ENDS = (0, 3)
#: What it ends with if that was done to it; by the signal itself before and after the command listens to
#: signals, which a shell shows as 130 and 143.
_ENDS_BY = {
    "kill": (-9,),
    "abort": (-6,),
    "term": (130, -15),
    "interrupt": (130, -2),
    "interrupt_twice": (130, -2),
}
#: What is told of a fault: whose it was, and what was decided.
_FAULT = re.compile(
    r"ended: plugin '(?P<last>[\w-]+)'|plugin '(?P<plugin>[\w-]+)'.*; (?:(?:not )?restarted[ ,]|disabled, )",
    re.DOTALL,
)
_PRINTED = re.compile(r"plugin '[\w-]+' printed")
#: What cannot be missed: a process that is called again has ended.
_LETHAL = ("kill", "segfault", "abort")
#: From here on a worker that runs ahead need not be called again.
_CALLED_UNTIL = 36
_NOT_STARTED = 2
_QUIET = ("duplicate", "forget")
#: A trainer that ends in one of these ways has written down all that it told.
_WHOLE_RECORD = (0, 3, 130)
_INTERNAL = ("Exception ignored", "Exception in thread", "Fatal Python error")


def judge(outcome, reference):
    """Yield what is wrong with a run, as sentences; nothing if all is well.

    Args:
        outcome: As ``case.Case.run`` returns it.
        reference: That of the same mix without faults.
    """
    attempts = outcome["attempts"]
    for number, attempt in enumerate(attempts):
        for fault in _of_attempt(outcome, number, attempt):
            yield f"attempt {number}: {fault}"
    if attempts[-1]["status"] == 0:
        yield from _of_results(outcome, reference)
        yield from _of_record(outcome)
    elif not attempts[-1]["goes_on"]:
        yield f"stopped without a checkpoint, with status {attempts[-1]['status']}"
    else:
        yield f"did not come to its end in {len(attempts)} attempts"
    if outcome["left"]:
        yield f"processes are left: {outcome['left']}"
    if outcome["remains"]:
        yield f"folders or control groups are left: {outcome['remains']}"
    if max(outcome["lost"], default=0) > CHECKPOINT_EVERY:
        yield f"{max(outcome['lost'])} steps were lost at once; a checkpoint has {CHECKPOINT_EVERY}"


def _of_attempt(outcome, number, attempt):
    made = [each for each in _made(outcome) if each["attempt"] == number]
    ends = {
        *_OWN_ENDS,
        *(end for each in made for end in _ends_by(each["fault"])),
    }
    if attempt["hung"]:
        yield f"hung: {attempt['says']}"
    elif attempt["status"] not in ends:
        yield f"ended with status {attempt['status']}: {attempt['says']}"
    if any(word in attempt["says"] for word in _INTERNAL):
        yield f"printed {attempt['says']}"
    if attempt["left"]:
        yield f"left processes {attempt['left']}"
    yield from _of_events(attempt, made)


def _ends_by(fault):
    """Return what else a trainer may end with that this was done to."""
    if fault.victim == "host":
        return _ENDS_BY.get(fault.kind, ())
    # A plugin that does not start is told like one that cannot be imported: nothing was begun.
    return (_NOT_STARTED,) if fault.step < 0 else ()


def _of_events(attempt, made):
    """Yield what was told twice, or not at all."""
    # A plugin may print the same line as often as it likes, and that tells of no fault.
    events = [event for event in attempt["events"] if not _PRINTED.match(event["message"])]
    counted = Counter((event["step"], event["message"]) for event in events)
    for (step, message), times in counted.items():
        if times > 1:
            yield f"told {times} times at step {step}: {message}"
    if attempt["status"] != 0:
        return  # what has not been noticed when a run is ended is told of by nobody
    told = Counter(plugin_of(event["message"]) for event in events)
    had = Counter(
        each["fault"].plugin
        for each in made
        if each["fault"].victim == "plugin" and each["fault"].kind not in _QUIET
    )
    for plugin, times in had.items():
        if told[plugin] < times:
            yield f"{plugin} failed {times} times and that was told {told[plugin]} times"
    ended = [each for each in made if _is_lethal(each)]
    if ended and not told.total():
        yield f"a worker was ended at step {ended[0]['step']} and that was not told"


def _is_lethal(each):
    fault = each["fault"]
    return fault.victim == "worker" and fault.kind in _LETHAL and 0 <= each["step"] <= _CALLED_UNTIL


def plugin_of(message):
    """Return the plugin whose fault an event tells of, ``""`` if it tells of something else."""
    match = _FAULT.match(message)
    return (match["plugin"] or match["last"]) if match else ""


def _of_record(outcome):
    """Yield where ``run.json`` and the events do not tell of the same faults."""
    had_room = all(each["fault"].victim != "disk" for each in _made(outcome))
    if not had_room or any(attempt["status"] not in _WHOLE_RECORD for attempt in outcome["attempts"]):
        return  # killed between two files, or with no room for them
    events = [plugin_of(event["message"]) for attempt in outcome["attempts"] for event in attempt["events"]]
    told, kept = (
        Counter(filter(None, events)),
        Counter(each["plugin"] for each in outcome["record"]["faults"]),
    )
    if told != kept:
        yield f"events.jsonl tells of faults of {dict(told)}, run.json of {dict(kept)}"


def _of_results(outcome, reference):
    weights = outcome["record"].get("weights_sha256")
    expected = reference["record"]["weights_sha256"]
    if weights != expected:
        yield f"differs: its weights are {weights}, those of a run without faults {expected}"
    for kind in ("train", "evaluated"):
        if outcome[kind] != reference[kind]:
            yield f"differs: {_first_difference(outcome[kind], reference[kind])}"


def _first_difference(lines, expected):
    for mine, theirs in zip(lines, expected, strict=False):
        if mine != theirs:
            return f"metrics.jsonl has {mine}, not {theirs}"
    return f"metrics.jsonl has {len(lines)} lines of a kind, not {len(expected)}"


def _made(outcome):
    """Return what was done to a run, each with its fault of the schedule."""
    faults = {fault.id: fault for fault in Schedule.of(outcome["schedule"]).faults}
    return [{**each, "fault": faults[each["id"]]} for each in outcome["injected"]]


def injected(outcome):
    """Return the names of the faults that were injected."""
    return [each["fault"].name for each in _made(outcome)]


def describe(outcome):
    """Yield lines that tell what was to happen to a run, and what happened."""
    schedule = Schedule.of(outcome["schedule"])
    yield f"seed {schedule.seed}, mix {schedule.mix}, on_failure {schedule.policies}"
    made = {each["id"]: each for each in outcome["injected"]}
    for fault in schedule.faults:
        each = made.get(fault.id)
        when = f"at step {each['step']} of attempt {each['attempt']}" if each else "never came"
        yield f"  {fault.name}, from step {fault.step} on: {when}"
    for number, attempt in enumerate(outcome["attempts"]):
        how = "resumed" if attempt["resumed"] else "begun"
        yield f"attempt {number}, {how}: status {attempt['status']} after {attempt['seconds']} s"
        yield from (f"  at step {event['step']}: {event['message']}" for event in attempt["events"])
        if attempt["status"] != 0:
            yield from (f"  | {line}" for line in attempt["says"].splitlines()[-12:])
