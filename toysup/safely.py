"""What torch keeps for the whole process, kept from deciding anything here: its generator, and its defaults.

A user's program may have set another default dtype or device or less precise products, may be inside autocast, may draw
from torch's generator in another thread, and may train in several threads at once. Networks and their numbers depend on
none of this.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["building", "one_thread", "under_usual_defaults", "usual_defaults"]

_LOCK = threading.RLock()


def _after_fork() -> None:
    """A worker starts with a lock that no thread of its parent holds."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """torch's default dtype float32, default device the CPU, no autocast, and products in full float32."""
    dtype, odd = torch.get_default_dtype(), torch.get_default_device() != torch.device("cpu")
    casting = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if dtype == torch.float32 and not odd and not casting and _precision() == "highest":
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_LOCK)  # the dtype and the precision are the whole process's
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        _full_precision(stack)
        if odd:
            stack.enter_context(torch.device("cpu"))
        for kind in casting:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _precision() -> str:
    """What `torch.set_float32_matmul_precision` said last; "mixed" where torch's newer settings were used since."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "mixed"


def _full_precision(stack: contextlib.ExitStack) -> None:
    """TensorFloat-32 (Ampere and later) and bfloat16 (processors that multiply it) are off until the stack unwinds."""
    if (before := _precision()) == "highest":
        return
    for backend in (torch.backends.cuda, torch.backends.mkldnn):
        products = getattr(backend, "matmul", None)
        if hasattr(products, "fp32_precision"):  # torch 2.9 and later; what is said first below sets them too
            stack.callback(setattr, products, "fp32_precision", products.fp32_precision)
    stack.callback(torch.set_float32_matmul_precision, "highest" if before == "mixed" else before)
    torch.set_float32_matmul_precision("highest")


def under_usual_defaults(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function run under `usual_defaults`."""

    @functools.wraps(function)
    def inside(*arguments: Any, **options: Any) -> Any:
        with usual_defaults():
            return function(*arguments, **options)

    return inside


@contextlib.contextmanager
def building(seed: int | None = None) -> Iterator[None]:
    """Modules may draw their values as they are built: from torch's generator seeded by `seed`, one thread at a time;
    the caller's generator stays as it was."""
    with _LOCK, torch.random.fork_rng(devices=[]), usual_defaults():
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: small operations lose more by waiting for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with usual_defaults():
            yield
    finally:
        torch.set_num_threads(before)
