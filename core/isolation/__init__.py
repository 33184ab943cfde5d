r"""Where plugins run: one sandbox each, made of layers that the kernel enforces.

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

Files, by what they are for:

* the run: ``pool`` (the sandbox), ``host`` (the stand-in for one plugin), ``crew`` (its
  processes, from fork to end), ``forking`` (the zygote, from outside), ``dying``,
  ``imports``, ``storage`` and ``scratch`` (folders)
* what crosses: ``channel`` (requests) and ``waiting`` (deadlines), ``exchange`` (arguments and results),
  ``checked_copy`` (results that are many tensors), ``protocol`` and ``memory``, which both sides
  share, ``claims`` (what a worker says of itself)
* inside: ``zygote``, ``worker``, ``generators`` (of random numbers), ``heap`` (freed memory),
  ``layers`` (all that a process puts on itself:
  ``namespaces``, ``privileges``, ``landlock``, ``seccomp`` with its tables ``calls``,
  ``calls_by_argument`` and ``calls_by_process``), ``kernel``
* trying it: ``probes`` (``probes_files``, ``probes_kernel``, ``probing``), ``status``,
  ``report``, ``doctor``, ``coverage``
* bounds: ``budget``, ``foreign``, ``ceiling`` and ``cgroup`` (memory), ``fairness`` (processor time),
  ``unlinked``, ``descriptors``, ``locks`` and ``watches`` (files), ``account`` and ``process`` (the
  books), ``watchdog``, ``turns``
* what is told: ``attempts`` (calls that were refused), ``advice`` (the line that would allow); what the
  host does instead: ``modes`` (of files)
* what a job grants: ``grants`` and ``reserved`` (what may be), ``broker`` (outside) and
  ``dialler`` (inside) for connections, ``addresses`` (where they may lead)
"""
