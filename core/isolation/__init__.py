r"""The sandbox of plugins: processes of their own, in layers that the kernel enforces.

    trainer (host) --socketpair--> zygote (clean exec, torch imported) --fork--> workers of plugin A
           |                                                            \--fork--> workers of plugin B
           \--socketpair and sealed memory, one set for each worker------------------/

What is covered: plugin code that is wrong or hostile. But for what the job grants, it
cannot read the user's files or environment or reach the network; it cannot start or
signal processes, keep the run from going on, use more than its memory budget, change
what it may only read, or hand over bytes that run as code.

What is not covered: faults of the kernel itself; side channels; numbers that are
valid but wrong; what a source distribution does while ``pip`` installs it, and
what an installed one has Python run at every start (``.pth`` files); a plugin
that the job declares ``isolation: trusted``.

The rooms: ``policy`` (what a plugin may do, as data), ``transport`` (how the two sides talk), ``worker``
(what RUNS INSIDE the sandbox) and ``host`` (what runs in the trainer). The last two never import each other.
"""
