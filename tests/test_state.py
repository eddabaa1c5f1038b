"""All of a module's state is kept: what is frozen stays, what moves is handed back, what cannot be is refused."""

import threading
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from toysup.checks import InputError
from toysup.ensemble import Stack, initial_values, train
from toysup.features import SparseUniform
from toysup.measure import held_out_loss, r_squared, recovered
from toysup.models import Embedding, SparseAutoencoder, TiedAutoencoder
from toysup.random import uniforms
from toysup.setting import Adam, Model, Setting
from toysup.sweep import Grid, load, sweep
from toysup.tasks import Identity, Reconstruction, Regression


class Two(nn.Module):
    """Two layers, to be varied."""

    def __init__(self, n_in, n_out, *, width=3):
        super().__init__()
        self.a, self.b = nn.Linear(n_in, width), nn.Linear(width, n_out)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Frozen(Two):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.a.requires_grad_(False)


class Tied(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(n_in, n_in), nn.Linear(n_in, n_in), nn.Linear(n_in, n_out)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.relu(self.mix(self.first(x))))


class Masked(Two):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.register_buffer("mask", torch.rand(3), persistent=False)
        self.register_buffer("also", self.mask, persistent=False)  # shared under another name

    def forward(self, x):
        return self.b(self.a(x) * self.mask)


class Normed(Two):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.a = nn.Linear(n_in, 3, bias=False)  # a bias would move by rounding alone
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


class Running(Two):
    """Keeps a mean by assignment; another in place; and counts."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("square", torch.ones(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        h = self.a(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            self.square.mul_(0.9).add_(0.1 * h.detach().square().mean(0))
            self.calls += 1
        return self.b((h - self.mean) / self.square.sqrt())


MODULES = [Two, Frozen, Tied, Masked, Normed, Running]
BASE = Setting(SparseUniform(6, 0.3), Identity(), Model(Two), Adam(0.01, weight_decay=0.1), steps=40, batch=32)


def setting_of(build, **changes):
    return replace(BASE, model=Model(build), **changes)


def by_torch(setting, seed):
    """The same network by torch's own optimiser, on the same draws."""
    stack = Stack.of(setting, [seed])
    module = setting.build().train()
    with torch.no_grad():
        start = {name: value[0] for values in initial_values(stack) for name, value in values.items()}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensor.copy_(start[name])
    torch.set_num_threads(1)
    own = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=setting.optimizer.lr, weight_decay=setting.optimizer.weight_decay)
    for step in range(setting.steps):
        x = setting.features.transform(uniforms(seed, step, setting.batch, 6)[0])
        optimizer.zero_grad()
        setting.task.loss(module(x), x).backward()
        optimizer.step()
    return module.eval()


