"""How a stack is handed to a fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Plan:
    """How a stack is trained by a kernel: what it is called with, and how to read what comes back."""

    kernel: Callable[..., None]
    theta: np.ndarray  # (instance, number): parameters as the kernel keeps them
    own: tuple[np.ndarray, ...]  # what else differs by instance, instance first
    sizes: Any  # what the kernel knows of sizes and places
    floats: int  # scratch
    ints: int
    unpack: Callable[[np.ndarray], dict[str, np.ndarray]]


def scratch(count: int, dtype: Any) -> np.ndarray:
    """Zeros that start at a cache line."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(count * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * size].view(dtype)
