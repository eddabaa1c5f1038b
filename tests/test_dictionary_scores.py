"""Scores of hand-built dictionaries against closed forms, what theory prefers, and sae-lens on the same weights."""

import numpy as np
import pytest
import torch
from dictionaries import ROOT2, by_hand, read, setting_of
from torch.nn.functional import normalize

from toysup import measure as m
from toysup.checks import InputError
from toysup.features import BitGroups, PowerLaw, SparseBoolean, SparseUniform
from toysup.measure.dictionary import latent_kinds, matched_cosines
from toysup.models import (
    L1,
    BatchTopK,
    Embedding,
    JumpReLU,
    SparseAutoencoder,
    TopK,
)
from toysup.setting import Model
from toysup.tasks import Reconstruction
from toysup.theory import mcc_floor, mmcs_floor, pair_dictionaries

# ------------------------------------------------------------------------------------------------------------- scores


def test_a_known_dictionary_scores_one_in_any_order_and_a_random_one_nothing():
    setting, seeds = setting_of(SparseUniform(12, 0.2), 12), range(24)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for decoder in (torch.eye(12), torch.eye(12)[order]):
        exact = by_hand(setting, seeds, decoder, b_enc=-1e-5)  # so that rounding turns nothing on
        for score in (m.mcc, m.mmcs):
            assert torch.allclose(score(exact), torch.ones(24), atol=1e-6)
        assert torch.allclose(m.feature_f1(exact), torch.ones(24, 12), atol=1e-3)
        kinds = latent_kinds(exact)
        assert (kinds.first == 12).all() and sum(kinds).tolist() == [12] * 24
    random = by_hand(setting, seeds, read(24, 12, 12))
    for score in (m.mcc_above_chance, m.mmcs_above_chance):
        found = score(random)
        assert abs(float(found.mean())) < 4 * float(found.std()) / 24**0.5 + 0.005  # the floor is sampled, too
        assert (score(exact) > 0.3).all()


def test_missing_features_are_misses_and_duplicates_are_split():
    setting = setting_of(SparseUniform(8, 0.2), 8)
    half = torch.cat([torch.eye(8)[:4], torch.eye(8)[:4]])
    trained = by_hand(setting, [0, 1], half, b_enc=-1e-5)
    found = matched_cosines(trained)
    assert torch.allclose(found[:, :4], torch.ones(2, 4), atol=1e-6) and found[:, 4:].abs().max() < 1e-5
    assert torch.allclose(m.mcc(trained), torch.full((2,), 0.5), atol=1e-5)
    assert m.split_latents(trained).tolist() == [4, 4] and latent_kinds(trained).first.tolist() == [4, 4]
    few = by_hand(setting_of(SparseUniform(8, 0.2), 3), [0, 1], torch.eye(8)[:3], b_enc=-1e-5)
    assert torch.allclose(m.mcc(few), torch.full((2,), 3 / 8), atol=1e-5)
    assert m.feature_f1(few).gt(0.99).sum(1).tolist() == [3, 3] and not m.feature_recall(few)[:, 3:].any()


def test_dead_latents_and_precision_and_recall():
    """Latent 0 reads feature 0 and fires for half of its magnitudes; latent 1 for feature 1 or 2; latent 2 never."""
    encoder = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 1.0, 0], [0, 0, 0, 1.0]])
    bias = torch.tensor([-0.5, -1e-4, -9.0])
    trained = by_hand(setting_of(SparseUniform(4, 0.1), 3), [0, 1], encoder, b_enc=bias)
    assert m.dead_latents(trained).tolist() == [1, 1]
    # of about 3,300 samples with a feature: standard errors below .01
    assert torch.allclose(m.feature_recall(trained)[:, 0], torch.tensor(0.5), atol=0.04)
    assert torch.allclose(m.feature_precision(trained)[:, 0], torch.ones(2), atol=1e-6)
    either = m.feature_precision(trained)[:, 1:3].nan_to_num(0).amax(1)  # the other's latent may be the dead one
    assert torch.allclose(either, torch.tensor(0.1 / 0.19), atol=0.04)
    assert torch.allclose(m.feature_recall(trained)[:, 1:3].amax(1), torch.ones(2), atol=0.01)


def test_shrinkage_is_what_is_taken_off():
    setting = setting_of(SparseUniform(6, 0.3), 6)
    for scale in (1.0, 0.8):
        trained = by_hand(setting, [0, 1], torch.eye(6), scale * torch.eye(6))
        assert torch.allclose(m.shrinkage(trained), torch.full((2,), 1 - scale), atol=1e-5)
    nothing = by_hand(setting, [0, 1], torch.eye(6), b_enc=-9.0)
    assert m.shrinkage(nothing).isnan().all() and not m.mean_l0(nothing).value.any()


PAIR = {
    "separate": ([[1, 0], [0, 1]], [[1, 0], [0, 1]], [-0.1, -0.1]),
    "composite": ([[1, 0], [0, 1], [1, 1]], [[1, -1], [-1, 1], [ROOT2, ROOT2]], [-0.1, -0.1, -ROOT2 - 0.1]),
}


