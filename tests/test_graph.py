"""The general path's steps as graphs: noted down once, or compiled, they compute what a user's own module does."""

import dataclasses
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import oracles
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from toysup.ensemble import Stack, graph, step, train
from toysup.ensemble.state import parts_of
from toysup.features import OnePerGroup, SparseUniform
from toysup.kernels.crossed import crossed
from toysup.models import ResidualMLP, TiedAutoencoder
from toysup.random import uniforms
from toysup.setting import Adam, Model, Setting
from toysup.shapes import Shape
from toysup.tasks import Identity, Memory

sys.path.append(str(Path(__file__).resolve().parent.parent / "experiments"))
from _engines import OWN, Own


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(step, "_STEPS", {})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def run(stack, **options):
    return train(stack, device="cpu", engine="general", **options)


@pytest.mark.parametrize("model", OWN)
def test_own_models_train_as_the_plain_loop_does(model, monkeypatch):
    """On the same draws from the same start; by torch through vmap, from the graph, and compiled: to float32's rounding
    over 40 steps, where another rate would differ by a third."""
    work, steps = Own(6, 3, 3, density=0.4, batch=128, model=model), 40
    stack = work.stack(steps)
    features = stack.setting.features
    data = lambda at: features.transform(uniforms(stack.data_seed, at, 128, features.n_uniforms))  # noqa: E731
    parameters, losses = work.loop(steps, start=work.start(), data=data)
    monkeypatch.setattr(step, "TRACED", steps + 1)
    plain = run(stack, compile=False)
    monkeypatch.setattr(step, "TRACED", 0)
    step._STEPS.clear()
    found = [plain, run(stack, compile=False)]
    if model == "gelu" and any(map(shutil.which, ("g++", "c++", "clang++", "clang"))):
        found.append(run(stack, compile=True))
        assert found[2].engine == "general, compiled"
    for trained in found:
        assert torch.allclose(trained.history, losses, rtol=1e-4)
        for mine, theirs in zip(trained.parameters.values(), parameters, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(found[0].parameters.values(), found[1].parameters.values(), strict=True)
    )
    faster = run(dataclasses.replace(stack, setting=dataclasses.replace(stack.setting, optimizer=Adam(1.5e-3))))
    assert not torch.allclose(faster.history, losses, rtol=1e-3)  # positive control


class Heads(nn.Module):
    """Reshapes samples and features together, and has products that are not over either."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.first, self.last = nn.Linear(n_in, 8), nn.Linear(8, n_out)

    def forward(self, x):
        h = self.first(x).reshape(-1, 2, 4)
        return self.last((torch.softmax(h @ h.mT, -1) @ h).reshape(len(x), 8))


GROUPS = (OnePerGroup(8, 2), Memory(2), Model(ResidualMLP, shape=Shape(4, 2), unembedding="coordinates"))


@pytest.mark.parametrize(
    "setting",
    [
        *(Own(6, 3, 2, model=model).stack(1).setting for model in OWN),
        Setting(SparseUniform(6, 0.3), Identity(), Model(Heads)),
        Setting(SparseUniform(64, 0.3), Identity(), Model(TiedAutoencoder, width=64)),  # samples, features, neurons
        Setting(*GROUPS),
    ],
    ids=[*OWN, "heads", "square", "groups"],
)
def test_a_graph_with_samples_next_to_each_other_computes_the_same(setting):
    """What is compiled, done by torch: to float32's rounding of sums in another order."""
    stack = Stack.of(dataclasses.replace(setting, steps=1, batch=64), range(3))
    parts = parts_of(stack)
    tensors, spec = tree_flatten(step._first_arguments(stack, torch.device("cpu"), parts))
    update = step._update(stack.setting, stack.setting.build().train(), parts)
    traced = graph.traced(lambda *given: tree_flatten(update(*tree_unflatten(given, spec)))[0], tensors)
    along = graph._along_samples(traced, tensors, 64)
    moved = False
    for one, other, before in zip(traced(*tensors), along(*tensors), [*tensors, None], strict=False):
        assert torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-6)
        moved |= before is not None and not torch.equal(one, before)
    assert moved  # positive control: the step does something


class Late(nn.Module):
    """Gives its input times w, and from its 30th call on twice that: no tensor knows how often it was called."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.w, self.calls = nn.Parameter(torch.ones(n_in)), 0

    def forward(self, x):
        self.calls += self.training
        return x * self.w * (2 if self.calls > 30 else 1)


class Hidden(Late):
    """The same, the number in an object of its own."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        del self.calls
        self.kept = SimpleNamespace(calls=0)

    def forward(self, x):
        self.kept.calls += self.training
        return x * self.w * (2 if self.kept.calls > 30 else 1)


@pytest.mark.parametrize("module", [Late, Hidden])
def test_a_module_that_counts_its_calls_is_called_each_time(module, monkeypatch):
    monkeypatch.setattr(step, "TRACED", 0)
    stack = Stack.of(Setting(SparseUniform(4, 0.5), Identity(), Model(module), Adam(1e-6), steps=50, batch=32), [0])
    for compile in (False, True):
        history = run(stack, compile=compile).history[0]
        assert history[:20].max() < 1e-6 and history[-10:].min() > 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (3, 5, 2, 64), (2, 20, 5, 1024), (2, 9, 33, 48)])
def test_products_over_samples(shape):
    instances, rows, columns, samples = shape
    generator = torch.Generator().manual_seed(0)
    a, x = (torch.randn(instances, n, samples, generator=generator) for n in (rows, columns))
    exact = a.double() @ x.double().mT
    assert torch.allclose(crossed(a, x).double(), exact, rtol=0, atol=1e-6 * samples)


def test_own_loops_are_the_field_s():
    """The loop that own models are timed against is `einsum_loop` where both can say the same."""
    start = (0.5 * torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 5))
    tied = lambda x, W, b: torch.relu(x @ W @ W.mT + b[:, None])  # noqa: E731
    W, b, losses = oracles.einsum_loop(2, 5, 2, 64, 20, 0.3, start=start)
    (own_W, own_b), own_losses = oracles.own_loop(tied, lambda x: x, start, (2, 64, 5), 20, 0.3)
    for one, other in ((W, own_W), (b, own_b), (losses, own_losses)):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
