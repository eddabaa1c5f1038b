"""Laws of the distributions in toysup.features: moments, purity, stacking, structure, support, refusals."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import ndtr, ndtri, owens_t

from toysup.checks import InputError
from toysup.features import (
    MAGNITUDES,
    BitGroups,
    Correlated,
    ExactlyK,
    Features,
    GaussianCopula,
    Hierarchy,
    OnePerGroup,
    PowerLaw,
    SparseBoolean,
    SparseNormal,
    SparseUniform,
    UnitLength,
)

N = 12
LOADINGS = np.random.default_rng(0).uniform(-0.6, 0.6, size=(N, 2))
PER_FEATURE = np.linspace(0.02, 1, N)

DISTRIBUTIONS: dict[str, Features] = {
    "uniform": SparseUniform(N, 0.1),
    "uniform, per feature": SparseUniform(N, PER_FEATURE),
    "uniform, always active": SparseUniform(N, 1),
    "uniform, signed": SparseUniform(N, 0.1, signed=True),
    "normal": SparseNormal(N, 0.1),
    "half-normal": SparseNormal(N, 0.3, signed=False),
    "normal, always active": SparseNormal(N, 1.0),
    "boolean": SparseBoolean(N, 0.1),
    "boolean, signed, per feature": SparseBoolean(N, list(PER_FEATURE), signed=True),
    "power law": PowerLaw(N, 1.2, 0.1),
    "power law, flat, signed": PowerLaw(N, 0, 1, signed=True),
    "copula": GaussianCopula(N, LOADINGS, 0.2),
    "copula, per feature": GaussianCopula(N, LOADINGS, PER_FEATURE, signed=True),
    "correlated": Correlated(N, 3, 0.2),
    "correlated, always active": Correlated(N, 4, 1, signed=True),
    "anticorrelated": Correlated(N, 3, 0.2, anti=True),
    "anticorrelated, one always": Correlated(N, 3, 1 / 3, anti=True, signed=True),
    "groups of bits": BitGroups(N, 4, 0.3),
    "groups of ones, one at most": BitGroups(N, 3, 0.2, anti=True, signed=False),
    "hierarchy": Hierarchy(N, 2, 0.5, 0.7, n_roots=2),
    "hierarchy, signed": Hierarchy(N, 3, 0.8, 0.5, signed=True),
    "hierarchy, chain": Hierarchy(N, 1, 0.9, 0.9),
    "exactly one": ExactlyK(N),
    "exactly 4": ExactlyK(N, 4, magnitude="uniform"),
    "exactly 4, signed boolean": ExactlyK(N, 4, signed=True),
    "exactly 4, normal": ExactlyK(N, 4, signed=True, magnitude="normal"),
    "exactly all": ExactlyK(N, N),
    "one per group": OnePerGroup(N, 3),
    "one per group, uniform": OnePerGroup(N, 3, magnitude="uniform"),
    "unit length": UnitLength(N, 0.2),
    "unit length, always active": UnitLength(N, 1),
}
everyone = pytest.mark.parametrize("features", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())

TINIEST, LARGEST = float(np.finfo(np.float32).tiny), 1 - 2**-24  # the ends of the open interval in float32


def uniforms(*shape: int, seed: int = 0) -> torch.Tensor:
    """float32 uniforms in the open interval, as fine near 0 as float32 is (torch.rand in float32 is a 2^-24 grid)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).float().clamp(TINIEST, LARGEST)


def sample(features: Features, batch: int, seed: int = 0) -> torch.Tensor:
    return features.transform(uniforms(batch, features.n_uniforms, seed=seed))


def replaced(features: Features, **fields) -> Features:
    """A copy with other fields and no validation, as the engine makes them."""
    clone = copy.copy(features)
    for name, value in fields.items():
        object.__setattr__(clone, name, value)
    return clone


# --- moments ---------------------------------------------------------------------------------------------------------


