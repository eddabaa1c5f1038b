"""What `sweep` is asked, checked before a folder is made or anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toysup.checks import (
    InputError,
    check_flag,
    check_folder,
    check_kind,
    check_measures,
    check_name,
    check_whole,
    in_line,
    whole_numbers,
)
from toysup.grid import Grid

__all__ = ["check_sweep"]


def check_sweep(
    grids: Any, measures: Any, *, results: Any, compile: Any, workers: Any, snapshots: Any, progress: Any
) -> tuple[list[Callable[..., Any]], list[int]]:
    """The measures, and the snapshots in ascending order, as lists, since an iterator can be read once only.

    InputError for anything but grids by name, and for options that are none.
    """
    where = "sweep"
    if not isinstance(grids, Mapping):
        raise InputError(f"{where}: grid must be a Grid, or a dict of them by name, got {in_line(grids)}")
    if not grids:
        raise InputError(f"{where}: grid must be a Grid, or a dict of at least one, got {{}}")
    for name, grid in grids.items():
        check_name(where, "name", name)
        check_kind(where, f"grid {name!r}", grid, Grid)
    if results is not None:
        check_folder(where, "results", results)
    if workers is not None:
        check_whole(where, "workers", workers)
    check_flag(where, "compile", compile, none=True)
    check_flag(where, "progress", progress, none=True)
    return check_measures(where, measures), sorted(set(whole_numbers(where, "snapshots", snapshots)))
