"""Frames that are no reply; ``attacks/frames.py`` makes them."""

from ringfence import PluginMemoryError, PluginProtocolError, PluginRaisedError

from ..harm import Harm

_NO_MESSAGE = "not a message of this protocol"
_OUT_OF_TURN = r"answered request -?\d+ when \d+ was asked"
_OUTBOX = r"a reply of -?\d+ bytes in an outbox"
_RESULT = "a result of kind"
_NAME = "used the name"
_ASKED_FOR_NOTHING = "a receiver that unpickles has no requests, results or names to be lied to about"


def _rejected(number, says, *names, ended="raised UnpicklingError"):
    return tuple(
        Harm(
            number,
            f"frames:{name}",
            (PluginProtocolError,),
            says,
            {"ended": ended} if ended else {},
            "receiver",
            "" if ended else _ASKED_FOR_NOTHING,
        )
        for name in names
    )


def _told(number, name, error, says, ended=""):
    naive = {"ended": ended} if ended else {}
    no_control = "" if ended else _ASKED_FOR_NOTHING
    return Harm(number, f"frames:{name}", (error,), says, naive, "receiver", no_control)


HARMS = (
    *_rejected(32, "sent an empty message", "empty", ended="raised EOFError"),
    *_rejected(32, _NO_MESSAGE, *("one_byte", "bad_magic", "zeros", "text", "truncated", "header_alone")),
    *_rejected(32, _NO_MESSAGE, "trailing", "twice_in_one", "array_of_4_billion"),
    *_rejected(32, _NO_MESSAGE, "text_of_4_gib", "bytes_of_4_gib", "extension", "no_array", "number"),
    *_rejected(33, _NO_MESSAGE, "half_a_length", ended="hung"),
    *_rejected(32, _NO_MESSAGE, "map_of_4_billion", ended="raised MemoryError"),
    *_rejected(32, _NO_MESSAGE, "length_of_2_to_63", ended="raised OverflowError"),
    *_rejected(32, "a message of 100000 bytes; at most 65536", "too_large"),
    *_rejected(32, _NO_MESSAGE, "unknown_opcode", "opcode_of_the_host", "too_few_fields", "wrong_types"),
    *_rejected(32, _NO_MESSAGE, "fractional_seq", "unknown_result", "number_that_is_none", ended=""),
    *_rejected(
        32, _OUT_OF_TURN, "reply_to_another", "reply_to_the_last", "negative_seq", "seq_of_2_to_63", ended=""
    ),
    *_rejected(32, _OUT_OF_TURN, "locked_again", "ready_again", ended=""),
    *_rejected(32, "a Size in answer to a call", "size_for_a_call", ended=""),
    *_rejected(31, _RESULT, "other_result", "loss_for_gradients", "report_of_no_monitor", ended=""),
    *_rejected(
        31, _OUTBOX, "outbox_of_2_to_62", "outbox_of_less_than_nothing", "outbox_beyond_the_end", ended=""
    ),
    *_rejected(31, _NO_MESSAGE, "outbox_of_zeros", ended=""),
    *_rejected(35, _NO_MESSAGE, "deep", "deep_maps", "not_utf8", "json"),
    *_rejected(35, _NO_MESSAGE, "too_many_names", ended=""),
    *_rejected(
        35, _NAME, *("escapes_in_a_name", "lines_in_a_name", "tags_in_a_name", "path_in_a_name"), ended=""
    ),
    _told(35, "fault_with_escapes", PluginRaisedError, r"raised \\x1b\[2J"),
    _told(35, "fault_of_odd_direction", PluginRaisedError, r"raised \\u202egnp"),
    *_rejected(35, _NO_MESSAGE, "fault_of_unknown_kind", "fault_of_much_text", ended=""),
    _told(31, "fault_of_memory", PluginMemoryError, r"used \d MiB of its"),
    *_rejected(34, _NO_MESSAGE, "bomb", ended="executed"),
    *_rejected(
        34, _NO_MESSAGE, "bomb_in_a_result", "bomb_in_a_value", "bomb_in_a_report", "bomb_in_an_extension"
    ),
    *_rejected(34, _NAME, "bomb_in_a_name"),
    *_rejected(34, _RESULT, "bomb_in_a_picture"),
    _told(34, "bomb_in_a_cause", PluginRaisedError, "raised "),
    _told(34, "bomb_in_a_traceback", PluginRaisedError, "raised "),
)
