"""Plugins in the Trainer of transformers: a callback, and the optimizer in the place of the trainer's.

    keys = ("pixel_values", "labels")
    with ringfence.plugin_host([{"strangers-augment": {}}], model=model, batch_keys=keys) as host:
        trainer = Trainer(model, arguments, train_dataset=dataset)
        TransformersCallback(host).attach(trainer)
        trainer.train()

Nothing of transformers is imported unless it is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .loop_host import LoopError

try:
    from transformers import TrainerCallback
except ModuleNotFoundError:  # told where one is made
    TrainerCallback = object

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import Trainer

    from .loop_host import LoopHost


class TransformersCallback(TrainerCallback):  # type: ignore[misc]
    """Has the plugins of a host take part in ``trainer.train``.

    Batches come through the augment plugins, the loss of ``compute_loss`` through the gradient plugins, and
    the optimizer is given the gradients that plugins have changed; where a plugin is the optimizer, the
    trainer takes that. Checkpoints hold the plugins' states with the optimizer's. What plugins log is logged.

    Args:
        host: Made for the model; open for as long as the trainer trains.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """

    def __init__(self, host: LoopHost) -> None:
        if TrainerCallback is object:
            raise ModuleNotFoundError(
                "transformers is not installed; get it, and accelerate, with: "
                "pip install 'ringfence[transformers]'"
            )
        self._host = host

    def attach(self, trainer: Trainer) -> None:
        """Have ``trainer`` train with the plugins; to be called once, before ``train``.

        Raises:
            LoopError: Trainer and host do not go together.
        """
        host, arguments = self._host, trainer.args
        if trainer.model is not host.model:
            raise LoopError("plugin_host was made for another model; give it that of the Trainer")
        if trainer.accelerator.scaler is not None:
            raise LoopError("with fp16 gradients are scaled, and plugins would be given those; use bf16")
        host.join(
            "the Trainer",
            arguments.device,
            arguments.gradient_accumulation_steps,
            arguments.world_size * max(arguments.n_gpu, 1),
        )
        make_loader, make_optimizer = trainer.get_train_dataloader, trainer.create_optimizer
        compute_loss = trainer.compute_loss

        def get_train_dataloader() -> Iterable[Any]:
            return host.augment(make_loader())

        def create_optimizer(*given: Any) -> Optimizer:
            if trainer.optimizer is None and host.has_optimizer:
                trainer.optimizer = host.optimizer
            make_optimizer(*given)
            # Trained before, it is wrapped.
            if not isinstance(getattr(trainer.optimizer, "optimizer", None), type(host.optimizer)):
                trainer.optimizer = host.adopt(trainer.optimizer)
            optimizer: Optimizer = trainer.optimizer
            return optimizer

        def loss_with_terms(
            model: nn.Module,
            inputs: Mapping[str, Any],
            return_outputs: bool = False,  # noqa: FBT001, FBT002 - the Trainer's signature
            **more: Any,
        ) -> Any:
            if not model.training:
                return compute_loss(model, inputs, return_outputs=return_outputs, **more)
            host.begin_batch()
            loss, outputs = compute_loss(model, inputs, return_outputs=True, **more)
            loss = host.loss(inputs, _logits(outputs), loss)
            return (loss, outputs) if return_outputs else loss

        trainer.get_train_dataloader = get_train_dataloader
        trainer.create_optimizer = create_optimizer
        trainer.compute_loss = loss_with_terms
        trainer.add_callback(self)

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        """Add what plugins have logged."""
        if logs is not None:
            logs.update(self._host.logged)


def _logits(outputs: Any) -> Tensor:
    """Return the tensor that the loss is made of; what is no tensor ``host.loss`` refuses."""
    found: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
    return found
