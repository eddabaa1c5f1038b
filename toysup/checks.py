"""Bad input is refused early, in one line that names the value, what was expected and where."""

from __future__ import annotations

import itertools
import numbers
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "InputError",
    "check_broadcast",
    "check_choice",
    "check_flag",
    "check_folder",
    "check_interval",
    "check_kind",
    "check_level",
    "check_measures",
    "check_name",
    "check_resampling",
    "check_room",
    "check_text",
    "check_whole",
    "concrete",
    "in_line",
    "listed",
    "numbers_in",
    "whole_numbers",
]

ENDLESS = 10**7  # values of something that doesn't say how many it has


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
    try:
        if tensor:  # in here, since one on the meta device has no numbers
            value = value.detach().cpu()
            value = value.float() if value.dtype == torch.bfloat16 else value  # numpy has none
        array = value.numpy() if tensor else np.asarray(value)
        known = array.dtype.kind in "iuf"
        if array.dtype.kind == "O" and not hasattr(value, "dtype"):  # fractions, whole numbers beyond 64 bits
            known = all(isinstance(one, numbers.Real) for one in array.flat)
        if known and not _has_flag(value):
            return array if tensor else array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise InputError(f"expected a number or an array of numbers, got {in_line(value)}")


FLAGS = (bool, np.bool_)


def _has_flag(value: Any) -> bool:
    """Whether True or False is in there, which numpy takes for numbers where others stand beside it."""
    if isinstance(value, list | tuple):
        return any(map(_has_flag, value))
    return isinstance(value, FLAGS) or "bool" in str(getattr(value, "dtype", ""))


def in_line(value: Any, most: int = 100) -> str:
    """A value in one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a whole number of too many digits, somebody's own __repr__
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."


NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def check_text(where: str, name: str, value: Any) -> None:
    """Refuse anything but text that UTF-8 and XML can hold and a terminal can show: no control characters other than
    tab and line feed, no lone surrogates (which names of files that are not UTF-8 have)."""
    if not isinstance(value, str) or NO_TEXT.search(value):
        raise InputError(f"{where}: {name} must be text without control characters, got {in_line(value)}")


def check_whole(where: str, name: str, value: Any, at_least: int = 1, at_most: int | None = None) -> int:
    """The value as an int. InputError for anything but a whole number >= `at_least`, and <= `at_most` where given."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise InputError(f"{where}: {name} must be a whole number >= {at_least}, got {in_line(value)}")
    if at_most is not None and value > at_most:
        power = at_most.bit_length()
        end = f"2^{power})" if power > 16 and at_most + 1 == 2**power else f"{at_most}]"
        raise InputError(f"{where}: {name} must lie in [{at_least}, {end}, got {in_line(value)}")
    return int(value)


def listed(where: str, name: str, values: Any, what: str = "values") -> list[Any]:
    """The values as a list. InputError for what is none (text, one value), has no order (a set), or does not end."""
    unordered = str | bytes | Mapping | set | frozenset
    if isinstance(values, unordered) or not isinstance(values, Iterable) or _axes(values) == 0:
        raise InputError(f"{where}: {name} needs a list of {what}, got {in_line(values)}")
    if hasattr(values, "__len__"):
        check_room(where, f"{name} of {len(values):,}", 100 * len(values))
        return list(values)
    found = list(itertools.islice(values, ENDLESS))
    if len(found) == ENDLESS:
        raise InputError(
            f"{where}: {name} needs a list of {what}, got {in_line(values)}, which gives {ENDLESS:,} or more"
        )
    return found


def whole_numbers(where: str, name: str, values: Any, at_least: int = 0, at_most: int | None = None) -> list[int]:
    """A list of ints. InputError for anything but a list of whole numbers, each as in `check_whole`."""
    return [
        check_whole(where, name, value, at_least, at_most) for value in listed(where, name, values, "whole numbers")
    ]


def _axes(value: Any) -> Any:
    return getattr(value, "ndim", None)


def check_flag(where: str, name: str, value: Any) -> None:
    """Refuse anything but True and False."""
    if not isinstance(value, bool):
        raise InputError(f"{where}: {name} must be True or False, got {in_line(value)}")


def check_choice(where: str, name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse anything but one of some names."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{where}: {name} must be one of {', '.join(choices)}, got {in_line(value)}")


