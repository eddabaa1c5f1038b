"""Tasks: closed-form trivial losses against sampling and least squares, losses against direct formulas, constants."""

import math

import numpy as np
import oracles
import pytest
import torch
from scipy import stats
from torch.func import vmap

from toysup.checks import InputError
from toysup.ensemble import Stack, task_constants, train
from toysup.features import (
    BitGroups,
    ExactlyK,
    GaussianCopula,
    OnePerGroup,
    PowerLaw,
    SparseBoolean,
    SparseNormal,
    SparseUniform,
)
from toysup.models import MLP
from toysup.random import Stream, uniforms
from toysup.setting import Adam, Cosine, Model, Setting, bind
from toysup.tasks import AbsoluteValue, And, Circuit, Identity, Memory, SumOfSquares, XPlusRelu

N = 5
SAMPLES = 100_000
IMPORTANCE = np.array([1.0, 0.2, 3.0, 0.7, 0.05])

FEATURES = {  # independent ones: "linear" assumes that
    "uniform": SparseUniform(N, 0.2),
    "uniform, signed": SparseUniform(N, 0.3, signed=True),
    "uniform, per feature": SparseUniform(N, [0.05, 0.2, 0.5, 0.9, 1.0]),
    "normal": SparseNormal(N, 0.4),
    "half-normal": SparseNormal(N, 0.4, signed=False),
    "boolean": SparseBoolean(N, 0.3),
    "power law": PowerLaw(N, 1.0, 0.2),
}
TASKS = {
    "identity": Identity(IMPORTANCE),
    "absolute value": AbsoluteValue(IMPORTANCE),
    "x + relu": XPlusRelu(IMPORTANCE),
    "and": And(IMPORTANCE, n_pairs=N),
}


def constants_of(task, features, seed=0):
    wanted = task.constant_uniforms(features)
    return task.constants(features, uniforms(seed, 0, wanted, 1, stream=Stream.TASK)[0, :, 0]) if wanted else {}


def sample(task, features, constants, size=SAMPLES):
    """(x, y) as float64 arrays."""
    x, y = task.batch(features, constants, uniforms(1, 0, size, features.n_uniforms)[0])
    return x.double().numpy(), y.double().numpy()


def agrees(losses, expected):
    """Within 5 standard errors of the sample mean: a false alarm in 2e6. The rest is float32 rounding of a sum."""
    error = losses.std() / len(losses) ** 0.5
    return abs(losses.mean() - float(expected)) < 5 * error + 1e-6 * abs(losses.mean())


# ------------------------------------------------------------------------------------------------- trivial predictors


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_trivial_losses_are_those_of_the_predictors(task, features):
    constants = constants_of(task, features)
    x, y = sample(task, features, constants)
    stated = task.trivial_losses(features, constants)
    zero, constant = (IMPORTANCE * y**2).sum(1), (IMPORTANCE * (y - y.mean(0)) ** 2).sum(1)
    linear = oracles.reduced_rank_losses(x, y, IMPORTANCE)
    assert agrees(zero, stated["zero"])
    assert agrees(constant, stated["constant"])
    if linear.mean() < 1e-10:  # y = x exactly
        assert abs(float(stated["linear"])) < 1e-5
    else:
        assert agrees(linear, stated["linear"])
    assert stated["zero"] >= stated["constant"] >= stated["linear"] >= -1e-6
    if constant.mean() < 0.9 * zero.mean():  # positive control: the test tells the predictors apart
        assert not agrees(zero, stated["constant"]) and not agrees(constant, stated["zero"])


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("width", [1, 3])
def test_linear_through_a_bottleneck_is_reduced_rank_regression(task, features, width):
    constants = constants_of(task, features)
    x, y = sample(task, features, constants)
    stated = task.trivial_losses(features, constants, width)
    # The predictor fitted to the sample is better on it than the best one, by about its parameters / SAMPLES, 1e-4.
    fitted = oracles.reduced_rank_losses(x, y, IMPORTANCE, width)
    assert agrees(fitted, stated["linear"])
    assert stated["linear"] >= task.trivial_losses(features, constants)["linear"] - 1e-6


