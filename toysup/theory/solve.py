"""Inverting a monotone function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["bisect"]


def bisect(
    increasing: Callable[[np.ndarray], np.ndarray], target: np.ndarray, low: float, high: float, steps: int = 100
) -> np.ndarray:
    """Where an increasing function of positive numbers reaches `target`, elementwise; bisects the logarithm."""
    low, high = np.full(np.shape(target), np.log(low)), np.full(np.shape(target), np.log(high))
    for _ in range(steps):
        middle = (low + high) / 2
        reached = increasing(np.exp(middle)) >= target
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return np.exp((low + high) / 2)
