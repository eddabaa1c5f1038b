"""Attacks against closed forms, and against every extreme point of every linear region of small networks."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toysup.attacks import Ascent, ball_maximum
from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, task_constants
from toysup.features import SparseUniform
from toysup.measure import attack_radius, vulnerability
from toysup.models import TiedAutoencoder, UntiedAutoencoder
from toysup.setting import Model, Setting
from toysup.tasks import AbsoluteValue, Identity

ATTACKERS = ("feature", "shared", "regions", "gradient", "random")


def harm_of(attacker="strongest", **options):
    """One column of `vulnerability`, by its name."""
    column = f"vulnerability_{attacker}{'_moving' if options.get('moves') else ''}"
    measure = vulnerability(attacker, **options)
    return lambda trained: measure(trained)[column]


def network(W, b, density=0.5, seeds=(0,), task=None, relu=True):
    """A `Trained` with weights set by hand, the same for all instances."""
    W, b = torch.as_tensor(W, dtype=torch.float32), torch.as_tensor(b, dtype=torch.float32)
    n, m = W.shape
    model = Model(TiedAutoencoder, width=m, relu=relu)
    stack = Stack.of(Setting(SparseUniform(n, density), task or Identity(), model), list(seeds))
    parameters = {"W": W.expand(len(stack), n, m).contiguous(), "b": b.expand(len(stack), n).contiguous()}
    history, never = torch.zeros(len(stack), 1), torch.full((len(stack),), -1)
    return Trained(stack, parameters, {}, task_constants(stack), history, never, {}, "by hand")


def spheres(A, g, radius):
    """All stationary points of v^T A v + 2 g^T v on |v| = radius, hard case included: (l - A) v = g."""
    values, vectors = np.linalg.eigh(A)
    h = vectors.T @ g
    points = []
    polynomial = np.array([-(radius**2)])
    for a in values:  # sum_k h_k^2 / (l - a_k)^2 = radius^2, times all denominators
        polynomial = np.polymul(polynomial, np.poly([a, a]))
    for k, weight in enumerate(h):
        others = [a for j, a in enumerate(values) if j != k for _ in range(2)]
        polynomial = np.polyadd(polynomial, weight**2 * np.atleast_1d(np.poly(others)))
    for root in np.roots(polynomial):
        gap = root.real - values
        if np.abs(gap).min() > 1e-9:
            v = vectors @ (h / gap)
            if abs(np.linalg.norm(v) / radius - 1) < 0.1:  # what a multiple root costs in accuracy is made good
                points.append(v * radius / np.linalg.norm(v))
    for k, a in enumerate(values):
        apart = np.abs(a - values) > 1e-9
        rest = np.divide(h, a - values, out=np.zeros_like(h), where=apart)
        left = radius**2 - rest @ rest
        if np.abs(h[~apart]).max() < 1e-9 and left > 0:
            points += [vectors @ (rest + sign * math.sqrt(left) * np.eye(len(h))[k]) for sign in (-1, 1)]
    return points


def best_of_all_regions(slope, offset, target, radius, drift=None, relu=True):
    """The exact maximum of |relu(offset + slope v) - target - drift v|^2 over the ball, one sample.

    In each linear region the loss is convex, so it is largest at an extreme point of region and ball: with any set of
    outputs exactly at zero, a vertex, or a stationary point of the region's quadratic on the sphere.
    """
    out, d = slope.shape
    drift = np.zeros_like(slope) if drift is None else drift

    def loss(v):
        answer = offset + slope @ v
        return np.square((np.maximum(answer, 0) if relu else answer) - target - drift @ v).sum()

    candidates = [np.zeros(d)]
    for size in range(d + 1 if relu else 1):
        for tight in map(list, itertools.combinations(range(out), size)):
            at, *_ = np.linalg.lstsq(slope[tight], -offset[tight], rcond=None) if tight else (np.zeros(d),)
            if np.abs(slope[tight] @ at + offset[tight]).max(initial=0) > 1e-9 or at @ at > radius**2:
                continue
            _, s, rows = np.linalg.svd(slope[tight]) if tight else (None, np.zeros(0), np.eye(d))
            free = rows[(s > 1e-10).sum() :].T  # directions that keep them at zero
            if not free.shape[1]:
                candidates.append(at)
                continue
            for mask in itertools.product((0.0, 1.0), repeat=out) if relu else [np.ones(out)]:
                J, r = np.array(mask)[:, None] * slope - drift, np.array(mask) * offset - target
                A, g = free.T @ J.T @ J @ free, free.T @ J.T @ (r + J @ at)
                candidates += [at + free @ w for w in spheres(A, g, math.sqrt(radius**2 - at @ at))]
    assert max(v @ v for v in candidates) <= radius**2 * (1 + 1e-9)
    return max(map(loss, candidates))


def small(seed, n, m, *, moves=False, relu=True):
    """A random small network with every sort of output (silent, answering, at the edge), and its exact optimum."""
    rng = np.random.default_rng(seed)
    W, b = rng.normal(size=(n, m)) / math.sqrt(m), rng.normal(-0.15, 0.2, n)
    x = rng.random(n) * (rng.random(n) < 0.4)
    radius = rng.choice([0.1, 0.4, 1.5])
    _, triangle = np.linalg.qr(W)
    slope, drift = (W @ W.T, np.eye(n)) if moves else (W @ triangle.T, None)
    offset = W @ (W.T @ x) + b
    exact = best_of_all_regions(slope, offset, x, radius, drift, relu)

    def tensor(a, *lead):
        return None if a is None else torch.from_numpy(np.asarray(a))[(None,) * len(lead)]

    return Ascent(
        tensor(slope, 0), tensor(offset, 0, 0), tensor(x, 0, 0), tensor(radius, 0), tensor(drift, 0), relu
    ), exact


def attacked(ascent, seed):
    """(hop, climb): the best loss of several starts each."""
    rng = np.random.default_rng(seed)
    starts = [ascent.still()]
    for _ in range(8):
        v = torch.from_numpy(rng.normal(size=tuple(starts[0].shape)))
        starts.append(ascent.radius[:, None, None] * torch.nn.functional.normalize(v, dim=-1))
    return [max(ascent.loss(move(v)).item() for v in starts) for move in (ascent.hop, ascent.climb)]


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize(("n", "m"), [(3, 1), (4, 2), (5, 2)])
def test_no_attack_beats_the_best_of_all_regions(n, m, moves):
    if moves:
        n, m = min(n, 3), min(m, 2)  # dimensions are features here
    shares = []
    for seed in range(12):
        ascent, exact = small(seed, n, m, moves=moves)
        clean = ascent.loss(ascent.still()).item()
        hop, climb = attacked(ascent, seed)
        assert max(hop, climb) <= exact * (1 + 1e-7) and min(hop, climb) >= clean
        assert max(hop, climb) >= exact * (1 - 1e-3)  # together they find it
        if exact > clean:
            shares.append([(hop - clean) / (exact - clean), (climb - clean) / (exact - clean)])
    assert len(shares) > 8 and np.min(np.mean(shares, 0)) > 0.98  # and each alone nearly always


def test_the_oracle_against_a_fine_grid():
    for seed in range(4):
        ascent, exact = small(seed, 4, 2)
        angle, length = torch.linspace(0, 2 * math.pi, 2001).double(), torch.linspace(0, 1, 101).double()
        ring = torch.stack([angle.cos(), angle.sin()], -1)
        v = ascent.radius * (length[:, None, None] * ring).reshape(-1, 2)
        grid = Ascent(ascent.slope, ascent.offset.expand(1, len(v), -1), ascent.target, ascent.radius)
        best = grid.loss(v[None]).max().item()
        assert best <= exact * (1 + 1e-12) and best == pytest.approx(exact, rel=1e-3)


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from(["any", "hard", "flat", "zero"]))
@settings(max_examples=60, deadline=None)
def test_ball_maximum_satisfies_its_conditions(seed, d, kind):
    rng = np.random.default_rng(seed)
    values, vectors = np.sort(rng.random(d) * 3), np.linalg.qr(rng.normal(size=(d, d)))[0]
    h, radius = rng.normal(size=d), rng.uniform(0.1, 2)
    if kind == "hard":
        h[-1] = 0
    if kind == "flat":
        values[:] = 1.0
    if kind == "zero":
        h[:] = 0
    A, g = (vectors * values) @ vectors.T, vectors @ h
    v = ball_maximum(torch.from_numpy(A), torch.from_numpy(g), torch.tensor(radius, dtype=torch.float64)).numpy()
    assert np.linalg.norm(v) == pytest.approx(radius, rel=1e-9)
    worth = v @ A @ v + 2 * g @ v
    best = max((w @ A @ w + 2 * g @ w for w in spheres(A, g, radius)), default=-math.inf)
    assert worth >= best - 1e-7 * (1 + abs(best))
    # never above the dual bound: for l >= every eigenvalue, l radius^2 + g^T (l - A)^+ g
    above = values[-1] + np.geomspace(1e-6, 100, 400)
    assert worth <= min(level * radius**2 + (h**2 / (level - values)).sum() for level in above) * (1 + 1e-9) + 1e-9


def test_linear_network_in_closed_form():
    """W orthonormal, relu off: the attack is copied, L' = |r|^2 + radius^2 + 2 radius |W^T r|, r = W W^T x + b - x."""
    rng = np.random.default_rng(0)
    W = np.linalg.qr(rng.normal(size=(6, 3)))[0]
    trained = network(W, rng.normal(size=6), density=0.7, relu=False)
    radius = attack_radius()(trained).double()
    x = trained.batch(0, 128)[0][0].double()
    W, b = trained.parameters["W"][0].double(), trained.parameters["b"][0].double()
    r = x @ W @ W.T + b - x
    expected = 1 + 2 * ((r @ W).norm(dim=-1) / radius).mean()
    for attacker in ("regions", "gradient", "strongest"):
        value, _ = harm_of(attacker)(trained)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_without_superposition_an_attack_only_copies_itself(density):
    """m features kept exactly, the others at their mean: L' - L = radius^2 for every attacker but chance."""
    trained = network(np.eye(6, 3), np.r_[np.zeros(3), np.full(3, density / 2)], density, seeds=range(3))
    for attacker in ("strongest", "feature", "shared", "regions", "gradient"):
        value, _ = harm_of(attacker)(trained)
        assert value.numpy() == pytest.approx(1, rel=1e-5)
    chance, _ = harm_of("random")(trained)
    assert (chance < 0.6).all() and (chance > 0.1).all()  # half of it, less where a silent output goes down


