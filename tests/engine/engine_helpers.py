"""Models, data, plugins and the plain PyTorch loop that the engine is compared with."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.setup import Setup
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.types import AnotherPass, LossScale, LossTerm, Report, derive_seed, passthrough
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.plugins.observer import Observer
from ringfence.plugins.stop_request import StopRequest

# data and models


def image_data(train: int = 50, test: int = 20, *, classes: int = 4, seed: int = 0) -> Data:
    """Images (1, 8, 8) uint8 of ``classes`` classes."""
    generator = torch.Generator().manual_seed(seed)

    def make(n: int) -> Dataset:
        inputs = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
        return Dataset(inputs, torch.randint(0, classes, (n,), generator=generator), classes)

    return Data(make(train), make(test), mean=(0.4,), std=(0.3,))


def regression_data(train: int = 40, test: int = 16) -> Data:
    generator = torch.Generator().manual_seed(1)

    def make(n: int) -> Dataset:
        inputs = torch.randn(n, 6, generator=generator)
        return Dataset(inputs, inputs[:, :2] * 0.5 + 0.1, None)

    return Data(make(train), make(test))


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


def dropout_mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 4))


def convnet() -> nn.Module:
    """Convolution, batch norm and dropout: buffers and random numbers."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(4 * 64, 4),
    )


class Draws(nn.Module):
    """Scales what passes by numbers from Python's and numpy's generators, as code of a user may."""

    def forward(self, inputs: Tensor) -> Tensor:
        # Normal numbers are drawn in pairs, so that every other time one is left over.
        return inputs * (1 + 0.2 * random.random() + 0.1 * float(np.random.randn()))  # noqa: NPY002, S311


def drawing_convnet() -> nn.Module:
    """The same, with random numbers that are not torch's."""
    return nn.Sequential(Draws(), convnet())


class Killed(KeyboardInterrupt):
    """Stands for the end of the process: nothing handles it."""


