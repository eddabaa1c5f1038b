"""Faults put into sweeps: signals, kills at every step of every write, damaged and swapped files, bad input.

    python tests/faults/trial.py            the long part, half an hour; --only says which
    python tests/faults/trial.py --quick    what CI runs, within a minute

Nothing may be lost, nothing silent, and whatever is said must be one line whose advice helps. Prints what was tried and
every failure; ends with 1 where there is one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from toysup import store
from toysup.checks import InputError
from toysup.features import SparseNormal, SparseUniform
from toysup.measure import held_out_loss, recovered
from toysup.models import TiedAutoencoder
from toysup.results import Results
from toysup.setting import Adam, Model, Setting
from toysup.sweep import Grid, load, sweep
from toysup.tasks import Identity

MEASURES = (held_out_loss, recovered)
Count = collections.Counter[str]


def grid(steps: int = 8, seeds: int = 2, widths: tuple[int, ...] = (1, 2)) -> Grid:
    """Shapes of both paths, with arrays in their config."""
    importance = np.array([1.0, 0.9, 0.8, 0.7])
    setting = Setting(SparseUniform(4, 0.3), Identity(importance), Model(TiedAutoencoder, width=2), Adam(), steps, 16)
    features = [SparseUniform(4, 0.2), SparseNormal(4, 0.4)]
    return Grid(setting, {"features": features, "model.width": widths, "seed": range(seeds)})


def run(one: Grid, folder: Path, workers: int = 1) -> Results:
    options = {"workers": workers, "progress": False, "device": "cpu", "snapshots": [0, 4], "compile": False}
    return sweep(one, MEASURES, results=folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but what it cost and where it ran."""
    passing = {"seconds.json", "config.json"}
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in passing}


def one_line(error: InputError) -> bool:
    return "\n" not in str(error) and len(str(error)) < 600


# ------------------------------------------------------------------------------------------------------------ signals


def _forked(act: Callable[[], None]) -> int:
    """Do something in a process group of its own; its errors go to a file that is read where it fails."""
    pid = os.fork()
    if pid:
        return pid
    code = 9
    with contextlib.suppress(BaseException):
        os.setsid()
        sys.stderr = open(os.devnull, "w")
        act()
        code = 0
    os._exit(code)


