"""Compiled functions that are kept on disk: numba's `njit` with a cache, or without where nothing can be written."""

from __future__ import annotations

import contextlib
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
        compiled = numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # no place that can be written to; nothing was compiled yet
        _warn()
        return numba.njit(**options)(function)
    _forgive(compiled)
    return compiled


def _forgive(compiled: Any) -> None:
    """Let a function be called where its files turn out to be torn (a crash) or can't be written (a full disk)."""
    cache = getattr(compiled, "_cache", None)
    if not all(hasattr(cache, name) for name in ("load_overload", "save_overload", "flush")):
        return  # another version of numba: as it does by itself
    load, save, flush = cache.load_overload, cache.save_overload, cache.flush

    def loaded(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # whatever unpickling says: compiled anew, and written over what is torn
            with contextlib.suppress(OSError):
                flush()
            return None

    def saved(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError:
            _warn()

    cache.load_overload, cache.save_overload = loaded, saved


@lru_cache(maxsize=1)  # once in a process
def _warn() -> None:
    warnings.warn(
        "toysup: there is no place to keep compiled code, so each process compiles its own; set NUMBA_CACHE_DIR to a "
        "folder that can be written to",
        RuntimeWarning,
        stacklevel=3,
    )