class Unused(nn.Module):
    """A model with a parameter that the loss does not depend on, tied weights and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(64, 8)
        self.middle = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.middle.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.last = nn.Parameter(torch.randn(4, 8).t())

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.tied(self.middle(self.first(inputs.flatten(1)).relu()))
        return hidden @ self.last


def linear_regressor() -> nn.Module:
    torch.manual_seed(4)
    return nn.Linear(6, 2)


# plugins

#: (plugin, method, step) at which to raise, once; outlives a plugin's restart.
FAULTS: list[tuple[str, str, int]] = []
#: What was called, in order: ``"<role>.<method>"``.
CALLS: list[str] = []


def maybe_fail(plugin: str, method: str, step: int) -> None:
    if (plugin, method, step) in FAULTS:
        FAULTS.remove((plugin, method, step))
        raise ValueError(f"fault in {method} at {step}")


class TorchOptim:
    """Any ``torch.optim`` class, on copies of the parameters."""

    role = "optimizer"
    forward = passthrough

    def __init__(self, algorithm: str = "SGD", lr: float = 0.1, **options: Any) -> None:
        self._cls = getattr(torch.optim, algorithm)
        self._lr = lr
        self._options = options
        self._own: dict[str, nn.Parameter] | None = None
        self._pending: Any = None

    def _make(self, parameters: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
        own = {name: nn.Parameter(value.clone()) for name, value in parameters.items()}
        self._optimizer = self._cls(own.values(), lr=self._lr, **self._options)
        if self._pending is not None:
            self._optimizer.load_state_dict(self._pending)
        return own

    def backward(self, parameters, gradients, step):
        maybe_fail("optim", "backward", step.global_step)
        if self._own is None:
            self._own = self._make(parameters)
        for name, own in self._own.items():
            own.data.copy_(parameters[name])
            own.grad = gradients[name].clone() if name in gradients else None
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * step.lr_factor
        self._optimizer.step()
        return {name: own.detach() for name, own in self._own.items()}

    def state_dict(self) -> Any:
        return None if self._own is None else self._optimizer.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._pending = state
        if self._own is not None:
            self._optimizer.load_state_dict(state)


class Momentum:
    """A gradient plugin with state: adds the mean of earlier gradients."""

    role = "gradient"
    forward = passthrough

    def __init__(self) -> None:
        self.mean: dict[str, Tensor] = {}

    def backward(self, gradients, step):
        maybe_fail("momentum", "backward", step.global_step)
        self.mean = {
            name: 0.9 * self.mean.get(name, torch.zeros_like(g)) + 0.1 * g for name, g in gradients.items()
        }
        return {name: g + self.mean[name] for name, g in gradients.items()}

    def state_dict(self):
        return dict(self.mean)

    def load_state_dict(self, state):
        self.mean = dict(state)


class Jitter:
    """An augment plugin that adds noise; with ``learns`` it adapts the noise to the losses, and has state."""

    role = "augment"

    def __init__(self) -> None:
        self.scale = 0.1

    def forward(self, batch, step):
        maybe_fail("jitter", "forward", step.global_step)
        noise = torch.randn(batch.inputs.shape, generator=step.generator())
        return batch.with_(inputs=batch.inputs + self.scale * noise)

    def backward(self, losses, step):
        maybe_fail("jitter", "backward", step.global_step)
        self.scale = 0.9 * self.scale + 0.01 * float(losses.mean())

    def state_dict(self):
        return {"scale": self.scale}

    def load_state_dict(self, state):
        self.scale = state["scale"]


class Noise:
    """An augment plugin that runs ahead and fails under the given name."""

    role = "augment"
    backward = passthrough

    def __init__(self, name: str = "") -> None:
        self.name = name

    def forward(self, batch, step):
        maybe_fail(self.name, "forward", step.global_step)
        return batch.with_(inputs=batch.inputs + 0.01 * torch.randn(batch.inputs.shape))


class Watcher:
    """A monitor that reports the norm of the update."""

    role = "monitor"

    def forward(self, outputs, loss, step):
        maybe_fail("watcher", "forward", step.global_step)
        return Report(scalars={"loss": loss, "mean": float(outputs.mean())})

    def backward(self, updates, parameters, gradients, step):
        maybe_fail("watcher", "backward", step.global_step)
        return Report(scalars={"update": float(updates.flat().norm())})


class Sam:
    """Sharpness-aware SGD: the gradient is taken at the worst point nearby."""

    role = "optimizer"
    forward = passthrough

    def __init__(self, lr: float = 0.1, rho: float = 0.05) -> None:
        self.lr, self.rho = lr, rho

    def backward(self, parameters, gradients, step):
        if step.pass_index == 0:
            self.home = parameters.clone()
            scale = self.rho / torch.stack([g.norm() for g in gradients.values()]).norm()
            return AnotherPass({n: p + scale * gradients[n] for n, p in parameters.items()})
        return {n: self.home[n] - self.lr * gradients[n] for n in parameters}


class Insatiable:
    role = "optimizer"
    forward = passthrough

    def backward(self, parameters):
        return AnotherPass(parameters)


class LookAhead:
    """An optimizer that moves before the pass as well."""

    role = "optimizer"

    def forward(self, parameters):
        return {name: value * 0.99 for name, value in parameters.items()}

    def backward(self, parameters, gradients):
        return {name: value - 0.1 * gradients[name] for name, value in parameters.items()}


class HalfLoss:
    role = "gradient"
    backward = passthrough

    def forward(self):
        return LossScale(0.5)


class OutputPenalty:
    """Adds 0.01 times the mean square of the outputs."""

    role = "gradient"
    backward = passthrough

    def forward(self, outputs, loss):
        return LossTerm(float(0.01 * outputs.square().mean()), 0.02 * outputs / outputs.numel())


class LogsLosses:
    """Logs the losses that it is told."""

    role = "optimizer"
    forward = passthrough

    def backward(self, parameters, gradients, loss, step):
        step.log("loss", loss)
        return {n: p - 0.1 * gradients[n] if n in gradients else p for n, p in parameters.items()}


def _recording(role: str) -> type:
    """Return a plugin class of ``role`` that records its calls and changes nothing."""
    from ringfence.hooks import specs

    def record(method: str) -> Callable[..., None]:
        declared = next(hook for hook in specs.HOOKS if hook.__name__ == f"{role}_{method}")
        names = declared.__code__.co_varnames[: declared.__code__.co_argcount]
        space: dict[str, Any] = {"CALLS": CALLS}
        exec(  # noqa: S102 - a method with the declared arguments
            f"def {method}(self, {', '.join(names)}):\n"
            f"    CALLS.append('{role}.{method}({', '.join(names)})')",
            space,
        )
        function: Callable[..., None] = space[method]
        return function

    return type(
        f"Records{role.title()}",
        (),
        {"role": role, "forward": record("forward"), "backward": record("backward")},
    )


RecordsAugment = _recording("augment")
RecordsGradient = _recording("gradient")
RecordsOptimizer = _recording("optimizer")
RecordsMonitor = _recording("monitor")


def plugin(cls: type, name: str | None = None, *, settings: Mapping[str, Any] | None = None, **options: Any):
    """Return a started local plugin that can be restarted."""
    spec = PluginSpec(
        name=name or cls.__name__.lower(),
        distribution="tests",
        version="0",
        module=cls.__module__,
        qualname=cls.__name__,
        role=cls.role,
        options=options,
        isolation="trusted",
        **(settings or {}),
    )
    return LocalPlugin(spec)


class Listener:
    """Keeps what plugins report."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, dict[str, float]]] = []
        self.events: list[str] = []

    def reported(self, plugin, step, scalars, report):
        found = dict(scalars) if report is None else dict(report.scalars)
        self.reports.append((plugin, step.global_step, found))

    def event(self, message):
        self.events.append(message)


