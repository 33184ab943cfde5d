"""More than anybody wants: of output, replies, file descriptors."""

from ringfence import PluginCrashedError, PluginProtocolError

from ..harm import Harm


def _prints(name):
    return Harm(36, f"floods:{name}", (), naive={"kept_mib": 48}, kind="collector", limit_s=20.0)


HARMS = (
    *(_prints(name) for name in ("lines", "errors", "one_line", "bytes_of_any_kind")),
    Harm(
        36,
        "floods:in_the_background",
        (),
        no_control="who keeps what is printed would keep it until memory ends; see floods:lines",
    ),
    Harm(
        36,
        "floods:and_leave",
        (PluginCrashedError,),
        r"exited with status 3; it last printed:\n.*\\x1b\[2J",
        naive={"ended": "exited 3"},
    ),
    Harm(
        26,
        "floods:replies",
        (PluginProtocolError,),
        r"answered request \d+ when \d+ was asked",
        no_control="who takes one reply for each call has nothing to be flooded with; see floods:descriptors",
        step=2,
    ),
    Harm(
        26,
        "floods:descriptors_without_a_message",
        (PluginProtocolError,),
        "not a message of this protocol",
        no_control="the same as floods:descriptors to who takes them",
    ),
    Harm(26, "floods:descriptors", (), naive={"fds": 2000}, kind="acceptor", limit_s=5.0),
)

#: Left to the long runs.
LONG = Harm(36, "floods:one_gibibyte", (), settings={"deadline_s": 170.0})
