"""What is not a number is refused in one line that says what it was, what was expected and where; and where an
installation cannot be written to, or a process may have no children, there is still a way."""

import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

import toysup
from toysup import jit
from toysup.checks import InputError, check_interval, check_whole, concrete
from toysup.features import (
    BitGroups,
    Correlated,
    ExactlyK,
    GaussianCopula,
    Hierarchy,
    OnePerGroup,
    PowerLaw,
    SparseBoolean,
    SparseNormal,
    SparseUniform,
    UnitLength,
)
from toysup.setting import Adam, Cosine
from toysup.tasks import AbsoluteValue, Identity, SumOfSquares
from toysup.workers import usable_workers

FIELDS = {  # what takes a number x
    "SparseUniform: density": lambda x: SparseUniform(2, x),
    "SparseNormal: density": lambda x: SparseNormal(2, x),
    "SparseBoolean: density": lambda x: SparseBoolean(2, x),
    "PowerLaw: exponent": lambda x: PowerLaw(2, x, 0.1),
    "PowerLaw: density": lambda x: PowerLaw(2, 0.0, x),
    "GaussianCopula: loadings": lambda x: GaussianCopula(2, [[x], [x]], 0.1),
    "GaussianCopula: density": lambda x: GaussianCopula(2, [[0.1], [0.2]], x),
    "Correlated: density": lambda x: Correlated(2, 2, x),
    "BitGroups: density": lambda x: BitGroups(2, 2, x),
    "Hierarchy: density": lambda x: Hierarchy(2, 1, x, 0.5),
    "Hierarchy: child_density": lambda x: Hierarchy(2, 1, 0.5, x),
    "OnePerGroup: offered": lambda x: OnePerGroup(2, 1, offered=x),
    "UnitLength: density": lambda x: UnitLength(2, x),
    "Identity: importance": lambda x: Identity(x),
    "AbsoluteValue: exponent": lambda x: AbsoluteValue(exponent=x),
    "SumOfSquares: importance": lambda x: SumOfSquares(x),
    "Adam: lr": lambda x: Adam(lr=x),
    "Adam: weight_decay": lambda x: Adam(weight_decay=x),
    "Adam: beta1": lambda x: Adam(beta1=x),
    "Adam: eps": lambda x: Adam(eps=x),
    "Cosine: final": lambda x: Cosine(final=x),
}
WRONG = ["0.1", "nan", "", b"0.1", True, False, np.True_, np.array(True), torch.tensor(True), 0.1j, np.complex64(1),
         None, np.datetime64("2020"), {}, {0.1}, object(), np.str_("0.1"), 10**400]  # fmt: skip
RIGHT = [0.5, 1 - 2**-24, np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5),
         torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.bfloat16), Fraction(1, 2)]  # fmt: skip


def refused(build, *words):
    with pytest.raises(InputError) as raised:
        build()
    message = str(raised.value)
    assert "\n" not in message and len(message) < 300
    assert all(word in message for word in words), (words, message)


@pytest.mark.parametrize("field", FIELDS)
def test_only_numbers_are_numbers(field):
    for wrong in WRONG:
        if field.startswith("GaussianCopula: load") and np.ndim(wrong) == 0 and isinstance(wrong, np.datetime64):
            continue  # inside a list it is numpy's own kind of array
        refused(lambda wrong=wrong: FIELDS[field](wrong), *field.split(": "), "must be", "number")


@pytest.mark.parametrize("field", [name for name in FIELDS if "exponent" not in name or "Power" in name])
def test_numbers_of_all_kinds_are(field):
    for right in RIGHT:
        if "loadings" not in field:
            FIELDS[field](right)


@pytest.mark.parametrize("build", [lambda x: SparseUniform(2, x), lambda x: Identity(x)], ids=["features", "task"])
def test_what_hides_in_lists_and_arrays_is_found(build):
    for wrong in (
        [0.5, True],
        (0.5, True),
        [0.5, np.True_],
        [0.5, "0.5"],
        [0.5, None],
        [0.5, 0.5j],
        [0.5, b"0.5"],
        [0.5, torch.tensor(True)],
        [[0.5, True]],
        [0.5, [0.5]],
        np.array([True, False]),
        np.array(["0.5", "0.5"]),
        np.array([0.5, True], dtype=object),
        np.array([0.5, 0.5j]),
        torch.tensor([True, False]),
        torch.tensor([0.5, 0.5j]),
    ):
        refused(lambda wrong=wrong: build(wrong), "a number or an array of numbers")
    for right in (
        [0.5, 1],
        (0.5, 1),
        [np.float32(0.5), 1.0],
        [torch.tensor(0.5), 1.0],
        [Fraction(1, 2), 1],
        range(1, 2),
    ):
        build(right)
        build(np.asarray(right, np.float32))
        build(torch.tensor([0.5, 1]))


def test_long_values_are_cut_and_told_in_one_line():
    refused(lambda: Identity(["1"] * 10_000), "Identity", "...")
    refused(lambda: Identity(np.full((50, 50), True)), "Identity", "True")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(), st.floats(-1e3, 1e3, width=32), st.booleans())
