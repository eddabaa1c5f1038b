"""Results on disk: a folder that is identified by what trains its networks, and filled chunk by chunk.

    <name>-<hash>/config.json            what defines the networks; versions and git commit beside it
                  arrays.safetensors     arrays named in the config, where there are any
                  measures.json          column -> the measure that was asked for last under this name
                  seconds.json           seconds spent on it, over all runs
                  00000.safetensors      weights, what else training changes, loss history, snapshots
                  00000.parquet          one row per instance: training loss, divergence, engine (marks it as trained)
                  00000.<measure>.parquet  one measure: a row per instance, or per instance and feature
                  00000.part             how far the training of a chunk has come, until it is trained
                  00000.lock             held by whoever is at work on a chunk

A measure's file carries the identity of the measure, so that a new or edited one is computed from the weights beside
it, and nothing is trained again. Every file is written beside its place, brought to the disk and moved there at once,
so a file that exists is whole whatever happened. Each carries its own checksum and says which folder, chunk and rows it
belongs to; nothing is read before that was checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import mmap
import os
import platform
import re
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import torch
import xxhash
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

import toysup
from toysup.checks import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Claim", "Store", "digest_of", "measure_key", "rows_key", "versions"]

SEAL = b"toysup-xxh3-128:"  # then the checksum of the file, itself taken as zeros
BLANK = b"0" * 32
AT_ONCE = 1 << 28  # bytes of weights up to which `Store.verify` reads everything unless told to


def digest_of(account: Any) -> str:
    """Hash of a JSON-ready account."""
    return hashlib.sha256(json.dumps(account, sort_keys=True).encode()).hexdigest()


def measure_key(name: str, does: str) -> str:
    """What a measure's files are called: its name, as far as file names allow, and its identity."""
    return f"{re.sub('[^A-Za-z0-9_]+', '_', name)}-{does[:16]}"


