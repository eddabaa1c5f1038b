"""The general engine: instances as if alone, torch.optim and a plain einsum loop, compilation, divergence, results."""

import dataclasses
import itertools
import shutil

import numpy as np
import oracles
import pytest
import torch
from torch import nn
from torch.func import jacrev

from toysup import ensemble
from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, chunks, resolve_device, task_constants, train, train_chunk
from toysup.ensemble.state import parts_of
from toysup.features import Features, OnePerGroup, SparseBoolean, SparseUniform
from toysup.measure import held_out_loss
from toysup.models import MLP, ResidualMLP, TiedAutoencoder
from toysup.random import Stream, uniforms
from toysup.setting import Adam, Constant, Cosine, Model, Setting, set_paths
from toysup.shapes import Shape
from toysup.tasks import And, Identity, Memory, Task, XPlusRelu
from toysup.theory import toy_optimum

N, WIDTH, BATCH = 6, 3, 64
CPU = torch.device("cpu")


def tied(steps=50, batch=BATCH, n=N, width=WIDTH, density=0.3, importance=1.0, exponent=2.0, relu=False, **optimizer):
    """Without ReLUs by default: where one turns on or off on rounding alone, a gradient jumps by a sample's share, and
    a comparison of two runs could be no tighter than that."""
    optimizer = {"lr": 1e-2, **optimizer}
    task = Identity(importance, exponent)
    model = Model(TiedAutoencoder, width=width, relu=relu)
    return Setting(SparseUniform(n, density), task, model, Adam(**optimizer), steps=steps, batch=batch)


def run(stack, **kwargs):
    return train(stack, device="cpu", **{"engine": "general", "compile": False, **kwargs})


def varied(instances=5, **arguments):
    """A stack in which everything that may differ by instance does."""
    rng = np.random.default_rng(0)
    varying = {
        "features.density": rng.uniform(0.05, 0.9, instances),
        "task.importance": rng.uniform(0.1, 2.0, (instances, N)),
        "task.exponent": rng.uniform(2.0, 4.0, instances),
        "optimizer.lr": np.geomspace(1e-3, 3e-2, instances),
        "optimizer.weight_decay": np.linspace(0.0, 0.5, instances),
        "optimizer.beta1": np.linspace(0.5, 0.95, instances),
        "optimizer.beta2": np.linspace(0.9, 0.999, instances),
    }
    seeds = rng.integers(0, 2**32, (2, instances))
    return Stack(tied(**arguments), *seeds, varying)


def alone(stack, i):
    """Instance i of a stack as a setting of its own, with plain numbers in its fields."""
    own = {path: values[i] if np.ndim(values[i]) else float(values[i]) for path, values in stack.varying.items()}
    seeds = {"data_seed": int(stack.data_seed[i]), "init_seed": int(stack.init_seed[i])}
    return Stack.of(set_paths(stack.setting, {**own, **seeds}), [0])


def difference(one, other):
    """The largest difference of any parameter, per instance, relative to the largest parameter."""
    worst = torch.zeros(len(one))
    for name, value in one.parameters.items():
        gap, size = (v.flatten(1).abs().amax(1) for v in (value - other.parameters[name], value))
        worst = torch.maximum(worst, gap / size)
    return worst


# float32 sums in another order differ by 1e-7 relative, and 50 steps add such differences up: measured, at most 2e-7.
# 1e-5 leaves room for other machines' products; instances with different settings differ by over 1.
SAME = 1e-5


# ------------------------------------------------------------------------------------------------------ as if alone


def steps_arguments(stack):
    parts = parts_of(stack)
    step = ensemble.step._update(stack.setting, stack.setting.build(), parts)
    return step, *ensemble.step._first_arguments(stack, CPU, parts)


