"""Augment plugins that show what they are given."""

from ringfence import passthrough


class Showing:
    """Returns the inputs as it found them, in memory of its own."""

    role = "augment"
    backward = passthrough

    def forward(self, batch, step):
        step.log("is_float", float(batch.inputs.is_floating_point()))
        return batch.with_(inputs=batch.inputs.clone())


class Bytewise:
    """Takes images as bytes, and says so."""

    role = "augment"
    backward = passthrough
    reads_bytes = True

    def forward(self, batch, step):
        step.log("is_float", float(batch.inputs.is_floating_point()))
        return batch.with_(inputs=batch.inputs if batch.inputs.is_floating_point() else batch.inputs / 255)


class Passing:
    """Changes nothing."""

    role = "augment"
    backward = passthrough

    def forward(self, batch, step):
        return None


class Keeping:
    """Returns what it was given as it is, and keeps hold of it."""

    role = "augment"
    backward = passthrough

    def __init__(self):
        self.held = []

    def forward(self, batch, step):
        self.held.append(batch.inputs)
        return batch


class Learning:
    """Learns from losses, so that it is called in the step; adds what it saw last."""

    role = "augment"

    def __init__(self):
        self.last = 0.0

    def forward(self, batch, step):
        return batch.with_(inputs=batch.inputs + self.last / 1000)

    def backward(self, losses, step):
        self.last = losses.mean().item()


class FailingLater:
    """Works for some batches and then raises."""

    role = "augment"
    backward = passthrough

    def forward(self, batch, step):
        if step.global_step == 3:
            raise RuntimeError("enough")
        return batch.with_(inputs=batch.inputs * 0.5)
