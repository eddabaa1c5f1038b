"""No evidence is not success: what held-out draws show too little of is NaN, in no count, and reported as a share."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import toysup.measure as m
from toysup import decoders, geometry, neurons, ranking, sharing, similarity
from toysup.checks import InputError
from toysup.ensemble import Stack, train
from toysup.evidence import BATCH, SEEN, enough, usual
from toysup.features import BitGroups, OnePerGroup, PowerLaw, SparseBoolean, SparseUniform
from toysup.measure import cross_layer, participation
from toysup.measure.dictionary import latent_kinds
from toysup.measure.layers import decodable
from toysup.measure.purity import purity
from toysup.models import (
    MLP,
    BatchTopK,
    Embedding,
    ResidualMLP,
    SparseAutoencoder,
    SquaredProjection,
    TiedAutoencoder,
    TopK,
)
from toysup.models.dictionary import Sparsity
from toysup.random import Stream, uniforms
from toysup.setting import Model, Setting
from toysup.shapes import Shape
from toysup.tasks import (
    AbsoluteValue,
    And,
    Circuit,
    Identity,
    Memory,
    Reconstruction,
    Regression,
    SumOfSquares,
    Task,
    XPlusRelu,
)

RARE = 1e-6  # 0.02 of the 16,384 samples that are looked at
MLP_OF = Model(MLP, width=4)
RESIDUAL = Model(ResidualMLP, shape=Shape(width=12, depth=2, hidden=6), unembedding="trained")


def start(features, task=None, model=None, seeds=(0, 1), steps=1):
    """Networks before training."""
    task = Identity() if task is None else task
    model = Model(TiedAutoencoder, width=2) if model is None else model
    stack = Stack.of(Setting(features, task, model, steps=steps, batch=32), list(seeds))
    return train(stack, compile=False, engine="general", snapshots=[0]).at(0)


def exact(features, n, **options):
    """A tied autoencoder that copies its input."""
    trained = start(features, model=Model(TiedAutoencoder, width=n), **options)
    eye = torch.eye(n).expand(len(trained), n, n)
    return _with(trained, W=eye, b=torch.zeros(len(trained), n))


def _with(trained, **parameters):
    return replace(trained, parameters={**trained.parameters, **parameters}, kept={})


@dataclass(frozen=True)
class Halves(Regression):
    """A task of a user's own, with scores that are not the targets: the errors of each half of the features, added."""

    def target(self, x, constants):
        return x

    def target_moments(self, features, constants):
        return features.mean, features.second_moment, features.variance

    def errors(self, output, target):
        return (output - target).square().unflatten(-1, (2, -1)).sum(-1)

    def baseline(self, features, constants):
        return features.variance.expand(features.n_features).unflatten(0, (2, -1)).sum(-1)


def regressions(p):
    rare, signed = SparseUniform(8, density=p), SparseUniform(8, density=p, signed=True)
    coded = Reconstruction(Model(Embedding, width=8), penalty=0.0)
    return {
        "Identity": (rare, Identity(), None),
        "AbsoluteValue": (signed, AbsoluteValue(), MLP_OF),
        "XPlusRelu": (signed, XPlusRelu(), MLP_OF),
        "And": (SparseBoolean(8, density=p**0.5), And(n_pairs=4), MLP_OF),
        "Circuit": (BitGroups(8, group_size=4, density=p), Circuit(), MLP_OF),
        "SumOfSquares": (signed, SumOfSquares(), Model(SquaredProjection, width=2)),
        "Halves": (rare, Halves(), None),
        "Reconstruction": (rare, coded, Model(SparseAutoencoder, latents=8, sparsity=TopK(2))),
    }