@pytest.mark.parametrize(
    "setting",
    [
        tied(),
        Setting(SparseBoolean(N, 0.3), And(n_pairs=4), Model(MLP, width=5, depth=2), batch=BATCH),
        Setting(
            OnePerGroup(8, 2), Memory(2), Model(ResidualMLP, shape=Shape(4, 2), unembedding="coordinates"), batch=BATCH
        ),
    ],
    ids=["tied", "and", "memory"],
)
def test_no_instance_has_a_gradient_in_another(setting):
    """d loss_j / d parameters_i is exactly zero for i != j, and is what the optimiser gets for i = j."""
    step, state, *rest = steps_arguments(Stack.of(setting, range(4)))
    shapes = {name: parameter.shape for name, parameter in setting.build().named_parameters()}
    first = ensemble.step._views(step(state, *rest)[0]["first"], shapes)
    jacobian = jacrev(lambda p: step(state | {"theta": torch.cat([v.flatten(1) for v in p.values()], 1)}, *rest)[1])(
        ensemble.step._views(state["theta"], shapes)
    )
    others = ~torch.eye(4, dtype=torch.bool)
    for name, value in jacobian.items():  # (loss, instance, ...)
        assert torch.all(value[others] == 0), name
        own = value[torch.arange(4), torch.arange(4)]
        # the first moment after one step is (1 - beta1) times the gradient; the same sums, differentiated another way
        assert torch.allclose(own * 0.1, first[name], rtol=1e-5, atol=1e-7), name
        assert own.abs().max() > 0, name  # positive control


@pytest.mark.parametrize("poison", [0.5, 1e30, float("inf"), float("nan")])
def test_what_happens_in_one_instance_leaves_the_others_bits(poison):
    step, state, *rest = steps_arguments(varied())
    changed = state | {"theta": state["theta"].clone()}
    changed["theta"][2] = poison
    (before, losses), (after, other_losses) = step(state, *rest), step(changed, *rest)
    rest_of = [0, 1, 3, 4]
    for name in ("theta", "first", "second", "total"):
        assert torch.equal(before[name][rest_of], after[name][rest_of])
        assert not torch.equal(before[name][2], after[name][2])  # positive control
    assert torch.equal(losses[rest_of], other_losses[rest_of])
    assert after["alive"].tolist() == [True, True, poison == 0.5, True, True]


@pytest.mark.parametrize("schedule", [Constant(), Cosine()])
def test_each_instance_of_a_stack_equals_it_alone(schedule):
    stack = varied(schedule=schedule)
    together = run(stack)
    for i in range(len(stack)):
        one = run(alone(stack, i))
        assert difference(together.take([i]), one) < SAME
        assert torch.allclose(together.history[i], one.history[0], rtol=SAME)  # losses, by the same reasoning
    assert difference(together, together.take([1, 2, 3, 4, 0])).min() > 100 * SAME  # positive control


@pytest.mark.parametrize(
    "path, values",
    [
        ("features.density", [0.1, 0.6]),
        ("task.importance", [0.2, 1.0]),
        ("task.importance", [[1.0] * N, [1.0] * (N - 1) + [0.1]]),
        ("task.exponent", [2.0, 4.0]),
        ("optimizer.lr", [1e-3, 1e-2]),
        ("optimizer.weight_decay", [0.0, 1.0]),
        ("optimizer.beta1", [0.0, 0.9]),
        ("optimizer.beta2", [0.9, 0.999]),
        ("optimizer.eps", [1e-8, 1e-1]),
    ],
)
def test_each_field_reaches_its_own_instance(path, values):
    stack = Stack(tied(), *np.zeros((2, 2), dtype=int), {path: np.array(values)})
    together = run(stack)
    matters = difference(together.take([0]), together.take([1])).item()
    scale = together.history.mean(1)  # Adam doesn't see the scale of a loss, so one importance for all moves only that
    assert max(matters, (scale[0] / scale[1]).log().abs().item()) > 100 * SAME
    for i in range(2):
        one = run(alone(stack, i))
        assert difference(together.take([i]), one) < SAME
        assert torch.allclose(together.history[i], one.history[0], rtol=SAME)


def test_data_and_starts_have_seeds_of_their_own():
    setting = tied()
    pairs = np.array([[0, 0], [0, 1], [1, 0], [0, 0]])
    trained = run(Stack(setting, pairs[:, 0], pairs[:, 1]), snapshots=[0])
    start, (x, _) = trained.snapshots[0]["W"], trained.batch(0, BATCH)
    assert torch.equal(start[0], start[2]) and torch.equal(x[0], x[1])
    assert not torch.equal(start[0], start[1]) and not torch.equal(x[0], x[2])
    assert difference(trained.take([0]), trained.take([3])) < SAME
    assert min(difference(trained.take([0]), trained.take([i])) for i in (1, 2)) > SAME
    fixed = Stack.of(dataclasses.replace(setting, data_seed=7), [3, 4])
    assert fixed.data_seed.tolist() == [7, 7] and fixed.init_seed.tolist() == [3, 4]


