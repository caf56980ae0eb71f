"""A GPU that is full or gone costs a user time, not the result: the same computation runs again on the CPU."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from emgup_model.compute import device_failed

T = TypeVar("T")


def or_on_the_cpu(device: str, compute: Callable[[str], T]) -> T:
    """``compute(device)``; where the device fails, its memory is freed, a line printed, and the CPU computes the same.

    Whatever else is raised is raised. Inside a ClientApp what is printed goes to the client's own log.
    """
    try:
        return compute(device)
    except (RuntimeError, AssertionError) as error:
        if device == "cpu" or not device_failed(error):
            raise
        why = str(error).partition("\n")[0] or type(error).__name__
    # past the handler: until then the traceback keeps what was allocated
    free_memory()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    print(f"{stamp} device {device} failed ({why}); the same again on the CPU", file=sys.stderr)
    return compute("cpu")


def free_memory() -> None:
    """Give what nobody holds any more back to the accelerator."""
    gc.collect()
    with contextlib.suppress(RuntimeError):  # a broken device may not even do that
        torch.accelerator.empty_cache()
