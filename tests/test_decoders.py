"""Decoders of one code: against closed forms, a linear-programming solver, plain regression and each other."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls

from toysup.checks import InputError
from toysup.decoders import affine_relu, bayes_amp, decoded, l1_homotopy, linear_probe, matching_pursuit
from toysup.decoders.bayes import _posterior
from toysup.ensemble import Stack, train
from toysup.features import SparseBoolean, SparseUniform
from toysup.measure import encoding_of, r_squared
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.tasks import Identity
from toysup.theory import one_step_r2
from toysup.theory.compressed_sensing import _mmse


def stack_of(n=40, m=16, density=0.05, steps=1, seeds=(0, 1), **options):
    optimizer = Adam(lr=0.01, schedule=Cosine())
    setting = Setting(
        SparseUniform(n, density), Identity(), Model(TiedAutoencoder, width=m), optimizer, steps=steps, batch=256
    )
    return Stack.of(dataclasses.replace(setting, **options), seeds)


@pytest.fixture(scope="module")
def trained():
    return train(stack_of(steps=1500))


def kept(r2):
    return r2.value.clamp(min=0).sum(-1)


def test_encodings(trained):
    encoding = encoding_of(trained)
    assert torch.allclose(encoding.W, trained.parameters["W"], atol=1e-6)
    assert torch.allclose(encoding.mean, torch.full((2, 40), 0.025))
    random = encoding.random()
    assert torch.allclose(random.W.norm(dim=-1), torch.ones(2, 40), atol=1e-6)
    assert not torch.allclose(random.W[0], random.W[1])
    alone = encoding_of(trained.take([1])).random()
    assert torch.equal(alone.W[0], random.W[1])  # nobody's dictionary depends on the company


def test_the_linear_probe_is_the_regression_on_many_samples(trained):
    encoding = encoding_of(trained).random()
    x = torch.cat([encoding.draw(number, 4096) for number in range(8)], 1)
    h = x @ encoding.W
    design = torch.cat([h, torch.ones_like(h[..., :1])], -1).double()
    fit = design @ torch.linalg.lstsq(design, x.double()).solution
    # 17 coefficients from 33,000 samples of variance .016: they are known to about 1%
    assert (linear_probe(encoding, h) - fit).abs().max() < 0.05
    assert torch.allclose(linear_probe(encoding, h).mean((0, 1)), x.mean((0, 1)), atol=0.005)
    assert torch.allclose(kept(decoded(encoding, linear_probe, samples=16384)), torch.tensor(16.0), rtol=0.03)


@pytest.mark.parametrize(("n", "m", "active"), [(40, 3, 2), (40, 16, 5), (40, 16, 30), (40, 38, 20), (24, 30, 12)])
def test_the_homotopy_is_linear_programming(n, m, active):
    """Recovery or none, codes narrow and wide, even wider than there are features; both are exact."""
    encoding = encoding_of(train(stack_of(n, m))).random()
    generator = torch.Generator().manual_seed(3)
    on = torch.rand(2, 12, n, generator=generator).argsort(-1) < active
    x = on * torch.rand(2, 12, n, generator=generator)
    found = l1_homotopy(encoding, x @ encoding.W)
    for instance, sample in itertools.product(range(2), range(12)):
        W = encoding.W[instance].double().numpy()
        h = x[instance, sample].double().numpy() @ W
        mine = found[instance, sample].double().numpy()
        assert mine.min() >= 0 and np.linalg.norm(mine @ W - h) < 1e-5 * np.linalg.norm(h)
        if m < n:
            best = linprog(np.ones(n), A_eq=W.T, b_eq=h, bounds=(0, None), method="highs")
            assert mine.sum() == pytest.approx(best.fun, rel=1e-5)
        else:
            assert mine == pytest.approx(x[instance, sample].numpy(), abs=1e-4)


def test_the_homotopy_on_odd_codes():
    """Rows of unequal length, of length 0, twins, a code of nothing, and codes that no x >= 0 has (least squares)."""
    random = encoding_of(train(stack_of(30, 10))).random()
    W = random.W * torch.linspace(0.2, 2, 30).unsqueeze(-1)
    W[:, 4], W[:, 27] = 0, W[:, 28]
    encoding = dataclasses.replace(random, W=W)
    x = torch.zeros(2, 3, 30)
    x[:, 1, 29], x[:, 1, 4], x[:, 2, 27], x[:, 2, 28] = 0.7, 0.5, 0.3, 0.6
    found = l1_homotopy(encoding, x @ W)
    assert (found[:, 0] == 0).all() and (found[:, :, 4] == 0).all()
    assert torch.allclose(found[:, 1, 29], torch.tensor(0.7), atol=1e-5)
    assert torch.allclose(found[:, 2, 27:29].sum(-1), torch.tensor(0.9), atol=1e-5)
    assert (found[:, 2, 27:29].amax(-1) == found[:, 2, 27:29].sum(-1)).all()
    h = torch.randn(2, 20, 10, generator=torch.Generator().manual_seed(5)) - 3 * W.mean(1, keepdim=True)
    found = l1_homotopy(encoding, h).double()
    for instance, sample in itertools.product(range(2), range(20)):
        missed = nnls(W[instance].double().numpy().T, h[instance, sample].double().numpy())[1]
        mine = (found[instance, sample] @ W[instance].double() - h[instance, sample].double()).norm()
        assert mine == pytest.approx(missed, rel=1e-5, abs=1e-5)


def test_matching_pursuit_finds_few_features_exactly_and_stops():
    encoding = encoding_of(train(stack_of(60, 40, seeds=range(3)))).random()
    x = torch.zeros(3, 5, 60)
    generator = torch.Generator().manual_seed(1)
    for sample in range(5):  # none, then 1 to 4 active
        for instance in range(3):
            places = torch.randperm(60, generator=generator)[:sample]
            x[instance, sample, places] = 0.3 + torch.rand(sample, generator=generator)
    found = matching_pursuit(encoding, x @ encoding.W)
    assert torch.allclose(found, x, atol=1e-3)
    first = matching_pursuit(encoding, x @ encoding.W, most=1)
    assert ((first > 0).sum(-1) <= 1).all() and (first.argmax(-1) == found.argmax(-1))[:, 1].all()


def test_matching_pursuit_by_the_book():
    """One sample, step by step with numpy's least squares; rows of unequal length."""
    encoding = encoding_of(train(stack_of(30, 12, seeds=[4])))
    W = encoding.W[0].double().numpy()
    h = encoding.draw(3, 64)[:, :, :] @ encoding.W
    sample = int(h[0].norm(dim=-1).argmax())
    code, chosen = h[0, sample].double().numpy(), []
    residual = code.copy()
    for _ in range(6):
        score = residual @ (W / np.linalg.norm(W, axis=1, keepdims=True)).T
        score[chosen] = -np.inf
        if score.max() <= 0 or np.linalg.norm(residual) < 1e-4 * np.linalg.norm(code):
            break
        chosen.append(int(score.argmax()))
        weights = np.linalg.lstsq(W[chosen].T, code, rcond=None)[0]
        residual = code - weights @ W[chosen]
    expected = np.zeros(30)
    expected[chosen] = np.maximum(weights, 0)
    found = matching_pursuit(encoding, h, most=6)[0, sample].double().numpy()
    assert found == pytest.approx(expected, abs=1e-3 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.5])
