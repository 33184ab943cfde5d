"""What is called in the rows about calls: plugins, and the same work for other kinds of process."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ringfence import Gradients, StepInfo, passthrough


def ends(values: Tensor) -> float:
    """Read a tensor where a page that is not there would show: at both ends."""
    return float(values[0]) + float(values[-1])


class Reader:
    """Reads gradients."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients: Gradients, step: StepInfo) -> None:
        """Log what it read."""
        step.log("ends", ends(gradients["values"]))


class Writer:
    """Halves gradients."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients: Gradients) -> Gradients:
        """Return half of each."""
        # In the place that the core has laid out for it, where it has.
        draft: Callable[[], Gradients] = getattr(gradients, "draft", gradients.clone)
        halved = draft()
        halved["values"].mul_(0.5)
        return halved


def read_array(values: Any) -> float:
    """Do as ``Reader`` does, with what loky and Ray hand over."""
    return float(values[0]) + float(values[-1])


def write_array(values: Any) -> Any:
    """Do as ``Writer`` does."""
    return values * np.float32(0.5)


def serve_queue(asked: Any, answered: Any) -> None:
    """Answer what comes through a queue until None does."""
    torch.set_num_threads(1)
    while (question := asked.get()) is not None:
        kind, values = question
        answered.put(ends(values) if kind == "read" else values * 0.5)


def serve_pipe(connection: Connection) -> None:
    """Answer what comes through a pipe until it ends."""
    try:
        while True:
            kind = connection.recv_bytes()
            values = np.frombuffer(connection.recv_bytes(), np.float32)
            if kind == b"read":
                connection.send(read_array(values))
            else:
                connection.send_bytes(write_array(values))
    except EOFError:
        return