def check_kind(where: str, name: str, value: Any, kind: type) -> None:
    """Refuse anything but instances of a class; the class itself is a common slip."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        slip = f" (the class; give an instance, {value.__name__}(...))" if isinstance(value, type) else ""
        raise InputError(f"{where}: {name} must be {article} {kind.__name__}, got {in_line(value)}{slip}")


def check_level(where: str, level: Any, high: float = 1) -> None:
    """Refuse levels, of confidence or error, outside (0, high)."""
    check_interval(where, "level", level, 0, high, open_low=True, open_high=True, one=True)


def check_broadcast(where: str, **arrays: np.ndarray) -> None:
    """Refuse arrays whose shapes do not broadcast."""
    try:
        np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(f"{where}: shapes must broadcast, got {shapes}") from None


def check_resampling(where: str, level: Any, resamples: Any, seed: Any) -> None:
    """Refuse levels outside (0, 1), no resamples or more than fit, and what seeds no generator."""
    check_level(where, level)
    check_whole(where, "resamples", resamples, 1, 10**7)
    check_whole(where, "seed", seed, 0)


def check_folder(where: str, name: str, path: Any) -> None:
    """Refuse what is no path of a folder: other types, nothing, what no file system takes."""
    try:
        text = os.fspath(path)
        sound = isinstance(text, str) and text != "" and b"\0" not in os.fsencode(text)
        sound = sound and bool(Path(text).expanduser())
    except (TypeError, ValueError, RuntimeError):  # UnicodeEncodeError is a ValueError; there is no such ~user
        sound = False
    if not sound:
        raise InputError(f"{where}: {name} must be the path of a folder, got {in_line(path)}")


def check_name(where: str, name: str, value: Any) -> None:
    """Refuse what cannot begin a file's name: other types, nothing, signs that do not print or lead elsewhere, more
    than 100 bytes."""
    sound = isinstance(value, str) and value.strip() and value.isprintable() and not value.startswith(".")
    if not sound or set(value) & set("/\\") or len(value.encode()) > 100:
        raise InputError(f"{where}: {name} must be text that can be part of a file's name, got {in_line(value)}")


def check_measures(where: str, measures: Any) -> list[Callable[..., Any]]:
    """The measures as a list. InputError for anything but a list of functions that have names of their own."""
    if isinstance(measures, str | bytes | Mapping) or callable(measures) or not isinstance(measures, Iterable):
        raise InputError(f"{where}: measures must be a list of functions of a Trained, got {in_line(measures)}")
    measures = list(measures)
    for measure in measures:
        if not callable(measure) or not isinstance(getattr(measure, "__name__", None), str):
            raise InputError(f"{where}: a measure must be a named function of a Trained, got {in_line(measure)}")
    names = [measure.__name__ for measure in measures]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: two measures are called {max(names, key=names.count)}")
    return measures


def memory() -> int:
    """Bytes of memory this machine has; where the system does not say, as many as no machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**46


def check_room(where: str, what: str, size: int, room: int | None = None) -> None:
    """Refuse what takes more bytes than there are (of this machine's memory, unless `room` is given): before it is
    tried, since a system may promise more than it has, and then ends the process."""
    room = memory() if room is None else room
    if size > room:
        raise InputError(f"{where}: {what} needs {size / 2**30:,.3g} GiB of memory, there are {room / 2**30:,.3g}")


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
    one: bool = False,
) -> None:
    """Refuse numbers outside [low, high], an end excluded if open, and arrays that are not of `length`, or, where it
    must be `one` number, any that have an axis.

    Training is in float32, so a number must be finite there too, and one above an open low end must stay above it: a
    density of 1e-46 is 0.
    """
    if type(value) is float and low + 1e-6 * abs(low) < value < high and 1e-37 < abs(value) < 1e38:
        return  # well inside, without numpy: a grid looks at many
    try:
        array = concrete(value)
    except InputError:
        wanted = "one number" if one else "a number or an array of numbers"
        raise InputError(f"{where}: {name} must be {wanted}, got {in_line(value)}") from None
    if array is None:
        return
    if one and array.ndim:
        raise InputError(f"{where}: {name} has shape {array.shape}, expected one number")
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


def numbers_in(where: str, name: str, values: Any, axes: Sequence[str] | None = None) -> np.ndarray:
    """The values as float64, NaN and infinities among them; with `axes`, of as many. InputError for anything else."""
    if _axes(values) == 1 and hasattr(values, "to_numpy") and values.dtype == object:
        values = values.tolist()  # a column of a table that held other things too
    try:
        array = concrete(values)
    except InputError:
        raise InputError(f"{where}: {name} must be a number or an array of numbers, got {in_line(values)}") from None
    if array is None:
        raise InputError(f"{where}: {name} must be known numbers, got a tensor under vmap or compile")
    if axes is not None and array.ndim != len(axes):
        raise InputError(f"{where}: {name} must have shape ({', '.join(axes)}), got {array.shape}")
    return np.asarray(array, dtype=np.float64)