def test_the_posterior_has_the_mmse_of_theory(sigma):
    generator = torch.Generator().manual_seed(2)
    density, n = 0.2, 200_000
    x = torch.rand(n, generator=generator).double() * (torch.rand(n, generator=generator) < density)
    y = x + sigma * torch.randn(n, generator=generator).double()
    mean, variance = _posterior(y, torch.tensor(sigma).double(), torch.tensor(density).double())
    expected = _mmse(sigma, density)
    error = (mean - x).square()
    assert abs(error.mean() - expected) < 5 * error.std() / n**0.5
    assert abs(variance.mean() - expected) < 5 * error.std() / n**0.5
    far = _posterior(torch.tensor([-50.0, 50.0]).double(), torch.tensor(0.1).double(), torch.tensor(0.2).double())
    assert torch.equal(far[0], torch.tensor([0.0, 1.0]).double()) and torch.isfinite(far[1]).all()


def test_amp_recovers_a_large_random_code_and_fails_past_its_threshold():
    """n = 800 at p = .05: 4 features a dimension are under half of `bayes_amp_ratio`, 8.9; 16 are almost twice it."""
    shares = {}
    for m in (200, 50):
        encoding = encoding_of(train(stack_of(800, m, seeds=[0]))).random()
        shares[m] = float(decoded(encoding, bayes_amp, samples=128).value.nanmean())  # NaN: never on
    assert shares[200] > 0.99 and shares[50] < 0.8


def test_one_layer_on_the_networks_own_code_is_what_the_network_does(trained):
    """The network is one such layer, so the fit cannot lose to it by more than its own noise; and on random rows it is
    near the one-step reference, whose gain and threshold all features share."""
    encoding = encoding_of(trained)
    own, layer = kept(r_squared(trained)), kept(decoded(encoding, affine_relu, samples=16384))
    assert (layer > 0.97 * own).all()
    random = kept(decoded(encoding.random(), affine_relu, samples=16384)).mean() / 40
    reference = one_step_r2(40, 16, 0.05)
    assert random > reference.r2 - 0.02


def test_order_of_the_decoders(trained):
    """What a decoder may use more of, it does not recover less of; 5% for 2,048 samples."""
    encoding = encoding_of(trained)
    scores = [kept(decoded(encoding, d, samples=2048)) for d in (linear_probe, affine_relu, l1_homotopy, bayes_amp)]
    for less, more in itertools.pairwise(scores):
        assert (more > 0.95 * less).all()
    assert (scores[1] > 1.2 * scores[0]).all()


def test_bad_input(trained):
    boolean = train(stack_of(features=SparseBoolean(40, 0.05)))
    with pytest.raises(InputError, match="SparseUniform"):
        encoding_of(boolean)
    encoding = encoding_of(trained)
    h = torch.zeros(2, 3, 16)
    with pytest.raises(InputError, match="samples"):
        decoded(encoding, linear_probe, samples=3)
    with pytest.raises(InputError, match="most"):
        matching_pursuit(encoding, h, most=0)
    with pytest.raises(InputError, match="damping"):
        bayes_amp(encoding, h, damping=1)
