"""Results survive a kill, are recognised by what defines them, and say so when they are damaged."""

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import toysup.features
import toysup.models
import toysup.tasks
from toysup.checks import InputError
from toysup.ensemble import Stack, initial_values, train_chunk
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
from toysup.identity import identity
from toysup.measure import held_out_loss, r_squared, recovered, recovered_at
from toysup.models import (
    MLP,
    Embedding,
    ResidualMLP,
    SparseAutoencoder,
    SquaredProjection,
    TiedAutoencoder,
    TopK,
    UnrolledDecoder,
    UntiedAutoencoder,
)
from toysup.random import uniforms
from toysup.setting import (
    Adam,
    Constant,
    Cosine,
    Model,
    QuarterCosine,
    Setting,
    bind,
    describe,
    get_path,
    is_dynamic,
    rebuild,
)
from toysup.shapes import Shape
from toysup.store import Store
from toysup.sweep import Grid, load, sweep
from toysup.tasks import AbsoluteValue, And, Circuit, Identity, Memory, Reconstruction, SumOfSquares, XPlusRelu
from toysup.trust import named

SMALL = Setting(
    SparseUniform(4, 0.3), Identity(np.array([1.0, 0.9, 0.8, 0.7])), Model(TiedAutoencoder, width=2), steps=8, batch=16
)
GRID = Grid(SMALL, {"model.width": [1, 2], ("features.density", "optimizer.lr"): [(0.2, 1e-2), (0.6, 1e-1)]})
MEASURES = (held_out_loss, recovered, r_squared)


def run(grid=GRID, measures=MEASURES, **options):
    return sweep(grid, measures, progress=False, **{"workers": 1, "device": "cpu"} | options)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return run(results=tmp_path_factory.mktemp("original"))


@pytest.fixture
def copied(original, tmp_path):
    """A copy of the finished folder below its own parent, to be damaged."""
    shutil.copytree(original.path, tmp_path / original.path.name)
    return tmp_path / original.path.name


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr("toysup.sweep.train_chunk", lambda *_, **__: pytest.fail("trained again"))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def same(one, other):
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    pd.testing.assert_frame_equal(one.features, other.features, check_exact=True)


# ------------------------------------------------------------------------------------------------- resume and reload


def test_a_finished_sweep_is_not_trained_again(original, copied, untrained):
    before = contents(copied)
    for workers in (1, 2):  # with nothing to share too
        same(run(results=copied.parent, workers=workers), original)
    assert contents(copied) == before


@pytest.mark.parametrize("chunk", [0, 3])
def test_a_chunk_that_is_gone_is_trained_again_and_is_the_same(original, copied, chunk):
    before = contents(copied)
    gone = [path for path in copied.glob(f"{chunk:05d}.*")]
    assert len(gone) == 2 + len(MEASURES)
    for path in gone:
        path.unlink()
    same(run(results=copied.parent), original)
    after = contents(copied)
    assert before.keys() == after.keys()
    own = (f"{chunk:05d}", "seconds.json")  # what training cost goes up
    others = [name for name in before if not name.startswith(own)]
    assert all(before[name] == after[name] for name in others)
    assert before[f"{chunk:05d}.safetensors"] == after[f"{chunk:05d}.safetensors"]


def test_a_table_written_last_marks_the_chunk(original, copied):
    (copied / "00001.parquet").unlink()  # as after a kill between the weights and the table
    (copied / ".00001.parquet.123").write_bytes(b"half")
    with pytest.raises(InputError, match="lacks 1 of 4 chunks; rerun its sweep to finish it"):
        load(copied)
    same(run(results=copied.parent), original)


