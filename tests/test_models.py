"""Models: forward passes against numpy, records, initial distributions, and what any nn.Module may do."""

import math

import numpy as np
import oracles
import pytest
import torch
from scipy import stats
from torch import nn

from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, initial_values, train
from toysup.features import SparseNormal, SparseUniform
from toysup.measure import recovered
from toysup.models import (
    MLP,
    Activations,
    ResidualMLP,
    SquaredProjection,
    TiedAutoencoder,
    UnrolledDecoder,
    UntiedAutoencoder,
)
from toysup.setting import Adam, Model, Setting
from toysup.shapes import Shape
from toysup.tasks import Identity, SumOfSquares

N, BATCH = 7, 13
FLOAT64 = {"rel": 1e-12, "abs": 1e-12}  # models run in float64 here, so only the order of sums differs


def randomised(model):
    """Every parameter and buffer drawn at random, in float64, so that no term of the formula is zero by chance."""
    generator = torch.Generator().manual_seed(0)
    model = model.double()
    for value in model.state_dict(keep_vars=True).values():
        value.data.normal_(generator=generator)
    return model, {name: value.numpy() for name, value in model.state_dict().items()}


def inputs(n=N, seed=1):
    return torch.randn(BATCH, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def record_of(model, x):
    """The output, and the record, after checking that asking for it changes nothing."""
    output, record = model(x, record=True)
    assert isinstance(record, Activations) and torch.equal(model(x), output)
    return output.detach().numpy(), *(part.detach().numpy() for part in record)


# ---------------------------------------------------------------------------------------------------- forward passes


@pytest.mark.parametrize("relu", [True, False])
def test_tied_autoencoder(relu):
    model, v = randomised(TiedAutoencoder(N, N, width=3, relu=relu))
    x = inputs()
    output, neurons, residual = record_of(model, x)
    last = oracles.relu if relu else lambda z: z
    assert output == pytest.approx(oracles.tied_autoencoder(x.numpy(), v["W"], v["b"], last), **FLOAT64)
    assert neurons.shape == (BATCH, 1, 3) and np.array_equal(neurons, residual)
    assert neurons[:, 0] == pytest.approx(x.numpy() @ v["W"], **FLOAT64)
    assert (output >= 0).all() == relu


def test_squared_projection():
    model, v = randomised(SquaredProjection(N, 1, width=3))
    x = inputs()
    output, neurons, residual = record_of(model, x)
    embedded = x.numpy() @ v["W"]
    assert output.shape == (BATCH, 1) and output[:, 0] == pytest.approx((embedded**2).sum(1) + v["b"], **FLOAT64)
    assert neurons[:, 0] == pytest.approx(embedded**2, **FLOAT64) and residual[:, 0] == pytest.approx(embedded)


def test_tied_autoencoder_with_a_hidden_relu():
    model, v = randomised(TiedAutoencoder(N, N, width=3, hidden_relu=True))
    x = inputs()
    output, neurons, _ = record_of(model, x)
    assert neurons[:, 0] == pytest.approx(oracles.relu(x.numpy() @ v["W"]), **FLOAT64)
    assert output == pytest.approx(oracles.relu(neurons[:, 0] @ v["W"].T + v["b"]), **FLOAT64)


@pytest.mark.parametrize("relu, biased", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("depth", [1, 3])
def test_mlp(depth, relu, biased):
    model, v = randomised(MLP(N, 5, width=4, depth=depth, relu=relu, hidden_bias=biased))
    x = inputs()
    output, neurons, _ = record_of(model, x)
    weights = [v[f"weights.{layer}"] for layer in range(depth)]
    biases = [v[f"biases.{layer}"] if biased else np.zeros(4) for layer in range(depth)]
    assert any(name.startswith("biases") for name in v) == biased
    last = oracles.relu if relu else lambda z: z
    assert output == pytest.approx(oracles.mlp(x.numpy(), weights, biases, v["W_out"], v["b_out"], last), **FLOAT64)
    assert neurons.shape == (BATCH, depth, 4) and (neurons >= 0).all()
    assert output == pytest.approx(last(neurons[:, -1] @ v["W_out"] + v["b_out"]), **FLOAT64)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("unembedding", ["tied", "frozen", "trained", "coordinates"])
@pytest.mark.parametrize("hidden_bias", [True, False])
def test_residual_mlp(unembedding, relu, depth, hidden_bias):
    n_out = N if unembedding == "tied" else 3
    shape = Shape(4, depth, 6)
    model, v = randomised(
        ResidualMLP(N, n_out, shape=shape, unembedding=unembedding, relu=relu, hidden_bias=hidden_bias)
    )
    assert ("b_in.0" in v) == (hidden_bias and depth > 0)
    x = inputs()

    def unembed(stream):
        if unembedding == "coordinates":
            output = stream[:, :n_out] * v["gain"]
        else:
            output = stream @ v["W_E" if unembedding == "tied" else "W_U"].T
        return oracles.relu(output + v["b_out"]) if relu else output

    blocks = [[v[f"W_in.{layer}"], v.get(f"b_in.{layer}", 0.0), v[f"W_out.{layer}"]] for layer in range(depth)]
    expected, hidden, streams = oracles.residual_mlp(x.numpy(), v["W_E"], blocks, unembed)
    output, neurons, residual = record_of(model, x)
    assert output == pytest.approx(expected, **FLOAT64)
    assert neurons.shape == (BATCH, depth, 6) and residual.shape == (BATCH, depth + 1, 4)
    assert residual == pytest.approx(np.stack(streams, 1), **FLOAT64)
    if depth:
        assert neurons == pytest.approx(np.stack(hidden, 1), **FLOAT64)
    assert unembed(residual[:, -1]) == pytest.approx(output, **FLOAT64)


class Streamed(ResidualMLP):
    """Never folded."""

    def folds(self, batch):
        return False


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("unembedding", ["tied", "frozen", "trained"])
def test_a_wide_frozen_embedding_is_folded_to_the_same_gradients(unembedding, relu, depth):
    own = {"shape": Shape(150, depth, 5), "unembedding": unembedding, "relu": relu}
    folded, _ = randomised(ResidualMLP(N, N, **own))
    streamed, _ = randomised(Streamed(N, N, **own))
    x = torch.randn(300, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert folded.folds(300) and not folded.folds(1)
    outputs = folded(x), streamed(x)
    assert not torch.equal(*outputs) and torch.allclose(*outputs, rtol=0, atol=1e-10 * outputs[0].abs().max().item())
    parameters = [list(model.parameters()) for model in (folded, streamed)]
    if parameters[0]:
        gradients = [torch.autograd.grad(y.square().mean(), p) for y, p in zip(outputs, parameters, strict=True)]
        for one, other in zip(*gradients, strict=True):
            assert (one - other).abs().max() <= 1e-10 * other.abs().max()


def test_folding_trains_the_same_network():
    runs = []
    for model in (ResidualMLP, Streamed):
        setting = Setting(SparseUniform(20, 0.1), Identity(), Model(model, shape=Shape(400, 2, 8)), steps=60, batch=256)
        runs.append(train(Stack.of(setting, [0, 1]), device="cpu", engine="general", compile=False).history)
    assert torch.allclose(*runs, rtol=1e-4, atol=0)


@pytest.mark.parametrize("depth", [0, 2])
def test_untied_autoencoder(depth):
    model, v = randomised(UntiedAutoencoder(N, N, width=3, depth=depth, hidden=5))
    x = inputs()
    blocks = [[v[f"{name}.{layer}"] for name in ("W_in", "b_in", "W_out")] for layer in range(depth)]

    def unembed(stream):
        return oracles.relu(stream @ v["W_U"].T + v["b_out"])

    expected, _, _ = oracles.residual_mlp(x.numpy(), v["W_E"], blocks, unembed)
    assert model(x).detach().numpy() == pytest.approx(expected, **FLOAT64)
    trained = {name for name, _ in model.named_parameters()}
    assert trained == set(v) and not list(model.buffers())  # everything is trained


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_unrolled_decoder(depth, shared):
    model, v = randomised(UnrolledDecoder(N, N, width=3, depth=depth, shared=shared))
    x = inputs()
    code = x.numpy() @ v["W_E"]
    found, missed, layers = np.zeros((BATCH, N)), [code], []
    for layer in range(depth + 1):
        read = v[f"W_U.{0 if shared else layer}"]
        found = oracles.relu(found + v[f"gain.{layer}"] * (missed[-1] @ read.T) + v[f"b_out.{layer}"])
        layers.append(found)
        missed.append(code - found @ v["W_E"])
    output, neurons, residual = record_of(model, x)
    assert output == pytest.approx(found, **FLOAT64)
    assert neurons == pytest.approx(np.stack(layers, 1), **FLOAT64)
    assert residual == pytest.approx(np.stack(missed, 1), **FLOAT64)
    assert sum(p.numel() for p in model.parameters()) == N * 3 * (2 + depth * (not shared)) + (N + 1) * (depth + 1)


def test_an_unrolled_decoder_of_depth_0_is_the_untied_autoencoder():
    unrolled, v = randomised(UnrolledDecoder(N, N, width=3))
    untied = UntiedAutoencoder(N, N, width=3).double()
    values = {"W_E": v["W_E"], "W_U": v["gain.0"] * v["W_U.0"], "b_out": v["b_out.0"]}
    untied.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    assert torch.allclose(unrolled(inputs()), untied(inputs()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_an_unrolled_decoder_starts_as_projected_gradient_descent(shared):
    """Later layers start as steps short enough that what is left of the code never grows; ten times as long it does."""
    setting = setting_of(UnrolledDecoder, n=60, width=10, depth=6, shared=shared)
    stack = Stack.of(setting, range(20))
    parameters, _ = initial_values(stack)
    assert torch.allclose(parameters["W_E"].norm(dim=-1), torch.tensor(1.0), rtol=1e-6)
    assert all(torch.equal(value, parameters["W_E"]) for name, value in parameters.items() if name.startswith("W_U"))
    none = torch.zeros(20, 1)

    def left(parameters):
        trained = Trained(stack, parameters, {}, {}, none, none, {}, "")
        _, record = trained.forward(trained.batch(0, 100)[0], record=True)
        return record.residual[:, :, 1:].square().sum(-1)  # after each layer, the first of which is no descent

    falling = left(parameters).diff(dim=-1)
    assert (falling <= 1e-5).all() and (falling < -1e-4).any()
    longer = {name: value * (10 if name.startswith("gain") else 1) for name, value in parameters.items()}
    assert (left(longer).diff(dim=-1) > 1).any()


def test_iterations_of_an_unrolled_decoder_recover_more():
    """What it is for. After 400 steps four iterations more recover 10 to 25% more in these instances."""
    counts = []
    for depth in (0, 4):
        model = Model(UnrolledDecoder, width=8, depth=depth, shared=True)
        setting = Setting(SparseUniform(40, 0.05), Identity(), model, Adam(0.02, beta2=0.99), steps=400, batch=128)
        counts.append(recovered(train(Stack.of(setting, [0, 1]), device="cpu", compile=False)).value)
    assert (counts[1] > 1.05 * counts[0]).all()


@pytest.mark.parametrize("k", [1, 4])
def test_a_set_of_active_features_is_their_embeddings_over_sqrt_k(k):
    model, _ = randomised(ResidualMLP(N, 2, shape=Shape(4, 2), unembedding="coordinates"))
    active = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(s))[:k] for s in range(BATCH)])
    dense = torch.zeros(BATCH, N, dtype=torch.float64).scatter(1, active, 1 / math.sqrt(k))
    sparse_output, *sparse = record_of(model, active)
    dense_output, *expected = record_of(model, dense)
    assert sparse_output == pytest.approx(dense_output, **FLOAT64)
    for one, other in zip(sparse, expected, strict=True):
        assert one == pytest.approx(other, **FLOAT64)


@pytest.mark.parametrize("embedding", ["frozen", "trained"])
@pytest.mark.parametrize("unembedding", ["tied", "frozen", "trained", "coordinates"])
def test_what_is_frozen_is_not_a_parameter(embedding, unembedding):
    model = ResidualMLP(N, N, shape=Shape(N, 1), embedding=embedding, unembedding=unembedding)
    frozen, trained = ({name for name, _ in named} for named in (model.named_buffers(), model.named_parameters()))
    assert ("W_E" in trained) == (embedding == "trained") and ("W_E" in frozen) == (embedding == "frozen")
    assert ("W_U" in trained) == (unembedding == "trained") and ("W_U" in frozen) == (unembedding == "frozen")
    assert ("gain" in trained) == (unembedding == "coordinates")
    assert set(model.initial()) == frozen | trained


def test_frozen_blocks_compute_the_same_and_stay_as_drawn():
    own = {"shape": Shape(4, 2, 6), "unembedding": "trained"}
    free, frozen = ResidualMLP(N, 3, **own), ResidualMLP(N, 3, **own, blocks="frozen")
    blocks = {f"{name}.{layer}" for name in ("W_in", "b_in", "W_out") for layer in range(2)}
    assert {name for name, _ in frozen.named_buffers()} == blocks | {"W_E"} and set(frozen.initial()) == set(
        free.state_dict()
    )
    assert {name for name, _ in frozen.named_parameters()} == {"W_U"}
    free, values = randomised(free)
    frozen = frozen.double()
    frozen.load_state_dict({name: torch.as_tensor(value) for name, value in values.items()})
    for ours, theirs in zip(record_of(frozen, inputs()), record_of(free, inputs()), strict=True):
        assert ours == pytest.approx(theirs, **FLOAT64)
    setting = setting_of(ResidualMLP, shape=Shape(4, 2, 6), unembedding="trained", blocks="frozen")
    for engine in ("general", "fused"):
        trained = train(Stack.of(setting, [0, 1]), device="cpu", compile=False, engine=engine)
        parameters, start = initial_values(trained.stack)
        assert set(trained.parameters) == {"W_U"} and not torch.equal(trained.parameters["W_U"], parameters["W_U"])
        assert all(torch.equal(trained.buffers[name], start[name]) for name in blocks)
        assert not torch.equal(*start["W_out.0"])  # each instance has blocks of its own


# ---------------------------------------------------------------------------------------------------- initial values


def setting_of(build, n=N, **arguments):
    return Setting(SparseUniform(n, 0.2), Identity(), Model(build, **arguments), steps=3, batch=8)


SHAPE = Shape(6, 3, 10)
STATED = {  # the standard deviation of each normal parameter; rows of embeddings have length `row_norm` or 1
    "tied": (setting_of(TiedAutoencoder, width=4), {"W": math.sqrt(2 / (N + 4))}),
    "squared": (
        Setting(SparseNormal(N, 0.2), SumOfSquares(), Model(SquaredProjection, width=4), steps=3, batch=8),
        {"W": math.sqrt(2 / (N + 4))},
    ),
    "mlp": (
        setting_of(MLP, width=4, depth=2),
        {"weights.0": math.sqrt(2 / N), "weights.1": math.sqrt(2 / 4), "W_out": math.sqrt(2 / (N + 4))},
    ),
    "residual": (
        setting_of(ResidualMLP, shape=SHAPE, unembedding="frozen", row_norm=3.0),
        {f"W_in.{layer}": math.sqrt(1 / 6) for layer in range(3)}
        | {f"W_out.{layer}": math.sqrt(1 / 30) for layer in range(3)},
    ),
    "untied": (setting_of(UntiedAutoencoder, width=4, depth=1), {"W_in.0": 0.5, "W_out.0": 0.5}),
    "coordinates": (
        setting_of(ResidualMLP, n=4, shape=Shape(6, 1, 10), unembedding="coordinates"),
        {"W_in.0": math.sqrt(1 / 6), "W_out.0": math.sqrt(1 / 10)},
    ),
}


@pytest.mark.parametrize("setting, stds", STATED.values(), ids=STATED)
def test_initial_distributions_are_as_stated(setting, stds):
    """Normal with the stated spread (Kolmogorov-Smirnov, false alarm 1e-5 each); the rest zero, one or unit rows."""
    parameters, buffers = initial_values(Stack.of(setting, range(2000)))
    model = setting.build()
    row_norm = {"W_E": getattr(model, "row_norm", None), "W_U": 1.0}
    for name, value in {**parameters, **buffers}.items():
        if name in stds:
            drawn = (value / stds[name]).double().flatten().numpy()
            assert stats.kstest(drawn, "norm").pvalue > 1e-5, name
            assert stats.kstest(1.1 * drawn, "norm").pvalue < 1e-5, name  # positive control: a spread 10 % off
            spread = value.std(0).mean().item() / stds[name]  # over instances: no instance's scale is its neighbours'
            assert spread == pytest.approx(1, abs=0.05), name
        elif name in row_norm:
            # float32 rounding of a length; directions uniform: each coordinate has mean 0 and second moment 1 / d
            assert torch.allclose(value.norm(dim=-1), torch.tensor(row_norm[name]), rtol=1e-6)
            rows = (value / row_norm[name]).flatten(0, 1).double()
            d, count = rows.shape[1], len(rows)
            moments = rows.T @ rows / count - torch.eye(d, dtype=torch.float64) / d
            # entries have standard deviation below 1 / (d sqrt(count)) times sqrt 2: 6 of them are a false alarm in 1e8
            assert moments.abs().max() < 6 * math.sqrt(2 / count) / d
            assert rows.mean(0).abs().max() < 6 / math.sqrt(count * d)
        else:  # a bias or a gain
            assert torch.equal(value, torch.full_like(value, float(name == "gain"))), name


def test_an_untied_decoder_starts_as_its_encoder():
    parameters, _ = initial_values(Stack.of(STATED["untied"][0], range(3)))
    assert torch.equal(parameters["W_U"], parameters["W_E"])
    parameters["W_U"][0, 0, 0] = 7.0
    assert parameters["W_E"][0, 0, 0] != 7.0  # a copy: training one must not move the other


def test_an_open_start_leaves_no_output_off():
    """As the symmetric start's absolute values, scaled; and every output is on for every input that fires a neuron."""
    symmetric, opened = (
        initial_values(Stack.of(setting_of(MLP, width=8, hidden_bias=False, open_start=scale), range(50)))[0]
        for scale in (None, 0.1)
    )
    assert torch.allclose(opened["W_out"], 0.1 * symmetric["W_out"].abs())
    assert (symmetric["W_out"] < 0).any() and torch.equal(opened["weights.0"], symmetric["weights.0"])
    stack = Stack.of(setting_of(MLP, width=8, hidden_bias=False, open_start=0.1), range(50))
    none = torch.zeros(50, 1)
    y, record = Trained(stack, opened, {}, {}, none, none, {}, "").forward(torch.eye(N).expand(50, -1, -1), record=True)
    fires = (record.neurons > 0).any(-1).any(-1)
    assert fires.any() and (y[fires] > 0).all()


def test_parameters_of_an_instance_are_not_copies_of_each_other():
    parameters, _ = initial_values(Stack.of(STATED["residual"][0], [0, 1]))
    first = [parameters[f"W_in.{layer}"] for layer in range(3)]
    correlation = np.corrcoef(torch.stack(first).flatten(1).numpy())[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 0.5 and not torch.equal(first[0][0], first[0][1])


@pytest.mark.parametrize("setting, _", STATED.values(), ids=STATED)
def test_a_start_does_not_depend_on_its_company(setting, _):
    seeds = np.array([5, 2**32 - 1, 0, 17])
    together = initial_values(Stack.of(setting, seeds))
    for i, seed in enumerate(seeds):
        for crowd, alone in zip(together, initial_values(Stack.of(setting, [seed])), strict=True):
            assert crowd.keys() == alone.keys()
            assert all(torch.equal(crowd[name][i], alone[name][0]) for name in crowd)


def test_the_residual_stream_keeps_its_scale_at_any_depth():
    """The point of 1 / (h L): the stream's mean square stays within a small factor of the embedded input's."""
    for depth in (1, 8, 64):
        setting = setting_of(ResidualMLP, n=32, shape=Shape(32, depth))
        parameters, buffers = initial_values(Stack.of(setting, range(20)))
        x = torch.randn(20, 64, 32, generator=torch.Generator().manual_seed(0))
        stack = Stack.of(setting, range(20))
        empty = torch.zeros(20, 1)
        trained = Trained(stack, parameters, buffers, {}, empty, torch.full((20,), -1), {}, "none")
        _, record = trained.forward(x, record=True)
        growth = record.residual[:, :, -1].square().mean() / record.residual[:, :, 0].square().mean()
        assert 1 < growth < 3, depth  # each block adds about a half over L: (1 + 1 / 2L)^L < e^(1/2), with spread


# --------------------------------------------------------------------------------------- any module, and bad input


class Plain(nn.Module):
    """No `initial`, no `record`: torch's own layers and initial values."""

    def __init__(self, n_in, n_out, *, width=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, width), nn.GELU(), nn.Linear(width, n_out))
        self.register_buffer("scale", torch.rand(1))

    def forward(self, x):
        return self.layers(x) * self.scale


class Forgetful(TiedAutoencoder):
    """Says nothing about its bias."""

    def initial(self):
        return {"W": super().initial()["W"]}


def test_a_module_without_initial_values_is_built_under_each_seed():
    setting = setting_of(Plain, width=4)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    parameters, buffers = initial_values(Stack.of(setting, [3, 8]))
    assert torch.equal(torch.rand(3), expected)  # the caller's generator is left as it was
    for i, seed in enumerate([3, 8]):
        torch.manual_seed(seed)
        alone = Plain(N, N, width=4)
        for name, value in alone.state_dict().items():
            assert torch.equal({**parameters, **buffers}[name][i], value)
    trained = train(Stack.of(setting, [3, 8]), device="cpu", compile=False)
    assert torch.equal(trained.buffers["scale"], buffers["scale"])
    assert all(not torch.equal(trained.parameters[name], value) for name, value in parameters.items())
    x = torch.randn(2, BATCH, N)
    for i in range(2):  # float32: a batched product may sum in another order
        assert torch.allclose(trained.forward(x)[i], trained.model(i)(x[i]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: TiedAutoencoder(3, 4, width=2), ["TiedAutoencoder", "3", "4"]),
        (lambda: TiedAutoencoder(3, 3, width=0), ["width", "0"]),
        (lambda: SquaredProjection(3, 3, width=2), ["SquaredProjection", "one output", "3"]),
        (lambda: SquaredProjection(3, 1, width=0), ["SquaredProjection", "width", "0"]),
        (lambda: MLP(3, 3, width=2, depth=0), ["depth", "0"]),
        (lambda: MLP(3, 3, width=2.0), ["width", "2.0"]),
        (lambda: MLP(3, 3, width=2, open_start=0.0), ["open_start", "0"]),
        (lambda: ResidualMLP(3, 3, shape=Shape(2, 1), embedding="tied"), ["embedding", "tied"]),
        (lambda: ResidualMLP(3, 3, shape=Shape(2, 1), unembedding="none"), ["unembedding", "none"]),
        (lambda: ResidualMLP(3, 3, shape=Shape(2, 1), blocks="tied"), ["blocks", "tied"]),
        (lambda: ResidualMLP(3, 2, shape=Shape(2, 1)), ["tied", "3", "2"]),
        (lambda: ResidualMLP(3, 3, shape=Shape(2, 1), unembedding="coordinates"), ["width", "3", "2"]),
        (lambda: UntiedAutoencoder(3, 4, width=2), ["UntiedAutoencoder", "3", "4"]),
        (lambda: UntiedAutoencoder(3, 3, width=2, depth=-1), ["depth", "-1"]),
        (lambda: UnrolledDecoder(3, 4, width=2), ["UnrolledDecoder", "3", "4"]),
        (lambda: UnrolledDecoder(3, 3, width=0), ["UnrolledDecoder", "width", "0"]),
        (lambda: UnrolledDecoder(3, 3, width=2, depth=-1), ["UnrolledDecoder", "depth", "-1"]),
        (lambda: Model(TiedAutoencoder, widht=2), ["TiedAutoencoder", "widht", "width, relu"]),
        (lambda: initial_values(Stack.of(setting_of(Forgetful, width=2), [0])), ["Forgetful", "b"]),
    ],
)
def test_bad_input_is_refused_in_one_line(make, names):
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in names), message
