"""Answers that cannot be, by plugins of every role: each is refused as it is read, and says why."""

import re

import pytest
import torch

from ringfence import Batch, PluginProtocolError, StepInfo

from .aftermath import assert_unharmed

_PICTURE = "neither|do not fit its size|is not uint8"
_HISTOGRAM = "histogram 'a'"
_REFUSED = {
    "Reporting": {
        "picture_of_negative_sides": _PICTURE,
        "picture_of_2_to_62": _PICTURE,
        "picture_of_2_to_64": _PICTURE,
        "picture_without_bytes": _PICTURE,
        "picture_of_no_size": _PICTURE,
        "picture_of_many_channels": _PICTURE,
        "picture_too_wide": _PICTURE,
        "counts_that_are_none": _HISTOGRAM,
        "counts_below_zero": _HISTOGRAM,
        "edges_that_fall": _HISTOGRAM,
        "edges_without_end": _HISTOGRAM,
        "edges_too_few": _HISTOGRAM,
    },
    "Scaling": {
        "scale_of_nan": "not finite",
        "scale_of_infinity": "not finite",
        "term_of_nan": "not finite",
        "gradient_of_nan": "not finite",
        "map_for_a_loss": "a result of kind 'map'; expected loss_term or loss_scale",
    },
    "Augmenting": {
        "inputs_of_nan": "not finite",
        "classes_that_are_none": "a class outside 0 … 2",
        "probabilities_of_nan": "not finite",
        "pass_for_a_batch": "a result of kind 'another_pass'; expected batch or soft_batch",
    },
}
_ROLES = {"Reporting": "monitor", "Scaling": "gradient", "Augmenting": "augment"}


@pytest.mark.attack(31)
@pytest.mark.parametrize(
    ("plugin", "answer", "says"),
    [(plugin, *refused) for plugin, table in _REFUSED.items() for refused in table.items()],
    ids=lambda value: value if str(value).isidentifier() else "",
)
def test_an_answer_that_cannot_be_is_refused(stage, plugin, answer, says):
    before = stage.victims.look()
    role = _ROLES[plugin]
    started = stage.sandbox.start(stage.attacker(answer, plugin, module="answers", role=role))

    text, place = refusal(started, role)

    method = "backward" if role == "monitor" else "forward"
    assert re.search(says, text), text
    assert place == ("hostile", f"{role}.{method}", 1)
    started.close()
    assert_unharmed(stage, before)


def refusal(plugin, role):
    """Return what is told of the answer to one call; the error, which holds the call's memory, ends here."""
    with pytest.raises(PluginProtocolError) as caught:
        ask(plugin, role)
    error = caught.value
    return str(error), (error.plugin, error.hook, error.step)


def ask(plugin, role):
    """Call the plugin once, as the engine does for its role."""
    inputs = torch.rand(6, 4)
    batch = Batch(inputs, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6), 3)
    match role:
        case "monitor":
            plugin.post("backward", {}, StepInfo(1))
            plugin.drain()
        case "gradient":
            plugin.call("forward", {"batch": batch, "outputs": inputs, "loss": 1.0}, StepInfo(1))
        case "augment":
            plugin.call("forward", {"batch": batch}, StepInfo(1))
