"""Any optimizer of ``torch.optim`` style, by short name or by import path."""

from .plugin import Optim

__all__ = ["Optim"]