@pytest.mark.parametrize("task", regressions(0.1))
def test_what_was_never_seen_is_unknown_and_what_was_is_known(task):
    trained = start(*regressions(RARE)[task])
    value, error = m.r_squared(trained)
    assert value.isnan().all() and error.isnan().all()
    for measure in (m.recovered, m.held_out_loss, m.unseen_loss):
        assert measure(trained).error.isnan().all()
    assert m.recovered(trained).value.isnan().all() and m.recovered_at(0.5)(trained).isnan().all()
    # a baseline that 16,384 draws estimate is 0 there, so that nothing seems to vary: unknown just as well
    assert task == "Reconstruction" or (m.unseen(trained) == 1).all()
    assert m.held_out_loss(trained).value.isfinite().all() and (m.unknown(m.r_squared)(trained) == 1).all()
    often = start(*regressions(0.1)[task])
    assert (m.unseen(often) == 0).all() and m.r_squared(often).value.isfinite().all()
    assert m.held_out_loss(often).error.isfinite().all() and m.unseen_loss(often).error.isfinite().all()


def test_rare_features_do_not_count_as_recovered():
    trained = start(SparseUniform(20, density=RARE))
    assert m.recovered(trained).value.isnan().all() and (m.unseen(trained) == 1).all()
    assert m.unknown(m.r_squared).__name__ == "r_squared_unknown"


def test_beside_rare_features_the_common_ones_count_as_they_do_alone():
    common = exact(SparseUniform(6, np.array([0.2] * 4 + [RARE] * 2)), 6)
    assert m.recovered(common).value.tolist() == [4, 4] and m.recovered_at(0.5)(common).tolist() == [4, 4]
    assert torch.allclose(m.unseen(common), torch.tensor(2 / 6))
    assert m.recovered(exact(SparseUniform(4, 0.2), 4)).value.tolist() == [4, 4]
    assert m.recovered(exact(SparseUniform(6, 0.2), 6)).value.tolist() == [6, 6]


