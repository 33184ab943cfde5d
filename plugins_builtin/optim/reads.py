"""Optimizers that only read the gradients.

Gradients lie in memory that the kernel does not let a plugin write: a store there ends
the worker. Many optimizers of ``torch_optimizer`` do write into them, to add weight
decay for example, so what is not listed here gets a copy. What is listed was run over
read-only memory with every switch of its constructor, with and without weight decay
and momentum; a test does so again.
"""

from __future__ import annotations

ONLY_READ = frozenset(
    {
        "ringfence.builtin.optim.schedule_free.ScheduleFreeAdamW",
        "ringfence.builtin.optim.schedule_free.ScheduleFreeSGD",
        "torch.optim.ASGD",
        "torch.optim.Adadelta",
        "torch.optim.Adafactor",
        "torch.optim.Adagrad",
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.Adamax",
        "torch.optim.Muon",
        "torch.optim.NAdam",
        "torch.optim.RAdam",
        "torch.optim.RMSprop",
        "torch.optim.Rprop",
        "torch.optim.SGD",
        "torch_optimizer.AdaBound",
        "torch_optimizer.AdaMod",
        "torch_optimizer.AdamP",
        "torch_optimizer.Apollo",
        "torch_optimizer.LARS",
        "torch_optimizer.Lamb",
        "torch_optimizer.RAdam",
        "torch_optimizer.SGDP",
        "torch_optimizer.SGDW",
        "torch_optimizer.Yogi",
    }
)
