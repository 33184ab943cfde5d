"""Plugins of a stranger's, which know trees."""

import torch

from ringfence import Report, passthrough

try:
    from ringfence import map_tensors, tensors_of
except ImportError:
    # Before 0.4 inputs, targets and outputs were one tensor each.
    def map_tensors(function, tensor):
        return function(tensor)

    def tensors_of(tensor):
        return [tensor]


class Jitter:
    """Moves every number of the inputs that is no whole one a little."""

    role = "augment"
    backward = passthrough
    takes_trees = True

    def forward(self, batch, step):
        generator = step.generator()

        def moved(tensor):
            if not tensor.is_floating_point():
                return tensor
            return tensor + 0.01 * torch.randn(tensor.shape, generator=generator)

        return batch.with_(inputs=map_tensors(moved, batch.inputs))


class Sizes:
    """Tells how much there is of inputs, targets and outputs."""

    role = "monitor"
    backward = passthrough
    takes_trees = True

    def forward(self, batch, outputs, loss, step):
        trees = {"inputs": batch.inputs, "targets": batch.targets, "outputs": outputs}
        return Report({name: float(sum(t.numel() for t in tensors_of(tree))) for name, tree in trees.items()})
