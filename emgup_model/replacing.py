"""The one way in which private parts of a library are replaced here: never silently."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def replace(module: ModuleType, name: str, new: Any) -> Any:
    """Replace a module's attribute and return what it was. Raises AttributeError where there is none of that name."""
    old = getattr(module, name)
    setattr(module, name, new)
    return old