@pytest.mark.parametrize("width", range(N + 3))
def test_the_linear_identity_is_principal_components(width):
    features = FEATURES["uniform, per feature"]
    p = np.asarray(features.density)
    variances = np.sort(IMPORTANCE * (p / 3 - p**2 / 4))  # weighted eigenvalues
    stated = Identity(IMPORTANCE).trivial_losses(features, {}, width)["linear"]
    left = variances[: max(0, N - width)].sum()
    assert float(stated) == pytest.approx(left, abs=1e-6)  # float32 sum of five numbers of order 0.1


def test_pairs_that_share_a_feature_share_a_dimension():
    """AND of x_0 with each other feature: one direction, x_0 itself, carries a large part of all four outputs."""
    features, task = SparseBoolean(5, 0.3), And(n_pairs=4)
    constants = {"first": torch.zeros(4, dtype=torch.long), "second": torch.arange(1, 5)}
    p, q = 0.3, 0.3 * 0.7
    stated = {w: float(task.trivial_losses(features, constants, w)["linear"]) for w in (0, 1, 2, 4, 5, None)}
    constant = 4 * (p**2 - p**4)
    # The fit is p (x_0 1 + x_others): eigenvalues p^2 q (4 + 1), then p^2 q three times.
    kept = {0: 0, 1: 5, 2: 6, 4: 8, 5: 8, None: 8}
    for width, directions in kept.items():
        assert stated[width] == pytest.approx(constant - p**2 * q * directions, abs=1e-6)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_baseline_is_the_variance_of_the_target(task, features):
    constants = constants_of(task, features)
    _, y = sample(task, features, constants)
    stated = task.baseline(features, constants)
    assert stated.shape == (task.n_outputs(features),)
    errors = task.errors(torch.from_numpy(np.broadcast_to(y.mean(0), y.shape).copy()), torch.from_numpy(y)).numpy()
    for k, expected in enumerate(stated):
        assert agrees(errors[:, k], expected)


def test_no_linear_map_helps_with_the_absolute_value_of_symmetric_features():
    stated = AbsoluteValue().trivial_losses(SparseUniform(N, 0.3, signed=True), {})
    assert stated["linear"] == stated["constant"] < stated["zero"]


def test_trivial_losses_work_inside_vmap():
    """As measures call them, with fields that differ by instance."""
    densities = torch.tensor([0.1, 0.3, 0.9])
    constants = vmap(lambda u: And(n_pairs=4).constants(SparseBoolean(N, 0.5), u))(torch.rand(3, 10))

    def stated(density, constants, width):
        return And(n_pairs=4).trivial_losses(bind(SparseBoolean(N, 0.5), {"density": density}), constants, width)

    for width in (None, 2):
        together = vmap(lambda d, c, width=width: stated(d, c, width))(densities, constants)
        for i, density in enumerate(densities):
            alone = stated(density, {name: value[i] for name, value in constants.items()}, width)
            for name, value in alone.items():  # float32 sums of ten numbers, in an order that vmap may change
                assert torch.allclose(together[name][i], value, rtol=1e-5, atol=1e-7)


# --------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("exponent", [2, 4, 2.0, 4.0, 1.5, 3.0, 2.7])
def test_the_loss_is_the_direct_formula(exponent):
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 64, N))
    target[:, 0] = output[:, 0]  # an exact hit is 0, not NaN
    expected = (IMPORTANCE * np.abs(output - target) ** exponent).sum(1).mean()
    task, output, target = Identity(IMPORTANCE, exponent), torch.from_numpy(output), torch.from_numpy(target)
    assert task.loss(output, target).item() == pytest.approx(expected, rel=1e-12)  # float64 throughout
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(output, target), output)
    assert torch.all(gradient[:, 0] == 0) and gradient.isfinite().all()
    difference = (output - target).detach().numpy()
    slope = IMPORTANCE * exponent * np.abs(difference) ** (exponent - 1) * np.sign(difference) / 64
    assert gradient.numpy() == pytest.approx(slope, rel=1e-12)


def test_exponents_and_importances_that_differ_by_instance():
    exponents, importances = torch.tensor([2.0, 4.0, 1.5, 2.7]), torch.rand(4, N)
    output, target = torch.randn(2, 4, 64, N)

    def one(exponent, importance, output, target):
        return bind(Identity(), {"exponent": exponent, "importance": importance}).loss(output, target)

    together = vmap(one)(exponents, importances, output, target)
    for i in range(4):
        difference = (output[i] - target[i]).double().abs()
        expected = (importances[i] * difference ** exponents[i].double()).sum(-1).mean()
        # A float32 power is good to about its exponent times 1e-7; the mean over 320 terms adds as much.
        assert together[i].item() == pytest.approx(expected.item(), rel=3e-6)


