"""What a schedule makes of the learning rate: one number for each step."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError
from toysup.setting import Adam

__all__ = ["multipliers"]


def multipliers(optimizer: Adam, steps: int) -> Float[np.ndarray, " step"]:
    """The optimizer's schedule at each of `steps` steps, float64, asked once for each, in their order.

    Raises InputError at the first that is anything but one finite real number: an array, text, None, a flag, NaN.
    """
    schedule, found = optimizer.schedule, np.empty(steps)
    for step in range(steps):
        value = schedule(step, steps)
        number = value if type(value) is float else _number(value)
        if not math.isfinite(number):
            told = " ".join(f"{value!r}".split())
            raise InputError(f"Adam: schedule({step}, {steps}) must be one finite real number, got {told}")
        found[step] = number
    return found


def _number(value: Any) -> float:
    """A real number as a float; NaN for anything else."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