def test_a_number_is_what_it_is_in_float32(value, low, open_low):
    """Refused exactly where float32 has no such number inside the interval."""
    with np.errstate(over="ignore"):
        single = float(np.asarray(value).astype(np.float32))
    inside = np.isfinite(single) and value >= low and (value > low and single > low if open_low else True)
    if inside:
        check_interval("here", "x", value, low, open_low=open_low)
    else:
        refused(lambda: check_interval("here", "x", value, low, open_low=open_low), "here", "x", f"{low:g}")


def test_what_vanishes_in_float32_is_refused_and_what_does_not_is_kept():
    for build in (lambda x: SparseUniform(2, x), lambda x: UnitLength(2, x), lambda x: Adam(lr=x)):
        refused(lambda build=build: build(1e-46), "1e-46", "float32", "which is 0 there")
        build(1e-45)
    refused(lambda: SparseUniform(3, [0.1, 1e-300, 0.1]), "density", "1e-300")
    refused(lambda: Identity(1e300), "importance", "inf there")
    refused(lambda: Identity([1.0, 1e39]), "importance", "inf there")
    refused(lambda: Identity(exponent=1 + 1e-9), "exponent", "1.000000001")
    refused(lambda: PowerLaw(100, 40.0, 0.01), "activity", "got 0")
    refused(lambda: Hierarchy(9, 1, 1e-20, 1e-20), "activity", "got 0")
    refused(lambda: GaussianCopula(1, [[(1 - 1e-9) ** 0.5]], 0.1), "loadings")
    for fine in (Adam(lr=1e-8, eps=0), Adam(eps=1e-50), Adam(eps=1e-8), Identity(0), Identity([0, 1]), Identity(1e38)):
        assert fine


def test_flags_sizes_and_names_are_not_numbers_either():
    for build, *words in (
        (lambda: SparseUniform("2"), "n_features"),
        (lambda: SparseUniform(True), "n_features"),
        (lambda: SparseUniform(2.0), "n_features"),
        (lambda: SparseUniform(2, signed=1), "signed", "True or False"),
        (lambda: SparseUniform(2, signed="True"), "signed", "True or False"),
        (lambda: Correlated(2, 2, 0.1, anti=0), "anti", "True or False"),
        (lambda: ExactlyK(3, "1"), "n_active"),
        (lambda: ExactlyK(3, True), "n_active"),
        (lambda: ExactlyK(3, magnitude=["uniform"]), "magnitude", "uniform"),
        (lambda: OnePerGroup(8, 2, offered=[0.5, 1.0]), "offered", "one number"),
        (lambda: OnePerGroup(8, 2, offered=np.full(8, 0.5)), "offered", "one number"),
        (lambda: check_whole("here", "x", np.True_), "here", "x"),
    ):
        refused(build, *words)
    assert isinstance(OnePerGroup(8, 2, offered=1).offered, float)  # a field that may differ by instance


def test_what_is_not_known_yet_is_not_judged():
    def one(x):
        assert concrete(x) is None
        check_interval("here", "x", x, 0, 1)
        return x

    assert vmap(one)(torch.tensor([5.0, -5.0])).tolist() == [5, -5]


# ------------------------------------------------------------------------------------------------------ where it runs


def python(code, cwd, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


LOOK = """
import pathlib, sys, warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import toysup.theory.one_step, toysup.theory.toy_kernels
assert toysup.__file__.startswith(str(pathlib.Path.cwd()))
print(["NUMBA_CACHE_DIR" in str(one.message) for one in told])
if len(sys.argv) > 1:
    print(len(toysup.theory.toy_kernels._room(1).kind))
"""


def test_an_installation_that_cannot_be_written_to_warns_once_and_works(tmp_path):
    package = Path(toysup.__file__).parent
    copy = shutil.copytree(package, tmp_path / "toysup", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()  # a file where the folder would be, which stops root too
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}

    def look(cache, *arguments):
        env = {**os.environ, **nowhere, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", LOOK, *arguments]
        found = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found.stdout.split()

    assert look("", "compile") == ["[True]", "4"]
    assert look(str(tmp_path / "kept")) == ["[]"]  # the advice is sound
    assert any((tmp_path / "kept").iterdir())


def test_compiled_files_that_are_torn_or_cannot_be_written_cost_time_only(tmp_path, monkeypatch):
    source, kept = tmp_path / "mine.py", tmp_path / "kept"
    source.write_text("from toysup.jit import njit\n\n\n@njit\ndef doubled(x):\n    return 2 * x\n")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(kept))
    jit._warn.cache_clear()

    def fresh():
        spec = importlib.util.spec_from_file_location("mine", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.doubled

    def found(function):
        assert function(2) == 4
        return sum(function.stats.cache_hits.values())

    assert found(fresh()) == 0 and found(fresh()) == 1  # the control: kept, then found
    for pattern in ("*.nbi", "*.nbc"):
        for file in kept.rglob(pattern):
            file.write_bytes(b"torn")
        assert found(fresh()) == 0 and found(fresh()) == 1
    function = fresh()
    shutil.rmtree(kept)
    kept.touch()  # a file where the folder was
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR"):
        assert found(function) == 0
    assert found(fresh()) == 0  # it was said


def _workers(_):
    return usable_workers(4), usable_workers(None)


def test_a_daemonic_process_has_no_workers():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_workers, [0]) == [(1, 1)]
    if sys.platform == "linux":
        assert usable_workers(4) == 4  # the control
