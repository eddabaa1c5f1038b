"""The package in processes, folders and states that are not the usual ones: the same numbers, or one clear line."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numba
import pytest
import torch

from toysup import jit
from toysup.features import SparseUniform
from toysup.measure import held_out_loss
from toysup.models import TiedAutoencoder
from toysup.random import uniforms
from toysup.report import experiment
from toysup.safely import usual_defaults
from toysup.setting import Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity

# --- what the caller's program has set


def numbers(engine):
    setting = Setting(SparseUniform(4, 0.3), Identity(), Model(TiedAutoencoder, width=2), steps=4, batch=16)
    options = {"device": "cpu", "workers": 1, "progress": False, "compile": False}
    results = sweep(Grid(setting, {"seed": range(2)}), [held_out_loss], engine=engine, **options)
    weights = {name: held.tolist() for name, held in results.store.weights(0).items()}
    return results.table.drop(columns="engine").to_numpy().tolist(), weights


@pytest.mark.parametrize("engine", ["fused", "general"])
def test_a_sweep_is_not_rounded_by_the_callers_autocast(engine):
    expected = numbers(engine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16  # the control
        assert numbers(engine) == expected
        assert torch.is_autocast_enabled("cpu")


def precision():
    """What torch says of products, as far as this version of it can."""
    backends = [getattr(one, "matmul", None) for one in (torch.backends.cuda, torch.backends.mkldnn)]
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError as error:
        old = type(error)
    return [old, *(getattr(one, "fp32_precision", None) for one in backends)]


@pytest.mark.parametrize("set_to", ["high", "medium", "cuda", "mkldnn"])
def test_products_are_exact_whatever_the_caller_asked_for(set_to):
    try:
        if set_to in ("high", "medium"):
            torch.set_float32_matmul_precision(set_to)
        else:
            products = getattr(getattr(torch.backends, set_to), "matmul", None)
            if not hasattr(products, "fp32_precision"):
                pytest.skip("torch before 2.9")
            products.fp32_precision = "tf32" if set_to == "cuda" else "bf16"
        before = precision()
        with usual_defaults():
            inside = precision()
            with usual_defaults():  # nothing to do
                assert precision() == inside
        assert precision() == before != inside
        assert inside[0] == "highest" and not {"tf32", "bf16"} & set(inside)
    finally:
        for products in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)):
            if hasattr(products, "fp32_precision"):
                products.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


# --- places


def function_of(folder):
    """A fresh compiled function whose file lies where nothing can be kept beside it."""
    source = folder / "mine.py"
    source.write_text("from toysup.jit import njit\n\n\n@njit\ndef doubled(x):\n    return 2 * x\n", encoding="utf-8")
    (folder / "__pycache__").touch()  # a file where the folder would be
    spec = importlib.util.spec_from_file_location("mine", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.doubled


@pytest.mark.parametrize("cache", ["", "relative", None])
def test_compiled_code_is_never_kept_in_a_folder_called_tilde(tmp_path, monkeypatch, cache):
    """No home, no name for the user's number: `expanduser` gives back what it got."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    jit._warn.cache_clear()
    with pytest.warns(RuntimeWarning, match="no place to keep compiled code"):
        doubled = function_of(tmp_path)
    assert doubled(2) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["__pycache__", "mine.py"]
    assert os.environ.get("XDG_CACHE_HOME") == cache


def test_an_empty_cache_variable_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.chdir(tmp_path)
    assert function_of(tmp_path)(2) == 4
    assert not (tmp_path / "numba").exists() and list((tmp_path / "home" / ".cache" / "numba").rglob("*.nbc"))


def test_a_tilde_without_a_home_is_one_line(tmp_path, monkeypatch, capsys):
    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    script = {"__file__": str(tmp_path / "a.py"), "QUESTION": "Why?"}
    exec("def main(run):\n    pass\n", script)
    with pytest.raises(SystemExit) as end:
        experiment(script["main"], ["--smoke", "--results", "~/a"])
    assert end.value.code == 2 and "no home folder" in capsys.readouterr().err


# --- processes


ODD = """
import contextlib, hashlib, os, pathlib, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "toysup: NUMBA_DISABLE_JIT")
warnings.filterwarnings("ignore", category=EncodingWarning)
root = pathlib.Path(sys.argv[1])
from toysup import plots, report
from toysup.__main__ import main
from toysup.random import uniforms
from toysup.stats import Interval
from toysup.store import versions
assert sys.stdin is None and sys.stdout.encoding == "ascii"
ran = versions()
warnings.filterwarnings("error", category=EncodingWarning, module="toysup")
gone = root / "gone"
gone.mkdir(); os.chdir(gone); gone.rmdir()
for folder in ("experiments", "figures"):
    (root / folder).mkdir()
(root / "experiments" / "toy.py").write_bytes("QUESTION = 'caf\\u00e9?'".encode())
run = report.Run("toy", "caf\\u00e9?", "default", "cpu", None, root, root / "figures", ran)
figure, axes = plots.figure()
axes[0, 0].set_title("caf\\u00e9")
parts = {"statistics": {"caf\\u00e9": Interval(1, 0, 2)}, "verdict": {"caf\\u00e9": "supported"}, "controls": {"c": {}}}
report.write(run, figure, instances=1, steps=1, engine="none", **parts)
main(["--root", str(root)])
main(["--root", str(root), "--gallery"])
print(hashlib.sha256(uniforms(3, 5, 70, 20).numpy().tobytes()).hexdigest())
sys.stdout = sys.stderr = None
report.write(run, figure, instances=1, steps=1, engine="none", **parts)
"""


def test_one_process_with_everything_odd_gives_the_same_numbers_and_files(tmp_path):
    """No home, no git, no letters but ASCII, no JIT, no input, no folder to be in."""
    expected = hashlib.sha256(uniforms(3, 5, 70, 20).numpy().tobytes()).hexdigest()
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NUMBA_DISABLE_JIT": "1", "PATH": "/nowhere"}
    odd |= {"TMPDIR": "/nowhere", "HOME": "/nowhere", "MPLCONFIGDIR": mpl.get_cachedir()}
    odd |= {"PYTHONPATH": str(Path(jit.__file__).parent.parent)}
    root = tmp_path / "root"
    root.mkdir()
    command = [sys.executable, "-X", "warn_default_encoding", "-c", ODD, str(root)]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *command], env={**os.environ, **odd}, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode("ascii").splitlines()
    assert said[-1] == expected and "    supported: caf\\xe9" in said
    document = json.loads((root / "figures" / "toy.json").read_text(encoding="utf-8"))
    assert document["question"] == "caf\u00e9?" and document["versions"]["commit"] is None
    assert "**caf\u00e9?**" in (root / "figures" / "README.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (root / "figures").iterdir()) == ["README.md", "toy.json", "toy.png", "toy.svg"]
