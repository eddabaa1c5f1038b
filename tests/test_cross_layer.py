"""Cross-layer superposition is found where it was built in, and nowhere else; blocks' shares add up."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from toysup.checks import InputError
from toysup.constructions import (
    confined_uand,
    copied_identity,
    pairs_setting,
    scattered_uand,
    single_block_uand,
    untrained,
)
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure.cross_layer import decode, decode_labels
from toysup.measure.jointly import SIZES as COUNTS
from toysup.measure.jointly import held_jointly, jointly_and_alone
from toysup.measure.layers import decodable_by_layer, inputs, label_chances, label_chances_by_layer
from toysup.measure.participation import ablated, ablation_drops, attribution, contributions, readout
from toysup.models import ResidualMLP, TiedAutoencoder
from toysup.setting import Model, Setting
from toysup.shapes import Shape
from toysup.sharing import BySize, Decoded, by_size, dealt, gamma, participation, participation_ratio, subsets
from toysup.stats import cross_layer as cross
from toysup.tasks import Identity, Memory

SIZES = {"n_inputs": 12, "n_pairs": 66, "neurons": 96, "depth": 8, "takes": 5, "seeds": range(2)}
ALL, SEEDS = tuple(range(8)), range(2)
COMPUTED = {"beyond": inputs, "own": True, "scored": 8}  # what the network's own readout finds beyond its inputs


def residual(features, task, shape, **model):
    return Setting(features, task, Model(ResidualMLP, shape=shape, **model), steps=1, batch=64)


# ----------------------------------------------------------------------------------------------------------- controls


def test_scattered_neurons_are_cross_layer_superposition():
    found = decode(scattered_uand(**SIZES), [ALL, ALL[:4]], **COMPUTED)
    assert found.sets[-2:] == (ALL, ALL[:4])
    count, union = found.count()[:, -2], found.union()[:, -2]
    assert (count > 45).all() and (union < 20).all()  # of 66
    assert (found.excess()[:, -2] == count - union).all() and (found.excess()[:, :8] == 0).all()
    assert (found.excess()[:, -1] < found.excess()[:, -2]).all()  # half of the layers, less of it
    assert (found.best_part() < 8).all()


def test_one_block_has_no_excess():
    found = decode(single_block_uand(**SIZES | {"depth": 3}), [(0, 1, 2)], **COMPUTED)
    assert (found.count()[:, -1] > 45).all() and found.excess()[:, -1].abs().max() == 0
    assert torch.equal(found.best_part(), found.count()[:, -1])


def test_features_in_one_block_each_have_no_excess():
    found = decode(confined_uand(32, 48, neurons=128, depth=8, takes=3, seeds=range(2)), [ALL], **COMPUTED)
    assert (found.count()[:, -1] > 40).all() and found.excess()[:, -1].abs().max() == 0
    assert (found.best_part() < 10).all()  # though no layer has many
    fitted = decode(confined_uand(32, 48, neurons=128, depth=8, takes=3, seeds=range(2)), [ALL], beyond=inputs)
    assert (fitted.count()[:, -1] > 40).all() and fitted.excess()[:, -1].abs().max() <= 2  # nor for fitted probes


def test_copies_have_no_excess():
    found = decode(copied_identity(10, depth=4, seeds=range(2)), [(0, 1, 2, 3)], own=True)
    assert (found.count() == 10).all() and (found.excess() == 0).all()


def test_untrained_networks_pass_for_superposition_only_with_probes_of_each_feature_own():
    """Random neurons are a universal AND: fitted probes find an excess, and gamma > 1, that no training put there."""
    trained = untrained(pairs_setting(16, 100, 8, 8, density=0.1), SEEDS)
    sets = subsets(8, (2, 4, 8), 2)
    fitted, own = (decode(trained, sets, beyond=inputs, own=own, scored=8) for own in (False, True))
    assert (fitted.excess()[:, -1] > 20).all() and (gamma(by_size(fitted)) > 1).all()
    assert own.count().max() <= 1 and own.excess().abs().max() <= 1


def test_inputs_are_thresholded_into_outputs_unless_taken_out():
    """The embedded input alone, before any block: a + b > 1 is AND."""
    trained = untrained(pairs_setting(12, 20, 2, 4, density=0.1), SEEDS)
    first = [range(32)]  # the stream's first entry
    assert (decode(trained, [], of="stream", parts=first).count() == 20).all()
    assert (decode(trained, [], of="stream", parts=first, beyond=inputs).count() == 0).all()


# -------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("of", ["stream", "neurons"])
def test_layers_alone_are_read_as_by_decodable(of):
    trained = untrained(residual(SparseUniform(12, 0.2), Identity(), Shape(6, 3), unembedding="frozen"), SEEDS)
    expected = decodable_by_layer(trained, of=of, batches=4).value
    found = decode(trained, [(0, 2)], of=of, batches=4)
    assert torch.allclose(found.share[:, :-1], expected, atol=1e-4)
    assert torch.equal(found.found[..., 0], found.share > 0.5)
    together = decode(trained, [(0, 2)], of=of, batches=4, curved=False).share
    assert (together[:, -1] > together[:, [0, 2]].max(1).values - 0.01).all()


def test_labels_are_read_as_by_label_chances():
    setting = residual(OnePerGroup(200, 1, offered=0.9), Memory(4), Shape(8, 2), unembedding="coordinates")
    trained = untrained(setting, SEEDS)
    found = decode_labels(trained, [(0, 1)], most=60)
    assert found.found.shape == (2, 3, 200, 4)
    assert torch.allclose(found.share[:, :2], label_chances_by_layer(trained, of="neurons", most=60), equal_nan=True)
    assert torch.allclose(found.share[:, 2], label_chances(trained, [0, 1], of="neurons", most=60), equal_nan=True)
    assert not found.found[:, :, 180:].any()
    assert found.count().abs().max() < 10  # nothing is known, though some are lucky


def test_own_readout_is_the_networks():
    """Of a network with linear outputs and disjoint inputs, without threshold: the squared correlation."""
    trained = scattered_uand(**SIZES | {"density": 0.2})
    found = decode(trained, [ALL], own=True, curved=False, batches=16).share[:, -1]
    y, out = [], []
    for number in range(16, 32):
        x, target = trained.batch(number, 1024)
        y.append(target), out.append(trained.forward(x))
    y, out = (torch.cat(one, 1) for one in (y, out))
    y, out = y - y.mean(1, keepdim=True), out - out.mean(1, keepdim=True)
    squared = (y * out).sum(1).square() / y.square().sum(1) / out.square().sum(1)
    assert torch.allclose(found, squared, atol=0.03)  # gain and mean come from other draws, with 650 ANDs of each pair


def test_luck_is_taken_off():
    """Three layers that guess at random among four labels, with confidence: each is right by chance, together they have
    the right label among theirs in 1 - (3/4)^3 of facts, and know nothing."""
    n, layers = 20_000, 3
    guess = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, layers, n)))
    found = torch.nn.functional.one_hot(guess, 4).bool()
    decoded = Decoded(((0,), (1,), (2,), (0, 1, 2)), torch.zeros(1, 4, n), torch.cat([found, found[:, :1]], 1))
    assert decoded.union()[0, -1].abs() < 0.03 * n and decoded.count()[0].abs().max() < 0.03 * n
    right = decoded.found.clone()
    right[:, 1, : n // 2] = torch.tensor([True, False, False, False])
    knows = decoded._replace(found=right)
    assert knows.count()[0, 1].item() == pytest.approx(n / 2, rel=0.05)
    assert knows.union()[0, -1].item() == pytest.approx(n / 2, rel=0.08)


def test_gamma_is_the_exponent():
    sizes = (1, 2, 4, 8)
    counts = torch.tensor([[3 * k**1.5 for k in sizes], [0.0, 0.0, 0.0, 0.0]])
    curve = BySize(sizes, counts, counts, counts)
    assert gamma(curve).tolist() == pytest.approx([1.5, 0])
    assert gamma(BySize((1,), *[counts[:, :1]] * 3)).isnan().all()


def test_sizes_are_averaged():
    share = torch.tensor([[[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [0.9, 0.4, 0.1]]])
    decoded = Decoded(((0,), (1,), (2,), (0, 1), (1, 2)), share, (share > 0.5).unsqueeze(-1))
    curve = by_size(decoded)
    assert curve.sizes == (1, 2) and curve.joint[0].tolist() == pytest.approx([2 / 3, 2])
    assert curve.union[0].tolist() == pytest.approx([2 / 3, 1.5]) and curve.excess[0].tolist() == [0, 0.5]
    assert decoded.best_part().item() == 1


def test_subsets_and_deals():
    sets = subsets(6, (2, 3, 6), 4)
    assert len(set(sets)) == len(sets) == 9 and {len(one) for one in sets} == {2, 3, 6}
    assert all(list(one) == sorted(set(one)) for one in sets) and len(subsets(3, (2,), 10)) == 3
    parts = dealt(12, 3)
    assert sorted(unit for part in parts for unit in part) == list(range(12)) and {len(p) for p in parts} == {4}
    trained = single_block_uand(**{**SIZES, "depth": 1})
    as_if = decode(trained, [ALL], parts=dealt(96, 8), **COMPUTED)  # the scattered network, as the probe sees it
    assert (as_if.excess()[:, -1] > 25).all()


# ------------------------------------------------------------------------------------------------------ participation


@pytest.mark.parametrize("unembedding", ["tied", "frozen", "coordinates"])
@pytest.mark.parametrize("relu", [False, True])
def test_contributions_sum_to_the_output(unembedding, relu):
    setting = residual(SparseUniform(6, 0.4), Identity(), Shape(8, 3, 5), unembedding=unembedding, relu=relu)
    trained = untrained(setting, SEEDS)
    if relu:
        trained.parameters["b_out"] += 0.1
    x = trained.batch(0, 64)[0]
    total = contributions(trained, x).sum(2)
    total = torch.relu(total + trained.parameters["b_out"].unsqueeze(1)) if relu else total
    assert torch.allclose(total, trained.forward(x), atol=1e-5)
    assert readout(trained).shape == (2, 8, 6)


def test_attribution_sums_to_the_slope_and_to_the_logit():
    trained = scattered_uand(**SIZES)
    shares = attribution(trained, batches=4)
    assert shares.shape == (2, 9, 66) and (shares[:, 0].abs() < 1e-6).all()
    y, out = [], []
    for number in range(4):
        x, target = trained.batch(number, 1024)
        y.append(target), out.append(trained.forward(x))
    y, out = (torch.cat(one, 1).double() for one in (y, out))
    slope = ((y - y.mean(1, keepdim=True)) * out).mean(1) / y.var(1, correction=0)
    assert torch.allclose(shares.sum(1).double(), slope, atol=1e-3, equal_nan=True)
    memory = untrained(residual(OnePerGroup(40, 1), Memory(4), Shape(8, 2), unembedding="coordinates"), SEEDS)
    facts = torch.arange(40).expand(2, 40).unsqueeze(-1)
    logits = memory.forward(facts)
    right = logits.gather(-1, memory.constants["labels"].unsqueeze(-1)).squeeze(-1) - logits.mean(-1)
    assert torch.allclose(attribution(memory).sum(1), right, atol=1e-5)


def test_ablation():
    trained = untrained(residual(SparseUniform(6, 0.4), Identity(), Shape(8, 3, 5), unembedding="frozen"), SEEDS)
    x = trained.batch(0, 512)[0]
    untouched = x @ trained.buffers["W_E"] @ trained.buffers["W_U"].mT
    assert torch.allclose(ablated(trained, x, range(3)), untouched, atol=1e-5)  # all blocks: the embedded input
    assert torch.allclose(ablated(trained, x, []), trained.forward(x), atol=1e-5)
    last = trained.forward(x, record=True)[1].neurons[:, :, 2]
    written = (last.mean(1, keepdim=True) - last) @ trained.parameters["W_out.2"] @ trained.buffers["W_U"].mT
    assert torch.allclose(ablated(trained, x, [2], "mean"), trained.forward(x) + written, atol=1e-5)
    resampled = ablated(trained, x, [2], "resample")
    assert torch.allclose(resampled.mean(1), trained.forward(x).mean(1), atol=1e-5)
    assert not torch.allclose(resampled, trained.forward(x), atol=1e-3)
    first = ablated(trained, x, [0])  # later blocks see the difference
    assert torch.allclose(first, _by_hand(trained, x, skip=0), atol=1e-5)


def _by_hand(trained, x, skip):
    out = []
    for instance in range(len(trained)):
        module, stream = trained.model(instance), x[instance] @ trained.buffers["W_E"][instance]
        for block in range(3):
            if block != skip:
                hidden = torch.relu(stream @ module.W_in[block] + module.b_in[block])
                stream = stream + hidden @ module.W_out[block]
        out.append(stream @ trained.buffers["W_U"][instance].T)
    return torch.stack(out).detach()


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_drops_say_which_block_a_feature_is_in(how):
    trained = confined_uand(32, 48, neurons=128, depth=8, takes=3, density=0.15, seeds=[0])
    block = trained.constants["first"][0] // 4
    drops = ablation_drops(trained, how, batches=4)[0]
    here = drops.gather(0, block.unsqueeze(0))[0]
    assert (here > 0.1).all()
    others = drops.scatter(0, block.unsqueeze(0), 0.0)
    assert others.abs().max() < 1e-4
    single = single_block_uand(**{**SIZES, "density": 0.15})
    assert (participation_ratio(ablation_drops(single, how, batches=2)) == 1).all()


def test_ablation_of_networks_without_biases():
    setting = residual(SparseUniform(6, 0.4), Identity(), Shape(8, 3, 5), unembedding="frozen", hidden_bias=False)
    trained = untrained(setting, SEEDS)
    x = trained.batch(0, 64)[0]
    assert torch.allclose(ablated(trained, x, []), trained.forward(x), atol=1e-5)
    assert not torch.allclose(ablated(trained, x, [0]), trained.forward(x), atol=1e-3)


def test_labels_are_lost_where_their_block_is_ablated():
    trained = untrained(residual(OnePerGroup(40, 1), Memory(4), Shape(8, 2), unembedding="coordinates"), SEEDS)
    trained.parameters["W_out.0"].zero_()
    drops = ablation_drops(trained)
    assert (drops[:, 0] == 0).all() and (drops[:, 1] != 0).any()
    facts = torch.arange(40).expand(2, 40).unsqueeze(-1)
    chance = trained.forward(facts).softmax(-1).gather(-1, trained.constants["labels"].unsqueeze(-1)).squeeze(-1)
    bare = contributions(trained, facts)[:, :, 0].softmax(-1)
    bare = bare.gather(-1, trained.constants["labels"].unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(drops[:, 1], chance - bare, atol=1e-5)


def test_participation_ratio():
    a = torch.tensor([[1.0, 1.0, 0.0, -3.0], [0.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0]])
    found = participation_ratio(a)
    assert found[:3].tolist()[:2] == [1, 3] and found[2].isnan() and found[3] == 2
    rows = torch.rand(3, 5, 40, generator=torch.Generator().manual_seed(0)) ** 4
    ratios = participation_ratio(rows)
    assert (ratios >= 1).all() and (ratios <= 5).all()


def test_the_shuffled_null_tells_division_from_sharing():
    """One block for each feature: below the null, in which a feature gets about 1.6 of 8 blocks. All blocks in step for
    some features, none for the others: above it. Independent: at it."""
    n, depth = 800, 8
    divided = torch.eye(depth).repeat(1, n // depth).unsqueeze(0)
    found = participation(divided)
    assert found.ratio == 1 and 1.4 < found.null < 1.8 and found.features == n
    in_step = (torch.arange(n) % 4 == 0).float().expand(1, depth, n) + 0.02
    assert participation(in_step).ratio > participation(in_step).null + 1
    drawn = torch.rand(1, depth, n, generator=torch.Generator().manual_seed(99))
    assert participation(drawn).ratio.item() == pytest.approx(participation(drawn).null.item(), rel=0.02)
    assert participation(torch.zeros(1, 3, 5)).ratio.isnan() and participation(torch.zeros(1, 3, 5)).features == 0
    copies = participation(attribution(copied_identity(10, depth=4, density=0.2, seeds=[0]))[:, 1:])
    assert copies.ratio.item() == pytest.approx(4, abs=1e-3)


# ---------------------------------------------------------------------------------------------------------- bad input


def test_bad_input():
    trained = untrained(residual(SparseUniform(6, 0.4), Identity(), Shape(8, 2, 5), unembedding="frozen"), SEEDS)
    for sets in ([(0, 0)], [()], [(2,)]):
        with pytest.raises(InputError, match=r"distinct numbers in 0 \.\. 1"):
            decode(trained, sets)
    with pytest.raises(InputError, match=r"distinct units out of 0 \.\. 9"):
        decode(trained, [], parts=[[0, 1], [1]])
    with pytest.raises(InputError, match="own readout is for neurons"):
        decode(trained, [], of="stream", own=True)
    with pytest.raises(InputError, match="one target for each of 6 outputs"):
        decode(trained, [], own=True, targets=lambda setting, constants, x, y: y[:, :2])
    with pytest.raises(InputError, match="threshold"):
        decode(trained, [], threshold=1.0)
    with pytest.raises(InputError, match="size"):
        subsets(3, (4,), 2)
    with pytest.raises(InputError, match="multiple of 3 units"):
        dealt(10, 3)
    with pytest.raises(InputError, match=r"blocks must lie in 0 \.\. 1"):
        ablated(trained, trained.batch(0, 8)[0], [2])
    with pytest.raises(InputError, match="zero, mean or resample"):
        ablated(trained, trained.batch(0, 8)[0], [1], "nothing")
    other = Setting(SparseUniform(6, 0.4), Identity(), Model(TiedAutoencoder, width=2), steps=1, batch=8)
    with pytest.raises(InputError, match="must be a ResidualMLP, got TiedAutoencoder"):
        contributions(untrained(other, SEEDS), torch.zeros(2, 8, 6))
    several = dataclasses.replace(residual(OnePerGroup(40, 2), Memory(4), Shape(8, 2), unembedding="coordinates"))
    with pytest.raises(InputError, match="one fact at a time"):
        attribution(untrained(several, SEEDS))


def test_columns_of_what_layers_hold_jointly_are_what_the_decoder_finds():
    """`held_jointly` says what `decode` does on the same draws; one block alone adds nothing to its union."""
    scattered, single = scattered_uand(**SIZES), single_block_uand(**SIZES)
    found = decode(scattered, subsets(8, [2, 4, 8], 2), beyond=inputs, own=True, batches=2, scored=4)
    curve, columns = by_size(found), held_jointly(scattered, 2, COUNTS)
    for place, size in enumerate(curve.sizes):
        assert torch.equal(columns[f"joint_{size}"], curve.joint[:, place])
        assert torch.equal(columns[f"union_{size}"], curve.union[:, place])
    assert (columns["load"] == 66).all() and (columns["joint_8"] > columns["union_8"]).all()
    one = held_jointly(single, 2, (1, 8))
    assert torch.equal(one["joint_8"], one["union_8"]) and (one["joint_8"] > 0).all()
    beside = jointly_and_alone(single, 1)
    assert (beside["start_joint_8"] < one["joint_8"]).all()  # untrained networks of this shape hold less
    assert (beside["pr_attribution"] < 1.01).all()  # one block takes part in each feature


# --------------------------------------------------------------------------------------- statistics of their columns


def jointly_held(**columns):
    """Two layers that recover 6 of 8 features jointly, one of them 3 and at least one 2; at load 4 they do worse."""
    known = {"joint_1": 3.0, "joint_2": 6.0, "union_2": 2.0, "start_joint_2": 3.0, "start_union_2": 2.0, "input": 2.0}
    more = {"joint_4": np.nan, "pr_zero": 1.5, "null_zero": 2.0, **columns}
    table = pd.DataFrame([{"seed": seed, "load": load, **known, **more} for load in (4.0, 8.0) for seed in (2, 0, 1)])
    return table.assign(joint_2=table["joint_2"] - 3 * (table["load"] == 4))


def test_conditions_are_what_layers_hold_beyond_each_of_their_nulls():
    rows, one = jointly_held(), jointly_held(joint_2=5.0, union_2=4.0)
    assert cross.at_best(rows, 2).index.tolist() == [0, 1, 2] and (cross.at_best(rows, 2)["load"] == 8).all()
    known = {"i": 4 / 8, "ii_untrained": 3 / 8, "ii_one_layer": 3 / 8, "iii": 4 / 6, "iv": 4 / 8}
    found = cross.conditions(rows, 2, one)
    for name, value in known.items():
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((value,) * 3)
    assert list(found) == list(known) and cross.superposed(found) == "supported"
    assert cross.superposed(cross.conditions(rows, 2, jointly_held())) == "rejected"  # parts of one layer hold as much
    assert "ii_one_layer" not in cross.conditions(rows, 2) | cross.conditions(rows, 2, one[one["load"] == 4])
    assert cross.excess(rows, 2, "start_").tolist() == [1] * 6
    with pytest.raises(InputError, match="no column 'joint_3'"):
        cross.excess(rows, 3)
    with pytest.raises(InputError, match="at least one condition"):
        cross.superposed({})


def test_growth_leaves_out_what_is_not_known_and_has_its_exponent():
    top = cross.at_best(jointly_held(), 2)
    assert cross.growth(top, 4).columns.tolist() == [1, 2] and (cross.growth(top, 4)[2] == 6).all()
    assert cross.exponent(top, 4).value == pytest.approx(1) and math.isnan(cross.exponent(top, 4, "start_").value)
    assert cross.divided(top, "zero").value == -0.5 and math.isnan(cross.divided(top, "mean").value)
