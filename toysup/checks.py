"""Bad input is refused early, in one line that names the value, what was expected and where."""

from __future__ import annotations

import numbers
import sys
from typing import Any

import numpy as np

__all__ = ["InputError", "check_interval", "check_whole", "concrete"]


class InputError(ValueError):
    """A value the caller gave cannot be used; the message is one line."""


def concrete(value: Any) -> np.ndarray | None:
    """The numbers in `value` as an array, or None where they are not known yet (a tensor under vmap or compile)."""
    torch = sys.modules.get("torch")  # a tensor can only have come from where torch was imported
    if torch is not None and isinstance(value, torch.Tensor):
        if torch._C._functorch.is_functorch_wrapped_tensor(value) or type(value) is not torch.Tensor:
            return None
        return value.detach().cpu().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"expected a number or an array of numbers, got {value!r}") from None


def check_whole(where: str, name: str, value: Any, at_least: int = 1) -> None:
    """Refuse anything but a whole number >= `at_least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise InputError(f"{where}: {name} must be a whole number >= {at_least}, got {value!r}")


def check_interval(
    where: str,
    name: str,
    value: Any,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    length: int | None = None,
) -> None:
    """Refuse numbers outside [low, high], an end excluded if open, and arrays that are not of `length`."""
    array = concrete(value)
    if array is None:
        return
    bad = ~np.isfinite(array) | (array > high) | (array < low)
    bad |= (open_low & (array == low)) | (open_high & (array == high))
    if bad.any():
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        worst = np.asarray(array)[bad].flat[0]
        raise InputError(f"{where}: {name} must lie in {interval}, got {worst:g}")
    if length is not None and array.ndim and array.shape[-1] not in (1, length):
        raise InputError(f"{where}: {name} has {array.shape[-1]} entries, expected one number or {length}")
