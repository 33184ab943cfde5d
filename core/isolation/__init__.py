r"""Where plugins run: one sandbox each, made of layers that the kernel enforces.

    trainer (host) --socketpair--> zygote (clean exec, torch imported) --fork--> workers of plugin A
           |                                                            \--fork--> workers of plugin B
           \--socketpair and sealed memory, one set for each worker------------------/

What is covered: plugin code that is wrong or hostile. It cannot read the user's
files or environment, reach the network, start or signal processes, keep the run
from going on, use more than its memory budget, change what it may only read, or
hand over bytes that run as code.

What is not covered: faults of the kernel itself; side channels; numbers that are
valid but wrong; what a source distribution does while ``pip`` installs it, and
what an installed one has Python run at every start (``.pth`` files); a plugin
that the job declares ``isolation: trusted``.

Files, from the outside in: ``pool`` (the sandbox of a run), ``host`` (the
stand-in for one plugin), ``crew`` (its processes, from fork to end),
``exchange`` (arguments and results in shared memory),
``channel`` (requests and deadlines), ``watchdog`` and ``budget`` (memory),
``cgroup``; then ``protocol`` and ``memory``, which both sides share; then, inside,
``zygote``, ``worker``, ``layers`` and ``probes``. ``report`` says how each layer stands.
"""
