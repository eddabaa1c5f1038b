"""What a schedule makes of the learning rate: one number for each step."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError, check_room, in_line
from toysup.setting import Adam, Setting

__all__ = ["check_schedules", "multipliers"]

TRIED = 1000  # steps at which a schedule is tried before training


def multipliers(optimizer: Adam, steps: int) -> Float[np.ndarray, " step"]:
    """The optimizer's schedule at each of `steps` steps, float64, asked once for each, in their order.

    Raises InputError at the first that is anything but one finite real number: an array, text, None, a flag, NaN, or an
    exception.
    """
    check_room("Setting", f"steps = {steps}", 8 * steps)
    found = np.empty(steps)
    for step in range(steps):
        found[step] = _multiplier(optimizer.schedule, step, steps)
    return found


def check_schedules(settings: Iterable[Setting]) -> None:
    """Refuse schedules that give anything but one finite real number at the steps tried: at the first, the last, and
    some between."""
    tried = set()
    for setting in settings:
        schedule, steps = setting.optimizer.schedule, setting.steps
        if (id(schedule), steps) not in tried:
            tried.add((id(schedule), steps))
            for number in range(min(TRIED, steps)):
                _multiplier(schedule, number * (steps - 1) // max(1, min(TRIED, steps) - 1), steps)


def _multiplier(schedule: Any, step: int, steps: int) -> float:
    try:
        value = schedule(step, steps)
    except Exception as error:
        raise InputError(f"Adam: schedule({step}, {steps}) raised {in_line(error)}") from error
    number = value if type(value) is float else _number(value)
    if not math.isfinite(number):
        raise InputError(f"Adam: schedule({step}, {steps}) must be one finite real number, got {in_line(value)}")
    return number


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