def test_order_company_chunks_and_threads_do_not_matter(monkeypatch):
    stack = varied(7)
    together = run(stack)
    order = [4, 0, 6, 2]
    assert difference(run(stack.take(order)), together.take(order)).max() < SAME
    for room in (1, 12_000, 1 << 30):  # one by one, a few at a time, all
        monkeypatch.setattr(ensemble.stack, "CACHE_BYTES", room)
        parts = chunks(stack, CPU)
        assert len({len(part) for part in parts}) == 1 and sorted(set(np.concatenate(parts))) == list(range(7))
        again = run(stack)
        assert len(again) == 7 and again.history.shape == together.history.shape
        assert difference(again, together).max() < SAME
    assert len(parts) == 2
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert difference(run(stack), again).max() == 0  # the engine works on one thread, whatever was set
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_chunks_fit_in_the_room_and_depend_on_nothing_else(monkeypatch):
    monkeypatch.setattr(ensemble.stack, "CACHE_BYTES", 20_000)
    for n in (1, 2, 3, 10, 101):
        parts = chunks(Stack.of(tied(), range(n)), CPU)
        sizes = {len(part) for part in parts}
        assert len(sizes) == 1 and sizes.pop() * BATCH * N * 4 <= 20_000
        in_order = np.concatenate(parts)
        assert in_order[:n].tolist() == list(range(n)) and set(in_order[n:]) <= {n - 1}
        assert len(in_order) - n < len(parts[0])  # padding never fills a chunk


# ------------------------------------------------------------------------------------------------- the optimiser


@dataclasses.dataclass(frozen=True)
class Given(Features):
    """x = the uniforms themselves."""

    def transform(self, uniforms):
        return uniforms

    activity = mean = second_moment = property(lambda self: torch.ones(()))


@dataclasses.dataclass(frozen=True)
class Output(Task):
    """The loss is the mean output."""

    def n_outputs(self, features):
        return features.n_features

    def batch(self, features, constants, uniforms):
        return uniforms, uniforms

    def loss(self, output, target):
        return output.sum(-1).mean()

    errors = baseline = None


