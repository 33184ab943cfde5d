"""The model's parameters and gradients, laid out so that plugins can read them without a copy."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..hooks.errors import DataError, JobError
from ..hooks.types import Allocate, Gradients, Parameters, TensorMap
from .buffers import address
from .tensor_names import named_buffers, named_parameters


def copy_into(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into the target at its place, all in one call."""
    torch._foreach_copy_(targets, sources)


@contextlib.contextmanager
def pin(buffer: Tensor) -> Iterator[None]:
    """Pin a buffer of host memory for CUDA; a memory map of another process, too, and one of no bytes.

    Raises:
        JobError: The machine does not let so much memory be pinned.
    """
    if not buffer.nbytes:
        yield
        return
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    refused = runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)
    if int(refused):
        raise JobError(
            f"{buffer.nbytes / 2**20:.0f} MiB of parameters cannot be pinned in memory for the GPU: "
            f"{runtime.cudaGetErrorString(refused)}; free memory, or choose device: cpu"
        )
    try:
        yield
    finally:
        runtime.cudaHostUnregister(buffer.data_ptr())


class Collected(TensorMap):
    """Gradients that stay where autograd made them until somebody asks for the buffer.

    A plugin in this process that reads them by name is spared a copy.

    Args:
        place: Where they go then.
    """

    __slots__ = ("_place", "_there")

    def __init__(self, place: TensorMap) -> None:
        self.specs, self._extent = place.specs, place._extent  # noqa: SLF001 - a map of the same layout
        self._flat = None
        self._place = place
        self._tensors = self._there = dict(place)

    def take(self, made: dict[str, Tensor]) -> None:
        """Hold ``made``, contiguous tensors of the names, shapes and dtypes of the place."""
        self._tensors = made

    def drop(self) -> None:
        """Let go of what was taken."""
        self._tensors = self._there

    @property
    def buffer(self) -> Tensor:  # type: ignore[override]
        """The place's buffer, with the gradients in it."""
        if self._tensors is not self._there:
            copy_into(list(self._there.values()), list(self._tensors.values()))
            self._tensors = self._there
        return self._place.buffer


