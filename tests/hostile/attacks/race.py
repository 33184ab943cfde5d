"""Go on writing the result after the turn is over, from a thread that nobody waits for."""

import threading
import time

import inside

#: Long after the host has taken what was returned.
LATER_S = 0.3


def later(aim, gradients, step):
    """Return the gradients as they are, and spoil them once they have been taken."""
    result = inside.result()

    def spoil():
        time.sleep(LATER_S)
        result.fill_(0xFF)  # as numbers, these bytes are NaN

    threading.Thread(target=spoil, daemon=True).start()
    return gradients.clone()


def at_once(aim, gradients, step):
    """Write all the time: numbers mostly, and now and then what is none."""
    result = inside.result()

    def spoil():
        while True:
            for byte in (0, 0, 0, 0, 0xFF):
                result.fill_(byte)

    threading.Thread(target=spoil, daemon=True).start()
    return gradients.clone()
