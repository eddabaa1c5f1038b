"""How a stack is handed to a fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

Keep = Callable[[Callable[[], dict[str, Tensor]]], None]  # called often with a function that gives all of the state
CARRY = 6  # numbers that a kernel hands on between two calls


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


def resumed(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(moments, carry): where a kernel leaves what else it needs to go on, of as many instances as theta has."""
    return np.zeros((len(theta), 2, theta.shape[1]), theta.dtype), np.zeros((len(theta), CARRY))


def scratch(count: int, dtype: Any) -> np.ndarray:
    """Zeros that start at a cache line."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(count * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * size].view(dtype)