def test_a_copied_attack_is_no_error_where_the_target_moves_with_it():
    """The paper's attacks spare ignored features, the strongest does not: it adds radius^2 + 2 radius |b - x| there."""
    trained = network(np.eye(6, 3), np.r_[np.zeros(3), np.full(3, 0.25)], 0.5, seeds=range(3), relu=False)
    value, _ = harm_of("feature", moves=True)(trained)
    assert value.numpy() == pytest.approx(0, abs=1e-6)
    missed = (trained.batch(0, 128)[0][..., 3:] - 0.25).double().norm(dim=-1).mean(-1)
    expected = 1 + 2 * missed / attack_radius()(trained).double()
    for attacker in ("regions", "gradient", "strongest"):
        value, _ = harm_of(attacker, moves=True)(trained)
        assert value.numpy() == pytest.approx(expected.numpy(), rel=1e-4)


def test_an_antipodal_pair_is_twice_as_vulnerable():
    trained = network([[1.0], [-1.0]], [0.0, 0.0], density=0.02, seeds=range(2))
    assert not trained.batch(0, 2)[0].any()  # both samples empty at this density and these seeds
    for attacker in ("strongest", "feature", "shared", "regions", "gradient"):
        value, _ = harm_of(attacker, samples=2)(trained)
        assert value.numpy() == pytest.approx(2, rel=1e-5), attacker


