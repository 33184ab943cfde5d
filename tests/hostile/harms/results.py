"""Results that are none."""

from ringfence import PluginProtocolError, PluginRaisedError

from ..harm import Harm


def _returns(name, says, ended, no_control=""):
    return Harm(
        31,
        f"results:{name}",
        # What breaks as it is looked at is told as the plugin's own.
        (PluginProtocolError, PluginRaisedError),
        says,
        {"ended": ended} if ended else {},
        no_control=no_control,
    )


_NOT_FINITE = "with a value that is not finite"

HARMS = (
    _returns("nan", _NOT_FINITE, "poisoned"),
    _returns("infinite", _NOT_FINITE, "poisoned"),
    _returns("one_nan", _NOT_FINITE, "poisoned"),
    _returns("sum_of_nothing", _NOT_FINITE, "poisoned"),
    _returns("wrong_shape", r"of shape \(7, 5, 3\); expected", "raised RuntimeError"),
    _returns("wrong_dtype", "of dtype torch.complex64; expected torch.float32", "raised RuntimeError"),
    _returns("more_elements", r"of shape \(1048576,\)", "raised RuntimeError"),
    _returns("missing_name", "missing", "", "a trainer that looks nothing up does not notice"),
    _returns("unknown_name", "extra", "raised KeyError"),
    _returns("no_mapping", "returned int; expected a mapping", "raised AttributeError"),
    _returns("no_tensors", "expected a tensor", "raised TypeError"),
    _returns("without_memory", "", "", "torch lets a trainer subtract what has no memory, and does nothing"),
    _returns("lying_subclass", "", "raised RuntimeError"),
)
