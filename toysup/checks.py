"""Bad input is refused early, in one line that names the value, what was expected and where."""

from __future__ import annotations

import numbers
import re
import sys
from typing import Any

import numpy as np

__all__ = ["InputError", "check_interval", "check_text", "check_whole", "concrete"]


class InputError(ValueError):
    """A value the caller gave cannot be used; the message is one line."""


def concrete(value: Any) -> np.ndarray | None:
    """The numbers in `value` as an array, or None where they are not known yet (a tensor under vmap or compile).

    Raises InputError for anything but real numbers: text, bytes, True and False (in lists too), complex numbers.
    """
    if type(value) is float:
        return np.asarray(value)
    torch = sys.modules.get("torch")  # a tensor can only have come from where torch was imported
    tensor = torch is not None and isinstance(value, torch.Tensor)
    if tensor and (
        torch._C._functorch.is_functorch_wrapped_tensor(value) or type(value) not in (torch.Tensor, torch.nn.Parameter)
    ):
        return None
    if tensor:
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # numpy has none
    try:
        array = value.numpy() if tensor else np.asarray(value)
        known = array.dtype.kind in "iuf"
        if array.dtype.kind == "O" and not hasattr(value, "dtype"):  # fractions, whole numbers beyond 64 bits
            known = all(isinstance(one, numbers.Real) for one in array.flat)
        if known and not _has_flag(value):
            return array if tensor else array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise InputError(f"expected a number or an array of numbers, got {_told(value)}")


FLAGS = (bool, np.bool_)


def _has_flag(value: Any) -> bool:
    """Whether True or False is in there, which numpy takes for numbers where others stand beside it."""
    if isinstance(value, list | tuple):
        return any(map(_has_flag, value))
    return isinstance(value, FLAGS) or "bool" in str(getattr(value, "dtype", ""))


def _told(value: Any) -> str:
    """A value in one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def check_text(where: str, name: str, value: Any) -> None:
    """Refuse anything but text that UTF-8 and XML can hold and a terminal can show: no control characters other than
    tab and line feed, no lone surrogates (which names of files that are not UTF-8 have)."""
    if not isinstance(value, str) or NO_TEXT.search(value):
        raise InputError(f"{where}: {name} must be text without control characters, got {_told(value)}")


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
    """Refuse numbers outside [low, high], an end excluded if open, and arrays that are not of `length`.

    Training is in float32, so a number must be finite there too, and one above an open low end must stay above it: a
    density of 1e-46 is 0.
    """
    if type(value) is float and low + 1e-6 * abs(low) < value < high and 1e-37 < abs(value) < 1e38:
        return  # well inside, without numpy: a grid looks at many
    try:
        array = concrete(value)
    except InputError:
        raise InputError(f"{where}: {name} must be a number or an array of numbers, got {_told(value)}") from None
    if array is None:
        return
    interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    bad = ~np.isfinite(array) | (array > high) | (array < low)
    bad |= (open_low & (array == low)) | (open_high & (array == high))
    if bad.any():
        worst = np.asarray(array)[bad].flat[0]
        raise InputError(f"{where}: {name} must lie in {interval}, got {worst:g}")
    with np.errstate(over="ignore", under="ignore"):
        single = np.asarray(array, np.float32)
    lost = ~np.isfinite(single) | (open_low & (single <= np.float32(low)))
    if lost.any():
        given, there = float(np.asarray(array)[lost].flat[0]), single[lost].flat[0]
        raise InputError(f"{where}: {name} must lie in {interval} in float32, got {given!r}, which is {there:g} there")
    if length is not None and array.ndim and array.shape[-1] not in (1, length):
        raise InputError(f"{where}: {name} has {array.shape[-1]} entries, expected one number or {length}")