def moment_errors(features: Features, x: torch.Tensor) -> dict[str, float]:
    """For each moment, the largest |sample - claimed| over features, in units of the tolerance.

    The tolerance is 5 standard errors, from the sample. There are about 27 * 7 * 12 comparisons, so right moments would
    fail one with probability 2e3 * 6e-7 ~ 1e-3, were the seed not fixed. 1e-5 is added for moments without variance,
    which are off by float32 rounding only; it is far below the standard errors, which are about 1e-3.
    """
    x = x.double()
    draws = {
        "mean": x,
        "second_moment": x**2,
        "activity": (x != 0).double(),
        "mean_absolute": x.abs(),
        "positive_second_moment": x**2 * (x > 0),
        "fourth_moment": x**4,
        "expected_active": (x != 0).double().sum(1, keepdim=True),
    }
    errors = {}
    for name, values in draws.items():
        if not hasattr(features, name):  # fourth moments are known where magnitudes do not depend on what is active
            continue
        tolerance = 5 * values.std(0) / len(values) ** 0.5 + 1e-5
        errors[name] = ((values.mean(0) - getattr(features, name)).abs() / tolerance).max().item()
    return errors


@everyone
def test_moments_are_those_of_the_samples(features):
    errors = moment_errors(features, sample(features, 20_000))
    assert max(errors.values()) < 1, errors


@everyone
def test_moments_are_float_tensors_that_broadcast_to_features(features):
    for name in (
        "mean",
        "second_moment",
        "activity",
        "mean_absolute",
        "positive_second_moment",
        "fourth_moment",
        "variance",
    ):
        if name == "fourth_moment" and isinstance(features, UnitLength):
            continue  # has none
        moment = getattr(features, name)
        assert moment.dtype == torch.float32 and moment.expand(N).shape == (N,), name
    assert features.expected_active.shape == ()
    torch.testing.assert_close(features.variance, features.second_moment - features.mean**2)


@pytest.mark.parametrize(
    "name", ["mean", "second_moment", "activity", "mean_absolute", "positive_second_moment", "fourth_moment"]
)
def test_a_wrong_moment_is_noticed(name):
    """Positive control: the check above fails when a claimed moment is 30% off. At density .1 and 20,000 draws a
    standard error is 2% to 3% of the moment, so that is at least 10 of them, of which 5 are tolerated."""
    right = SparseUniform(N, 0.1)
    wrong = type("Wrong", (SparseUniform,), {name: property(lambda self: 1.3 * getattr(right, name))})(N, 0.1)
    errors = moment_errors(wrong, sample(right, 20_000))
    assert errors[name] > 1


def test_defaults_of_the_base_class_suit_non_negative_features():
    @dataclass(frozen=True)
    class Constant(Features):
        def transform(self, uniforms):
            return 2 * torch.ones_like(uniforms)

        activity = property(lambda self: torch.tensor(1.0))
        mean = property(lambda self: torch.tensor(2.0))
        second_moment = property(lambda self: torch.tensor(4.0))

    constant = Constant(3)
    assert (constant.mean_absolute, constant.positive_second_moment, constant.variance) == (2, 4, 0)
    assert constant.n_uniforms == constant.expected_active == 3


@pytest.mark.parametrize("make, least", [(SparseBoolean, 1), (SparseUniform, 9 / 5), (SparseNormal, 3)])
def test_kurtosis_rises_as_density_falls(make, least):
    density = np.array([1.0, 0.5, 0.01])
    kurtosis = make(3, density, signed=True).kurtosis
    assert kurtosis.numpy() == pytest.approx(least / density, rel=1e-6)  # float32