class Weights:
    """Parameters and gradients of one model as two ``TensorMap``.

    On the CPU the parameters *are* ``values``: each ``parameter.data`` is a view
    into its buffer. On another device they are views into a buffer there, and
    ``values`` is its mirror in host memory: plugins are the only ones that change
    parameters, and they change the mirror first. A parameter that several modules
    share is held once. One that is not contiguous (channels-last, transposed) keeps
    its memory and is copied to, since another layout would round differently.

    Args:
        model: On ``device``.
        device: Where the loop runs.
        allocate: Where host buffers come from; ordinary memory by default.
        frozen: Names of parameters that stay where and as they are: no plugin is shown them, so none can
            change them.

    Attributes:
        values: Every parameter but those, in host memory.
        frozen: Those.

    Raises:
        DataError: Two parameters overlap in memory without being the same ``Parameter``.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        allocate: Allocate | None = None,
        frozen: Collection[str] = (),
    ) -> None:
        every = named_parameters(model)
        _refuse_overlaps(every)
        self.frozen = {name: parameter for name, parameter in every.items() if name in frozen}
        self._parameters = {name: parameter for name, parameter in every.items() if name not in frozen}
        self.values: Parameters = TensorMap.like(self._parameters, allocate)
        self._all_gradients: Gradients = TensorMap.like(self._parameters, allocate)
        self._on_host = self._is_host(device)
        self._device_values = self._beside(self.values, device)
        self._device_gradients = self._beside(self._all_gradients, device)
        self._tensors = [self.values[name] for name in self._parameters]
        #: What the last backward pass gave gradients to, and those.
        self._present = tuple(self._parameters)
        self._gradients = Collected(self._all_gradients)
        self._selected = {self._present: self._gradients}
        self._replaced: Gradients | None = None
        self._strided: dict[str, nn.Parameter] = {}
        views = _views(model, self._parameters)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self._device_values[name].copy_(parameter)
                # Stride 0 marks an expanded view, which cannot be written to.
                if parameter.is_contiguous() or 0 in parameter.stride():
                    parameter.data = self._device_values[name]
                else:
                    self._strided[name] = parameter
        for view, parameter, offset in views:
            # What was part of a parameter's memory stays that, wherever the parameter is now.
            if address(view) != address(parameter):
                base = parameter.detach()
                view.data = base.as_strided(view.shape, view.stride(), base.storage_offset() + offset)
        if not self._on_host:
            self.values.buffer.copy_(self._device_values.buffer)
        self.drop_gradients()

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Keep the mirrors of a GPU where they are in memory, so that it can copy to and from them by itself.

        That takes a third of the time. Without a GPU there is nothing to do.

        Raises:
            JobError: The machine does not let so much memory be pinned.
        """
        with contextlib.ExitStack() as stack:
            if self._device_values.buffer.is_cuda:
                for tensors in (self.values, self._all_gradients):
                    stack.enter_context(pin(tensors.buffer))
            yield

    @property
    def gradients(self) -> Gradients:
        """The gradients that ``collect_gradients`` returned last, or those put in their place since."""
        return self._gradients if self._replaced is None else self._replaced

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Set all parameters to ``values``, a mapping of the same names, shapes and dtypes."""
        if values is not self.values:
            with torch.no_grad():
                copy_into(self._tensors, [values[name] for name in self._parameters])
        self._push()

    def write_flat(self, values: TensorMap) -> None:
        """Set all parameters to ``values``, a clone of ``self.values``."""
        self.values.buffer.copy_(values.buffer)
        self._push()

    def drop_gradients(self) -> None:
        """Let go of all gradients, so that autograd makes new ones."""
        self.release()
        for parameter in self._parameters.values():
            parameter.grad = None

    def release(self) -> None:
        """Let go of what was collected."""
        self._replaced = None
        self._gradients.drop()

    def collect_gradients(self) -> Gradients:
        """Take every ``parameter.grad`` away, into host memory.

        Returns:
            The gradients of the parameters that got one, until ``release``. The same
            object comes back for the same set of names, so that a plugin can recognise it.
        """
        found: dict[str, Tensor] = {}
        strided = torch.strided
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is not None:
                # In the order of the buffer, in another one a sum would round differently.
                dense = gradient if gradient.layout is strided else gradient.to_dense()
                found[name] = dense.contiguous()
                parameter.grad = None
        self._replaced = None
        present = tuple(found)
        if present != self._present:
            # What is absent must not show in ``Gradients.flat()``.
            self._device_gradients.buffer.zero_()
            self.release()
            if present not in self._selected:
                self._selected[present] = Collected(self._all_gradients.select(present))
            self._present, self._gradients = present, self._selected[present]
        if self._on_host:
            self._gradients.take(found)
        else:
            copy_into([self._device_gradients[name] for name in found], list(found.values()))
            self._all_gradients.buffer.copy_(self._device_gradients.buffer)
        return self._gradients

    def replace_gradients(self, gradients: Gradients) -> Gradients:
        """Let ``gradients`` stand for those that were collected, until others are; returns them.

        They are not copied: whoever changed them keeps them as they are until then.
        """
        self._replaced = gradients
        return gradients

    def displaced(self) -> list[str]:
        """Return the parameters that no longer are where this has put them, as after ``model.half()``."""
        return [
            name
            for name, parameter in self._parameters.items()
            if name not in self._strided and parameter.data_ptr() != self._device_values[name].data_ptr()
        ]

    def step(self, optimizer: torch.optim.Optimizer, gradients: Gradients) -> None:
        """Have an optimizer of torch take a step with ``gradients``, for those that have some.

        Args:
            optimizer: Of this model's parameters.
            gradients: As ``collect_gradients`` returned them, or what plugins made of those.
        """
        for name, parameter in self._parameters.items():
            gradient = gradients.get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None
        self._pull()

    def _pull(self) -> None:
        """Bring ``values`` up to date with what the parameters are now."""
        with torch.no_grad():
            for name, parameter in self._strided.items():
                self._device_values[name].copy_(parameter)
        if not self._on_host:
            self.values.buffer.copy_(self._device_values.buffer)

    @staticmethod
    def _is_host(device: torch.device) -> bool:
        """Tell whether plugins can read what lies on ``device``."""
        return device.type == "cpu"

    def _push(self) -> None:
        if not self._on_host:
            self._device_values.buffer.copy_(self.values.buffer)
        if self._strided:
            with torch.no_grad():
                copy_into(list(self._strided.values()), [self._device_values[n] for n in self._strided])

    def _beside(self, host: TensorMap, device: torch.device) -> TensorMap:
        return host if self._on_host else TensorMap(host.specs, torch.zeros_like(host.buffer, device=device))


def weights_sha256(model: nn.Module) -> str:
    """Hash names, dtypes, shapes and bytes of all parameters and buffers, sorted by name."""
    tensors: dict[str, Tensor] = {**named_parameters(model), **named_buffers(model)}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _views(
    model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> list[tuple[Tensor, nn.Parameter, int]]:
    """Return each buffer that is part of a parameter's memory, the parameter, and how far from its begin."""
    owners = {address(parameter): parameter for parameter in parameters.values()}
    found = [(buffer, owners.get(address(buffer))) for buffer in model.buffers() if buffer.numel()]
    return [
        (buffer, owner, int(buffer.storage_offset() - owner.storage_offset()))
        for buffer, owner in found
        if owner is not None and owner.dtype == buffer.dtype
    ]


def _refuse_overlaps(parameters: Mapping[str, nn.Parameter]) -> None:
    by_address = sorted(
        (p.data_ptr(), p.data_ptr() + p.untyped_storage().nbytes(), name)
        for name, p in parameters.items()
        if p.numel() and p.is_contiguous() and p.untyped_storage().nbytes() == p.nbytes
    )
    for (_, end, first), (begin, _, second) in itertools.pairwise(by_address):
        if begin < end:
            raise DataError(
                f"parameters '{first}' and '{second}' share memory but are two parameters, so that training "
                "would part them; tie them by assigning one nn.Parameter to both modules"
            )