@pytest.mark.parametrize("exponent", [4, 2.5, torch.tensor(4.0)])
def test_trivial_losses_are_not_stated_for_other_exponents(exponent):
    """Nor where the exponent differs by instance, which only its value at run time could tell."""
    assert bind(Identity(), {"exponent": exponent}).trivial_losses(SparseUniform(N, 0.2), {}) == {}


def test_importance_scales_its_own_feature_only():
    output, target = torch.randn(2, 32, N)
    whole = Identity().loss(output, target)
    parts = [Identity([float(i == k) for i in range(N)]).loss(output, target) for k in range(N)]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)  # float32 sums in another order
    assert Identity(2.5).loss(output, target).item() == pytest.approx(2.5 * whole.item(), rel=1e-6)
    assert parts[0].item() == pytest.approx((output - target)[:, 0].square().mean().item(), rel=1e-6)


def test_targets():
    x = torch.tensor([[-0.5, 0.0, 2.0]])
    assert torch.equal(Identity().target(x, {}), x)
    assert torch.equal(AbsoluteValue().target(x, {}), torch.tensor([[0.5, 0.0, 2.0]]))
    assert torch.equal(XPlusRelu().target(x, {}), torch.tensor([[-0.5, 0.0, 4.0]]))
    constants = {"first": torch.tensor([0, 0]), "second": torch.tensor([1, 2])}
    assert torch.equal(And(n_pairs=2).target(x, constants), torch.tensor([[-0.0, -1.0]]))
    bits = SparseBoolean(2, 0.5).transform(uniforms(0, 0, 100, 2)[0])
    both = And().target(bits, {"first": torch.tensor([0]), "second": torch.tensor([1])})
    assert torch.equal(both[:, 0].bool(), bits[:, 0].bool() & bits[:, 1].bool())


# ---------------------------------------------------------------------------------------------------------------- AND


@pytest.mark.parametrize("n, n_pairs", [(2, 1), (5, 10), (9, 4), (30, 100)])
def test_pairs_are_distinct_and_of_distinct_features(n, n_pairs):
    task, features = And(n_pairs=n_pairs), SparseBoolean(n, 0.5)
    for seed in range(20):
        constants = constants_of(task, features, seed)
        pairs = list(zip(constants["first"].tolist(), constants["second"].tolist(), strict=True))
        assert len(set(pairs)) == n_pairs and all(0 <= i < j < n for i, j in pairs)


def test_every_pair_is_equally_likely_and_seeds_differ():
    task = And(n_pairs=2)
    setting = Setting(SparseBoolean(N, 0.5), task, Model(MLP, width=2))
    drawn = task_constants(Stack.of(setting, range(4000)))
    cells = (drawn["first"] * N + drawn["second"]).flatten().bincount(minlength=N * N)
    # Two of ten pairs without replacement vary less than 8000 independent ones: a conservative false-alarm rate 1e-4.
    assert stats.chisquare(cells[cells > 0].numpy()).pvalue > 1e-4 and (cells > 0).sum() == 10


# ----------------------------------------------------------------------------------------------------- sum of squares


@pytest.mark.parametrize(
    "features",
    [
        SparseBoolean(N, 0.3, signed=True),
        SparseUniform(N, [0.1, 0.2, 0.5, 0.9, 1.0], signed=True),
        SparseNormal(N, 0.4),
        PowerLaw(N, 1.0, 0.2, signed=True),
    ],
    ids=lambda features: type(features).__name__,
)
def test_a_sum_of_squares_and_its_trivial_losses(features):
    task = SumOfSquares(IMPORTANCE)
    x, y = sample(task, features, {})
    assert y.shape == (SAMPLES, 1) and y[:, 0] == pytest.approx((IMPORTANCE * x**2).sum(1), rel=1e-5)  # float32
    for i in range(N):  # unit second moment, whatever the density
        assert agrees(x[:, i] ** 2, 1.0)
    stated = task.trivial_losses(features, {})
    constant = ((y - y.mean()) ** 2)[:, 0]
    assert agrees((y**2)[:, 0], stated["zero"]) and agrees(constant, stated["constant"])
    assert agrees(oracles.reduced_rank_losses(x, y, np.ones(1)), stated["linear"])
    assert not agrees((y**2)[:, 0], stated["constant"])
    baseline = task.baseline(features, {})
    assert baseline.shape == (1,) and torch.equal(baseline[0], stated["constant"])
    assert (task.n_outputs(features), float(task.features_per_score(features))) == (1, N)
    output = torch.randn(SAMPLES, 1)
    errors = task.errors(output, torch.from_numpy(y))
    assert errors.mean().item() == pytest.approx(task.loss(output, torch.from_numpy(y)).item(), rel=1e-6)
    assert errors.numpy() == pytest.approx((output.numpy() - y) ** 2)