def test_under_zipf_the_unseen_are_those_the_draws_hardly_show():
    features = PowerLaw(1000, density=0.0005, exponent=2.0)
    trained = start(features, seeds=[0])
    samples = int(m.held_out(trained).samples[0])
    count = 0
    for number in range(samples // BATCH):
        draws = uniforms(trained.stack.data_seed, number, BATCH, 1000, stream=Stream.HELD_OUT)[0]
        count = count + (features.transform(draws) != 0).sum(0)
    share = (count < SEEN).float().mean()
    assert 0.5 < share < 1 and m.unseen(trained).item() == pytest.approx(share.item())
    assert torch.equal(m.held_out(trained).evidence[0], count)
    assert torch.equal(m.r_squared(trained).value[0].isfinite(), count >= SEEN)
    copied = exact(features, 1000, seeds=[0])  # everything is right: what is counted is what was seen
    assert m.recovered(copied).value.item() == (count >= SEEN).sum() == m.recovered_at(0.5)(copied).item()


def test_a_sum_is_known_where_each_of_its_parts_is():
    model = Model(SquaredProjection, width=2)
    features = SparseUniform(4, np.array([0.2, 0.2, 0.2, RARE]), signed=True)
    assert m.recovered(start(features, SumOfSquares(), model)).value.isnan().all()  # most of the variance is unseen
    ignored = SumOfSquares(importance=np.array([1.0, 1.0, 1.0, 0.0]))
    assert m.recovered(start(features, ignored, model)).value.isfinite().all()


def test_a_diverged_network_is_not_an_unknown_one():
    trained = start(SparseUniform(5, np.array([0.2] * 4 + [RARE])))
    trained = _with(trained, W=torch.stack([trained.parameters["W"][0], torch.full((5, 2), torch.nan)]))
    for count in (m.recovered(trained).value, m.recovered_at(0.5)(trained), m.held_out_loss(trained).value):
        assert count.isfinite().tolist() == [True, False]
    assert torch.allclose(m.unseen(trained), torch.tensor(0.2))


def test_labels_are_evidence_each():
    """One key with one label: the target never varies, and yet each sample says whether it was known."""
    trained = start(OnePerGroup(1), Memory(), RESIDUAL)
    assert (m.unseen(trained) == 0).all() and m.recovered(trained).value.isfinite().all()
    assert m.accuracy_recovered(trained).value.isfinite().all()


def test_the_usual_value_is_the_median():
    x = torch.tensor([0.0, 0, 0, 1, 5]).view(1, 5, 1)
    assert usual(x).item() == 0 and usual(x != 0).item() == 0
    for samples, least in ((1 << 20, 16), (1 << 14, 16), (1 << 12, 4), (64, 1)):
        assert enough(torch.tensor([least - 1, least]), samples).tolist() == [False, True]


def test_a_feature_that_is_nearly_always_on_is_seen_where_it_is_off():
    """Values of 1 but for p: as rare an event as the other way round."""
    assert m.recovered(exact(SparseBoolean(3, 1 - RARE), 3)).value.isnan().all()
    assert m.recovered(exact(SparseBoolean(3, 0.99), 3)).value.tolist() == [3, 3]


# ----------------------------------------------------------------------------------------------- decoders and layers


def test_decoders_do_not_decode_what_was_not_drawn():
    trained = start(SparseUniform(6, np.array([0.2] * 4 + [RARE] * 2)), model=Model(TiedAutoencoder, width=6))
    encoding = m.encoding_of(trained).random()
    for decoder in (decoders.linear_probe, decoders.matching_pursuit):
        value = decoders.decoded(encoding, decoder).value
        assert torch.equal(value.isnan(), torch.tensor([False] * 4 + [True] * 2).expand(2, 6))
        assert torch.allclose(decoders.decoded_count(encoding, decoder).value, value.clamp(min=0).nansum(-1), atol=0.1)
    nothing = m.encoding_of(start(SparseUniform(6, RARE)))
    assert decoders.decoded_count(nothing, decoders.linear_probe).value.isnan().all()


def test_layers_do_not_hold_what_was_not_drawn():
    mixed = start(SparseUniform(6, np.array([0.2] * 5 + [RARE])), Identity(), RESIDUAL)
    assert torch.equal(decodable(mixed, [0], batches=2).value.isnan()[0], torch.tensor([False] * 5 + [True]))
    found = cross_layer.decode(mixed, [(0, 1)], batches=2)
    assert (found.count() <= 5).all() and torch.allclose(found.unknown(), torch.tensor(1 / 6))
    nothing = cross_layer.decode(start(SparseUniform(6, RARE), Identity(), RESIDUAL), [(0, 1)], batches=2)
    for count in (nothing.count(), nothing.union(), nothing.excess(), nothing.best_part()):
        assert count.isnan().all()
    assert (nothing.unknown() == 1).all()


def test_blocks_take_part_in_nothing_that_was_not_drawn():
    mixed = start(SparseUniform(6, np.array([0.2] * 5 + [RARE])), Identity(), RESIDUAL)
    for a in (participation.attribution(mixed), participation.ablation_drops(mixed)):
        assert torch.equal(a.isnan().any(1)[0], torch.tensor([False] * 5 + [True]))
        assert torch.allclose(sharing.participation(a).unknown, torch.tensor(1 / 6))
    nothing = sharing.participation(participation.attribution(start(SparseUniform(6, RARE), Identity(), RESIDUAL)))
    assert nothing.features.isnan().all() and nothing.ratio.isnan().all() and (nothing.unknown == 1).all()


def test_facts_that_never_occur_are_attributed_to_nobody():
    trained = start(OnePerGroup(8, offered=0.75), Memory(), RESIDUAL)
    wanted = torch.tensor([False] * 6 + [True] * 2)
    for a in (participation.attribution(trained), participation.ablation_drops(trained)):
        assert torch.equal(a[0, 0].isnan(), wanted)


def test_an_output_that_never_varies_has_no_gain():
    """It loses nothing by any ablation, and gets no gain from rounding."""
    trained = start(SparseUniform(6, 0.2), Identity(), RESIDUAL)
    trained = _with(trained, W_U=torch.zeros_like(trained.parameters["W_U"]))
    assert (participation.ablation_drops(trained) == 0).all()


# ---------------------------------------------------------------------------------------------------------------- AUC


def test_outputs_that_are_hardly_ever_on_are_not_separated():
    counts = {}
    for p in (0.5, 0.003, RARE**0.5):
        trained = start(SparseBoolean(8, p), And(n_pairs=5), Model(MLP, width=4))
        counts[p] = m.separated(0.5)(trained)
        on = torch.cat([trained.batch(k, BATCH)[1] for k in range(256)], 1).sum(1) if p < 0.5 else None
        assert p == 0.5 or torch.equal(m.auc(trained).value.isnan(), on < SEEN)
    assert counts[0.5].isfinite().all() and counts[RARE**0.5].isnan().all()
    assert (m.unknown(m.auc)(trained) == 1).all()


def test_scores_that_are_not_numbers_rank_nothing():
    on = torch.arange(40).view(1, 40) < 20
    assert ranking.rank(torch.full((1, 40), torch.nan), on).auc.isnan().all()
    assert ranking.rank(on.float(), on).auc.item() == 1


# ------------------------------------------------------------------------------------------------------- universality


def test_features_unknown_in_one_network_are_left_out_of_its_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 20)), rng.normal(size=(4, 20))
    holed, lost = a.copy(), a.copy()
    holed[1, [2, 5]] = np.nan
    lost[0] = np.nan
    given, keep = rng.normal(size=(20, 1)), np.delete(np.arange(20), [2, 5])
    for options in ({}, {"ranks": False}):
        whole = similarity.feature_correlation(a, b, given=given, **options)
        found = similarity.feature_correlation(holed, b, given=given, **options)
        assert torch.allclose(found[[0, 2]], whole[[0, 2]])
        alone = similarity.feature_correlation(a[1:2, keep], b[:, keep], given=given[keep], **options)
        assert torch.allclose(found[1], alone[0])
        found = similarity.feature_correlation(lost, b, given=given, **options)
        assert found[0].isnan().all() and torch.allclose(found[1:], whole[1:])
        shares = similarity.explained(holed, given, **options)
        assert torch.allclose(shares[1], similarity.explained(a[1:2, keep], given[keep], **options)[0])
        assert torch.allclose(shares[[0, 2]], similarity.explained(a, given, **options)[[0, 2]])
    assert similarity.explained(np.ones((1, 20)), given).isnan().all()


