"""Results on disk: a folder that is identified by what trains its networks, and filled chunk by chunk.

    <name>-<hash>/config.json            what defines the networks; versions and git commit beside it
                  arrays.safetensors     arrays named in the config, where there are any
                  measures.json          column -> the measure that was asked for last under this name
                  00000.safetensors      weights, what else training changes, loss history, snapshots
                  00000.parquet          one row per instance: training loss, divergence, engine (marks it as trained)
                  00000.<measure>.parquet  one measure: a row per instance, or per instance and feature

A measure's file carries the identity of the measure, so that a new or edited one is computed from the weights beside
it, and nothing is trained again. Every file is written beside its place and moved there at once, so a file that exists
is whole whatever happened.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

import toysup
from toysup.checks import InputError

__all__ = ["Store", "digest_of", "measure_key", "versions"]


def digest_of(account: Any) -> str:
    """Hash of a JSON-ready account."""
    return hashlib.sha256(json.dumps(account, sort_keys=True).encode()).hexdigest()


def measure_key(name: str, does: str) -> str:
    """What a measure's files are called: its name, as far as file names allow, and its identity."""
    return f"{re.sub('[^A-Za-z0-9_]+', '_', name)}-{does[:16]}"


def versions(folder: Path | None = None, device: str = "cpu") -> dict[str, Any]:
    """What ran: versions of Python and libraries, the git commit of `folder` (null outside a repository), the machine.

    `folder` is the package's own unless given. `dirty` says whether a Python file of the repository differs from the
    commit; figures that a run is about to redraw don't count.
    """
    folder = folder or Path(toysup.__file__).parent
    found: dict[str, Any] = {"python": platform.python_version(), "toysup": toysup.__version__}
    found |= {name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy", "numba")}
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", ":/*.py") if commit else None
    found |= {"commit": commit, "dirty": bool(changed) if commit else None}
    found |= {"platform": platform.platform(), "cpus": os.cpu_count()}
    return found | {"device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")  # nobody else's, in any thread
    try:
        write(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:  # a full disk, a folder that may not be written to
        beside.unlink(missing_ok=True)
        raise InputError(f"results: cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


class Store:
    """One folder of results. Opening it checks that it was made by the same config; nothing in it is overwritten."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, parent: Path, name: str, identity: dict[str, Any], arrays: dict[str, np.ndarray]) -> Store:
        """The folder for `identity` below `parent`, made if it is not there.

        InputError where a folder of that name holds other results, or cannot be made.
        """
        digest = digest_of(identity)
        store = cls(Path(parent).expanduser() / f"{name}-{digest[:12]}")
        try:
            store.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"results: cannot make the folder {store.path}: {error.strerror}") from None
        if (store.path / "config.json").exists():
            store.identity(digest)
            return store
        if any(store.path.glob("*.parquet")):
            raise InputError(f"results: {store.path} holds results but no config.json; move it away")
        if arrays:
            _write(store.path / "arrays.safetensors", lambda p: save_arrays(arrays, p))
        text = json.dumps({"identity": identity, "digest": digest, "versions": versions()}, indent=1)
        _write(store.path / "config.json", lambda p: p.write_text(text))
        return store

    def config(self) -> dict[str, Any]:
        """The config as written; InputError where there is none or it is damaged."""
        path = self.path / "config.json"
        try:
            config = json.loads(path.read_text())
            if "identity" not in config:
                raise ValueError
        except FileNotFoundError:
            raise InputError(f"results: no config.json in {self.path}, expected a folder that a sweep made") from None
        except (OSError, ValueError, TypeError):
            raise InputError(f"results: {path} is damaged; move the folder away and rerun") from None
        return config

    def identity(self, expected: str | None = None) -> dict[str, Any]:
        """What defines the numbers; InputError where it is not what they were made by, or not what is `expected`."""
        config = self.config()
        found, expected = digest_of(config["identity"]), expected or config.get("digest")
        if found != expected:
            raise InputError(
                f"results: {self.path} was made by another config ({found[:12]}, expected {str(expected)[:12]}); "
                "move it away or choose another folder"
            )
        return config["identity"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays that the config names by hash; InputError where they are damaged."""
        path = self.path / "arrays.safetensors"
        try:
            return load_arrays(path) if path.exists() else {}
        except (OSError, SafetensorError):
            raise InputError(f"results: {path} is damaged; move the folder away and rerun") from None

    def seconds(self, more: float = 0.0) -> float:
        """Seconds spent on training what is here, over all runs; `more` adds to them."""
        path = self.path / "seconds.json"
        try:
            spent = float(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            spent = 0.0
        if more:
            _write(path, lambda p: p.write_text(json.dumps(spent + more)))
        return spent + more

    def _file(self, chunk: int, kind: str) -> Path:
        return self.path / f"{chunk:05d}.{kind}"

    def trained(self) -> set[int]:
        """Numbers of the chunks that are trained, each checked to be readable.

        InputError naming the first file that is truncated or damaged.
        """
        done = {int(path.stem) for path in self.path.glob("[0-9]*.parquet") if path.stem.isdigit()}
        for chunk in done:
            self.table(chunk, columns=["row"])
            self.weights(chunk, [])
        return done

    def measured(self, key: str) -> set[int]:
        """Numbers of the chunks that hold a measure, each checked to be readable."""
        done = {int(path.name.partition(".")[0]) for path in self.path.glob(f"[0-9]*.{key}.parquet")}
        for chunk in done:
            self.table(chunk, f"{key}.parquet", columns=["row"])
        return done

    def measures(self) -> dict[str, str]:
        """Column -> key of every measure asked for here, the last of each name."""
        path = self.path / "measures.json"
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise InputError(f"results: {path} is damaged; delete it and rerun the sweep") from None
        return found

    def ask(self, keys: Mapping[str, str]) -> None:
        """Note the measures that were asked for."""
        for _ in range(3):  # another process may write at the same moment
            before = self.measures()
            if {**before, **keys} == before:
                return
            text = json.dumps({**before, **keys}, indent=1)
            _write(self.path / "measures.json", lambda p, text=text: p.write_text(text))

    def write(self, chunk: int, table: pd.DataFrame, tensors: dict[str, torch.Tensor]) -> None:
        """Keep one trained chunk; the table comes last and makes it count as trained."""
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        _write(self._file(chunk, "safetensors"), lambda p: save_file(whole, p))
        _write(self._file(chunk, "parquet"), lambda p: table.to_parquet(p, index=False))

    def write_measure(self, chunk: int, key: str, table: pd.DataFrame) -> None:
        """Keep what a measure found in one chunk."""
        _write(self._file(chunk, f"{key}.parquet"), lambda p: table.to_parquet(p, index=False))

    def table(self, chunk: int, kind: str = "parquet", columns: list[str] | None = None) -> pd.DataFrame:
        """A chunk's table (kind "parquet") or that of a measure ("<key>.parquet")."""
        path = self._file(chunk, kind)
        try:
            return pd.read_parquet(path, columns=columns)
        except FileNotFoundError:
            raise InputError(f"results: {path} is missing; rerun the sweep to finish it") from None
        except (OSError, ValueError):  # pyarrow's errors derive from these
            raise self._damaged(path) from None

    def weights(self, chunk: int, prefixes: Iterable[str] = ("",)) -> dict[str, torch.Tensor]:
        """A chunk's tensors whose names start with one of the prefixes, stacked over its instances."""
        path = self._file(chunk, "safetensors")
        try:
            with safe_open(path, framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys() if k.startswith(tuple(prefixes))}
        except FileNotFoundError:
            raise InputError(f"results: {path} is missing; rerun the sweep to finish it") from None
        except (OSError, SafetensorError):
            raise self._damaged(path) from None

    @staticmethod
    def _damaged(path: Path) -> InputError:
        number, _, kind = path.name.partition(".")
        also = f" together with {number}.parquet" if kind == "safetensors" else ""
        work = "train" if kind in ("parquet", "safetensors") else "measure"
        return InputError(
            f"results: {path} is truncated or damaged; delete it{also} and rerun to {work} that chunk again"
        )
