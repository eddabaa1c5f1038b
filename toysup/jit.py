"""Compiled functions that are kept on disk: numba's `njit` with a cache, or without where nothing can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numba

__all__ = ["njit"]


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit(cache=True, **options)`, as a decorator with or without options.

    numba keeps what it compiled beside the source, else in the user's cache folder, and refuses to import a function
    where neither can be written to: a container, an installation that is read only, no home. Such a function is
    compiled anew in each process, which a warning says once.
    """
    if function is None:
        return partial(njit, **options)
    try:
        return numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # no place that can be written to; nothing was compiled yet
        _warn()
        return numba.njit(**options)(function)


@lru_cache(maxsize=1)  # once in a process
def _warn() -> None:
    warnings.warn(
        "toysup: there is no place to keep compiled code, so each process compiles its own; set NUMBA_CACHE_DIR to a "
        "folder that can be written to",
        RuntimeWarning,
        stacklevel=3,
    )