def test_one_common_outlier_makes_no_two_networks_alike():
    a, b = torch.zeros(1, 64, 3), torch.zeros(1, 64, 5)
    a[0, 7], b[0, 7] = 1.0, torch.arange(5.0)
    assert similarity.linear_cka(a, b).isnan().all() and similarity.svcca(a, b).isnan().all()
    x = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
    assert similarity.linear_cka(x, x).item() == pytest.approx(1) and similarity.svcca(x, x).item() == pytest.approx(1)


# -------------------------------------------------------------------------------------------------------- dictionaries


def dictionary(features, sparsity, latents=4, width=4):
    task = Reconstruction(Model(Embedding, width=width, orthonormal=True), penalty=0.0)
    return start(features, task, Model(SparseAutoencoder, latents=latents, sparsity=sparsity))


def matched(trained):
    """Each latent reads and writes one feature's direction."""
    W = trained.constants["weights"].unflatten(-1, (4, -1))
    return _with(trained, W_enc=W.mT.contiguous(), W_dec=W.mT.contiguous(), b_enc=torch.full((len(W), 4), -1e-3))


def test_a_dictionary_of_rare_features_is_unknown():
    trained = matched(dictionary(SparseUniform(4, np.array([0.2] * 3 + [RARE])), TopK(4)))
    for measure in (m.feature_f1, m.feature_precision, m.feature_recall):
        value = measure(trained)
        assert torch.equal(value[0].isnan(), torch.tensor([False] * 3 + [True]))
        assert torch.allclose(value[:, :3], torch.ones(3), atol=0.01)
    assert latent_kinds(trained).first.tolist() == [3, 3]
    nothing = matched(dictionary(SparseUniform(4, RARE), TopK(4)))
    for measure in (m.feature_f1, m.dead_latents, m.split_latents, m.composite_latents, m.shrinkage):
        assert measure(nothing).isnan().all()
    for measure in (m.mean_l0, m.mean_l1, m.reconstruction_error):
        assert measure(nothing).error.isnan().all() and measure(trained).error.isfinite().all()
    assert latent_kinds(nothing).unknown.tolist() == [4, 4] and sum(latent_kinds(nothing)).tolist() == [4, 4]


def test_a_latent_that_was_never_on_has_no_precision():
    trained = matched(dictionary(SparseUniform(4, 0.2), TopK(4)))
    off = _with(trained, b_enc=torch.tensor([-1e-3, -1e-3, -1e-3, -9.0]).expand(2, 4))
    assert m.dead_latents(off).tolist() == [1, 1]
    assert m.feature_precision(off)[:, 3].isnan().all() and (m.feature_recall(off)[:, 3] == 0).all()


