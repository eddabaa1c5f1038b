"""Files that are written whole or not at all: beside their places, synced, and then moved there."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from toysup.checks import InputError

__all__ = ["write_whole"]

FORGOTTEN = 24 * 3600  # seconds after which a file beside its place is what a killed process left


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: none is replaced before all of them are on the disk, in the order given.

    A process that is killed as it moves them leaves whole files, some of them the old ones.

    Raises:
        InputError: one of them cannot be written; nothing is left beside them.
    """
    beside = {path: path.with_name(f".toysup-{uuid.uuid4().hex}.part") for path in contents}  # no longer than allowed
    path = None
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(0, "a folder is there")
            with open(beside[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            os.replace(beside[path], path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        for file in beside.values():
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
    for folder in {path.parent for path in contents}:
        _sweep_up(folder)


def _sweep_up(folder: Path) -> None:
    for file in folder.glob(".toysup-*.part"):
        with contextlib.suppress(OSError):  # somebody else's, or gone by now
            if time.time() - file.stat().st_mtime > FORGOTTEN:
                file.unlink()
