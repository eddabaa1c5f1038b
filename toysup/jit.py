"""Compiled functions that are kept on disk: numba's `njit` with a cache, or without where nothing can be written."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numba

__all__ = ["njit"]


if numba.config.DISABLE_JIT:
    warnings.warn(
        "toysup: NUMBA_DISABLE_JIT is turned off in this process: kernels are made of instructions that Python doesn't "
        "have",
        RuntimeWarning,
        stacklevel=2,
    )
    numba.config.DISABLE_JIT = 0  # for good: numba compiles its own parts when they are first called


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit(cache=True, **options)`, as a decorator with or without options.

    numba keeps what it compiled beside the source, else in the user's cache folder, and refuses to import a function
    where neither can be written to: a container, an installation that is read only, no home. Such a function is
    compiled anew in each process, which a warning says once.
    """
    if function is None:
        return partial(njit, **options)
    try:
        with _no_folder_called_tilde():
            compiled = numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # no place that can be written to; nothing was compiled yet
        _warn()
        return numba.njit(**options)(function)
    _forgive(compiled)
    return compiled


@contextlib.contextmanager
def _no_folder_called_tilde() -> Iterator[None]:
    """Without a home, as under a user number that no name belongs to, numba would make a folder ~ wherever it runs."""
    given = os.environ.get("XDG_CACHE_HOME")
    place = given or os.path.expanduser("~/.cache")
    os.environ["XDG_CACHE_HOME"] = place if os.path.isabs(place) else os.devnull  # no folder can be made in there
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if given is not None:
            os.environ["XDG_CACHE_HOME"] = given


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