def test_load_gives_everything_back(original, copied, untrained):
    loaded = load(str(copied))
    same(loaded, original)
    assert len(loaded.grid) == len(GRID) and loaded.path == copied
    x = torch.rand(16, 4)
    for row in range(len(GRID)):
        assert torch.equal(loaded.model(row)(x), original.model(row)(x))
        assert np.array_equal(loaded.history(row), original.history(row))
        stored, own = loaded.grid.setting_of(row), GRID.setting_of(row)
        assert json.dumps(describe(stored)) == json.dumps(describe(own))
    again = loaded.measure(recovered)
    pd.testing.assert_series_equal(again["recovered"], original.table["recovered"], check_exact=True)
    threshold = loaded.measure(recovered_at(0.5))["recovered_at_50"]
    counted = original.features.groupby("row")["r_squared"].agg(lambda r2: (r2 > 0.5).sum())
    assert threshold.tolist() == counted.tolist()


def test_a_folder_may_be_renamed(original, copied):
    same(load(copied.rename(copied.parent / "mine")), original)


def many_chunks():
    """Eight chunks of about a fifth of a second."""
    setting = Setting(SparseUniform(6, 0.2), Identity(), Model(TiedAutoencoder, width=2), steps=80, batch=64)
    return Grid(setting, {"model.width": [1, 2, 3, 4], "features.density": [0.1, 0.4], "seed": [0, 1]})


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_store import MEASURES, many_chunks
from toysup.sweep import sweep
sweep(many_chunks(), MEASURES, results={results!r}, workers=2, progress=False, device="cpu")
"""


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_sweep_killed_outright_goes_on_where_it_was(tmp_path):
    """SIGKILL to the parent alone: no handler runs, and nobody tells the workers."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), results=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        assert _until(lambda: list(tmp_path.glob("killed/*/*.safetensors")), 60)
        children = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert len(children) == 2 and all(map(_alive, children))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert _until(lambda: not any(map(_alive, children)), 10)  # they look every half second
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (folder,) = (tmp_path / "killed").iterdir()
    finished = Store(folder).trained()
    assert len(finished) < 8
    before = {name: data for name, data in contents(folder).items() if name[:5].isdigit() and int(name[:5]) in finished}
    before = {name: data for name, data in before.items() if not name.endswith(".lock")}  # its holder died
    resumed = run(many_chunks(), results=tmp_path / "killed", workers=2)
    whole = run(many_chunks(), results=tmp_path / "whole")
    assert resumed.path.name == whole.path.name
    same(resumed, whole)
    after = contents(folder)
    assert all(after[name] == data for name, data in before.items())


# ---------------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize(
    ("grid", "measures", "options"),
    [
        (GRID, MEASURES, {"snapshots": [3]}),
        (GRID, MEASURES, {"engine": "general"}),
        (Grid(SMALL, {**GRID.axes, "seed": [0]}), MEASURES, {}),
        (Grid(SMALL, {**GRID.axes, "model.width": [1, 3]}), MEASURES, {}),
        (Grid(Setting(*[getattr(SMALL, f) for f in ("features", "task", "model")]), GRID.axes), MEASURES, {}),
    ],
    ids=["snapshots", "engine", "axis", "values", "setting"],
)
def test_what_changes_the_numbers_changes_the_folder(original, tmp_path, monkeypatch, grid, measures, options):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("toysup.sweep.train_chunk", stop)
    with pytest.raises(KeyboardInterrupt):  # the folder is there by now, and that is all that is asked
        run(grid, measures, results=tmp_path, **options)
    (folder,) = tmp_path.iterdir()
    assert folder.name != original.path.name and folder.name.startswith("sweep-")


def test_the_code_that_trains_is_part_of_the_identity(original, copied, monkeypatch):
    monkeypatch.setattr("toysup.ensemble.stack.uniforms", lambda *a, **k: 1 - uniforms(*a, **k))
    again = run(results=copied.parent)
    assert again.path != copied and len(list(copied.parent.iterdir())) == 2


def test_load_says_when_code_changed_since(original, copied, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(copied)
    monkeypatch.setattr("toysup.models.feedforward.TiedAutoencoder.forward", lambda self, x, record=False: x)
    with pytest.warns(UserWarning, match="TiedAutoencoder.* changed since .* tables are as they were"):
        again = load(copied)
    pd.testing.assert_frame_equal(again.table[original.table.columns], original.table, check_exact=True)
    monkeypatch.undo()
    monkeypatch.setattr("toysup.ensemble.stack.uniforms", lambda *a, **k: 1 - uniforms(*a, **k))
    with pytest.warns(UserWarning, match="the code that trains changed since"):
        load(copied)


class Acting(torch.nn.Module):
    def __init__(self, n_in, n_out, *, act):
        super().__init__()
        self.a, self.act = torch.nn.Linear(n_in, n_out), act

    def forward(self, x):
        return self.act(self.a(x))


def test_functions_of_torch_in_a_setting_are_loaded_again(tmp_path):
    functions = [torch.relu, torch.tanh, torch.nn.functional.gelu]
    setting = Setting(SparseUniform(4, 0.3), Identity(), Model(Acting, act=torch.relu), steps=8, batch=16)
    results = run(Grid(setting, {"model.act": functions}), [held_out_loss], results=tmp_path, compile=False)
    loaded = load(results.path, classes=[Acting])
    assert [loaded.grid.setting_of(row).model.arguments["act"] for row in range(3)] == functions
    pd.testing.assert_frame_equal(loaded.table, results.table, check_exact=True)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = run(Grid(SMALL), [], results="~/toys").path
    assert path.parent == tmp_path / "toys" and not (tmp_path / "~").exists()
    assert len(load(f"~/toys/{path.name}").table) == 1


CELL = """
from dataclasses import dataclass
import torch
from toysup.features import Features

@dataclass(frozen=True)
class Ramp(Features):
    density: float = 0.2
    activity = property(lambda self: torch.as_tensor(self.density))
    mean = property(lambda self: self.activity / (1 + {power}))
    second_moment = property(lambda self: self.activity / (1 + 2 * {power}))

    def transform(self, u):
        return torch.where(u < self.density, (u / self.density) ** {power}, 0.0)
"""


def test_a_notebooks_cell_that_was_edited_and_run_again(tmp_path):
    import __main__

    def told(power, **options):
        exec(compile(CELL.format(power=power), f"<cell {power}>", "exec"), vars(__main__))
        setting = Setting(__main__.Ramp(4), Identity(), Model(TiedAutoencoder, width=2), steps=8, batch=16)
        return run(Grid(setting), [held_out_loss], **options).table["held_out_loss"][0]

    first, second = (told(power, results=tmp_path) for power in (1, 4))
    assert first != second and (first, second) == (told(1), told(4))
    assert told(1, results=tmp_path) == first and len(list(tmp_path.iterdir())) == 2


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from test_store import MEASURES, many_chunks
from toysup import sweep as sweeps
from toysup.sweep import sweep

chunks, train = [], sweeps.train_chunk
def counted(stack, **options):
    chunks.append(stack)
    return train(stack, **options)

sweeps.train_chunk = counted
print(sweep(many_chunks(), MEASURES[: {measures}], results={results!r}, workers=1, progress=False, device="cpu").path)
print(len(chunks))
"""


def test_several_processes_on_one_folder_share_the_work_and_find_the_same(tmp_path):
    """As several nodes would, each with measures of its own: every chunk is trained by one of them."""
    scripts = [DRIVER.format(tests=str(Path(__file__).parent), measures=n, results=str(tmp_path)) for n in (1, 3, 2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    drivers = [subprocess.Popen([sys.executable, "-c", script], **pipes) for script in scripts]
    said = [driver.communicate(timeout=120) for driver in drivers]
    assert all(driver.returncode == 0 for driver in drivers), said
    paths, counts = zip(*(out.split("\n", 1) for out, _ in said), strict=True)
    loaded = load(paths[0])
    assert len(set(paths)) == 1 and sum(map(int, counts)) == len(loaded.jobs)
    assert not list(loaded.path.glob(".*"))  # nothing half-written
    same(loaded, run(many_chunks()))


def doubled(trained):
    return FACTOR * trained.history[:, -1]


FACTOR = 2.0


def test_further_and_changed_measures_are_computed_from_the_weights(original, copied, untrained, monkeypatch):
    first = run(results=copied.parent, measures=[doubled, recovered])
    assert first.path == copied
    assert first.table["doubled"].tolist() == pytest.approx(2 * original.table["train_loss"])
    assert first.table["recovered"].tolist() == original.table["recovered"].tolist()
    before = contents(copied)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    second = run(results=copied.parent, measures=[doubled])
    assert second.table["doubled"].tolist() == pytest.approx(3 * original.table["train_loss"])
    after = contents(copied)
    assert {name for name in after if name not in before} == {
        f"{n:05d}.{second.keys['doubled']}.parquet" for n in range(4)
    }
    assert all(after[name] == data for name, data in before.items() if name not in ("measures.json", "seconds.json"))
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    third = run(results=copied.parent, measures=[doubled])  # there still
    assert third.table["doubled"].tolist() == first.table["doubled"].tolist()
    loaded = load(copied)  # what was asked for last under its name
    assert loaded.table["doubled"].tolist() == first.table["doubled"].tolist()
    assert {"held_out_loss", "recovered", "doubled"} <= set(loaded.table)


def slips_at_the_third(trained):
    if (trained.rows == 2).any():
        return trained.parameters["none such"]
    return torch.zeros(len(trained))


def test_a_measure_that_raises_loses_nothing_and_is_named_with_its_row(tmp_path, monkeypatch):
    grid = Grid(SMALL, {"seed": range(6)})
    expected = run(grid, [held_out_loss]).table
    with pytest.raises(InputError, match=r"measure slips_at_the_third, row 2: KeyError: 'none such'; .* are kept in"):
        run(grid, [held_out_loss, slips_at_the_third], results=tmp_path)

    def only_others(stack, **options):
        return pytest.fail("trained again") if 2 in stack.data_seed else train_chunk(stack, **options)

    monkeypatch.setattr("toysup.sweep.train_chunk", only_others)
    pd.testing.assert_frame_equal(run(grid, [held_out_loss], results=tmp_path).table, expected, check_exact=True)


def test_the_folder_is_named_by_the_sweep(tmp_path):
    named = run(Grid(SMALL), [], results=tmp_path / "below" / "this", name="mine")
    assert named.path.parent == tmp_path / "below" / "this" and named.path.name.startswith("mine-")


OWN = """
import torch
from dataclasses import dataclass
from toysup.tasks import Identity

@dataclass(frozen=True)
class Mine(Identity):
    \"\"\"{prose}\"\"\"

    def target(self, x, constants):
        return {code}  # {prose}

def size(trained):
    return torch.full((len(trained),), {code_of_measure})
"""


def own_module(folder, prose="As it was.", code="x", code_of_measure="1.0"):
    """The user's own file, written and imported anew under one name."""
    folder.mkdir(exist_ok=True)
    path = folder / f"own{len(list(folder.iterdir()))}.py"
    path.write_text(OWN.format(prose=prose, code=code, code_of_measure=code_of_measure))
    spec = importlib.util.spec_from_file_location("own_module_of_a_user", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_users_own_source_counts_and_its_prose_does_not(tmp_path):
    def digest(**changes):
        module = own_module(tmp_path / "own", **changes)
        return identity(module.Mine, module.size)

    first = digest()
    assert digest(prose="Said better.") == first
    assert digest(code="2 * x") != first and digest(code_of_measure="2.0") != first
    del sys.modules["own_module_of_a_user"]


def test_the_source_of_a_class_that_is_only_on_an_axis_counts_too(tmp_path):
    def folder(code):
        module = own_module(tmp_path / "own", code=code)
        answer = run(Grid(SMALL, {"task": [Identity(), module.Mine()]}), [module.size], results=tmp_path / "results")
        return answer.path.name

    first = folder("x")
    assert folder("2 * x") != first and folder("x") == first
    del sys.modules["own_module_of_a_user"]


def test_load_says_when_a_class_is_not_at_hand(tmp_path):
    module = own_module(tmp_path / "own")
    path = run(Grid(SMALL, {"task": [module.Mine()]}), [], results=tmp_path / "results").path
    with pytest.raises(
        InputError, match=r"own_module_of_a_user:Mine is not toysup's own; hand it over, load\(..., classes"
    ):
        load(path)
    for own in ({"classes": [module.Mine]}, {"trust": True}):
        assert load(path, **own).grid.setting_of(0).task == module.Mine()
    del sys.modules["own_module_of_a_user"]
    with pytest.raises(InputError, match="cannot import Mine from own_module_of_a_user: run where it is defined"):
        load(path, trust=True)


# ------------------------------------------------------------------------------------------------------------ damage


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path):
    path.write_bytes(b"not this kind of file" * 10)


def remove(path):
    path.unlink()


DAMAGE = [
    ("00002.parquet", truncate, "00002.parquet is truncated or damaged; delete it and rerun"),
    ("00002.parquet", scribble, "00002.parquet is truncated or damaged; delete it and rerun"),
    ("00001.safetensors", truncate, "is truncated or damaged; delete it together with 00001.parquet and rerun"),
    ("00001.safetensors", scribble, "is truncated or damaged; delete it together with 00001.parquet and rerun"),
    ("config.json", truncate, "config.json is damaged, or of an older version; delete it and rerun"),
    ("config.json", scribble, "config.json is damaged, or of an older version; delete it and rerun"),
    ("arrays.safetensors", truncate, "arrays.safetensors is truncated or damaged; delete it and rerun"),
    ("measures.json", scribble, "measures.json is damaged; delete it and rerun"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE, ids=[f"{d.__name__} {n}" for n, d, _ in DAMAGE])
def test_a_damaged_file_is_named_and_nothing_is_overwritten(copied, untrained, name, damage, message):
    damage(copied / name)
    before = contents(copied)
    for again in (lambda: run(results=copied.parent), lambda: load(copied)):
        with pytest.raises(InputError) as caught:
            again()
        said = str(caught.value)
        assert message in said and name in said and "\n" not in said
    assert contents(copied) == before


@pytest.mark.parametrize(("name", "damage", "message"), [*DAMAGE, ("00001.safetensors", remove, "")])
def test_the_advice_helps(original, copied, name, damage, message):
    damage(copied / name)
    (copied / name).unlink(missing_ok=True)
    if "together" in message:
        (copied / f"{name[:5]}.parquet").unlink()
    same(run(results=copied.parent), original)
    same(load(copied), original)


@pytest.mark.parametrize("damage", [truncate, remove])
def test_a_damaged_measure_is_said_and_the_advice_helps(original, copied, damage):
    (file,) = copied.glob("00001.r_squared-*.parquet")
    damage(file)
    with pytest.raises(InputError, match=r"r_squared.*rerun") as caught:
        load(copied)
    assert "\n" not in str(caught.value)
    file.unlink(missing_ok=True)
    same(run(results=copied.parent), original)


def test_damaged_arrays_are_said(copied):
    assert (copied / "arrays.safetensors").exists()  # of the importances
    truncate(copied / "arrays.safetensors")
    with pytest.raises(InputError, match=r"arrays.safetensors is truncated or damaged; delete it"):
        load(copied)


def test_a_config_edited_by_hand_is_noticed(copied, untrained):
    config = json.loads((copied / "config.json").read_text())
    config["identity"]["setting"]["fields"]["steps"] = 9
    (copied / "config.json").write_text(json.dumps(config))
    before = contents(copied)
    for again in (lambda: run(results=copied.parent), lambda: load(copied)):
        with pytest.raises(InputError, match=r"config.json is damaged.*; delete it and rerun") as caught:
            again()
        assert "\n" not in str(caught.value) and copied.name in str(caught.value)
    assert contents(copied) == before


def test_a_config_that_is_gone_is_written_again(original, copied, untrained):
    (copied / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config.json in .*, expected a folder that a sweep made"):
        load(copied)
    same(run(results=copied.parent), original)
    same(load(copied), original)


@pytest.mark.parametrize("text", ["null", "[]", "{}", "7", ""])
def test_a_config_of_another_kind(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json is damaged"):
        load(tmp_path)


def test_results_are_read_as_they_were_cut(original, copied, monkeypatch):
    monkeypatch.setattr("toysup.sweep.chunks", lambda stack, device, engine: [np.arange(len(stack))])
    same(load(copied), original)
    assert run(results=copied.parent).path != copied  # other chunks are another folder


def test_chunks_of_other_rows_are_not_mixed_up(copied):
    table = pd.read_parquet(copied / "00000.parquet")
    store = Store(copied)
    store.identity()
    store._write_table(0, "parquet", table.assign(row=table["row"] + 1))
    with pytest.raises(InputError, match=r"00000.parquet holds other rows than its chunk has; delete it and rerun"):
        load(copied)


def test_a_folder_that_cannot_be_made_or_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot make the folder .*file"):
        run(results=tmp_path / "file")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        run(results=tmp_path / "disk")
    (folder,) = (tmp_path / "disk").iterdir()
    assert not list(folder.iterdir())  # not even the half that was written beside its place


# ------------------------------------------------------------------------------------------ accounts of settings

SPARSE = [
    SparseUniform(6, 0.1, True),
    SparseUniform(6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    SparseUniform(6, torch.tensor(0.25, dtype=torch.float64)),
    SparseNormal(6, np.full(6, 0.1), signed=False),
    SparseBoolean(6, 0.3),
    PowerLaw(6, 1.2, 0.1),
    GaussianCopula(6, 0.3 * np.arange(12).reshape(6, 2) / 12, 0.2),
    UnitLength(6, 0.2),
    Correlated(6, 2, 0.2, anti=True),
    Hierarchy(6, 2, 0.5, 0.5, n_roots=2),
    ExactlyK(6, 2, magnitude="normal"),
    OnePerGroup(6, 2, offered=0.5),
]
TASKS = [Identity(0.5, 4.0), Identity(np.linspace(0, 1, 6)), AbsoluteValue(), XPlusRelu(), And(n_pairs=4)]
MODELS = [
    Model(TiedAutoencoder, width=3, relu=False),
    Model(UntiedAutoencoder, width=3, depth=1, hidden=2),
    Model(MLP, width=4, depth=2),
    Model(ResidualMLP, shape=Shape(4, 2, 3), unembedding="frozen", row_norm=2.0),
    Model(UnrolledDecoder, width=3, depth=1),
]
BASE = Setting(SPARSE[0], Identity(), MODELS[0])
SETTINGS = (
    [Setting(features, Identity(), MODELS[0]) for features in SPARSE]
    + [Setting(SPARSE[4], task, MODELS[2]) for task in TASKS]
    + [Setting(SPARSE[0], Identity(), model) for model in MODELS]
    + [
        Setting(SparseUniform(6, 0.1, True), SumOfSquares(), Model(SquaredProjection, width=2)),
        Setting(BitGroups(8, 4, 0.2), Circuit(0.5), MODELS[2]),
        Setting(SPARSE[-1], Memory(3), Model(ResidualMLP, shape=Shape(6, 1), unembedding="coordinates")),
        Setting(SPARSE[0], Identity(), Model(Embedding, width=3)),
        Setting(
            SPARSE[0],
            Reconstruction(Model(Embedding, width=3), np.linspace(0, 1, 18), penalty=0.2),
            Model(SparseAutoencoder, latents=4, sparsity=TopK(2)),
        ),
        Setting(SPARSE[0], Identity(), MODELS[0], Adam(0.1, 0.2, 0.3, 0.4, 0.5, Cosine(0.1, 0.2)), 7, 8, 9, 10, 11, 24),
    ]
)


@pytest.mark.parametrize("setting", SETTINGS, ids=[f"{i}" for i in range(len(SETTINGS))])
def test_a_setting_is_rebuilt_from_its_account(setting):
    arrays = {}
    text = json.dumps(describe(setting, arrays))
    again = rebuild(json.loads(text), arrays, named())
    assert json.dumps(describe(again)) == text
    for part in ("features", "task", "optimizer"):
        assert type(getattr(again, part)) is type(getattr(setting, part))
    draws = uniforms([1], 0, 32, setting.features.n_uniforms)[0]
    assert torch.equal(again.features.transform(draws), setting.features.transform(draws))
    stacks = [Stack.of(each, [3]) for each in (setting, again)]
    for one, other in zip(*(initial_values(stack)[0].values() for stack in stacks), strict=True):
        assert torch.equal(one, other)
    schedules = [each.optimizer.schedule for each in (setting, again)]
    assert schedules[0](3, 7) == schedules[1](3, 7)


def test_every_public_part_is_among_them():
    abstract = {"Features", "Independent", "Sparse", "Magnitude", "MAGNITUDES", "Task", "Regression"}
    used = {type(part).__name__ for s in SETTINGS for part in (s.features, s.task)}
    assert {*toysup.features.__all__, *toysup.tasks.__all__} - abstract == used
    modules = {
        name
        for name in toysup.models.__all__
        if isinstance(getattr(toysup.models, name), type) and issubclass(getattr(toysup.models, name), torch.nn.Module)
    }
    assert modules == {s.model.build.__name__ for s in SETTINGS}


def test_an_account_tells_apart_what_differs():
    accounts = [json.dumps(describe(setting)) for setting in SETTINGS]
    assert len(set(accounts)) == len(set(map(repr, SETTINGS)))
    close = [np.float64(0.1), np.nextafter(0.1, 1)]
    assert describe(np.array([close[0]])) != describe(np.array([close[1]])) and describe(close[0]) != describe(close[1])
    assert describe(np.zeros(4)) != describe(np.zeros((2, 2))) != describe(np.zeros((2, 2), dtype=np.float32))
    assert describe(np.arange(6.0).reshape(2, 3).T) == describe(np.arange(6.0).reshape(2, 3).T.copy())


@pytest.mark.parametrize(
    "value",
    [object(), partial(math.pow, 2), {1, 2}, 1j, Model(MLP, width=object()), b"x"],
    ids=lambda v: type(v).__name__,
)
def test_what_has_no_account_is_refused(value):
    with pytest.raises(InputError, match="a setting may hold numbers, arrays, dataclasses, models and functions"):
        describe([value])


def test_a_function_without_a_name_can_be_described_but_not_rebuilt():
    account = describe(Adam(schedule=lambda step, steps: 1.0))
    with pytest.raises(InputError, match=r"cannot import .*lambda"):
        rebuild(account, {}, named(trust=True))


def test_paths():
    assert get_path(BASE, "features.density") == 0.1 and get_path(BASE, "model.width") == 3
    assert get_path(BASE, "model.relu") is False and get_path(Setting(SPARSE[0], Identity(), MODELS[3]), "seed") == 0
    assert [is_dynamic(p, get_path(BASE, p)) for p in ("features.density", "seed", "data_seed", "optimizer.lr")] == [
        True
    ] * 4
    assert not any(is_dynamic(p, get_path(BASE, p)) for p in ("steps", "model.width", "task", "features.signed"))
    bound = bind(BASE, {"features.density": 7.0, "seed": -1})  # not validated
    assert bound.features.density == 7.0 and bound.seed == -1 and BASE.features.density == 0.1
    with pytest.raises(InputError, match=r"Model: MLP has no argument 'hight'; it has width, depth, relu"):
        Model(MLP, hight=3)


def test_schedules():
    assert [Constant()(step, 5) for step in range(5)] == [1] * 5
    cosine = [Cosine(0.2, 0.1)(step, 100) for step in range(100)]
    assert cosine[:20] == pytest.approx(np.arange(1, 21) / 20) and cosine[20] == 1 and cosine[-1] == pytest.approx(0.1)
    assert (np.diff(cosine[20:]) < 0).all() and cosine[59] + cosine[60] == pytest.approx(2 * 0.55)  # half-way
    quarter = np.array([QuarterCosine()(step, 101) for step in range(101)])
    assert quarter[0] == 1 and quarter[-1] == pytest.approx(0, abs=1e-12) and quarter[50] == pytest.approx(0.5**0.5)
    assert quarter**2 + quarter[::-1] ** 2 == pytest.approx(1)  # a quarter turn
    assert QuarterCosine()(0, 1) == 1
