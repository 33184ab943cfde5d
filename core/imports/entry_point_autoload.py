"""Switch off the entry points by which installed packages would run in the trainer by themselves.

Some libraries load entry points of whatever distribution declares them, at import
or at first use: a plugin that declares one would run outside its sandbox.
"""

from __future__ import annotations

import os

#: Group of entry points that a library of the trainer loads by itself, to what loads it.
LOADED_UNASKED = {
    "torch.backends": "torch, when it is imported",
    "torch_dynamo_backends": "torch, when it compiles",
    "triton.backends": "triton, when it is imported",
    "pydantic": "pydantic, when it reads its first model",
    "matplotlib.backend": "matplotlib, when it draws",
    "tensorboard_plugins": "tensorboard, when it starts",
}

_FORBIDDEN = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "PYDANTIC_DISABLE_PLUGINS": "__all__"}


def forbid_autoload() -> None:
    """Have torch and pydantic load nobody's entry points; to be called before either is imported.

    What the user's environment says of it is overruled: the sandbox means nothing otherwise.
    """
    os.environ.update(_FORBIDDEN)
