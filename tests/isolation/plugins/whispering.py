"""A plugin that leaves a word with memory that it shares with others, or looks for one there."""

import fcntl
import os

from ringfence import passthrough

WORD = 0xC0FFEE
_GET_SEALS, _FUTURE_WRITE = 1034, 0x10


def shared():
    """Yield descriptors of memory that is only to be read, which other plugins have too."""
    for fd in range(3, 256):
        try:
            is_shared = not os.fstat(fd).st_nlink and fcntl.fcntl(fd, _GET_SEALS) & _FUTURE_WRITE
        except OSError:
            continue
        if is_shared:
            yield fd


#: What the kernel keeps by open file, to how a word is left there and how it is found.
WAYS = {
    "offset": (
        lambda fd: os.lseek(fd, WORD, os.SEEK_SET),
        lambda fd: os.lseek(fd, 0, os.SEEK_CUR) == WORD,
    ),
    "flags": (
        lambda fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK),
        lambda fd: bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK),
    ),
}


class Whisper:
    """Leaves the word or looks for it in each call; how often it tried and if it heard it is its state."""

    role = "gradient"
    forward = passthrough

    def __init__(self, way: str, speaks: bool):
        leave, find = WAYS[way]
        self.act = leave if speaks else find
        self.tried, self.heard = 0, False

    def backward(self, gradients):
        found = [self.act(fd) is True for fd in shared()]
        self.tried, self.heard = len(found), any(found)

    def state_dict(self):
        return {"tried": self.tried, "heard": self.heard}

    def load_state_dict(self, state):
        self.tried, self.heard = state["tried"], state["heard"]
