"""Plugins that use names of 0.4, as strangers write them: with a guard around them and without."""

GUARD = """
try:
    from ringfence import map_tensors, tensors_of
except ImportError:  # before 0.4 there were no trees

    def map_tensors(function, tree):
        return function(tree)

    def tensors_of(tree):
        return [tree]
"""
BARE = "\nfrom ringfence import map_tensors, tensors_of\n"
PLUGINS = '''\
"""An augmentation and a monitor that know trees."""

from ringfence import Report, passthrough
{imports}

class Dim:
    """Scale numbers with a point among the inputs, by an amount of each sample's own."""

    role = "augment"
    takes_trees = True
    backward = passthrough

    def forward(self, batch, step):
        seeds = step.sample_seeds(batch.indices)

        def dim(tensor):
            if not tensor.is_floating_point():
                return tensor
            scaled = tensor.clone()
            for row, seed in zip(scaled, seeds, strict=True):
                row.mul_(0.5 + (seed % 1000) / 2000)
            return scaled

        return batch.with_(inputs=map_tensors(dim, batch.inputs))


class Spread:
    """Report how many tensors there are, and the mean of each output."""

    role = "monitor"
    takes_trees = True
    backward = passthrough

    def forward(self, batch, outputs):
        scalars = {{f"mean/{{i}}": float(t.double().mean()) for i, t in enumerate(tensors_of(outputs))}}
        return Report(scalars={{"inputs": float(len(tensors_of(batch.inputs))), **scalars}})
'''
GUARDED, UNGUARDED = PLUGINS.format(imports=GUARD), PLUGINS.format(imports=BARE)