@pytest.mark.parametrize("name", MAGNITUDES)
@pytest.mark.parametrize("signed", [False, True])
def test_magnitude_moments_by_integration(name, signed):
    """Midpoint rule over v in (0, 1) in float64. The worst integrand is the normal's fourth power: the tail beyond
    the last midpoint, 1e-5 of the probability at 4.4, makes it 6e-4 too small; the others are 3 times better."""
    law = MAGNITUDES[name][signed]
    m = law.value((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    assert (m >= 0).all() or signed
    for moment, values in zip(law[1:], [m, m**2, m.abs(), m**2 * (m > 0), m**4], strict=True):
        assert values.mean().item() == pytest.approx(moment, abs=1e-3)


@pytest.mark.parametrize("name", MAGNITUDES)
@pytest.mark.parametrize("signed", [False, True])
def test_magnitudes_are_finite_where_inactive(name, signed):
    """An inactive feature has v = u / p >= 1; inf or NaN there would be hidden by `where`, but not from gradients."""
    assert torch.isfinite(MAGNITUDES[name][signed].value(torch.tensor([TINIEST, LARGEST, 1, 1 + 2**-23, 1e6]))).all()


# --- purity ----------------------------------------------------------------------------------------------------------


@everyone
def test_a_sample_depends_on_its_own_uniforms_only(features):
    u = uniforms(24, features.n_uniforms)
    before = u.clone()
    x = features.transform(u)
    assert torch.equal(u, before) and x.shape == (24, N) and x.dtype == u.dtype
    assert torch.equal(features.transform(u), x)
    # The copula's matrix product may sum in another order for another batch size, hence float tolerance there.
    same = torch.testing.assert_close if isinstance(features, GaussianCopula) else torch.equal
    for other, expected in [
        (torch.cat([features.transform(u[:5]), features.transform(u[5:])]), x),
        (features.transform(u.reshape(2, 3, 4, -1)), x.reshape(2, 3, 4, N)),
        (features.transform(u[0]), x[0]),
        (features.transform(u[:0]), x[:0]),
    ]:
        assert same(other, expected) in (None, True)


@everyone
def test_float64_uniforms_give_float64_samples(features):
    x = features.transform(uniforms(50, features.n_uniforms).double())
    assert x.dtype == torch.float64 and torch.isfinite(x).all()


def test_sparse_uniform_is_the_stated_expression_to_the_bit():
    """A fused kernel computes the same expression; any rearrangement would round differently."""
    u, p = uniforms(1000, N), torch.tensor(PER_FEATURE, dtype=torch.float32)
    assert torch.equal(SparseUniform(N, PER_FEATURE).transform(u), torch.where(u < p, u * (1 / p), 0))
    x = SparseUniform(N, 0.05).transform(u)
    numpy_u, numpy_p = u.numpy(), np.float32(0.05)
    assert np.array_equal(x.numpy(), np.where(numpy_u < numpy_p, numpy_u * (1 / numpy_p), np.float32(0)))


# --- stacking --------------------------------------------------------------------------------------------------------

VARYING = {
    "uniform": (SparseUniform(N), dict(density=torch.tensor([0.01, 0.3, 1.0]))),
    "uniform, per feature": (SparseUniform(N), dict(density=uniforms(3, N, seed=1))),
    "normal": (SparseNormal(N), dict(density=torch.tensor([0.01, 0.3, 1.0]))),
    "boolean": (SparseBoolean(N, signed=True), dict(density=torch.tensor([0.01, 0.3, 1.0]))),
    "power law": (
        PowerLaw(N, 1.0, 0.1),
        dict(exponent=torch.tensor([0, 0.5, 1]), density=torch.tensor([0.2, 0.3, 0.1])),
    ),
    "copula": (GaussianCopula(N, LOADINGS, 0.1), dict(density=torch.tensor([0.01, 0.3, 1.0]))),
    "copula, per feature": (GaussianCopula(N, LOADINGS, 0.1), dict(density=uniforms(3, N, seed=1))),
    "correlated": (Correlated(N, 3, 0.1), dict(density=torch.tensor([0.01, 0.3, 1.0]))),
    "anticorrelated": (Correlated(N, 3, 0.1, anti=True), dict(density=torch.tensor([0.01, 0.1, 1 / 3]))),
    "hierarchy": (
        Hierarchy(N, 2, 0.1, 0.5),
        dict(density=torch.tensor([0.1, 0.9, 1.0]), child_density=torch.tensor([0.5, 0.3, 1.0])),
    ),
    "exactly 4": (ExactlyK(N, 4, magnitude="uniform"), {}),
    "one per group": (OnePerGroup(N, 3), {}),
    "unit length": (UnitLength(N, 0.1), dict(density=torch.tensor([0.01, 0.5, 1.0]))),
}
MOMENTS = (
    "mean",
    "second_moment",
    "activity",
    "mean_absolute",
    "positive_second_moment",
    "fourth_moment",
    "kurtosis",
    "variance",
    "expected_active",
)


def known(features: Features) -> list[str]:
    """The moments that a distribution states: the fourth only where magnitudes do not depend on what is active."""
    return [name for name in MOMENTS if hasattr(type(features), name)]


def samples_and_moments(features: Features, u: torch.Tensor) -> list[torch.Tensor]:
    return [features.transform(u), *(getattr(features, name) for name in known(features))]


@pytest.mark.parametrize("features, fields", VARYING.values(), ids=VARYING.keys())
def test_a_stack_of_instances_equals_each_alone(features, fields):
    """Exact, except where another shape may sum in another order: products with loadings and means over features."""
    u = uniforms(3, 50, features.n_uniforms)
    stacked = torch.func.vmap(lambda one, u: samples_and_moments(replaced(features, **one), u))(fields, u)
    for i in range(3):
        alone = samples_and_moments(replaced(features, **{k: v[i] for k, v in fields.items()}), u[i])
        for name, together, single in zip(("x", *known(features)), stacked, alone, strict=True):
            if isinstance(features, GaussianCopula | PowerLaw | UnitLength) or name == "expected_active":
                torch.testing.assert_close(together[i], single)
            else:
                assert torch.equal(together[i], single), name


@pytest.mark.parametrize("features, fields", VARYING.values(), ids=VARYING.keys())
def test_a_stack_compiles_to_one_graph(features, fields):
    """fullgraph refuses any Python that depends on values; the eager backend keeps this quick."""

    def stack(fields, u):
        return torch.func.vmap(lambda one, u: samples_and_moments(replaced(features, **one), u))(fields, u)

    torch.compiler.reset()  # each case would count as a recompilation of the one before
    u = uniforms(3, 5, features.n_uniforms)
    compiled = torch.compile(stack, fullgraph=True, backend="eager")(fields, u)
    for one, other in zip(compiled, stack(fields, u), strict=True):
        torch.testing.assert_close(one, other)


@everyone
def test_a_number_and_a_tensor_in_a_field_give_the_same(features):
    u = uniforms(50, features.n_uniforms)
    fields = {k: v for k, v in vars(features).items() if isinstance(v, float | np.ndarray)}
    as_tensors = replaced(features, **{k: torch.tensor(v, dtype=torch.float32) for k, v in fields.items()})
    for one, other in zip(samples_and_moments(features, u), samples_and_moments(as_tensors, u), strict=True):
        torch.testing.assert_close(one, other)


def test_whole_numbers_and_lists_become_float_fields():
    """An int field is static to the engine, so density=1 must not stay one; and a caller's array is copied."""
    assert type(SparseUniform(3, 1).density) is float
    assert SparseUniform(3, [1, 1, 1]).density.dtype == np.float64
    mine = np.full(3, 0.5)
    mine.flags.writeable = False  # torch would warn about sharing it
    features = SparseUniform(3, mine)
    assert features.density.flags.writeable and features.activity.tolist() == [0.5] * 3


# --- magnitudes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize(
    "make, law",
    [
        (SparseUniform, stats.uniform(0, 1)),
        (lambda n, p: SparseUniform(n, p, signed=True), stats.uniform(-1, 2)),
        (SparseNormal, stats.norm),
        (lambda n, p: SparseNormal(n, p, signed=False), stats.halfnorm),
        (lambda n, p: GaussianCopula(n, np.zeros((n, 1)), p), stats.uniform(0, 1)),
    ],
    ids=["uniform", "signed uniform", "normal", "half-normal", "copula"],
)
def test_magnitudes_given_active_have_their_law(make, law, density):
    """Kolmogorov-Smirnov at level 1e-4: 15 tests, so a right mapping fails here with probability 1.5e-3 per seed."""
    x = sample(make(20, density), 2000 if density > 0.01 else 60_000, seed=3).numpy().astype(np.float64)
    active = x[x != 0]
    assert len(active) > 1000 and stats.kstest(active[:5000], law.cdf).pvalue > 1e-4


def test_rare_features_have_smooth_magnitudes():
    """u < p keeps the fine end of float32: relative steps of 2^-24, so of 10^3 magnitudes nearly all differ. Taking the
    other end (1 - u < p) would leave a grid of 2^-24 / 1e-3 = 6e-5; that control has some 30 repeats."""
    u = uniforms(60_000, 20, seed=4)
    repeats = []
    for v in (u, 1 - u):
        active = SparseUniform(20, 1e-3).transform(v).ravel()
        active = active[active > 0]
        repeats.append(len(active) - len(active.unique()))
    assert repeats[0] <= 2 and repeats[1] > 10


# --- structure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, k", [(7, 1), (7, 3), (7, 7), (60, 1), (60, 25)])
def test_exactly_k_distinct_features(n, k):
    features = ExactlyK(n, k, signed=True, magnitude="uniform")
    u = uniforms(2000, features.n_uniforms)
    indices, x = features.indices(u), features.transform(u)
    assert indices.shape == (2000, k) and indices.min() >= 0 and indices.max() < n
    assert (indices.sort(-1).values.diff() > 0).all()
    assert ((x != 0).sum(-1) == k).all()
    assert torch.equal(x.gather(-1, indices) != 0, torch.ones_like(indices, dtype=torch.bool))


def test_every_set_of_k_features_is_equally_likely():
    """Chi-square over all 35 sets, and over the 7 features, at level 1e-3 each: 2e-3 false alarms per seed."""
    x = sample(ExactlyK(7, 3), 35_000, seed=5)
    sets = torch.unique(x @ (2.0 ** torch.arange(7)), return_counts=True)[1]
    assert len(sets) == math.comb(7, 3) and stats.chisquare(sets).pvalue > 1e-3
    # Exactly K: counts of features have variance smaller than a multinomial's by (n - K) / (n - 1).
    counts = x.sum(0).double()
    statistic = ((counts - 15_000) ** 2 / 15_000).sum().item() / (4 / 6)
    assert stats.chi2(6).sf(statistic) > 1e-3


def test_exactly_one_is_the_floor():
    u = uniforms(1000, 1)
    assert torch.equal(ExactlyK(N).indices(u), torch.floor(u * N).long())


def test_one_per_group():
    features = OnePerGroup(12, 3)
    u = uniforms(24_000, 3, seed=6)
    indices, x = features.indices(u), features.transform(u)
    assert torch.equal(indices // 4, torch.arange(3).expand(24_000, 3))
    assert torch.equal(x.reshape(-1, 3, 4).sum(-1), torch.ones(24_000, 3))
    assert torch.equal(x.nonzero()[:, 1].reshape(-1, 3), indices)
    # Level 1e-3. Three free multinomials of 4 cells, so 9 degrees of freedom.
    assert stats.chisquare(x.sum(0).double(), ddof=2).pvalue > 1e-3


@pytest.mark.parametrize("n, k", [(100_000, 1), (100_000, 4), (99_999, 3)])
def test_indices_stay_in_their_group_at_the_ends(n, k):
    """Even for a u that a careless generator rounded up to 1. The dense axis is never built."""
    ends = torch.tensor([TINIEST, LARGEST, 1])[:, None].expand(3, k)
    first, last = torch.arange(k) * (n // k), torch.arange(1, k + 1) * (n // k) - 1
    assert torch.equal(OnePerGroup(n, k).indices(ends), torch.stack([first, last, last]))
    assert ExactlyK(n, k).indices(ends).max() == n - 1


def test_groups_of_bits_are_all_or_none_and_then_uniform():
    x = sample(BitGroups(8, 2, 0.5), 40_000).reshape(-1, 4, 2)
    assert torch.equal((x != 0).all(-1), (x != 0).any(-1)) and set(x.unique().tolist()) == {-1, 0, 1}
    on = x[(x != 0).all(-1)]
    counts = ((on > 0).long() @ torch.tensor([2, 1])).bincount(minlength=4)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4  # the false-alarm rate


def test_correlated_groups_are_all_or_none():
    active = (sample(Correlated(12, 3, 0.3), 5000) != 0).reshape(-1, 4, 3)
    assert torch.equal(active.all(-1), active.any(-1))
    assert (active.all(-1).sum(-1) == 1).any() and active.any()  # groups are not all alike


@pytest.mark.parametrize("density", [0.1, 1 / 3])
def test_anticorrelated_groups_have_at_most_one(density):
    count = (sample(Correlated(12, 3, density, anti=True), 5000) != 0).reshape(-1, 4, 3).sum(-1)
    assert count.max() == 1
    if density == 1 / 3:  # one for certain, up to float32 rounding of 1/3 at the very end of (0, 1)
        assert count.min() == 1


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("anti, density", [(False, 0.3), (False, 1.0), (True, 0.3)])
def test_correlated_groups_covary_as_they_say(anti, density, signed):
    """Entries of a sample covariance of 40,000 bounded draws have standard errors below 0.002."""
    features = Correlated(6, 3, density, anti=anti, signed=signed)
    found = sample(features, 40_000, seed=2).double().T.cov()
    assert (found - features.covariance).abs().max() < 0.008
    torch.testing.assert_close(features.covariance.diag(), features.variance.expand(6))
    assert signed or features.covariance[0, 1] * (-1 if anti else 1) > 0.01 or density == 1


@pytest.mark.parametrize("branching, n_roots, n", [(2, 1, 15), (2, 3, 20), (3, 2, 11), (1, 1, 9), (4, 5, 5)])
def test_an_active_child_has_an_active_parent(branching, n_roots, n):
    features = Hierarchy(n, branching, 0.8, 0.7, n_roots=n_roots)
    active = sample(features, 3000) != 0
    depth = [0] * n
    for child in range(n_roots, n):
        parent = (child - n_roots) // branching
        depth[child] = depth[parent] + 1
        assert (active[:, parent] | ~active[:, child]).all()
        # The child follows its parent with probability .7; 5 standard errors.
        followed = active[active[:, parent], child].double()
        assert abs(followed.mean() - 0.7) < 5 * (0.21 / len(followed)) ** 0.5
    torch.testing.assert_close(features.activity, 0.8 * 0.7 ** torch.tensor(depth))


def test_power_law_activities():
    features = PowerLaw(1000, 1.3, 0.002)
    p = features.activity
    torch.testing.assert_close(p / p[0], torch.arange(1, 1001) ** -1.3)
    assert p.mean().item() == pytest.approx(0.002, rel=1e-5)
    assert features.expected_active.item() == pytest.approx(2, rel=1e-5)


def joint_by_owens_t(h: float, k: float, r: float) -> float:
    """P(X < h, Y < k) at correlation r, for h k > 0 (Owen 1956, eq. 2.1): an oracle with no quadrature."""
    s = math.sqrt(1 - r * r)
    return (ndtr(h) + ndtr(k)) / 2 - owens_t(h, (k - r * h) / (h * s)) - owens_t(k, (h - r * k) / (k * s))


def test_copula_pairs_follow_the_bivariate_normal():
    features = GaussianCopula(N, LOADINGS, np.linspace(0.05, 0.4, N))
    active = (sample(features, 50_000, seed=7) != 0).double()
    pairs = [(i, j) for i in range(N) for j in range(i)]
    for i, j in pairs:
        joint = features.joint_activity(i, j)
        h, k = ndtri(features.density[[i, j]])
        assert joint == pytest.approx(joint_by_owens_t(h, k, LOADINGS[i] @ LOADINGS[j]), abs=1e-6)
        both = active[:, i] * active[:, j]
        assert abs(both.mean() - joint) < 5 * (joint / 50_000) ** 0.5  # 5 standard errors, 66 pairs
    excess = [features.joint_activity(i, j) - features.density[i] * features.density[j] for i, j in pairs]
    assert np.array_equal(np.sign(excess), np.sign([LOADINGS[i] @ LOADINGS[j] for i, j in pairs]))


def test_copula_of_density_one_is_always_active():
    """Phi(z) rounds to 1 in float32 from about z = 5.4 on, which uniforms at the upper end reach."""
    features = GaussianCopula(N, LOADINGS, 1)
    assert (features.transform(torch.full((features.n_uniforms,), LARGEST)) > 0).all()


def test_copula_without_loadings_is_sparse_uniform():
    features = GaussianCopula(N, np.zeros((N, 3)), 0.2)
    assert features.n_uniforms == N + 3
    u = uniforms(2000, N + 3)
    x, independent = features.transform(u), SparseUniform(N, 0.2).transform(u[:, 3:])
    # Phi(Phi^-1(u)) is u to float32 rounding, about 1e-6 relative to u; so a draw at the very edge might still flip.
    torch.testing.assert_close(x, independent, rtol=1e-4, atol=1e-5)
    assert features.joint_activity(0, 1) == pytest.approx(0.04, abs=1e-8)
    assert GaussianCopula(N, LOADINGS, 1).joint_activity(0, 1) == pytest.approx(1)


@pytest.mark.parametrize("n, density", [(1, 0.5), (12, 0.1), (1000, 0.01), (300, 1.0)])
def test_samples_of_unit_length_have_unit_length(n, density):
    x, s = (make(n, density).transform(uniforms(500, n)) for make in (UnitLength, SparseUniform))
    empty = (s == 0).all(1)
    torch.testing.assert_close(x.norm(dim=1), (~empty).float())
    torch.testing.assert_close(x * s.norm(dim=1, keepdim=True), s)


def test_the_mean_of_one_feature_of_unit_length_is_its_activity():
    assert UnitLength(1, 0.3).mean.item() == pytest.approx(0.3, rel=1e-6)
    assert UnitLength(1, 0.3).second_moment.item() == pytest.approx(0.3, rel=1e-6)


def test_the_mean_of_two_features_of_unit_length_by_integration():
    """Alone with probability 1 - p, and then 1: E x = p (1 - p) + p^2 E u / sqrt(u^2 + w^2)."""
    inner = integrate.dblquad(lambda u, w: u / math.hypot(u, w), 0, 1, 0, 1)[0]
    assert UnitLength(2, 0.4).mean.item() == pytest.approx(0.4 * 0.6 + 0.16 * inner, rel=1e-5)


# --- support ---------------------------------------------------------------------------------------------------------

open_unit = st.floats(TINIEST, LARGEST, width=32)
extremes = st.sampled_from([TINIEST, 2.0**-33, 2.0**-24, 0.5, 1 - 2.0**-23, LARGEST])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(DISTRIBUTIONS.values())), st.data())
def test_samples_stay_in_their_support(features, data):
    """Finite for every u in the open interval, within the magnitude's range, and never negative unless signed."""
    drawn = data.draw(st.lists(open_unit | extremes, min_size=features.n_uniforms, max_size=features.n_uniforms))
    x = features.transform(torch.tensor(drawn))
    assert x.shape == (N,) and torch.isfinite(x).all()
    assert getattr(features, "signed", False) or (x >= 0).all()
    magnitude = getattr(features, "magnitude", "uniform")
    if magnitude == "uniform":
        assert x.abs().max() <= 1
    if magnitude == "boolean":
        assert set(x.abs().tolist()) <= {0.0, 1.0}


@settings(max_examples=150, deadline=None)
@given(
    open_unit | extremes, st.floats(2**-20, 1, width=32), st.sampled_from([SparseUniform, SparseNormal, SparseBoolean])
)
def test_a_feature_is_active_exactly_below_its_density(u, density, make):
    """Inactive is exactly 0; active never is."""
    x = make(1, density, signed=False).transform(torch.tensor([u])).item()
    if np.float32(u) < np.float32(density):
        assert x > 0
    else:
        assert x == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data())
