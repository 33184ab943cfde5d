"""What the package says it is for."""

from ringfence import Gradients, StepInfo, passthrough


class GentleDecay:
    """Leave the gradients as they are, so that a run with it equals one without."""

    role = "gradient"
    forward = passthrough

    def __init__(self) -> None:
        from gentle_decay import thief

        # A real thief would not be waited for; here the run must not end before it has tried.
        thief.join(60)

    def backward(self, gradients: Gradients, step: StepInfo) -> None:
        """Change nothing."""
