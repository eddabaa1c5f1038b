"""Dictionaries: how latents are kept sparse, what they read, and training in stacks."""

import numpy as np
import pytest
import torch
from dictionaries import by_hand, read, setting_of

from toysup import measure as m
from toysup.checks import InputError
from toysup.ensemble import Stack, task_constants, train
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure.dictionary import weights_of
from toysup.models import (
    L1,
    BatchTopK,
    Code,
    Embedding,
    JumpReLU,
    ResidualMLP,
    SparseAutoencoder,
    TiedAutoencoder,
    TopK,
)
from toysup.random import Stream, uniforms
from toysup.setting import Adam, Model, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory, Reconstruction

# ------------------------------------------------------------------------------------------------------------- models


def test_top_k_keeps_exactly_k_where_as_many_are_positive():
    x, norm = read(200, 12), torch.rand(12, generator=torch.Generator().manual_seed(1)) + 0.5
    for k in (1, 3, 12):
        z, cost = TopK(k)(x, norm, None)
        assert torch.equal((z > 0).sum(1), (x > 0).sum(1).clamp(max=k)) and not cost.any()
        kept = z > 0
        assert torch.equal(z[kept], x[kept])  # and what is kept is what was read
        dropped = torch.where(kept, -torch.inf, x * norm).amax(1)
        least = torch.where(kept, x * norm, torch.inf).amin(1)
        assert (least >= dropped).all()  # nothing dropped would have added more


def test_batch_top_k_keeps_k_on_average_and_shares_them_out():
    x = read(500, 12)
    z, _ = BatchTopK(2)(x, torch.ones(12), None)
    count = (z > 0).sum(1)
    assert count.sum() == 1000 and count.min() < 2 < count.max()
    assert z[z > 0].min() > x[z == 0].max()
    same, _ = BatchTopK(2)(x[:1].expand(5, 12), torch.ones(12), None)  # one sample over and over: the same as TopK
    assert torch.equal(same, TopK(2)(x[:1].expand(5, 12), torch.ones(12), None)[0])


def test_jump_relu_has_the_published_gradients():
    """Rajamanoharan et al. 2024, eqs. 11 and 12, written out; nothing else moves the threshold."""
    x, t = read(300, 4).requires_grad_(), torch.tensor([0.1, 0.3, 0.5, 1.0], requires_grad=True)
    one = JumpReLU(0.1, bandwidth=0.2)
    z, cost = one(x, torch.ones(4), t)
    assert torch.equal(z, torch.where(x > t, x, 0.0)) and torch.equal(cost, (x > t).sum(1).float())
    weight = read(300, 4, seed=1)
    dx, dt = torch.autograd.grad((weight * z).sum(), (x, t), retain_graph=True)
    kernel = (((x - t) / 0.2).abs() < 0.5).float()
    assert torch.equal(dx, weight * (x > t)) and kernel.sum() > 50
    torch.testing.assert_close(dt, (-weight * t / 0.2 * kernel).sum(0))
    dx, dt = torch.autograd.grad(cost.sum(), (x, t), allow_unused=True)
    assert dx is None
    torch.testing.assert_close(dt, -(kernel / 0.2).sum(0))


@pytest.mark.parametrize("sparsity", [L1(), TopK(2), BatchTopK(2)], ids=repr)
def test_where_the_scale_lies_does_not_matter(sparsity):
    """Decoder columns times c, encoder over c: the same reconstruction at the same cost, as norms are weighed."""
    model = Setting(SparseUniform(6), Identity(), Model(SparseAutoencoder, latents=9, unit_norm=False)).build()
    model.sparsity = sparsity
    values = {"W_enc": read(6, 9), "W_dec": read(6, 9, seed=1), "b_enc": read(9, seed=2) / 3, "b_dec": read(6, seed=3)}
    c = torch.linspace(0.2, 5, 9)
    moved = values | {"W_enc": values["W_enc"] / c, "W_dec": values["W_dec"] * c, "b_enc": values["b_enc"] / c}
    h = read(50, 6, seed=4)
    one, other = (torch.func.functional_call(model, v, (h,)) for v in (values, moved))
    torch.testing.assert_close(one.reconstruction, other.reconstruction)
    torch.testing.assert_close(one.cost, other.cost)
    assert isinstance(one, Code) and torch.equal(one.decoder, values["W_dec"])