# ------------------------------------------------------------------------------------------------------------- memory


def test_labels_are_uniform_and_belong_to_an_instance():
    setting = Setting(OnePerGroup(60, 3), Memory(5), Model(MLP, width=2))
    labels = task_constants(Stack.of(setting, range(500)))["labels"]
    assert labels.shape == (500, 60) and labels.dtype == torch.int64
    counts = labels.flatten().bincount(minlength=5)
    assert len(counts) == 5 and stats.chisquare(counts.numpy()).pvalue > 1e-4  # the false-alarm rate
    by_place = torch.nn.functional.one_hot(labels, 5).sum(0)  # place label
    assert stats.chisquare(by_place.numpy(), axis=1).pvalue.min() > 1e-4 / 60
    assert len({tuple(row.tolist()) for row in labels}) == 500
    again = task_constants(Stack.of(setting, [7, 3]))["labels"]
    assert torch.equal(again, labels[[7, 3]])


def test_labels_at_the_ends_of_the_uniforms():
    draws = torch.tensor([2.0**-32, 1 - 2.0**-24])
    assert Memory(1000).constants(OnePerGroup(2), draws)["labels"].tolist() == [0, 999]


def test_memory_names_the_labels_of_the_active_keys():
    features, task = OnePerGroup(12, 3), Memory(4)
    constants = constants_of(task, features)
    draws = uniforms(0, 0, 50, features.n_uniforms)[0]
    active, labels = task.batch(features, constants, draws)
    assert torch.equal(active, features.indices(draws)) and torch.equal(labels, constants["labels"][active])
    assert (task.n_inputs(features), task.n_outputs(features), task.features_per_score(features)) == (12, 12, 4)


def test_memory_losses():
    features, task = OnePerGroup(12, 3), Memory(4)
    rng = np.random.default_rng(0)
    output, target = 5 * rng.normal(size=(64, 12)), rng.integers(0, 4, (64, 3))
    expected = oracles.cross_entropies(output.reshape(64, 3, 4), target)
    output, target = torch.from_numpy(output), torch.from_numpy(target)
    assert task.errors(output, target).numpy() == pytest.approx(expected, rel=1e-12, abs=1e-14)  # float64
    assert task.loss(output, target).item() == pytest.approx(expected.sum(1).mean(), rel=1e-12)
    hits = output.reshape(64, 3, 4).numpy().argmax(-1) == target.numpy()
    assert Identity().hits(output, target) is None  # numbers
    assert np.array_equal(task.hits(output, target).numpy(), hits) and 0 < hits.mean() < 1
    zero = task.errors(torch.zeros(64, 12), target)
    baseline = task.baseline(features, {})
    assert baseline.tolist() == pytest.approx([math.log(4)] * 3)
    assert torch.allclose(zero, baseline)  # the float32 logarithm of 4
    stated = task.trivial_losses(features, {})
    assert stated["zero"].item() == pytest.approx(task.loss(torch.zeros(64, 12), target).item(), rel=1e-6)
    perfect = torch.nn.functional.one_hot(target, 4).flatten(1) * 50.0
    assert task.loss(perfect, target).item() < 1e-12 and task.hits(perfect, target).all()


# ----------------------------------------------------------------------------------------------------------- circuits

AND, OR, XOR = range(3)


def circuit(*rows):
    """Constants from the kinds of each circuit's gates, in the order of `gates`."""
    return {"kinds": torch.tensor(rows)}


