"""pluggy decides whether a loaded class fits a series whose core is not there."""

import pytest
from packaging.version import Version

from ringfence.hooks.series import Index, SeriesSnapshot, series_of
from ringfence.plugins.plugin_class import accepted_arguments
from ringfence.run.class_fit import fits_series, manager_of
from ringfence.version import __version__

OLD = SeriesSnapshot(
    "1.4", frozenset({"gradient"}), {"gradient_backward": {"gradients": "Gradients", "step": "StepInfo"}}
)


@pytest.mark.parametrize(
    ("accepts", "optional", "refused"),
    [
        ({"backward": ("gradients", "step")}, (), None),
        ({"backward": ("step",)}, (), None),
        ({}, (), None),
        ({"backward": ("gradients", "loss")}, (), "loss"),
        ({"backward": ("gradients", "loss")}, ("loss",), None),
        ({"forward": ("loss",)}, (), "gradient_forward"),
        ({"backward": ("kwargs",)}, (), "kwargs"),
    ],
)
def test_arguments_are_judged_by_the_specifications_of_the_series(accepts, optional, refused):
    findings = fits_series(accepts, "gradient", OLD, optional)

    assert bool(findings) == (refused is not None)
    if refused:
        assert refused in findings[0].text
        assert findings[0].series == ("1.4",)
        assert findings[0].refuses


@pytest.mark.parametrize(
    "accepts",
    [
        {"backward": ("gradients\x00",)},
        {"backward": ("step", "step")},
        {"backward": ("a b",)},
        {"__class__": ()},
        {"backward": tuple(f"a{i}" for i in range(51))},
    ],
)
def test_what_a_sandbox_reports_is_not_believed_blindly(accepts):
    (finding,) = fits_series(accepts, "gradient", OLD)

    assert finding.rule == "E-ARG"


def test_a_manager_of_the_current_series_has_its_hooks():
    snapshot = Index.read().snapshots[series_of(Version(__version__))]

    manager = manager_of(snapshot)

    assert {name for name in dir(manager.hook) if not name.startswith("_")} == set(snapshot.hooks)


def test_an_argument_of_a_later_series_with_a_default_is_not_asked_for_today():
    class Clip:
        role = "gradient"

        def forward(self, batch, step=None, invented_later=None): ...

        def backward(self, gradients, *, invented_later=1): ...

    assert accepted_arguments(Clip) == {"forward": ("batch", "step"), "backward": ("gradients",)}