@pytest.mark.parametrize("kind", [TopK, BatchTopK])
@pytest.mark.parametrize("k", [1, 2])
def test_ties_keep_no_more_than_k(kind, k):
    latents, cost = kind(k)(torch.ones(6, 4), torch.ones(4), None)
    assert (latents != 0).sum() == 6 * k and (cost == 0).all()
    assert kind is BatchTopK or ((latents != 0).sum(-1) == k).all()
    trained = dictionary(SparseBoolean(3, 0.5), kind(k), latents=6)
    assert (m.mean_l0(trained).value <= k + 1e-6).all()


def test_without_ties_the_k_that_add_most_are_kept():
    read = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    norm = torch.linspace(0.5, 2, 7)
    adds = torch.relu(read) * norm
    for sparsity, least in (
        (TopK(3), adds.topk(3, dim=-1).values[..., -1:]),
        (BatchTopK(3), adds.flatten().topk(150).values[-1]),
    ):
        expected = torch.where(adds >= least, torch.relu(read), 0.0)
        latents, _ = sparsity(read, norm, None)
        assert torch.equal(latents, expected)
        one, other = (torch.autograd.grad(z.square().sum(), read, retain_graph=True)[0] for z in (latents, expected))
        assert torch.equal(one, other)


@dataclass(frozen=True)
class Signed(Sparsity):
    """Latents of both signs."""

    def __call__(self, read, norm, threshold):
        z = torch.where(read.abs() > 1e-3, read, 0.0)
        return z, torch.zeros_like(z[..., 0])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("signed", [False, True])
def test_latents_below_zero_are_on_and_have_a_direction(sign, signed):
    trained = dictionary(SparseUniform(4, 0.3, signed=signed), Signed())
    W = sign * trained.constants["weights"].unflatten(-1, (4, -1)).mT.contiguous()
    trained = _with(trained, W_enc=W, W_dec=W)  # sign = -1: z = -x, and the columns are -W
    assert torch.allclose(m.mean_l0(trained).value, torch.tensor(1.2), atol=0.05)
    assert torch.allclose(m.mean_l1(trained).value, torch.tensor(0.6), atol=0.03)
    assert torch.allclose(m.mcc(trained), torch.ones(2), atol=1e-5)
    assert (m.feature_f1(trained) > 0.99).all() and m.dead_latents(trained).tolist() == [0, 0]
    random = dictionary(SparseUniform(4, 0.3, signed=True), Signed())  # chance is that of columns of either sign
    assert (m.mmcs_above_chance(random).abs() < 0.25).all()


# -------------------------------------------------------------------------------------------------------------- others


def test_purity_refuses_what_it_is_not_about():
    edges = np.linspace(0, 1, 3)
    purity(start(SparseUniform(4, 0.2)), edges, batches=2)
    for features in (SparseBoolean(4, 0.2), SparseUniform(4, 0.2, signed=True)):
        with pytest.raises(InputError, match=r"purity: features must be U\[0, 1\]"):
            purity(start(features), edges, batches=2)


def test_attacks_on_nothing_have_no_error():
    assert m.vulnerability("random")(start(SparseUniform(4, RARE)))["vulnerability_random"].error.isnan().all()
    assert m.vulnerability("random")(start(SparseUniform(4, 0.3)))["vulnerability_random"].error.isfinite().all()


def test_weights_that_are_not_numbers_have_no_geometry():
    W = torch.full((1, 4, 2), torch.nan)
    assert geometry.dimensionality(W).isnan().all() and neurons.effective_features(W, W.mT).isnan().all()
    assert (geometry.dimensionality(torch.zeros(1, 4, 2)) == 0).all()


def test_a_task_may_say_what_its_scores_add_up():
    assert Task.evidence(Identity(), torch.zeros(3, 2), torch.ones(3, 2)).shape == (3, 2)
    parts = SumOfSquares().evidence(torch.zeros(3, 4), torch.ones(3, 1))
    assert parts.shape == (3, 1, 4)