def test_gates_by_hand():
    task = Circuit(depth=2)
    x = torch.tensor([[1.0, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1], [0, 0, 0, 0]])
    told = {  # gates over (x0, x1), over (x2, x3), and of those two
        (AND, OR, XOR): [[1, 1, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]],
        (XOR, AND, OR): [[0, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0]],
        (OR, XOR, AND): [[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]],
    }
    for kinds, expected in told.items():
        gates = task.gates(x, circuit(kinds))
        assert torch.equal(gates[:, 0], torch.tensor(expected).float())
        assert torch.equal(task.target(x, circuit(kinds)), gates[..., -1])
    both = task.gates(x.repeat(1, 2), circuit(*list(told)[:2]))  # each circuit reads its own bits
    assert both.shape == (4, 2, 3) and both[1].tolist() == [told[AND, OR, XOR][1], told[XOR, AND, OR][1]]
    assert (task.gates_per_circuit, Circuit(depth=3).gates_per_circuit) == (3, 7)


def test_chances_and_pure_gates_by_hand():
    chances, slopes = Circuit(depth=2).expected(circuit((AND, OR, XOR), (XOR, XOR, AND), (XOR, AND, AND)))
    assert chances.tolist() == [[0.25, 0.75, 0.25 + 0.75 - 2 * 0.25 * 0.75], [0.5, 0.5, 0.25], [0.5, 0.25, 0.125]]
    assert slopes[0, :2].tolist() == [[0.25, 0.25, 0, 0], [0, 0, 0.25, 0.25]]
    assert slopes[0, 2].tolist() == [-0.125, -0.125, 0.125, 0.125]  # (1 - 2 P_b) s_a
    pure = Circuit(depth=2).pure(circuit((AND, OR, XOR), (XOR, XOR, AND), (XOR, AND, AND), (XOR, AND, XOR)))
    assert pure.tolist() == [[False] * 3, [True] * 3, [True, False, False], [True, False, True]]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_gate_has_its_moments(depth):
    """Chance, variance and best affine fit, for all gates of all circuits; and the root's are the task's."""
    features, task = BitGroups(3 * 2**depth, 2**depth, 0.4), Circuit(depth=depth)
    constants = constants_of(task, features, seed=depth)
    x, _ = sample(task, features, constants)
    gates = task.gates(torch.from_numpy(x), constants).numpy()
    chances, slopes = (t.numpy() for t in task.expected(constants))
    pure, variance = task.pure(constants).numpy(), 0.4 * chances * (1 - 0.4 * chances)
    assert gates.shape[1:] == (3, task.gates_per_circuit) == variance.shape == pure.shape
    for c in range(3):
        for g in range(task.gates_per_circuit):
            gate = gates[:, c, g]
            assert agrees(gate, 0.4 * chances[c, g]) and agrees((gate - gate.mean()) ** 2, variance[c, g])
            left = oracles.reduced_rank_losses(x, gate[:, None], np.ones(1))
            gain = 0.4 * (slopes[c, g] ** 2).sum()
            assert agrees(left, variance[c, g] - gain)
            # what a fit of 24 noise inputs takes off by chance is 24 / SAMPLES of the variance
            assert pure[c, g] == (left.mean() > (1 - 1e-3) * gate.var())
    mean, second, gain = (t.numpy() for t in task.target_moments(features, constants))
    assert mean == pytest.approx(0.4 * chances[:, -1]) and np.array_equal(mean, second)
    assert gain == pytest.approx(0.4 * (slopes[:, -1] ** 2).sum(-1))


@pytest.mark.parametrize("width", [None, 1, 2])
def test_trivial_losses_of_circuits(width):
    importance = np.array([1.0, 0.3, 2.0])
    features, task = BitGroups(12, 4, 0.3), Circuit(importance)
    constants = circuit((AND, OR, AND), (OR, OR, OR), (AND, XOR, OR))
    x, y = sample(task, features, constants)
    stated = task.trivial_losses(features, constants, width)
    assert agrees((importance * y**2).sum(1), stated["zero"])
    assert agrees((importance * (y - y.mean(0)) ** 2).sum(1), stated["constant"])
    assert agrees(oracles.reduced_rank_losses(x, y, importance, width), stated["linear"])
    assert stated["constant"] > 1.05 * stated["linear"]  # so that the line above could have failed