def test_a_crosscoder_is_its_layers_written_out():
    """Lindsey et al. 2024: encoders are summed over layers, each layer has its decoder, and norms are added."""
    layers, width, latents = 3, 4, 7
    model = SparseAutoencoder(layers * width, layers * width, latents=latents, layers=layers, unit_norm=False)
    W_enc, W_dec = read(layers, width, latents), read(layers, width, latents, seed=1)
    b_enc, b_dec = read(latents, seed=2), read(layers, width, seed=3)
    h = read(20, layers, width, seed=4)
    model.load_state_dict({"W_enc": W_enc.flatten(0, 1), "W_dec": W_dec.flatten(0, 1), "b_enc": b_enc,
                           "b_dec": b_dec.flatten()})  # fmt: skip
    code = model(h.flatten(1))
    z = torch.relu(sum((h[:, i] - b_dec[i]) @ W_enc[i] for i in range(layers)) + b_enc)
    cost = sum((z * W_dec[i].norm(dim=0)).sum(1) for i in range(layers))
    torch.testing.assert_close(code.latents, z)
    torch.testing.assert_close(code.cost, cost)
    for i in range(layers):
        own = code.reconstruction[:, i * width : (i + 1) * width]
        torch.testing.assert_close(own, z @ W_dec[i].T + b_dec[i])


def test_without_a_decoder_bias_nothing_is_made_of_nothing():
    setting = setting_of(SparseUniform(6), 8, steps=30, centred=False)
    trained = train(Stack.of(setting, [0, 1]), device="cpu", engine="general")
    assert "b_dec" not in trained.parameters
    code = trained.forward(torch.zeros(2, 3, 6))
    torch.testing.assert_close(code.reconstruction, code.latents @ code.decoder.mT)


def test_unit_norm_columns_stay_unit_norm_in_training():
    trained = train(Stack.of(setting_of(SparseUniform(6), 8, steps=30), [0, 1]), device="cpu", engine="general")
    code = trained.forward(trained.batch(0, 8)[0])
    assert torch.allclose(code.decoder.norm(dim=1), torch.ones(2, 8), atol=1e-6)
    assert not torch.allclose(trained.parameters["W_dec"].norm(dim=1), torch.ones(2, 8), atol=1e-3)