class Scale(nn.Module):
    """Output p x, so that with a batch of one the gradient of p is x, to the bit."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.p = nn.Parameter(torch.ones(n_in))

    def forward(self, x):
        return self.p * x


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("schedule", [Constant(), Cosine(), Cosine(0.3, 0.1)])
def test_the_fused_optimizer_is_torchs(schedule, weight_decay):
    """100 steps of the same gradients, of sizes 1e-6 to 1e2 and with many zeros, against AdamW; Adam without decay."""
    steps, instances = 100, 4
    lrs = np.array([1e-4, 1e-3, 1e-2, 0.1])
    options = {
        "optimizer.lr": lrs,
        "optimizer.weight_decay": weight_decay * np.array([0, 1, 2, 5]),
        "optimizer.beta1": np.array([0.0, 0.5, 0.9, 0.99]),
        "optimizer.beta2": np.array([0.5, 0.9, 0.999, 0.9999]),
        "optimizer.eps": np.array([1e-8, 1e-8, 1e-4, 1e-12]),
    }
    setting = Setting(Given(8), Output(), Model(Scale), Adam(schedule=schedule), steps=steps, batch=1)
    stack = Stack(setting, *np.tile(np.arange(instances), (2, 1)), options)
    step, state, frozen, *_ = steps_arguments(stack)
    rates = ensemble.step._Rates(stack)
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    references, optimizers, schedulers = [], [], []
    for i in range(instances):
        lr, decay, beta1, beta2, eps = (float(values[i]) for values in options.values())
        references.append(nn.Parameter(state["theta"][i].clone()))
        optimizers.append(kind([references[-1]], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay))
        multiplier = torch.optim.lr_scheduler.LambdaLR(optimizers[-1], lambda t: schedule(t, steps))
        schedulers.append(multiplier)
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        gradients = torch.randn(instances, 1, 8, generator=generator) * torch.logspace(-6, 2, 8)
        gradients *= torch.rand(gradients.shape, generator=generator) < 0.7
        state, _ = step(state, frozen, gradients, rates.at(t))
        if t == 0:  # beta1 = 0: the gradient is the one given
            assert torch.equal(state["first"][0], gradients[0, 0])
        for i, (reference, optimizer, scheduler) in enumerate(zip(references, optimizers, schedulers, strict=True)):
            reference.grad = gradients[i, 0].clone()
            optimizer.step()
            scheduler.step()
            # Each step rounds p (order 1) and its move at float32, 6e-8 each; 100 of them add up to 6e-6 at most.
            assert torch.allclose(state["theta"][i], reference, rtol=6e-6, atol=6e-6), (t, i)
    moved = (state["theta"] - 1).abs().amax(1)
    assert (moved > 2 * torch.from_numpy(lrs)).all()  # positive control: it went somewhere


def test_schedules():
    assert {Constant()(t, 10) for t in range(10)} == {1.0}
    for warmup, final, steps in itertools.product((0.0, 0.1, 1.0), (0.0, 0.02, 1.0), (1, 2, 10, 1000)):
        values = np.array([Cosine(warmup, final)(t, steps) for t in range(steps)])
        warm = round(warmup * steps)
        assert values[:warm] == pytest.approx(np.arange(1, warm + 1) / max(warm, 1))
        cosine = values[warm:]
        assert np.all(np.diff(cosine) <= 1e-12) and np.all((cosine >= final - 1e-12) & (cosine <= 1))
        if len(cosine) > 1:
            assert cosine[0] == 1 and cosine[-1] == pytest.approx(final, abs=1e-12)
            middle = np.abs(cosine + cosine[::-1] - 1 - final)  # half a cosine is odd about its middle
            assert middle.max() < 1e-12


# ----------------------------------------------------------------------------------------------- the plain oracle


@pytest.mark.parametrize("density, weight_decay", [(0.1, 0.0), (0.5, 0.01), (1.0, 0.3)])
def test_losses_equal_those_of_the_plain_loop_on_the_same_draws(density, weight_decay):
    """Hand-written einsums and torch.optim.AdamW. Losses agree to float32 reassociation: 1e-5 over 100 steps.

    A ReLU within rounding of 0 may be on in one and off in the other: 4e4 of them, each within 2e-7 with a density of
    order 1, make that happen in one instance of a hundred. So one of six may stray, by far less than it learns.
    """
    importance = 0.8 ** np.arange(N)
    stack = Stack.of(
        tied(steps=100, density=density, importance=importance, weight_decay=weight_decay, relu=True),
        [0, 5, 9, 2, 7, 3],
    )
    trained = run(stack, snapshots=range(101))

    def data(step):
        draws = uniforms(stack.data_seed, step, BATCH, N)
        return torch.where(draws < density, draws / density, 0)

    start = (trained.snapshots[0]["W"], trained.snapshots[0]["b"])
    weights = torch.tensor(importance, dtype=torch.float32)
    plain = {"importance": weights, "lr": 1e-2, "weight_decay": weight_decay, "data": data, "start": start}
    W, b, losses = oracles.einsum_loop(6, N, WIDTH, BATCH, 100, density, **plain)
    stretches = losses.unflatten(1, (50, 2)).mean(2)
    gaps = ((trained.history - stretches) / stretches).abs().amax(1)
    assert (gaps < 1e-5).sum() >= 5 and gaps.max() < 1e-2
    same = gaps < 1e-5
    assert torch.allclose(trained.parameters["W"][same], W[same], rtol=1e-5, atol=1e-5)  # parameters are of order 1
    assert torch.allclose(trained.parameters["b"][same], b[same], rtol=1e-5, atol=1e-5)
    assert (losses[:, -10:].mean(1) < 0.9 * losses[:, :10].mean(1)).all()  # positive control: they learned


def test_the_plain_loop_on_its_own_draws_learns_as_well():
    """The benchmark's baseline is the same experiment: mean final losses within 5 standard errors over 40 instances."""
    trained = run(Stack.of(tied(steps=300, weight_decay=0.01, relu=True), range(40)))
    W, b, losses = oracles.einsum_loop(40, N, WIDTH, BATCH, 300, 0.3, lr=1e-2)
    assert W.shape == (40, N, WIDTH) and b.shape == (40, N) and losses.shape == (40, 300)
    ours, theirs = trained.history[:, -10:].mean(1), losses[:, -60:].mean(1)
    assert abs(ours.mean() - theirs.mean()) < 5 * ((ours.var() + theirs.var()) / 40) ** 0.5
    assert theirs.mean() < 0.7 * losses[:, :6].mean()