def test_kinds_of_gates_are_equally_likely_and_an_instances_own():
    setting = Setting(BitGroups(8, 4, 0.5), Circuit(), Model(MLP, width=2))
    kinds = task_constants(Stack.of(setting, range(2000)))["kinds"]
    assert kinds.shape == (2000, 2, 3) and kinds.dtype == torch.int64
    assert stats.chisquare(kinds.flatten().bincount(minlength=3).numpy()).pvalue > 1e-4  # the false-alarm rate
    assert torch.equal(task_constants(Stack.of(setting, [7, 3]))["kinds"], kinds[[7, 3]])
    ends = Circuit().constants(BitGroups(4, 4, 0.1), torch.tensor([2.0**-32, 0.5, 1 - 2.0**-24]))
    assert ends["kinds"].tolist() == [[AND, OR, XOR]]


def test_the_general_engine_learns_a_circuit():
    """Four circuits, plenty of neurons: far below what any affine map reaches."""
    features = BitGroups(8, 2, 0.25)
    setting = Setting(features, Circuit(depth=1), Model(MLP, width=32, relu=False), Adam(0.01, schedule=Cosine()), 400,
                      128)  # fmt: skip
    trained = train(Stack.of(setting, range(3)), device="cpu", compile=False)
    assert trained.engine == "general, eager"
    stated = trained.per_instance(lambda s, constants: s.task.trivial_losses(s.features, constants)["linear"])
    assert (trained.history[:, -1] < 0.2 * stated).all()


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: Identity(-1), ["Identity", "importance", "-1"]),
        (lambda: Identity([1.0, float("nan")]), ["Identity", "importance", "nan"]),
        (lambda: Identity("much"), ["much"]),
        (lambda: Identity(exponent=1), ["Identity", "exponent", "(1"]),
        (lambda: AbsoluteValue(exponent=0.5), ["AbsoluteValue", "exponent", "0.5"]),
        (lambda: Identity([1.0, 2.0, 3.0]).check(SparseUniform(N)), ["Identity", "importance", "3", "5"]),
        (lambda: And(np.ones(N), n_pairs=3).check(SparseUniform(N)), ["And", "importance", "5", "3"]),
        (lambda: And(n_pairs=0), ["And", "n_pairs", "0"]),
        (lambda: And(n_pairs=2.0), ["And", "n_pairs", "2.0"]),
        (lambda: And(n_pairs=11).check(SparseUniform(N)), ["And", "n_pairs", "10", "11"]),
        (lambda: SumOfSquares(-1), ["SumOfSquares", "importance", "-1"]),
        (lambda: SumOfSquares([1.0, 2.0]).check(SparseNormal(N)), ["SumOfSquares", "importance", "2", "5"]),
        (lambda: SumOfSquares().check(SparseBoolean(N, 0.5)), ["SumOfSquares", "signed", "0.5"]),
        (lambda: SumOfSquares().check(ExactlyK(N, signed=True)), ["SumOfSquares", "independent", "ExactlyK"]),
        (lambda: SumOfSquares().check(GaussianCopula(N, np.ones((N, 1)) / 2, 0.5, signed=True)), ["GaussianCopula"]),
        (lambda: Circuit(depth=0), ["Circuit", "depth", "0"]),
        (lambda: Circuit(-1), ["Circuit", "importance", "-1"]),
        (lambda: Circuit(depth=2).check(BitGroups(8, 2, 0.1)), ["Circuit", "group_size", "4"]),
        (lambda: Circuit().check(BitGroups(8, 4, 0.1, signed=False)), ["Circuit", "signed", "False"]),
        (lambda: Circuit().check(BitGroups(8, 4, 0.1, anti=True)), ["Circuit", "anti", "True"]),
        (lambda: Circuit().check(SparseBoolean(8, 0.1)), ["Circuit", "BitGroups", "SparseBoolean"]),
        (lambda: Circuit([1.0, 2.0]).check(BitGroups(12, 4, 0.1)), ["Circuit", "importance", "2", "3"]),
        (lambda: Memory(1), ["Memory", "n_labels", "1"]),
        (lambda: Memory().check(SparseUniform(N)), ["Memory", "OnePerGroup", "SparseUniform"]),
        (lambda: Setting(SparseUniform(N), Memory(), Model(MLP, width=2)), ["Memory", "OnePerGroup"]),
    ],
)
def test_bad_input_is_refused_in_one_line(make, names):
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in names), message
