"""What a plugin finds when it looks at the frames of those who called it: the inside of its sandbox."""

import sys


def find_local(name, kind):
    """Return the nearest local variable of that name and type among the callers."""
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get(name)
        if type(found).__name__ == kind:
            return found
        frame = frame.f_back
    raise LookupError(name)


def worker():
    return find_local("self", "Worker")


def call():
    return find_local("call", "Call")


def result():
    """Return the memory that the host reads this call's result from."""
    return worker()._regions[call().result]


def outbox():
    """Return the memory that the host reads a large reply from."""
    return worker()._regions[call().outbox]