@pytest.mark.parametrize(("build", "compile"), [(build, False) for build in MODULES] + [(Normed, True)])
def test_a_stack_is_what_torch_trains(build, compile):
    setting = setting_of(build)
    trained = train(Stack.of(setting, [0, 5, 2]), compile=compile)
    for instance, seed in enumerate((0, 5, 2)):
        module, oracle = trained.model(instance), by_torch(setting, seed)
        assert not module.training
        for name, value in oracle.named_buffers():
            torch.testing.assert_close(module.get_buffer(name), value, rtol=1e-4, atol=1e-4)
        x = setting.features.transform(uniforms(9, 0, 64, 6)[0])
        torch.testing.assert_close(module(x), oracle(x), rtol=1e-3, atol=1e-3)
        whole = x.expand(3, -1, -1)
        torch.testing.assert_close(module(x), trained.forward(whole)[instance], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", MODULES)
def test_results_hand_back_the_network_that_was_measured(build, tmp_path):
    grid = Grid(setting_of(build), {"seed": range(3)})
    results = sweep(
        grid, [held_out_loss, r_squared], results=tmp_path, snapshots=[0, 20], progress=False, compile=False
    )
    loaded = load(results.path, trust=True)
    x = BASE.features.transform(uniforms(9, 0, 64, 6)[0])
    for row in range(3):
        alone = train(Stack.of(grid.setting, [row]), compile=False, snapshots=[20])
        torch.testing.assert_close(loaded.model(row)(x), alone.model(0)(x), rtol=1e-4, atol=1e-5)
        half = loaded.trained(rows=[row]).at(20).model(0)
        torch.testing.assert_close(half(x), alone.at(20).model(0)(x), rtol=1e-4, atol=1e-5)
        for (name, one), (_, other) in zip(half.named_buffers(), alone.at(20).model(0).named_buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, msg=name)
    again = loaded.measure(held_out_loss)["held_out_loss"]
    assert again.tolist() == results.table["held_out_loss"].tolist()


def test_frozen_parameters_stay_and_are_still_parameters():
    trained = train(Stack.of(setting_of(Frozen), [0, 1]), compile=False, snapshots=[0])
    assert torch.equal(trained.parameters["a.weight"], trained.snapshots[0]["a.weight"])
    assert not torch.equal(trained.parameters["b.weight"], trained.snapshots[0]["b.weight"])
    assert list(trained.parameters) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert not trained.model(0).a.weight.requires_grad and trained.model(0).b.weight.requires_grad


def test_shared_tensors_stay_shared():
    tied = train(Stack.of(setting_of(Tied), [0]), compile=False).model(0)
    assert tied.last.weight is tied.first.weight
    masked = train(Stack.of(setting_of(Masked), [0]), compile=False).model(0)
    assert masked.also is masked.mask


def test_where_nothing_is_trained_losses_are_kept():
    setting = replace(BASE, features=SparseUniform(6, 0.3), model=Model(Still))
    trained = train(Stack.of(setting, [0, 1]), compile=False)
    assert trained.history.isfinite().all() and (trained.diverged_step == -1).all()
    assert torch.equal(trained.parameters["scale"], torch.ones(2, 1))


class Still(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return 0.5 * x * self.scale


def test_a_diverged_instance_keeps_the_buffers_it_had():
    setting = setting_of(Running)
    stack = Grid(setting, {"optimizer.lr": [0.01, 1e30]}).groups[0][0]
    trained = train(stack, compile=False)
    died = int(trained.diverged_step[1])
    assert died >= 0 and trained.buffers["calls"].tolist() == [setting.steps, died]
    assert trained.buffers["mean"][1].isfinite().all()


# -------------------------------------------------------------------------------------------------------------- refused


class Dropping(Two):
    def forward(self, x):
        return self.b(nn.functional.dropout(torch.relu(self.a(x)), 0.1, self.training))


class Noisy(Two):
    def forward(self, x):
        return self.b(self.a(x) + torch.randn_like(self.a(x)))


class ByNumpy(Two):
    def forward(self, x):
        import random

        return self.b(self.a(x)) * random.random()


class Loose(Two):
    """A random tensor that is no buffer: all instances would have one of chance's choosing."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.directions = torch.randn(3)

    def forward(self, x):
        return self.b(self.a(x) * self.directions)


class LooseInList(Loose):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.directions = [torch.zeros(3), torch.randn(3)]

    def forward(self, x):
        return self.b(self.a(x) * self.directions[1])


class Unregistered(Two):
    """A running mean that is no buffer."""

    mean = 0.0

    def forward(self, x):
        h = self.a(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.b(h - self.mean)


class Counting(Two):
    calls = 0

    def forward(self, x):
        self.calls += self.training
        return self.b(self.a(x)) / (1 + self.calls)


class Late(Running):
    def forward(self, x):
        h = self.a(x)
        if self.training:
            self.calls += 1
            self.mean.add_(torch.where(self.calls > 3, 1.0, 0.0))
        return self.b(h - self.mean)


class Lazy(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.a = nn.LazyLinear(n_out)

    def forward(self, x):
        return self.a(x)


class Complex(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n_in, n_out, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(self.w.dtype) @ self.w).abs()


REFUSED = {
    Dropping: "Dropping on Identity: training draws random numbers",
    Noisy: "Noisy on Identity: training draws random numbers",
    ByNumpy: "ByNumpy: its output depends on what it was called with before, or on chance",
    Loose: "Loose: tensor directions is drawn as the module is built, but is no parameter or buffer",
    LooseInList: "LooseInList: tensor directions is drawn",
    Unregistered: "Unregistered: its output depends on what it was called with before",
    Counting: "Counting: its output depends on what it was called with before",
    Late: "Late: buffer mean changed in the course of training, but not in its first step",
    Lazy: "Lazy: parameter a.weight has no size before its first input",
    Complex: "Complex: parameter w is complex",
}


@pytest.mark.parametrize("build", REFUSED)
def test_what_could_not_be_handed_back_is_refused_in_one_line(build):
    with pytest.raises(InputError) as caught:
        train(Stack.of(setting_of(build), [0, 1]), compile=False)
    assert str(caught.value).startswith(REFUSED[build]) and "\n" not in str(caught.value)


@dataclass(frozen=True)
class NoisyTargets(Regression):
    def target(self, x, constants):
        return x + 0.1 * torch.randn_like(x)

    def target_moments(self, features, constants):
        return features.mean, features.second_moment, features.variance


def test_chance_in_a_task_is_refused_too():
    with pytest.raises(InputError, match="Two on NoisyTargets: training draws random numbers"):
        train(Stack.of(replace(BASE, task=NoisyTargets()), [0]), compile=False)


class Remembering(Two):
    """Keeps what it computed last, which decides nothing: allowed."""

    def forward(self, x):
        self.last = torch.relu(self.a(x))
        return self.b(self.last)


def test_a_module_may_look_back_at_its_activations():
    assert train(Stack.of(setting_of(Remembering), [0, 1]), compile=False).history.isfinite().all()


# --------------------------------------------------------------------------------------------------------- side by side


def losses(setting, seeds):
    return train(Stack.of(setting, seeds), engine="general", compile=False).history[:, -1].tolist()


def test_trainings_in_threads_are_as_alone():
    world = SparseUniform(6, 0.3)
    network = Reconstruction(Model(Embedding, width=4))
    settings = [
        setting_of(Two), setting_of(Two, steps=41), setting_of(Masked), setting_of(Running),
        replace(BASE, model=Model(TiedAutoencoder, width=2)),
        Setting(world, network, Model(SparseAutoencoder, latents=5), Adam(0.01), 40, 32),
        Setting(world, network, Model(SparseAutoencoder, latents=5), Adam(0.01), 40, 32),
    ]  # fmt: skip
    alone = [losses(setting, [0, 1, 2]) for setting in settings]
    found: dict[int, list] = {}

    def work(number):
        found[number] = [losses(settings[number], [0, 1, 2]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(settings))] == [[one] * 3 for one in alone]


def test_measuring_in_threads_is_as_alone():
    trained = train(Stack.of(setting_of(Running), [0, 1]), compile=False)
    expected, found = r_squared(trained).value, []

    def work():
        for _ in range(5):
            trained.kept.clear()
            found.append(r_squared(trained).value)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15 and all(torch.equal(one, expected) for one in found)


def test_the_callers_generator_stays_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(Stack.of(setting_of(Normed), [0, 1]), compile=False).model(0)
    assert torch.equal(torch.rand(4), expected)


@pytest.fixture
def odd_defaults(request):
    if request.param == "dtype":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device("meta")
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("odd_defaults", ["dtype", "device"], indirect=True)
@pytest.mark.parametrize("build", [Two, Masked, Normed, TiedAutoencoder])
def test_torchs_global_defaults_decide_nothing(build, odd_defaults):
    model = Model(build, width=2) if build is TiedAutoencoder else Model(build)
    setting = replace(BASE, model=model)

    def found():
        table = sweep(Grid(setting, {"seed": [0, 1]}), [held_out_loss, recovered], progress=False, workers=1).table
        trained = train(Stack.of(setting, [0]))
        return table["held_out_loss"].tolist(), table["recovered"].tolist(), trained.parameters

    odd = found()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    usual = found()
    assert odd[:2] == usual[:2]
    for name, value in usual[2].items():
        assert value.dtype == torch.float32 and torch.equal(odd[2][name], value)