def signals(one: Grid, count: int, place: Path, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Chains of interrupted runs, each stopped at any moment, until one ends by itself."""
    sent = chain = 0
    started = time.perf_counter()
    expected = contents(run(one, place / "whole").path)
    length = time.perf_counter() - started
    while sent < count:
        chain += 1
        folder, workers, here = place / f"chain{chain}", 1 + chain % 2, 0
        while True:
            pid = _forked(lambda folder=folder, workers=workers: run(one, folder, workers))
            if here < 6 and sent < count:
                time.sleep(chance.uniform(0, 0.6 * length))
                which = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, which) if chance.random() < 0.7 else os.killpg(pid, which)
                    sent, here = sent + 1, here + 1
            status = os.waitpid(pid, 0)[1]
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, 0)
                time.sleep(0.6)  # workers look every half second whether they are alone
            if status == 0:
                break
        found = contents(run(one, folder).path)
        yield "signals", "" if found == expected else f"chain {chain}: {_differs(found, expected)}"
        shutil.rmtree(folder)
    yield from (("signals", "") for _ in range(sent - chain))


def _differs(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    names = {*found, *expected}
    return f"{sorted(name for name in names if found.get(name) != expected.get(name))[:5]} differ"


def kills(one: Grid, place: Path, every: int = 1) -> Iterator[tuple[str, str]]:
    """SIGKILL before, in the midst of and after every write, in turn; then a run to the end, and nothing left over."""
    real = store._write
    expected = contents(run(one, place / "uncut").path)
    number = -1
    while True:
        number += 1
        for point in ("before", "half", "whole", "moved")[number % every :: every]:
            folder, seen = place / f"write{number}{point}", [-1]

            def write(
                path: Path, data: bytes, durable: bool, point: str = point, last: int = number, seen: list[int] = seen
            ) -> None:
                seen[0] += 1
                if seen[0] == last:
                    beside = path.with_name(f".{path.name}.{os.getpid()}.dead")
                    if point in ("half", "whole"):
                        beside.write_bytes(data[: len(data) // (1 + (point == "half"))])
                    if point == "moved":
                        real(path, data, durable)
                    os.kill(os.getpid(), signal.SIGKILL)
                real(path, data, durable)

            def act(folder: Path = folder, write: Callable[..., None] = write) -> None:
                store._write = write
                run(one, folder)

            status = os.waitpid(_forked(act), 0)[1]
            if status == 0:
                return  # there are no more writes
            again = run(one, folder)
            found = contents(again.path)
            bad = "" if found == expected else _differs(found, expected)
            yield "kills", bad and f"write {number}, {point}: {bad}"
            shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------------------- damage


def flipped(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def truncated(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def blanked(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data))
    data[start : start + 64] = b"\xff" * len(data[start : start + 64])
    path.write_bytes(data)


def prolonged(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + bytes(chance.randrange(1, 99)))


def emptied(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def removed(path: Path, chance: random.Random) -> None:
    path.unlink()


def exchanged(path: Path, chance: random.Random) -> None:
    """With the like of another chunk."""
    number, _, kind = path.name.partition(".")
    others = [other for other in path.parent.glob(f"[0-9]*.{kind}") if other != path]
    other = chance.choice(others) if number.isdigit() and others else path.with_name("00000.parquet")
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def of_another(path: Path, chance: random.Random) -> None:
    """Replaced by the file of that name of another sweep."""
    path.write_bytes((path.parent.parent.parent / "other" / path.name).read_bytes())


HARM = (flipped, flipped, flipped, truncated, blanked, prolonged, emptied, removed, exchanged, of_another)


def damages(one: Grid, count: int, place: Path, chance: random.Random) -> Iterator[tuple[str, str]]:
    """One file harmed: `load` and a rerun refuse it in a line, or give the same; and the advice of that line helps."""
    original = run(one, place / "original")
    other = run(Grid(one.setting, {**one.axes, "seed": [7, 8]}), place / "others")
    shutil.copytree(other.path, place / "other")
    expected, table = contents(original.path), original.table
    names = sorted(path.name for path in original.path.iterdir())
    for number in range(count):
        folder = place / "copies" / original.path.name
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(original.path, folder)
        name, harm = names[number % len(names)], HARM[(number // len(names)) % len(HARM)]
        if not (place / "other" / name).exists() and harm is of_another:
            harm = flipped
        harm(folder / name, chance)
        yield "damages", _judged(one, folder, f"{harm.__name__} {name}", expected, table)


def _judged(one: Grid, folder: Path, what: str, expected: dict[str, bytes], table: object) -> str:
    said = []
    for _ in range(6):
        for act in (lambda: load(folder, verify=True), lambda: run(one, folder.parent)):
            try:
                found = act()
                if not (found.table.equals(table) and found.seconds >= 0):
                    return f"{what}: silent, and the table differs"
            except InputError as error:
                if not one_line(error):
                    return f"{what}: said in many lines: {error}"
                said.append(str(error))
            except Exception as error:
                return f"{what}: {type(error).__name__}: {error}"
            else:
                if act.__code__.co_names[0] == "run":
                    files = contents(folder)
                    return "" if files == expected else f"{what}: after {said[-1:]} {_differs(files, expected)}"
        if said[-1].endswith("move it away or choose another folder"):
            shutil.rmtree(folder)
            continue
        advice = re.search(r"([^ /]+) (?:is|holds|belongs).*delete it(?: together with ([^ ]+))?", said[-1])
        if advice is None:
            return f"{what}: no advice in {said[-1]}"
        for name in filter(None, advice.groups()):
            (folder / name).unlink(missing_ok=True)
    return f"{what}: the advice does not help: {said[-1]}"


# -------------------------------------------------------------------------------------------------------------- input


def inputs() -> Iterator[tuple[str, str]]:
    """What cannot be used is refused in one line."""
    sys.path.insert(0, str(Path(__file__).parent))
    from inputs import BAD

    for name, act in BAD.items():
        try:
            act()
        except InputError as error:
            yield "inputs", "" if one_line(error) else f"{name}: {error}"
        except Exception as error:
            yield "inputs", f"{name}: {type(error).__name__}: {error}"
        else:
            yield "inputs", f"{name}: accepted"


def tried(parts: list[Iterator[tuple[str, str]]]) -> tuple[Count, list[str]]:
    """(how many of each kind were tried, what failed)."""
    counts, failed = collections.Counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in parts:
            for kind, failure in part:
                counts[kind] += 1
                failed += [f"{kind}: {failure}"] * bool(failure)
    return counts, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["signals", "kills", "damages", "inputs"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, started = random.Random(options.seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        short = grid(8, 2, (2,)) if options.quick else grid()
        number, every, harm = (4, 8, 14) if options.quick else (200, 1, 400)
        parts = {
            "signals": signals(grid(300, 2, (2,)), number, here / "signals", chance),
            "kills": kills(short, here / "kills", every),
            "damages": damages(short, harm, here / "damages", chance),
            "inputs": inputs(),
        }
        parts = [part for name, part in parts.items() if options.only in (None, name)]
        counts, failed = tried(parts)
    print(dict(counts), f"{time.perf_counter() - started:.0f} s")
    print("\n".join(failed) if failed else "nothing lost, nothing silent, one line each")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
