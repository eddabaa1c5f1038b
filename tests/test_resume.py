"""Training that was stopped goes on where it was: to the same bits, in every kernel and in the general path."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from test_examples import unit
from test_fused import setting as shallow

from toysup.ensemble import Stack, fused, train_chunk
from toysup.features import OnePerGroup, SparseUniform
from toysup.models import MLP, ResidualMLP, TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.shapes import Shape
from toysup.store import Store
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory

CPU, STEPS = torch.device("cpu"), 40


class Averaging(TiedAutoencoder):
    """One with a buffer that training moves."""

    def __init__(self, n_in, n_out, *, width):
        super().__init__(n_in, n_out, width=width)
        self.register_buffer("seen", torch.zeros(n_in))

    def initial(self):
        return super().initial() | {"seen": lambda u: torch.zeros_like(u)}

    def forward(self, x):
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.detach().mean(0)
        return super().forward(x)


def general(model):
    return Setting(SparseUniform(6, 0.2), Identity(), model, Adam(1e-2, 0.01), STEPS, 64)


NET = Model(ResidualMLP, shape=Shape(32, 2, 37), row_norm=5.7, unembedding="coordinates")
CASES = {  # setting, engine, compiled
    "few": (shallow("few features", STEPS), "fused", False),
    "narrow": (shallow("narrow", STEPS), "fused", False),
    "wide, lists where few outputs are on": (shallow("wide, sparse", STEPS), "fused", False),
    "facts": (Setting(OnePerGroup(160, 4), Memory(4), NET, Adam(1e-2), STEPS, 70), "fused", False),
    "mini-batches of a training set": (unit("mini-batches", steps=STEPS), "fused", False),
    "eager": (general(Model(MLP, width=5, depth=2)), "general", False),
    "moving buffer": (general(Model(Averaging, width=3)), "general", False),
    "compiled": (general(Model(MLP, width=5, depth=2)), "general", True),
}


def bits(trained):
    whole = {**trained.parameters, **trained.buffers, "history": trained.history, "diverged": trained.diverged_step}
    for step, tensors in trained.snapshots.items():
        whole |= {f"{step}.{name}": value for name, value in tensors.items()}
    return {name: value.numpy().tobytes() for name, value in whole.items()}


@pytest.fixture
def small_calls(monkeypatch):
    monkeypatch.setattr(fused._Pace, "instances", lambda self: 2)
    monkeypatch.setattr(fused._Pace, "until", lambda self, origin, instances: min(self.steps, origin + 7))


@pytest.mark.parametrize("name", CASES)
def test_a_training_that_was_stopped_anywhere_ends_the_same(name, tmp_path, small_calls, monkeypatch):
    setting, engine, compile = CASES[name]
    stack = Stack.of(setting, [3, 8, 5])
    stack = dataclasses.replace(stack, varying={"optimizer.lr": np.array([1e-2, 1e30, 3e-3])})  # the second diverges
    options = {"device": CPU, "compile": compile, "engine": engine, "snapshots": [0, 10, STEPS]}
    states = []
    cut = bits(train_chunk(stack, keep=lambda state: states.append(state()), **options))
    monkeypatch.undo()
    whole = train_chunk(stack, **options)
    assert bits(whole) == cut and len(states) >= 9
    assert whole.diverged_step[1] >= 0 and (whole.diverged_step[[0, 2]] == -1).all()
    store = Store(tmp_path)
    for state in states[:: max(1, len(states) // 6)]:
        store.write_part(0, whole.rows, state)
        assert bits(train_chunk(stack, resume=store.part(0, whole.rows), **options)) == cut


def test_the_state_of_a_tensor_in_another_order_is_restored_with_it():
    from toysup.ensemble.train import laid_out, restored

    odd = torch.randn(2, 3, 5).permute(2, 0, 1)
    again = restored(laid_out({"a.b": odd, "c": odd.contiguous()}))
    assert torch.equal(again["a.b"], odd) and again["a.b"].stride() == odd.stride()
    assert torch.equal(again["c"], odd) and again["c"].is_contiguous()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("engine", ["fused", "general"])
def test_a_sweep_goes_on_inside_a_chunk(engine, tmp_path, monkeypatch, small_calls):
    grid = Grid(shallow("few features", STEPS), {"seed": range(3)})
    options = {
        "results": tmp_path,
        "workers": 1,
        "progress": False,
        "device": "cpu",
        "engine": engine,
        "compile": False,
    }
    monkeypatch.setattr("toysup.sweep._Keeper.EVERY", 0.0)
    monkeypatch.setattr("toysup.sweep._Keeper.SHARE", float("inf"))
    kept, done = Store.write_part, []

    def keep_and_stop(self, *arguments):
        kept(self, *arguments)
        done.append(None)
        if len(done) == 4:
            raise Stopped

    monkeypatch.setattr(Store, "write_part", keep_and_stop)
    with pytest.raises(Stopped):
        sweep(grid, [], **options)
    (part,) = tmp_path.glob("*/*.part")
    resumed = []

    def counted(stack, **given):
        resumed.append(given["resume"])
        return train_chunk(stack, **given)

    monkeypatch.setattr("toysup.sweep.train_chunk", counted)
    results = sweep(grid, [], **options)
    assert sum(state is not None for state in resumed) == 1 and not part.exists()
    expected = sweep(grid, [], **options | {"results": None})
    assert results.parameters("W").tobytes() == expected.parameters("W").tobytes()
    assert results.table.equals(expected.table)


def test_a_damaged_part_is_trained_anew(tmp_path):
    store = Store(tmp_path)
    rows = torch.arange(3).numpy()
    store.write_part(7, rows, {"a": torch.ones(3)})
    assert store.part(7, rows).keys() == {"a"} and store.part(7, rows[:2]) is None and store.part(6, rows) is None
    path = tmp_path / "00007.part"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.part(7, rows) is None
