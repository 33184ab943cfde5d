"""A plugin that does no harm: another's victim."""

from ringfence import passthrough


class Bystander:
    role = "gradient"
    forward = passthrough

    def __init__(self):
        with open("note.txt", "w") as file:
            file.write("a note of the sibling's own")

    def backward(self, gradients, step):
        return gradients.clone()