def hooks_of(*plugins: Any, seed: int = 0, observer: Listener | None = None) -> Hooks:
    hooks = Hooks(seed, observer)
    for item in plugins:
        hooks.register(item)
    return hooks


def sgd(**settings: Any):
    return plugin(TorchOptim, "optim", settings=settings, algorithm="SGD", lr=0.05, momentum=0.9)


def adamw(**settings: Any):
    return plugin(TorchOptim, "optim", settings=settings, algorithm="AdamW", lr=0.01, weight_decay=0.1)


# runs


class TapeRecorder(Observer):
    """Keeps the record of a run as a list that can be cut back."""

    def __init__(self, tape: list[tuple[str, int, Any]] | None = None) -> None:
        self.tape: list[tuple[str, int, Any]] = [] if tape is None else tape
        self.events: list[str] = []
        self.rollbacks: list[int] = []
        self.samples: list[Tensor] = []

    def wants_loss(self, step):
        return True

    def sampled(self, batch, step):
        self.samples.append(batch.inputs.clone())

    def step(self, step, loss, samples):
        self.tape.append(("step", step.global_step, (loss, samples)))

    def evaluated(self, step, epoch, metrics, *, best):
        self.tape.append(("evaluated", step, (epoch, dict(metrics), best)))

    def checkpointed(self, step, path):
        self.events.append(f"checkpoint {step} {path.name}")

    def position(self):
        return len(self.tape)

    def rolled_back(self, to_step, position):
        self.rollbacks.append(to_step)
        del self.tape[position:]

    def event(self, message):
        self.events.append(message)


class StopAt(TapeRecorder):
    """Asks the run to stop once ``at`` steps are done."""

    def __init__(self, at: int, tape: list[tuple[str, int, Any]] | None = None) -> None:
        super().__init__(tape)
        self.at = at
        self.done = 0

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        self.done = step.global_step + 1

    def stop(self) -> bool:
        return self.done >= self.at


def asking(ask: Callable[[], bool]) -> StopRequest:
    """Return a request that is made once ``ask`` says so, whenever the run looks."""
    request = StopRequest()
    request.is_made = ask
    return request


def config(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {"batch_size": 8, "epochs": 3, "seed": 7, "device": "cpu"}
    if "steps" in changes:
        base["epochs"] = None
    return TrainConfig(**{**base, **changes})


def run(model: nn.Module, data: Data, hooks: Hooks, settings: TrainConfig, **more: Any):
    try:
        tried = more.pop("tried", None)
        setup = try_together(model, data, settings) if tried is None else Setup.of(model, data, settings)
        return train(setup, hooks, **more)
    finally:
        hooks.close()


def plain_loop(
    model: nn.Module,
    data: Data,
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
    *,
    epochs: int,
    batch_size: int,
    accumulate: int = 1,
    seed: int = 7,
    factor: Callable[[int], float] = lambda step: 1.0,
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
    weight: Callable[[Tensor], float] = len,
) -> list[float]:
    """Train as anybody would in plain PyTorch; return the loss of each step.

    ``weight`` is what the criterion's mean over a batch's targets divides by.
    """
    model.train()
    optimizer = make_optimizer(model.parameters())
    base_lr = optimizer.param_groups[0]["lr"]
    torch.manual_seed(derive_seed(seed, "run"))
    dataset, step, losses = data.train, 0, []
    for epoch in range(epochs):
        order = torch.randperm(
            len(dataset), generator=torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        )
        for group in order.split(batch_size * accumulate):
            optimizer.param_groups[0]["lr"] = base_lr * factor(step)
            optimizer.zero_grad()
            parts, step_loss = group.split(batch_size), 0.0
            for indices in parts:
                inputs = dataset.inputs[indices]
                if inputs.dtype == torch.uint8:
                    inputs = inputs.float() / 255
                if data.mean is not None and data.std is not None:
                    inputs = (inputs - data.mean[0]) / data.std[0]
                outputs = model(inputs)
                targets = dataset.targets[indices]
                usual = functional.mse_loss if dataset.num_classes is None else functional.cross_entropy
                loss = (criterion or usual)(outputs, targets)
                if len(parts) > 1:
                    whole = sum(weight(dataset.targets[part]) for part in parts)
                    loss = loss / (whole / weight(targets))
                loss.backward()
                step_loss += loss.item()
            optimizer.step()
            losses.append(step_loss)
            step += 1
    return losses


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def clone_of(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)