@pytest.mark.parametrize("blocks", [1, 3])
def test_residual_networks_match_a_plain_loop(blocks):
    """The same start and draws: where a ReLU turns on or off on rounding alone the two part, hence the tolerance."""
    shape = Shape(8, blocks, 6)
    model = Model(ResidualMLP, shape=shape, embedding="frozen", unembedding="tied")
    features = SparseUniform(N, 0.3, signed=True)
    stack = Stack.of(Setting(features, XPlusRelu(), model, Adam(1e-2, 0.01), steps=50, batch=BATCH), range(5))
    trained = run(stack, snapshots=[0])

    def data(step):
        return features.transform(uniforms(stack.data_seed, step, BATCH, N))

    def parts(values):
        return [[values[f"{name}.{block}"] for block in range(blocks)] for name in ("W_in", "b_in", "W_out")]

    start = (trained.buffers["W_E"], *parts(trained.snapshots[0]))
    sizes = (5, N, (8, blocks, 6), BATCH, 50, 0.3)
    parameters, losses = oracles.residual_loop(*sizes, lr=1e-2, data=data, start=start)
    assert torch.allclose(trained.history, losses, rtol=1e-4)
    for ours, theirs in zip(parts(trained.parameters), parameters, strict=True):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))
    assert (losses[:, -10:].mean(1) < 0.9 * losses[:, :10].mean(1)).all()  # positive control: they learned


def test_the_residual_loop_on_its_own_draws_learns_as_well():
    """As for the autoencoder: mean final losses within 5 standard errors over 40 instances."""
    model = Model(ResidualMLP, shape=Shape(8, 2, 6))
    features = SparseUniform(N, 0.3, signed=True)
    trained = run(Stack.of(Setting(features, XPlusRelu(), model, Adam(1e-2, 0.01), steps=300, batch=BATCH), range(40)))
    _, losses = oracles.residual_loop(40, N, (8, 2, 6), BATCH, 300, 0.3, lr=1e-2)
    ours, theirs = trained.history[:, -10:].mean(1), losses[:, -60:].mean(1)
    assert abs(ours.mean() - theirs.mean()) < 5 * ((ours.var() + theirs.var()) / 40) ** 0.5
    assert theirs.mean() < 0.7 * losses[:, :6].mean()


# -------------------------------------------------------------------------------------------------- compilation


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++", "clang"))), reason="no C++ compiler here")
def test_compiled_equals_eager(monkeypatch, tmp_path):
    monkeypatch.setattr(ensemble.step, "_STEPS", {})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # compiled anew, and nothing left behind
    stack = varied(4, steps=30)
    few = ("features.density", "task.importance", "optimizer.lr")  # the less code, the sooner it is compiled
    stack = dataclasses.replace(stack, varying={path: stack.varying[path] for path in few})
    compiled = run(stack, compile=True)
    assert compiled.engine == "general, compiled"
    eager = run(stack)
    assert eager.engine == "general, eager"
    assert difference(compiled, eager).max() < SAME
    assert torch.allclose(compiled.history, eager.history, rtol=SAME)


def test_without_a_compiler_training_goes_on_quietly(monkeypatch, capfd):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler")

    def late(found, tensors):  # a compiler that is missed at the first call only
        return broken

    stack = varied(3, steps=10)
    for compiler in (broken, late):
        monkeypatch.setattr(ensemble.step, "_STEPS", {})
        monkeypatch.setattr(torch._inductor, "compile", compiler)
        ensemble.step.load_compiler.cache_clear()
        trained = run(stack, compile=True)
        assert trained.engine == "general, eager" and difference(trained, run(stack)).max() == 0
    ensemble.step.load_compiler.cache_clear()
    assert capfd.readouterr() == ("", "")