@pytest.mark.parametrize("kind", PAIR)
@pytest.mark.parametrize("features", [SparseBoolean(2, [0.2, 0.3]), BitGroups(2, 2, 0.3, signed=False)], ids=repr)
def test_composites_cost_what_the_closed_form_says(kind, features):
    """Built by hand with a penalty of 0.2 (0.1 taken off every latent): L0, L1, error and firing against the theory."""
    decoder, encoder, bias = (torch.tensor(part, dtype=torch.float32) for part in PAIR[kind])
    p, q = features.activity.expand(2).tolist()
    both = p if isinstance(features, BitGroups) else p * q
    seeds = range(8)
    trained = by_hand(setting_of(features, len(decoder)), seeds, decoder, encoder, bias)
    names = ("A", "B", "A+B")[: len(decoder)]
    (expected,) = (one for one in pair_dictionaries(p, q, both, penalty=0.2, latents=3) if one.directions == names)
    for measure, value in ((m.mean_l0, expected.l0), (m.mean_l1, expected.l1), (m.reconstruction_error, expected.mse)):
        found = measure(trained)
        error = float(found.error.square().mean() / len(seeds)) ** 0.5
        assert abs(float(found.value.mean()) - value) < 5 * error + 1e-5, (measure.__name__, value)
    loss = m.held_out_loss(trained)  # setting_of's penalty is 0.1
    error = float(loss.error.square().mean() / len(seeds)) ** 0.5
    assert abs(float(loss.value.mean()) - (expected.mse + 0.1 * expected.l1)) < 5 * error + 1e-5
    kinds = latent_kinds(trained)
    if kind == "separate" or isinstance(features, BitGroups):  # together or never: conjunctions cannot be told
        assert not m.composite_latents(trained).any()
    else:
        assert kinds.composite_and.tolist() == [1] * 8 and kinds.composite_and_not.tolist() == [2] * 8
        assert m.composite_latents(trained).tolist() == [3] * 8 and not kinds.rest.any()


# ------------------------------------------------------------------------------------------------------------- theory


@pytest.mark.parametrize("p, q, both", [(0.2, 0.3, None), (0.1, 0.1, 0.05), (0.4, 0.3, 0.0)])
def test_the_table_of_two_features(p, q, both):
    """THEORY 7, without shrinkage; shrinkage costs c^2 / 4 and saves c / 2 for each latent that is on."""
    r = p * q if both is None else both
    for penalty in (0.0, 0.3):
        table = {d.directions: d for d in pair_dictionaries(p, q, both, penalty=penalty)}
        apart, composite = table["A", "B"], table["A", "B", "A+B"]
        assert apart.l0 == pytest.approx(p + q) and apart.l1 == pytest.approx((p + q) * (1 - penalty / 2))
        off = p + q - r if r and penalty else composite.l0
        assert composite.l0 == pytest.approx(off)
        if penalty or not r:  # at no penalty all exact codes are equally good
            assert composite.l1 == pytest.approx(p + q - (2 - ROOT2) * r - penalty / 2 * (p + q - r))
        for one in (apart, composite):
            assert one.mse == pytest.approx(penalty**2 / 4 * one.l0)
            assert one.loss == pytest.approx(one.mse + penalty * one.l1)
    assert composite.composite == (r > 0) and not apart.composite


def test_no_other_code_is_cheaper():
    """1,000 random codes and a fine grid of them never beat the code the table is made of."""
    rng = np.random.default_rng(0)
    directions = {"A": (1, 0), "B": (0, 1), "A+B": (ROOT2 / 2, ROOT2 / 2)}
    for kind, penalty in (("l1", 0.4), ("l0", 0.2)):
        for one in pair_dictionaries(1, 1, 1, kind=kind, penalty=penalty):  # only the state "both" occurs
            D = np.array([directions[name] for name in one.directions]).T
            z = np.concatenate([rng.exponential(0.5, (20_000, D.shape[1])) * rng.integers(0, 2, (20_000, D.shape[1]))])
            cost = z.sum(1) if kind == "l1" else (z > 0).sum(1)
            tried = np.square(z @ D.T - 1).sum(1) + penalty * cost
            assert one.loss <= tried.min() + 1e-9 and tried.min() < one.loss + 0.05


def test_preferences():
    """Composites win under L1 and L0 once there are three latents, and under TopK only where k = 1."""
    first = {kind: pair_dictionaries(0.2, 0.2, kind=kind, penalty=0.1)[0] for kind in ("l1", "l0")}
    assert all(one.composite for one in first.values())
    assert pair_dictionaries(0.2, 0.2, kind="l1", penalty=0.1, latents=2)[0].directions == ("A", "B")
    one, two = (pair_dictionaries(0.2, 0.2, kind="topk", k=k) for k in (1, 2))
    assert one[0].composite and one[0].mse == 0 and one[1].mse == pytest.approx(0.04)
    assert two[0].directions == ("A", "B") and two[0].loss == two[1].loss == 0
    with pytest.raises(InputError, match="both must lie in"):
        pair_dictionaries(0.2, 0.3, 0.25)
    with pytest.raises(InputError, match="kind must be one of l1, l0, topk"):
        pair_dictionaries(0.2, 0.3, kind="l2")


