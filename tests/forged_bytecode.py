"""Compiled code of one's own choice, put beside a module where Python takes it for the module's."""

import importlib.util
import marshal
import sys

_UNCHECKED = 1


def forge(source, text, *, kind):
    """Write ``text``, compiled, as what Python has cached of the file ``source``.

    Args:
        kind: "timestamp", with time and size of the source, or "unchecked", of which Python asks nothing.
    """
    found = source.stat()
    cached = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
    cached.parent.mkdir(exist_ok=True)
    words = (0, int(found.st_mtime), found.st_size) if kind == "timestamp" else (_UNCHECKED, 0, 0)
    header = importlib.util.MAGIC_NUMBER + b"".join(word.to_bytes(4, "little") for word in words)
    cached.write_bytes(header + marshal.dumps(compile(text, str(source), "exec")))