def test_a_step_kept_for_one_stack_is_not_used_for_another(monkeypatch):
    """Settings that differ in a number, a task or a class of the same name have steps of their own."""

    def model(power):
        class Same(TiedAutoencoder):
            def forward(self, x, record=False):
                return super().forward(x) ** power

        return Model(Same, width=WIDTH, relu=False)

    monkeypatch.setattr(ensemble.step, "_STEPS", {})
    base = tied(steps=10)
    settings = [base, tied(steps=10, density=0.5), tied(steps=10, importance=np.arange(N)), tied(steps=10, batch=32)]
    settings += [dataclasses.replace(base, model=model(power)) for power in (1, 2)]
    kept = [run(Stack.of(setting, [0, 1])) for setting in settings]
    for setting, trained in zip(settings, kept, strict=True):
        ensemble.step._STEPS.clear()
        assert difference(trained, run(Stack.of(setting, [0, 1]))).max() == 0
    assert min(difference(kept[0], other).min() for other in kept[1:4]) > SAME
    assert difference(kept[0], kept[4]).max() < SAME < difference(kept[4], kept[5]).min()


# --------------------------------------------------------------------------------------------------- divergence


def assert_frozen(trained, bad, step, others):
    assert trained.diverged_step.tolist() == [step if i == bad else -1 for i in range(len(trained))]
    assert all(value.isfinite().all() for value in trained.parameters.values())
    rest_of = [i for i in range(len(trained)) if i != bad]
    assert difference(trained.take(rest_of), others).max() < SAME
    assert torch.allclose(trained.history[rest_of], others.history, rtol=SAME)
    assert trained.history[rest_of].isfinite().all() and not trained.history[bad].isfinite().all()


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_a_diverged_instance_is_frozen_and_leaves_the_others_alone(bad):
    stack = varied()
    others = run(stack.take([i for i in range(5) if i != bad]))
    lr = stack.varying["optimizer.lr"].copy()
    lr[bad] = 1e30  # after one step the loss overflows
    wild = dataclasses.replace(stack, varying={**stack.varying, "optimizer.lr": lr})
    trained = run(wild, snapshots=[1, 50])
    assert_frozen(trained, bad, 1, others)
    for name, value in trained.parameters.items():  # frozen: the same ever after
        assert torch.equal(trained.snapshots[1][name][bad], value[bad])
        assert torch.equal(trained.snapshots[50][name], value)


def test_a_loss_that_overflows_from_the_start():
    stack = varied()
    others = run(stack.take([0, 1, 3, 4]))
    varying = {path: values.copy() for path, values in stack.varying.items()}
    # always active: a loss of about N / 3 times 3e38
    varying["task.importance"][2], varying["features.density"][2], varying["task.exponent"][2] = 3e38, 1, 2
    trained = run(dataclasses.replace(stack, varying=varying), snapshots=[0])
    assert_frozen(trained, 2, 0, others)
    assert all(torch.equal(trained.snapshots[0][name][2], value[2]) for name, value in trained.parameters.items())


def test_a_gradient_whose_square_overflows_is_a_divergence():
    """Adam's second moment would be infinite from then on, every step zero, and nobody would be told."""
    importance = np.array([[1.0], [1e25], [1.0]])
    trained = run(Stack(tied(steps=20), *np.zeros((2, 3), dtype=int), {"task.importance": importance}))
    assert trained.diverged_step.tolist() == [-1, 0, -1]


def test_a_divergence_in_one_chunk_is_reported_at_its_instance(monkeypatch):
    monkeypatch.setattr(ensemble.stack, "CACHE_BYTES", 1)
    stack = varied()
    lr = stack.varying["optimizer.lr"].copy()
    lr[3] = 1e30
    trained = run(dataclasses.replace(stack, varying={**stack.varying, "optimizer.lr": lr}))
    assert trained.diverged_step.tolist() == [-1, -1, -1, 1, -1]


# ----------------------------------------------------------------------------------------- snapshots and history