def test_importance_weighs_the_loss():
    """With one kept feature of importance 4, a unit of attack costs 4."""
    task = Identity(importance=np.array([4.0, 1.0]))
    value, _ = harm_of()(network(np.eye(2, 1), np.zeros(2), task=task))
    assert value.item() == pytest.approx(4, rel=1e-5)


def test_the_strongest_is_the_strongest_and_instances_are_alone():
    rng = np.random.default_rng(1)
    W, b = rng.normal(size=(8, 3)) / 2, rng.normal(-0.1, 0.1, 8)
    trained = network(W, b, 0.2, seeds=range(4))
    harm = {attacker: harm_of(attacker, samples=32)(trained).value for attacker in (*ATTACKERS, "strongest")}
    for attacker in ATTACKERS:
        assert (harm[attacker] <= harm["strongest"] + 1e-12).all()
    assert (harm["shared"] <= harm["feature"] + 1e-12).all()
    alone = harm_of("strongest", samples=32)(network(W, b, 0.2, seeds=[2])).value
    together = vulnerability(*harm, samples=32)(trained)
    assert list(together) == [f"vulnerability_{attacker}" for attacker in harm]
    assert all(torch.equal(together[f"vulnerability_{attacker}"].value, own) for attacker, own in harm.items())
    assert alone.item() == pytest.approx(harm["strongest"][2].item(), rel=1e-9)


def test_a_diverged_instance_has_no_vulnerability_and_harms_no_other():
    trained = network(np.eye(4, 2), np.zeros(4), seeds=range(2))
    before = harm_of(samples=16)(trained).value
    trained.kept.clear()
    trained.parameters["W"][0, 0, 0] = math.nan
    after = harm_of(samples=16)(trained).value
    assert after[0].isnan() and after[1] == before[1]


def test_radius_is_a_share_of_the_mean_norm():
    trained = network(np.eye(50, 5), np.zeros(50), density=1.0)
    assert attack_radius(0.2)(trained).item() == pytest.approx(0.2 * math.sqrt(50 / 3), rel=0.01)


def test_refusals():
    with pytest.raises(InputError, match="attacker must be one of strongest"):
        harm_of("weakest")
    with pytest.raises(InputError, match="relative must lie in"):
        harm_of(relative=0.0)
    with pytest.raises(InputError, match="samples must be a whole number >= 2"):
        harm_of(samples=1)
    with pytest.raises(InputError, match="TiedAutoencoder on Identity, got TiedAutoencoder on AbsoluteValue"):
        harm_of()(network(np.eye(3, 2), np.zeros(3), task=AbsoluteValue()))
    with pytest.raises(InputError, match="squared error"):
        harm_of()(network(np.eye(3, 2), np.zeros(3), task=Identity(exponent=4.0)))
    with pytest.raises(InputError, match="at most 64 features"):
        harm_of("regions", moves=True)(network(np.eye(70, 2), np.zeros(70)))
    untied = Stack.of(Setting(SparseUniform(3, 0.5), Identity(), Model(UntiedAutoencoder, width=2)), [0])
    trained = Trained(untied, {}, {}, {}, torch.zeros(1, 1), torch.full((1,), -1), {}, "none")
    with pytest.raises(InputError, match="got UntiedAutoencoder on Identity"):
        harm_of()(trained)
