"""Plugins in a job of PyTorch Lightning: a callback, and the optimizer in the place of the module's.

    with ringfence.plugin_host([{"strangers-augment": {}}], model=module) as host:
        trainer = Trainer(callbacks=[LightningCallback(host)])
        trainer.fit(module, host.augment(loader))

Nothing of Lightning is imported unless it is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loop_host import LoopError

try:
    from pytorch_lightning import Callback
except ModuleNotFoundError:  # told where one is made
    Callback = object

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from .loop_host import LoopHost


class LightningCallback(Callback):  # type: ignore[misc]
    """Has the plugins of a host take part in ``trainer.fit``.

    The optimizer that ``configure_optimizers`` returns is given the gradients that plugins have changed.
    Where a plugin is the optimizer, it returns ``host.optimizer``. Checkpoints hold the plugins' states with
    the optimizer's. Numbers that plugins log go to the trainer's loggers.

    Args:
        host: Made for the module; open for as long as the trainer fits.

    Raises:
        ModuleNotFoundError: PyTorch Lightning is not installed.
    """

    def __init__(self, host: LoopHost) -> None:
        if Callback is object:
            raise ModuleNotFoundError(
                "pytorch-lightning is not installed; get it with: pip install 'ringfence[lightning]'"
            )
        self._host = host

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the host's optimizer in the place of the module's.

        Raises:
            LoopError: Trainer or module do not go together with the host.
        """
        if pl_module is not self._host.model:
            raise LoopError("plugin_host was made for another model; give it the one that the trainer fits")
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise LoopError(
                "plugins take part in automatic optimization with one optimizer; for another loop, call "
                "host.augment, host.loss and host.step in the module itself, without this callback"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise LoopError(
                f"with precision {trainer.precision} gradients are scaled, and plugins would be given those; "
                "use bf16-mixed or 32"
            )
        self._host.join(
            "the Trainer", trainer.strategy.root_device, trainer.accumulate_grad_batches, trainer.world_size
        )
        trainer.optimizers = [self._host.adopt(trainer.optimizers[0])]

    def on_train_batch_start(self, *_: Any) -> None:
        """Go on to the batch; its step begins with the first."""
        self._host.begin_batch()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Hand what plugins have logged to the loggers, as often as the trainer logs."""
        if trainer.loggers and trainer.global_step % trainer.log_every_n_steps == 0:
            for logger in trainer.loggers:
                logger.log_metrics(self._host.logged, step=trainer.global_step)