def test_chance_floors():
    """By sampling; at d = 64, F = 512 the known value .370. One latent, two dimensions: 0 by symmetry."""
    assert mmcs_floor(512, 64) == pytest.approx(0.370, abs=1e-3) and mmcs_floor(1, 2) == pytest.approx(0, abs=1e-9)
    truth, own = normalize(read(400, 200, 8), dim=-1), normalize(read(400, 24, 8, seed=1), dim=-1)
    sampled = (truth @ own.mT).amax(-1).mean(-1)
    assert mmcs_floor(24, 8) == pytest.approx(float(sampled.mean()), abs=4 * float(sampled.std()) / 20)
    assert mcc_floor(1, 24, 8, 4000) == pytest.approx(mmcs_floor(24, 8), abs=0.01)  # one feature: its best latent
    assert mcc_floor(20, 5, 8) < 5 / 20 and mcc_floor(8, 16, 8) < mmcs_floor(16, 8)
    assert mcc_floor(8, 16, 8) == mcc_floor(8, 16, 8)


# ----------------------------------------------------------------------------------------------------------- sae-lens


@pytest.mark.parametrize("which", ["l1", "topk", "batch", "jump"])
def test_sae_lens_agrees(which):
    """Losses, gradients and MCC of sae-lens 6.54 (extra `bench`) on the same weights and activations."""
    lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.synthetic.evals import mean_correlation_coefficient

    shape = {"d_in": 6, "d_sae": 10, "dtype": "float32", "device": "cpu"}
    if which == "l1":
        theirs = lens.StandardTrainingSAE(lens.StandardTrainingSAEConfig(**shape))
        sparsity, penalty, coefficients = L1(), 0.3, {"l1": 0.3}
    elif which == "jump":
        own = {"jumprelu_init_threshold": 0.2, "jumprelu_bandwidth": 0.3}
        theirs = lens.JumpReLUTrainingSAE(lens.JumpReLUTrainingSAEConfig(
            **shape, **own, jumprelu_sparsity_loss_mode="step"))  # fmt: skip
        sparsity, penalty, coefficients = JumpReLU(0.2, 0.3), 0.3, {"l0": 0.3}
    else:
        make, config = ((lens.TopKTrainingSAE, lens.TopKTrainingSAEConfig) if which == "topk" else
                        (lens.BatchTopKTrainingSAE, lens.BatchTopKTrainingSAEConfig))  # fmt: skip
        theirs = make(config(**shape, k=3))
        sparsity, penalty, coefficients = (TopK(3) if which == "topk" else BatchTopK(3)), 0.0, {}
    h = read(64, 6, seed=4)
    W_dec = read(6, 10, seed=1) if which == "l1" else normalize(read(6, 10, seed=1), dim=0)
    values = {"W_enc": read(6, 10), "W_dec": W_dec, "b_enc": read(10, seed=2) / 3, "b_dec": read(6, seed=3) / 3}
    with torch.no_grad():
        for name, value in values.items():
            getattr(theirs, name).copy_(value.T if name == "W_dec" else value)
    step = TrainStepInput(sae_in=h, coefficients=coefficients, dead_neuron_mask=None, n_training_steps=0,
                          is_logging_step=False)  # fmt: skip
    out = theirs.training_forward_pass(step)
    out.loss.backward()

    ours = SparseAutoencoder(6, 6, latents=10, sparsity=sparsity, unit_norm=False)
    extra = {"log_threshold": torch.full((10,), float(np.log(0.2)))} if which == "jump" else {}
    ours.load_state_dict(values | extra)
    code = ours(h)
    loss = Reconstruction(Model(Embedding, width=6), penalty=penalty).loss(code, h)
    loss.backward()
    torch.testing.assert_close(code.latents, out.feature_acts)
    torch.testing.assert_close(loss, out.loss)
    for name in values:
        gradient = getattr(theirs, name).grad
        torch.testing.assert_close(getattr(ours, name).grad, gradient.T if name == "W_dec" else gradient)
    if which == "jump":  # theirs is the threshold itself, ours its logarithm: d/dlog t = t d/dt
        torch.testing.assert_close(ours.log_threshold.grad, 0.2 * theirs.threshold.grad)

    trained = by_hand(
        setting_of(PowerLaw(6, 0.5, 0.1), 10), [0], torch.cat([torch.eye(6) + 0.2 * read(6, 6), torch.zeros(4, 6)])
    )
    directions = trained.per_instance(lambda s, c: s.task.directions(s.features, c))[0]
    decoder = trained.forward(trained.batch(0, 1)[0]).decoder[0]
    expected = mean_correlation_coefficient(decoder.T, directions)
    assert float(m.mcc(trained)) == pytest.approx(expected, abs=1e-5)