def test_snapshots_are_the_ends_of_shorter_runs():
    stack = varied(steps=40)
    trained = run(stack, snapshots=[40, 0, 7, 20])
    assert sorted(trained.snapshots) == [0, 7, 20, 40]
    for steps in (7, 20, 40):
        shorter = run(dataclasses.replace(stack, setting=dataclasses.replace(stack.setting, steps=steps)))
        for name, value in shorter.parameters.items():
            assert torch.equal(trained.snapshots[steps][name], value)  # the same operations on the same numbers
    for name, value in ensemble.initial_values(stack)[0].items():
        assert torch.equal(trained.snapshots[0][name], value)
    assert all(torch.equal(trained.at(20).parameters[name], v) for name, v in trained.snapshots[20].items())


@pytest.mark.parametrize("steps", [1, 49, 50, 51, 120])
def test_history_is_the_average_training_loss(steps):
    """Recomputed from a snapshot of every step on that step's own batch."""
    trained = run(Stack.of(tied(steps=steps), range(3)), snapshots=range(steps))
    losses = []
    for step in range(steps):
        x, target = trained.batch(step, BATCH, Stream.TRAIN)
        losses.append((trained.at(step).forward(x) - target).square().sum(-1).mean(-1))
    losses = torch.stack(losses, 1).double()
    edges = np.linspace(0, steps, min(50, steps) + 1).astype(int)
    expected = torch.stack([losses[:, a:b].mean(1) for a, b in itertools.pairwise(edges)], 1)
    assert trained.history.shape == (3, min(50, steps))
    assert torch.allclose(trained.history.double(), expected, rtol=1e-5)  # float32 sums of losses


def test_progress_counts_every_step_once():
    seen = []
    stack = Stack.of(tied(steps=73), range(4))
    trained = train_chunk(stack, device=CPU, compile=False, on_progress=lambda *news: seen.append(news))
    assert sum(work for work, _ in seen) == 4 * 73
    assert [loss for _, loss in seen] == pytest.approx(trained.history.mean(0).tolist())


# ----------------------------------------------------------------------------------------- what is handed back


def test_instances_come_out_as_ordinary_modules():
    trained = run(varied(steps=10))
    x, _ = trained.batch(0, 16)
    together, record = trained.forward(x, record=True)
    for i in range(len(trained)):
        module = trained.model(i)
        assert isinstance(module, TiedAutoencoder)
        with torch.no_grad():
            output, own = module(x[i], record=True)
        assert torch.allclose(together[i], output, rtol=1e-5, atol=1e-6)  # float32: batched products
        assert torch.allclose(record.neurons[i], own.neurons, rtol=1e-5, atol=1e-6)
    part = trained.take([3, 1])
    assert torch.equal(part.parameters["W"], trained.parameters["W"][[3, 1]]) and len(part) == 2
    assert torch.equal(part.batch(0, 16)[0], x[[3, 1]])


def test_batches_are_each_instances_own_data():
    stack = varied()
    trained = run(dataclasses.replace(stack, setting=dataclasses.replace(stack.setting, steps=1)))
    for stream in (Stream.TRAIN, Stream.HELD_OUT):
        x, target = trained.batch(3, 32, stream)
        for i, density in enumerate(stack.varying["features.density"]):
            draws = uniforms(int(stack.data_seed[i]), 3, 32, N, stream=stream)[0]
            expected = SparseUniform(N, torch.tensor(density, dtype=torch.float32)).transform(draws)
            assert torch.equal(x[i], expected) and torch.equal(target[i], expected)
    assert not torch.equal(trained.batch(3, 32, Stream.TRAIN)[0], x)