def rows_key(rows: np.ndarray) -> str:
    """What stands for the rows of a chunk in its files."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(rows, dtype=np.int64).tobytes())


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


def _sealed(data: bytes) -> bytes:
    """A file with its checksum put into the place that is left for it, once, after SEAL."""
    start = data.index(SEAL) + len(SEAL)
    if data.find(SEAL, start) >= 0 or data[start : start + 32] != BLANK:
        raise InputError(f"results: a name or label may not contain {SEAL.decode()}")
    return data[:start] + xxhash.xxh3_128_hexdigest(data).encode() + data[start + 32 :]


def _unbroken(data: bytes | mmap.mmap) -> bool:
    """Whether a file is the one that was sealed."""
    start = data.find(SEAL) + len(SEAL)
    if start < len(SEAL) or len(data) < start + 32:
        return False
    found = xxhash.xxh3_128()
    with memoryview(data) as view:
        found.update(view[:start])
        found.update(BLANK)
        found.update(view[start + 32 :])
        return found.hexdigest().encode() == view[start : start + 32].tobytes()


def _write(path: Path, data: bytes, durable: bool) -> None:
    """Put a sealed file into its place, whole or not at all, and beyond a power failure."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")  # nobody else's, in any thread
    try:
        with open(beside, "xb") as file:
            file.write(_sealed(data))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
        if durable and hasattr(os, "O_DIRECTORY"):
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:  # a full disk, a folder that may not be written to
        raise InputError(f"results: cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    """A small file, checked; FileNotFoundError, PermissionError or, where it is damaged, ValueError."""
    data = path.read_bytes()
    if not _unbroken(data):
        raise ValueError(f"{path} is damaged")
    return data


def _json(account: Mapping[str, Any]) -> bytes:
    return json.dumps({**account, "seal": (SEAL + BLANK).decode()}, indent=1).encode()


class Claim:
    """The right to work on one chunk, or on what belongs to all, as long as nobody else does: a lock that the system
    takes back from whoever dies. Where a file system has no locks, everybody has the right, and work may be done twice.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, FileLock(path)

    def taken(self, wait: float = 0.0) -> bool:
        """Try to get it, for so many seconds."""
        try:
            self.lock.acquire(timeout=wait, poll_interval=0.05)
        except Timeout:
            return False
        except (OSError, NotImplementedError):  # no locks here, or no room: whoever writes will say so
            return True
        return True

    def given_back(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)  # whoever holds the file open still finds what was done when they get it
        self.lock.release()


class Store:
    """One folder of results. Opening it checks that it was made by the same config; nothing in it is overwritten."""

    def __init__(self, path: Path, durable: bool = True) -> None:
        self.path, self.durable = path, durable
        self._digest: str | None = None

    @classmethod
    def create(
        cls, parent: Path, name: str, identity: dict[str, Any], arrays: dict[str, np.ndarray], durable: bool = True
    ) -> Store:
        """The folder for `identity` below `parent`, made if it is not there.

        What is missing beside finished chunks, the config or the arrays, is written again: chunks say themselves
        whether they belong here. InputError where a folder of that name holds other results, or cannot be made.
        """
        digest = digest_of(identity)
        store = cls(Path(parent).expanduser() / f"{name}-{digest[:12]}", durable)
        store._digest = digest
        try:
            store.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"results: cannot make the folder {store.path}: {reason}") from None
        store.clean()
        config, kept = store.path / "config.json", store.path / "arrays.safetensors"
        if os.path.exists(config):
            store.identity(digest)
        store.arrays()
        if os.path.exists(config) and (os.path.exists(kept) or not arrays):
            return store
        claim = Claim(store.path / "folder.lock")
        claim.taken(5.0)
        try:
            if arrays and not os.path.exists(kept):
                _write(kept, save_arrays(arrays, store._belongs("arrays")), durable)
            if not os.path.exists(config):
                _write(config, _json({"identity": identity, "digest": digest, "versions": versions()}), durable)
        finally:
            claim.given_back()
        return store

    def _belongs(self, what: str, rows: np.ndarray | None = None) -> dict[str, str]:
        """What a file says about itself: its folder's digest, which it is there, its rows, and its checksum.

        One entry: safetensors writes several in any order, and a chunk's bytes are to be the same whoever wrote them.
        """
        own = "-" if rows is None else rows_key(rows)
        return {"toysup": f"{self._digest} {what} {own} {(SEAL + BLANK).decode()}"}

    # ------------------------------------------------------------------------------------------------ of the whole

    def config(self) -> dict[str, Any]:
        """The config as written; InputError where there is none or it is damaged."""
        path = self.path / "config.json"
        try:
            config: dict[str, Any] = json.loads(_read(path))
            if "identity" not in config:
                raise ValueError
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"results: no config.json in {self.path}, expected a folder that a sweep made") from None
        except PermissionError:
            raise _forbidden(path) from None
        except (OSError, ValueError, TypeError):
            raise InputError(
                f"results: {path} is damaged, or of an older version; delete it and rerun the sweep that made it"
            ) from None
        return config

    def identity(self, expected: str | None = None) -> dict[str, Any]:
        """What defines the numbers; InputError where it is not what they were made by, or not what is `expected`."""
        config = self.config()
        own: dict[str, Any] = config["identity"]
        found = digest_of(own)
        if found != (expected or config.get("digest")):
            raise InputError(
                f"results: {self.path} was made by another config ({found[:12]}, expected {str(expected)[:12]}); "
                "move it away or choose another folder"
            )
        self._digest = found
        return own

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays that the config names by hash; InputError where they are damaged."""
        path = self.path / "arrays.safetensors"
        if not path.exists():
            return {}
        with self._reading(path, "arrays"):
            return load_arrays(path.read_bytes())

    def seconds(self, more: float = 0.0) -> float:
        """Seconds spent on training what is here, over all runs; `more` adds to them.

        InputError where they are damaged and nothing is added; else they are counted anew.
        """
        path = self.path / "seconds.json"
        claim = Claim(self.path / "folder.lock") if more else None
        if claim:
            claim.taken(5.0)
        try:
            try:
                spent = float(json.loads(_read(path))["seconds"])
            except FileNotFoundError:
                spent = 0.0
            except PermissionError:
                raise _forbidden(path) from None
            except (OSError, ValueError, TypeError, KeyError):
                if not more:
                    raise InputError(f"results: {path} is damaged; delete it, nothing else depends on it") from None
                spent = 0.0
            if more:
                _write(path, _json({"seconds": spent + more}), False)
        finally:
            if claim:
                claim.given_back()
        return spent + more

    def measures(self, expected: bool = False) -> dict[str, str]:
        """Column -> key of every measure asked for here, the last of each name.

        InputError where that is damaged or, if `expected`, where there are measures and it is missing.
        """
        path = self.path / "measures.json"
        try:
            found = json.loads(_read(path))["measures"]
            if not isinstance(found, dict):
                raise ValueError
        except FileNotFoundError:
            if expected and next(self.path.glob("[0-9]*.*.parquet"), None):
                raise InputError(f"results: {path} is missing; rerun the sweep to finish it") from None
            return {}
        except PermissionError:
            raise _forbidden(path) from None
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(f"results: {path} is damaged; delete it and rerun the sweep") from None
        return found

    def ask(self, keys: Mapping[str, str]) -> None:
        """Note the measures that were asked for."""
        if {**(before := self.measures()), **keys} == before:
            return
        claim = Claim(self.path / "folder.lock")
        claim.taken(5.0)  # another process may write at the same moment
        try:
            account = {"measures": {**self.measures(), **keys}}
            _write(self.path / "measures.json", _json(account), self.durable)
        finally:
            claim.given_back()

    def clean(self) -> None:
        """Remove what runs that died left half written; nothing that anybody is at work on."""
        with contextlib.suppress(OSError):
            left = [
                entry.name
                for entry in os.scandir(self.path)
                if entry.name.startswith(".") or entry.name.endswith(".lock")
            ]
            for lock in sorted({_lock_of(name) for name in left}):
                claim = Claim(self.path / lock)
                if not claim.taken():
                    continue
                for name in left:
                    if _lock_of(name) == lock and name.startswith("."):
                        with contextlib.suppress(OSError):
                            (self.path / name).unlink()
                claim.given_back()

    def verify(self, rows: Mapping[int, np.ndarray], keys: Iterable[str], whole: bool = False) -> None:
        """Check what is there of chunks whose rows are given: all tables, and weights, unless `whole` only of chunks
        evenly spread that are about AT_ONCE bytes. InputError naming the first that is damaged or belongs elsewhere."""
        self.seconds()
        trained, kinds = self.trained(), {f"{key}.parquet": self.measured(key) for key in keys}
        there = sorted(trained & rows.keys())
        size = 0 if whole else sum(self._file(chunk, "safetensors").stat().st_size for chunk in there)
        stride = max(1, math.ceil(size / AT_ONCE))
        for number, chunk in enumerate(there):
            for kind in ("parquet", *(kind for kind, chunks in kinds.items() if chunk in chunks)):
                self.check(chunk, kind, rows[chunk])
            if number % stride == 0:
                self.check(chunk, "safetensors", rows[chunk])

    def check(self, chunk: int, kind: str, rows: np.ndarray) -> None:
        """Check one file. InputError where it is damaged or belongs elsewhere."""
        with self._reading(self._file(chunk, kind), f"{chunk}.{kind}", rows):
            pass

    # ------------------------------------------------------------------------------------------------- of one chunk

    def _file(self, chunk: int, kind: str) -> Path:
        return self.path / f"{chunk:05d}.{kind}"

    def claim(self, chunk: int) -> Claim:
        """The right to work on a chunk, to be taken."""
        return Claim(self._file(chunk, "lock"))

    def _numbers(self, kind: str) -> set[int]:
        """Chunks that have a file of some kind."""
        try:
            names = [entry.name for entry in os.scandir(self.path)]
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise InputError(f"results: cannot read {self.path}: {error.strerror}") from None
        split = [name.partition(".") for name in names]
        return {int(number) for number, _, rest in split if rest == kind and number.isascii() and number.isdigit()}

    def trained(self) -> set[int]:
        """Numbers of the chunks that are trained."""
        return self._numbers("parquet") & self._numbers("safetensors")

    def is_trained(self, chunk: int) -> bool:
        """Whether a chunk is trained by now."""
        return self._file(chunk, "parquet").exists() and self._file(chunk, "safetensors").exists()

    def measured(self, key: str) -> set[int]:
        """Numbers of the chunks that hold a measure."""
        return self._numbers(f"{key}.parquet")

    def is_measured(self, chunk: int, key: str) -> bool:
        """Whether a chunk holds a measure by now."""
        return self._file(chunk, f"{key}.parquet").exists()

    def write(self, chunk: int, table: pd.DataFrame, tensors: dict[str, torch.Tensor]) -> None:
        """Keep one trained chunk; the table comes last and makes it count as trained."""
        self._write_tensors(chunk, "safetensors", tensors, table["row"].to_numpy())
        self._write_table(chunk, "parquet", table)
        with contextlib.suppress(OSError):
            self._file(chunk, "part").unlink(missing_ok=True)

    def write_measure(self, chunk: int, key: str, table: pd.DataFrame) -> None:
        """Keep what a measure found in one chunk."""
        self._write_table(chunk, f"{key}.parquet", table)

    def write_part(self, chunk: int, rows: np.ndarray, tensors: dict[str, torch.Tensor]) -> None:
        """Keep how far the training of a chunk has come."""
        self._write_tensors(chunk, "part", tensors, rows)

    def part(self, chunk: int, rows: np.ndarray) -> dict[str, torch.Tensor] | None:
        """How far the training of a chunk came, or None: where it was not kept, or is damaged, it starts anew."""
        try:
            return self._tensors(chunk, "part", ("",), rows)
        except InputError:
            return None

    def _write_tensors(self, chunk: int, kind: str, tensors: Mapping[str, torch.Tensor], rows: np.ndarray) -> None:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data = save(whole, self._belongs(f"{chunk}.{kind}", rows))
        _write(self._file(chunk, kind), data, self.durable)

    def _write_table(self, chunk: int, kind: str, table: pd.DataFrame) -> None:
        arrow, memory = pyarrow.Table.from_pandas(table, preserve_index=False, nthreads=1), io.BytesIO()
        with pq.ParquetWriter(memory, arrow.schema) as writer:
            writer.write_table(arrow)
            writer.add_key_value_metadata(self._belongs(f"{chunk}.{kind}", table["row"].unique()))
        _write(self._file(chunk, kind), memory.getvalue(), self.durable)

    def table(
        self, chunk: int, kind: str = "parquet", columns: list[str] | None = None, rows: np.ndarray | None = None
    ) -> pd.DataFrame:
        """A chunk's table (kind "parquet") or that of a measure ("<key>.parquet"); `rows` are those it must hold."""
        path = self._file(chunk, kind)
        with self._reading(path, f"{chunk}.{kind}", rows):
            # in this thread: where no further ones can be had, or after a fork, arrow waits for them for ever
            with pq.ParquetFile(path, pre_buffer=False) as file:
                return file.read(columns, use_threads=False).to_pandas(use_threads=False)

    def columns(self, chunk: int, kind: str) -> list[str]:
        """The columns of a chunk's table, less what says which row and feature a value is of."""
        path = self._file(chunk, kind)
        with self._reading(path, f"{chunk}.{kind}"):
            return [name for name in pq.read_schema(path).names if name not in ("row", "feature")]

    def weights(
        self, chunk: int, prefixes: Iterable[str] = ("",), rows: np.ndarray | None = None
    ) -> dict[str, torch.Tensor]:
        """A chunk's tensors whose names start with one of the prefixes, stacked over its instances."""
        return self._tensors(chunk, "safetensors", tuple(prefixes), rows)

    def _tensors(
        self, chunk: int, kind: str, prefixes: tuple[str, ...], rows: np.ndarray | None
    ) -> dict[str, torch.Tensor]:
        path = self._file(chunk, kind)
        with self._reading(path, f"{chunk}.{kind}", rows), safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys() if k.startswith(prefixes)}

    @contextlib.contextmanager
    def _reading(self, path: Path, what: str, rows: np.ndarray | None = None) -> Iterator[None]:
        """Read a file, checked just before; errors say what to do about it."""
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if not _unbroken(data):
                    raise ValueError
            folder, place, own, *_ = [*_told(path).split(" "), "", "", ""]
            if (folder, place) != (str(self._digest), what):
                whose = f"another place, {place}" if folder == self._digest else f"another sweep, {folder[:12]}"
                raise InputError(f"results: {path} belongs to {whose}; {_remedy(path)}")
            if rows is not None and rows_key(rows) != own:
                raise InputError(f"results: {path} holds other rows than its chunk has; {_remedy(path)}")
            yield
        except FileNotFoundError:
            raise InputError(f"results: {path} is missing; rerun the sweep to finish it") from None
        except PermissionError:
            raise _forbidden(path) from None
        except InputError:
            raise
        except (OSError, ValueError, TypeError, SafetensorError):  # pyarrow's errors derive from these
            raise InputError(f"results: {path} is truncated or damaged; {_remedy(path)}") from None


def _told(path: Path) -> str:
    """What a checked file says about itself."""
    if path.suffix == ".parquet":
        return str((pq.read_metadata(path).metadata or {}).get(b"toysup", b"").decode(errors="replace"))
    with safe_open(path, framework="np") as file:
        return str((file.metadata() or {}).get("toysup", ""))


def _remedy(path: Path) -> str:
    number, _, kind = path.name.partition(".")
    if not number.isdigit():
        return "delete it and rerun the sweep"
    also = f" together with {number}.parquet" if kind == "safetensors" else ""
    work = "train" if kind in ("parquet", "safetensors") else "measure"
    return f"delete it{also} and rerun to {work} that chunk again"


def _forbidden(path: Path) -> InputError:
    return InputError(f"results: {path} may not be read by you; ask its owner for permission (chmod a+r)")


def _lock_of(name: str) -> str:
    """The lock under which a file is written: `.00003.parquet.77.ab12` -> 00003.lock."""
    if name.endswith(".lock"):
        return name
    first = name.removeprefix(".").partition(".")[0]
    return f"{first}.lock" if first.isdigit() else "folder.lock"