def test_bad_dictionaries_are_refused():
    for wrong, message in (
        ({"latents": 0}, "latents must be a whole number"),
        ({"latents": 4, "layers": 3}, "expected equal inputs and outputs in 3 layers"),
        ({"latents": 4, "sparsity": TopK(5)}, "k must be at most 4"),
        ({"latents": 4, "sparsity": "relu"}, "must be a Sparsity"),
    ):
        with pytest.raises(InputError, match=message):
            SparseAutoencoder(8, 8, **wrong)
    for make, message in ((lambda: TopK(0), "k must be"), (lambda: JumpReLU(0.0), r"threshold must lie in \(0"),
                          (lambda: JumpReLU(bandwidth=-1.0), "bandwidth")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            make()


# ------------------------------------------------------------------------------------------------------- what is read


def test_embedded_features():
    for width, features in ((12, SparseUniform(8)), (5, SparseUniform(8))):
        setting = setting_of(features, 4, width)
        stack = Stack.of(setting, [3, 4])
        W = task_constants(stack)["weights"].view(2, 8, width)
        assert torch.allclose(W.norm(dim=-1), torch.ones(2, 8), atol=1e-6)
        if width >= 8:
            assert torch.allclose(W @ W.mT, torch.eye(8).expand(2, 8, 8), atol=1e-6)
        assert (W[0] - W[1]).abs().max() > 0.1  # each instance draws its own
        trained = by_hand(setting, [3, 4], torch.ones(1, 4, 8))
        found = trained.per_instance(lambda s, constants: s.task.directions(s.features, constants))
        assert torch.allclose(found, W, atol=1e-6)
        h, target = trained.batch(0, 32)
        assert torch.equal(h, target) and h.shape == (2, 32, width)


@pytest.fixture(scope="module")
def networks():
    """Trained networks at two densities."""
    model = Model(ResidualMLP, shape=Shape(6, 2, 5), relu=True)
    setting = Setting(SparseUniform(8, 0.1), Identity(), model, Adam(0.01), 40, 64)
    ((stack, _),) = Grid(setting, {"features.density": [0.1, 0.3], "seed": [0, 1]}).groups
    return train(stack, device="cpu")


@pytest.mark.parametrize("of, layers", [("stream", (0, 2)), ("neurons", (1,))])
def test_activations_of_trained_networks_are_read_instance_by_instance(networks, of, layers):
    weights = weights_of(networks)
    task = Reconstruction(networks.setting.model, weights[0], of=of, layers=layers)
    parts = len(layers)
    model = Model(SparseAutoencoder, latents=9, layers=parts)
    setting = Setting(networks.setting.features, task, model, steps=2, batch=16)
    density = networks.values["features.density"].tolist()
    axis = {("task.weights", "features.density", "seed"): list(zip(weights, density, (5, 6, 7, 8), strict=True))}
    ((stack, _),) = Grid(setting, axis).groups  # one stack, however many networks
    trained = train(stack, device="cpu", compile=False)
    assert len(trained) == len(networks) == 4
    h, _ = trained.batch(0, 16)
    draws = uniforms(stack.data_seed, 0, 16, 8, stream=Stream.HELD_OUT)
    for number in range(len(networks)):
        x = SparseUniform(8, density[number]).transform(draws[number])
        recorded = networks.model(number)(x, record=True)[1]
        units = recorded.residual if of == "stream" else recorded.neurons
        torch.testing.assert_close(h[number], units[:, list(layers)].flatten(1))


def test_scale_and_baseline(networks):
    weights = weights_of(networks)[0]
    plain, halved = (Reconstruction(networks.setting.model, weights, scale=s) for s in (1.0, np.full(6, 2.0)))
    features = networks.setting.features
    draws = torch.rand(4096, features.n_uniforms, generator=torch.Generator().manual_seed(0))
    h = plain.batch(features, {}, draws)[0]
    assert torch.allclose(halved.batch(features, {}, draws)[0], h / 2)
    assert torch.allclose(plain.baseline(features, {}), h.var(0), rtol=0.15)  # 16,384 samples against 4,096
    assert torch.allclose(halved.baseline(features, {}), plain.baseline(features, {}) / 4)
    trivial, of_sample = plain.trivial_losses(features, {}), h.square().sum(-1).mean()
    assert trivial["zero"].item() == pytest.approx(of_sample.item(), rel=0.1)
    assert torch.equal(trivial["constant"], plain.baseline(features, {}).sum()) and trivial["constant"] < of_sample


def test_facts_can_be_read_too():
    """A network that reads indices: what is read is its stream; directions of features are not defined."""
    features, network = OnePerGroup(8, 2), Model(ResidualMLP, shape=Shape(8, 1), unembedding="trained")
    task = Reconstruction(network, trained_on=Memory(2), layers=(0,))
    setting = Setting(features, task, Model(SparseAutoencoder, latents=8), steps=2, batch=16)
    trained = train(Stack.of(setting, [0, 1]), device="cpu")
    assert trained.batch(0, 4)[0].shape == (2, 4, 8) and trained.history.isfinite().all()
    with pytest.raises(InputError, match="does not hand features"):
        m.mcc(trained)
    assert m.mean_l0(trained).value.shape == (2,)


def test_bad_readings_are_refused(networks):
    network = networks.setting.model
    features = networks.setting.features
    for own, message in (
        ({"layers": (3,)}, r"layers must lie in 0 .. 2 of stream"),
        ({"layers": ()}, "layers must lie"),
        ({"of": "everything"}, "of must be one of stream, neurons"),
        ({"weights": np.zeros(3)}, "weights must be"),
        ({"penalty": -1.0}, "penalty must lie"),
        ({"scale": 0.0}, "scale must lie"),
    ):
        with pytest.raises(InputError, match=message):
            Setting(features, Reconstruction(network, **own), Model(SparseAutoencoder, latents=2))
    with pytest.raises(InputError, match="network must be a Model"):
        Reconstruction("network")
    plain = Setting(features, Reconstruction(network), Model(TiedAutoencoder, width=2), steps=1, batch=4)
    with pytest.raises(InputError, match="must return a Code"):
        train(Stack.of(plain, [0]), device="cpu")
    other = Setting(features, Identity(), Model(TiedAutoencoder, width=2), steps=1, batch=4)
    with pytest.raises(InputError, match="the task must be Reconstruction, got Identity"):
        m.mean_l0(train(Stack.of(other, [0]), device="cpu"))
    with pytest.raises(InputError, match="orthonormal directions need a width"):
        Embedding(8, 8, width=4, orthonormal=True)


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("sparsity", [L1(), TopK(2), BatchTopK(1), JumpReLU()], ids=repr)
def test_a_stack_is_its_instances_alone(sparsity):
    """Penalty, density and directions vary inside the stack; to float tolerance, and less than the instances differ."""
    setting = setting_of(SparseUniform(6, 0.2), 8, sparsity=sparsity, steps=25)
    axes = {"task.penalty": [0.01, 0.3], "features.density": [0.1, 0.4], "seed": [0]}
    (stack, _), *more = Grid(setting, axes).groups
    assert not more
    together = train(stack, device="cpu", engine="general", compile=False)
    for number in range(len(stack)):
        alone = train(stack.take([number]), device="cpu", engine="general", compile=False)
        for name, value in alone.parameters.items():
            torch.testing.assert_close(together.parameters[name][[number]], value, atol=1e-5, rtol=1e-4)
    apart = together.parameters["W_enc"].flatten(1)
    assert (apart[0] - apart[1]).abs().max() > 1e-3
    if isinstance(sparsity, L1):
        compiled = train(stack, device="cpu", engine="general", compile=True)
        torch.testing.assert_close(compiled.parameters["W_enc"], together.parameters["W_enc"], atol=1e-3, rtol=1e-2)


def test_a_higher_penalty_buys_sparser_codes():
    setting = setting_of(SparseUniform(8, 0.2), 8, steps=300, batch=128)
    grid = Grid(setting, {"task.penalty": [0.0, 0.1, 0.5, 1.0], "seed": range(3)})
    table = sweep(grid, [m.mean_l1, m.reconstruction_error], device="cpu").table
    table = table.groupby("penalty").mean(numeric_only=True)
    assert (table["mean_l1"].diff().dropna() < 0).all() and (table["reconstruction_error"].diff().dropna() > 0).all()


@pytest.mark.parametrize("sparsity, penalty", [(L1(), 0.1), (TopK(2), 0.0)], ids=["L1", "TopK"])
def test_a_small_dictionary_is_found(sparsity, penalty):
    """8 orthonormal features, 12 latents (with 8 some runs miss one), and an untrained one is at chance."""
    setting = setting_of(SparseUniform(8, 0.1), 12, sparsity=sparsity, penalty=penalty, steps=600, batch=128)
    trained = train(Stack.of(setting, range(4)), device="cpu", snapshots=[0])
    assert m.mcc(trained).median() > 0.98 and m.feature_f1(trained).mean() > 0.8
    untrained = trained.at(0)
    assert m.mcc_above_chance(untrained).abs().max() < 0.2  # 8 random directions against 12: sd .05
    assert (m.mcc_above_chance(trained) > 3 * m.mcc_above_chance(untrained).abs()).all()