def test_constants_depend_on_the_data_seed_alone():
    setting = Setting(SparseBoolean(N, 0.3), And(n_pairs=4), Model(MLP, width=5), steps=5, batch=8)
    drawn = task_constants(Stack(setting, np.array([4, 9, 4]), np.array([0, 1, 2])))
    for value in drawn.values():
        assert torch.equal(value[0], value[2]) and value.shape == (3, 4)
    assert not all(torch.equal(value[0], value[1]) for value in drawn.values())
    trained = run(Stack(setting, np.array([4, 9, 4]), np.array([0, 1, 2])))
    assert all(torch.equal(trained.constants[name], value) for name, value in drawn.items())
    x, target = trained.batch(0, 32)
    for i in range(3):
        first, second = (trained.constants[name][i] for name in ("first", "second"))
        assert torch.equal(target[i], x[i][:, first] * x[i][:, second])


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: Stack(tied(), np.arange(3), np.arange(2)), ["init_seed", "2", "3"]),
        (lambda: Stack(tied(), *np.zeros((2, 3), int), {"optimizer.lr": np.ones(4)}), ["optimizer.lr", "4", "3"]),
        (lambda: run(Stack.of(tied(), [0]), snapshots=[51]), ["snapshots", "50", "51"]),
        (lambda: run(Stack.of(tied(), [0]), snapshots=[3, -1]), ["snapshots", "0", "-1"]),
        (lambda: run(Stack.of(tied(), [-5])), ["seed", "-5"]),
        (lambda: resolve_device("abacus"), ["device", "cpu", "abacus"]),
        (lambda: run(Stack.of(tied(steps=2), [0]), snapshots=[1]).at(2), ["snapshots", "1", "2"]),
    ],
)
def test_bad_input_is_refused_in_one_line(make, names):
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in names), message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test misses")
def test_a_device_that_is_not_here_is_refused_in_one_line():
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    for call in (resolve_device, lambda device: train(Stack.of(tied(), [0]), device=device)):
        with pytest.raises(InputError, match=r"^device: expected one of cpu on this machine, got 'cuda'$"):
            call("cuda")


# ------------------------------------------------------------------------------------------------ does it learn?


def test_superposition_beats_every_linear_map():
    """n = 5, m = 2, p = 0.1: a tied ReLU autoencoder holds more than two features (Elhage et al. 2022, figure 1)."""
    setting = tied(n=5, width=2, density=0.1, steps=800, batch=256, relu=True)
    loss, error = held_out_loss(run(Stack.of(setting, range(8))))
    trivial = setting.task.trivial_losses(setting.features, {}, 2)
    best = loss.argmin()  # some starts stay in a local minimum; the best of eight does not
    assert loss[best] + 5 * error[best] < trivial["linear"] < trivial["constant"] < trivial["zero"]
    assert (loss + 5 * error < trivial["zero"]).all()


def test_no_network_beats_the_true_optimum():
    """n = 2, m = 1, exactly solved: never below it by more than 5 standard errors of the held-out sample."""
    density, importance = np.repeat([0.1, 0.5, 0.9], 4), np.tile([[1.0, 1.0], [1.0, 0.3]], (6, 1))
    base = tied(n=2, width=1, steps=800, batch=256, relu=True)
    seeds = np.arange(12)
    trained = run(Stack(base, seeds, seeds, {"features.density": density, "task.importance": importance}))
    optimum = toy_optimum(2, 1, density, importance)
    loss, error = held_out_loss(trained)
    best = torch.tensor(optimum.loss, dtype=torch.float32)
    assert (loss - best > -5 * error).all()
    assert (loss < 1.05 * best).sum() >= 4  # and many come close, so the bound is tight; the rest are local minima
    # positive control: the optimum's own weights, seen through the same draws, have its loss
    weights = {"W": torch.tensor(optimum.weights).float(), "b": torch.tensor(optimum.biases).float()}
    ideal: Trained = dataclasses.replace(trained, parameters=weights, kept={})
    loss, error = held_out_loss(ideal)
    assert ((loss - best).abs() < 5 * error).all() and (error < 0.2 * best).all()


def test_where_the_c_library_is_not_glibc_training_goes_on(monkeypatch):
    """Windows: ctypes.CDLL(None) raises TypeError there."""
    setting = tied(steps=3)
    expected = train(Stack.of(setting, [0]), engine="general", compile=False).history
    for error in (TypeError, OSError, AttributeError):

        def refuse(self, name, *args, error=error, **kwargs):
            raise error("argument of type 'NoneType' is not iterable")

        monkeypatch.setattr("ctypes.CDLL.__init__", refuse)
        ensemble.step._keep_freed_memory.cache_clear()
        assert torch.equal(train(Stack.of(setting, [0]), engine="general", compile=False).history, expected)
    ensemble.step._keep_freed_memory.cache_clear()