def test_any_exactly_k_is_k_distinct_features(n, data):
    k = data.draw(st.integers(1, n))
    drawn = data.draw(st.lists(open_unit | extremes, min_size=k, max_size=k))
    x = ExactlyK(n, k).transform(torch.tensor(drawn))
    assert x.shape == (n,) and x.sum() == k


# --- refusals --------------------------------------------------------------------------------------------------------

REFUSED = {
    "n_features must be a whole number >= 1, got 2.5": lambda: SparseUniform(2.5),
    "n_features must be a whole number >= 1, got 0": lambda: ExactlyK(0),
    "n_features must be a whole number >= 1, got True": lambda: OnePerGroup(True),
    "SparseUniform: density must lie in (0, 1], got 1.5": lambda: SparseUniform(4, 1.5),
    "SparseUniform: density must lie in (0, 1], got 0": lambda: SparseUniform(4, 0),
    "SparseNormal: density must lie in (0, 1], got nan": lambda: SparseNormal(4, math.nan),
    "SparseBoolean: density must lie in (0, 1], got -0.1": lambda: SparseBoolean(2, [0.5, -0.1]),
    "SparseBoolean: density must lie in (0, 1], got 2": lambda: SparseBoolean(2, torch.tensor(2.0)),
    "SparseUniform: density has 3 entries, expected one number or 4": lambda: SparseUniform(4, [0.1, 0.2, 0.3]),
    "SparseUniform: density has shape (2, 4), expected one number or 4": lambda: SparseUniform(4, np.full((2, 4), 0.1)),
    "SparseUniform: density must be a number or an array of numbers, got 'rare'": lambda: SparseUniform(4, "rare"),
    "SparseUniform: signed must be True or False, got 'yes'": lambda: SparseUniform(4, signed="yes"),
    "PowerLaw: exponent must lie in [0, inf], got -1": lambda: PowerLaw(4, -1, 0.1),
    "PowerLaw: exponent has shape (4,), expected one number": lambda: PowerLaw(4, [1.0] * 4, 0.1),
    "PowerLaw: density has shape (4,), expected one number": lambda: PowerLaw(4, 1, [0.1] * 4),
    "PowerLaw: the largest activity, p_1, must lie in [0, 1], got 1.92": lambda: PowerLaw(4, 1, 1),
    "GaussianCopula: density must lie in (0, 1], got 3": lambda: GaussianCopula(4, np.zeros((4, 1)), 3),
    "GaussianCopula: loadings have shape (4,), expected (4, rank >= 1)": lambda: GaussianCopula(4, [0.1] * 4, 0.1),
    "GaussianCopula: loadings have shape (3, 2), expected (4, ra": lambda: GaussianCopula(4, np.zeros((3, 2)), 0.1),
    "1 - |a_i|^2, a the loadings, must lie in (0, 1], got 0": lambda: GaussianCopula(2, [[1.0], [0.5]], 0.1),
    "Correlated: group_size must divide n_features = 4, got 3": lambda: Correlated(4, 3, 0.1),
    "Correlated: group_size must be a whole number >= 1, got 0": lambda: Correlated(4, 0, 0.1),
    "Correlated: density must lie in (0, 0.5], got 0.6": lambda: Correlated(4, 2, 0.6, anti=True),
    "Correlated: density has shape (4,), expected one number": lambda: Correlated(4, 2, [0.1] * 4),
    "Correlated: anti must be True or False, got 1": lambda: Correlated(4, 2, 0.1, anti=1),
    "Hierarchy: branching must be a whole number >= 1, got 0": lambda: Hierarchy(4, 0, 0.5, 0.5),
    "Hierarchy: child_density must lie in (0, 1], got 1.1": lambda: Hierarchy(4, 2, 0.5, 1.1),
    "Hierarchy: density must lie in (0, 1], got 0": lambda: Hierarchy(4, 2, 0.0, 0.5),
    "Hierarchy: n_roots must lie in [1, 4], got 5": lambda: Hierarchy(4, 2, 0.5, 0.5, n_roots=5),
    "ExactlyK: n_active must lie in [1, 4], got 5": lambda: ExactlyK(4, 5),
    "ExactlyK: n_active must be a whole number >= 1, got 0": lambda: ExactlyK(4, 0),
    "ExactlyK: magnitude must be one of uniform, boolean, normal, got 'loud'": lambda: ExactlyK(4, magnitude="loud"),
    "OnePerGroup: n_active must divide n_features = 10, got 3": lambda: OnePerGroup(10, 3),
    "SparseUniform: uniforms have 1 entries, expected n_uniforms = 4": lambda: sample_of_width(SparseUniform(4), 1),
    "Correlated: uniforms have 4 entries, expected n_uniforms = 6": lambda: sample_of_width(Correlated(4, 2, 0.1), 4),
    "ExactlyK: uniforms have 2 entries, expected n_uniforms = 4": lambda: sample_of_width(ExactlyK(4, 2, True), 2),
    "UnitLength: density must lie in (0, 1], got 0": lambda: UnitLength(4, 0),
    "UnitLength: density has shape (4,), expected one number": lambda: UnitLength(4, [0.1] * 4),
    "UnitLength: uniforms have 1 entries, expected n_uniforms = 4": lambda: sample_of_width(UnitLength(4, 0.1), 1),
    "OnePerGroup: uniforms have 1 entries, expected n_uniforms = 2": lambda: OnePerGroup(4, 2).indices(uniforms(3, 1)),
}


def sample_of_width(features: Features, width: int) -> torch.Tensor:
    return features.transform(uniforms(3, width))


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_in_one_line(message):
    with pytest.raises(InputError) as refusal:
        REFUSED[message]()
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
