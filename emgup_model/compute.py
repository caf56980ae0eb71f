"""How the arithmetic is done: device, precision, compilation, memory. What a network computes is said elsewhere."""

from __future__ import annotations

import torch
from pydantic import Field

from emgup_model.backbones import Precision
from emgup_model.config import Frozen
from emgup_model.errors import ConfigError


class ComputeConfig(Frozen):
    """Settings that change a result in its last digits only (micro-batches with BatchNorm: a little more)."""

    precision: Precision = Field(
        "fp32", description="of the backbone in training and adaptation; bf16 = mixed precision (autocast)"
    )
    micro_batch: int | None = Field(
        None,
        ge=2,
        description="source training: windows in memory at once; gradients of a batch are added up. null = the batch",
    )
    compile: bool = Field(False, description="source training through torch.compile")


PLAIN = ComputeConfig()
"""float32, whole batches, no compilation."""


_DEVICE_IS_GONE = (
    *("out of memory", "alloc_failed", "not_initialized", "no cuda gpus", "cuda driver", "nvidia driver"),
    "not currently implemented for the mps device",
)
"""What else accelerators say, in lower case, when it is not the computation that is wrong."""


def device_failed(error: BaseException) -> bool:
    """Whether an error means that an accelerator is full, busy, broken, unable or not there: a CPU might do the same.

    cuBLAS, cuDNN and MPS raise plain RuntimeErrors, a PyTorch without the backend an AssertionError.
    """
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    text = str(error).lower()
    if isinstance(error, AssertionError | RuntimeError) and ("not compiled with" in text or "not linked with" in text):
        return True
    return isinstance(error, RuntimeError) and any(words in text for words in _DEVICE_IS_GONE)


def resolve_device(name: str) -> torch.device:
    """``auto`` = CUDA, else MPS, else CPU; anything else must be there.

    Raises:
        ConfigError: no such device, or PyTorch cannot use it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}'; choose auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name} is not there or PyTorch cannot use it; choose auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps is not there or PyTorch cannot use it; choose auto or cpu")
    return device
