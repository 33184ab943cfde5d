"""Attacks that no layer covers, on any machine, in the words of docs/security.md."""

from __future__ import annotations

#: Title to what is meant.
NOT_COVERED: dict[str, str] = {
    "Installing": "pip runs the code of a source distribution as you, and a .pth file of a wheel at every "
    "start of Python. Install wheels only: pip install --only-binary :all:",
    "The kernel": "a hole in Linux itself is a hole here",
    "Side channels": "caches, timing, power; and whether a path exists, how large it is, when it changed, "
    "where a link leads",
    "Valid but wrong numbers": "what a plugin returns is checked for shape, type and finiteness, and then "
    "used; it can make a model worse, or hide something in it",
    "Graphics cards": "plugins get none, so that no driver is within their reach; the trainer's own use "
    "of one is not guarded",
    "What you allow": "a host that you let a plugin reach gets whatever the plugin can see",
    "Your own code": "models and data sets that a job names run in the trainer, as do plugins declared "
    "'isolation: trusted'",
}
