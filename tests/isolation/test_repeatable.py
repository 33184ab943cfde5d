"""A plugin with several threads gives the same bits each time: it may be rolled back and called again."""

from ringfence.plugins.local_plugin import LocalPlugin

WHERE = "obedient:Scatters"


def sums(plugin, gradients, step, tries):
    """Return what comes of the same call, time after time; the first that differs is the last."""
    found = []
    while len(found) < tries and len(set(found)) < 2:
        own = step.for_plugin(0, "scatters")
        plugin.call("backward", {"gradients": gradients}, own)
        found.append(own.scalars["sum"])
    return found


def test_a_sandboxed_plugin_gives_the_same_each_time(start, gradients, step):
    assert len(set(sums(start(WHERE, threads=2), gradients, step, tries=6))) == 1


def test_it_would_not_if_torch_were_left_alone(spec, gradients, step):
    """The control: in this process torch is as it comes."""
    assert len(set(sums(LocalPlugin(spec(WHERE, threads=2)), gradients, step, tries=300))) == 2
