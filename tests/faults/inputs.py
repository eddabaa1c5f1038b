"""Bad inputs, by name: each must be refused by an InputError of one line that names the field or the value.

Names are "<where>: <field> = <value>". All are cheap: what can be refused before training is refused there.
"""

import functools
import itertools
import math
import re

import numpy as np
import pandas as pd
import torch

from toysup import constructions, features, models, stats, tasks, theory
from toysup.checks import in_line
from toysup.ensemble import Stack, chunks, resolve_device, train
from toysup.features import ExactlyK, GaussianCopula, Hierarchy, OnePerGroup, PowerLaw, SparseUniform, UnitLength
from toysup.grid import Axis, Grid
from toysup.measure import held_out_loss, recovered
from toysup.models import MLP, Embedding, ResidualMLP, SparseAutoencoder, TiedAutoencoder
from toysup.random import uniforms
from toysup.results import load
from toysup.search import best_rates
from toysup.setting import Adam, Cosine, Model, Setting, describe, get_path, set_paths
from toysup.shapes import Shape, model_b_of, shapes_at_budget
from toysup.stats import Interval
from toysup.sweep import sweep
from toysup.tasks import And, Circuit, Identity, Memory, Reconstruction, SumOfSquares

BAD = {}

nan, inf = math.nan, math.inf
TEXT = ("0.1", "nan", "", b"1")
NOT_NUMBERS = ("0.1", None, True, 1j, {}, [0.1, "0.2"])  # what is no number, nor a list of them
NOT_ONE = ("0.1", None, True, nan, inf, [0.1, 0.2])  # what is no finite number on its own
NOT_WHOLE = (0, -1, 1.0, "1", None, True, nan, [1])
NOT_FLAGS = ("no", 1, None, np.True_)
CPU = torch.device("cpu")


def bad(field, build, *values):
    """Each of the values is bad there; without values what is built is."""
    for value in values:
        name = f"{field} = {re.sub(' at 0x[0-9a-f]+', '', in_line(value))}"  # the same in every run
        assert name not in BAD, name
        BAD[name] = lambda build=build, value=value: build(value)


def setting(**own):
    parts = {"features": SparseUniform(4, 0.3), "task": Identity(), "model": Model(TiedAutoencoder, width=2)}
    return Setting(**{**parts, "steps": 4, "batch": 8, **own})


def axis(path):
    return lambda value: Grid(setting(), {path: [value]})


# ------------------------------------------------------------------------------------------------------------ features

for kind in (features.SparseUniform, features.SparseNormal, features.SparseBoolean):
    where = kind.__name__
    bad(f"{where}: density", lambda x, kind=kind: kind(4, x), *NOT_NUMBERS, 0.0, -1.0, 1.5, nan, 1e-46, [], [0.1] * 2)
    bad(f"{where}: signed", lambda x, kind=kind: kind(4, 0.1, x), *NOT_FLAGS)
bad("SparseUniform: n_features", SparseUniform, *NOT_WHOLE, 2**32, 10**400)
bad(
    "SparseUniform: density",
    lambda x: SparseUniform(4, x),
    [0.1, 0.2, nan, 0.3],
    [[0.1] * 4],
    torch.zeros(1).to("meta"),
)
bad("PowerLaw: exponent", lambda x: PowerLaw(4, x, 0.1), *NOT_ONE, -1.0)
bad("PowerLaw: density", lambda x: PowerLaw(4, 1.0, x), *NOT_ONE, 0.0)
bad(
    "GaussianCopula: loadings", lambda x: GaussianCopula(2, x, 0.1), "0.1", 0.5, [[0.5]], [[1.0], [0.1]], [[nan], [0.1]]
)
bad("joint_activity: i", lambda x: GaussianCopula(2, [[0.5], [0.5]], 0.1).joint_activity(x, 1), -1, 2, 0.0, 1, "0")
bad("Correlated: group_size", lambda x: features.Correlated(4, x, 0.1), 0, 3, 2.0, True)
bad("Correlated: anti", lambda x: features.Correlated(4, 2, 0.1, x), *NOT_FLAGS)
bad("Hierarchy: branching", lambda x: Hierarchy(4, x, 0.1, 0.5), 0, 1.5, True)
bad("Hierarchy: child_density", lambda x: Hierarchy(4, 2, 0.1, x), *NOT_ONE, 0.0)
bad("Hierarchy: n_roots", lambda x: Hierarchy(4, 2, 0.1, 0.5, x), 0, 5, "1")
bad("ExactlyK: n_active", lambda x: ExactlyK(4, x), 0, 5, 1.0, True)
bad("ExactlyK: magnitude", lambda x: ExactlyK(4, magnitude=x), "gaussian", None, ["uniform"], 1)
bad("OnePerGroup: n_active", lambda x: OnePerGroup(4, x), 3, 0)
bad("OnePerGroup: offered", lambda x: OnePerGroup(4, 2, offered=x), *NOT_ONE, 0.0)
bad("UnitLength: density", lambda x: UnitLength(4, x), *NOT_ONE, 1e-46)
bad("SparseUniform: uniforms", SparseUniform(4).transform, "0.5", 0.5, torch.zeros(4, dtype=int), torch.zeros(3))

# --------------------------------------------------------------------------------------------------------------- tasks

for task in (tasks.Identity, tasks.AbsoluteValue, tasks.XPlusRelu):
    bad(f"{task.__name__}: importance", lambda x, task=task: task(x), *NOT_NUMBERS, -1.0, nan, inf, 1e300)
    bad(f"{task.__name__}: exponent", lambda x, task=task: task(1.0, x), *NOT_NUMBERS, nan, inf, 1.0, 0.0, -1.0)
bad("Identity: importance", lambda x: setting(task=Identity(x)), np.ones(3), [])
bad("Identity: exponent", lambda x: setting(task=Identity(1.0, x)), [2.0, 3.0], [])
bad("SumOfSquares: importance", SumOfSquares, *NOT_NUMBERS, -1.0)
bad("And: n_pairs", lambda x: And(n_pairs=x), *NOT_WHOLE)
bad("Memory: n_labels", Memory, 1, 0, 2.0, "3", True)
bad("Memory: features", lambda x: setting(features=x, task=Memory(3)), SparseUniform(4))
bad("Circuit: depth", lambda x: Circuit(depth=x), *NOT_WHOLE, 10**9)
bad("Reconstruction: network", Reconstruction, "network", None, Embedding, Embedding(4, 4, width=2))
NETWORK = Model(Embedding, width=2)
bad("Reconstruction: of", lambda x: Reconstruction(NETWORK, of=x), "everything", None, ["stream"])
bad("Reconstruction: layers", lambda x: Reconstruction(NETWORK, layers=x), 0, "0", None, [0.0], [True], [-1])
bad("Reconstruction: layers", lambda x: setting(task=Reconstruction(NETWORK, layers=x)), [], [7])
bad("Reconstruction: trained_on", lambda x: Reconstruction(NETWORK, trained_on=x), Identity, None)
bad("Reconstruction: penalty", lambda x: Reconstruction(NETWORK, penalty=x), *NOT_ONE, -1.0)
bad("Reconstruction: scale", lambda x: setting(task=Reconstruction(NETWORK, scale=x)), 0.0, "1", [1.0] * 3)
bad("Reconstruction: weights", lambda x: setting(task=Reconstruction(NETWORK, x)), "w", [0.1], [nan] * 8)

# -------------------------------------------------------------------------------------------------------------- models

MODELS = {
    models.TiedAutoencoder: {"width": 2, "relu": True, "hidden_relu": False},
    models.MLP: {"width": 2, "depth": 1, "relu": True, "hidden_bias": True},
    models.UnrolledDecoder: {"width": 2, "depth": 1, "shared": False},
    models.Embedding: {"width": 4, "orthonormal": False},
    models.SparseAutoencoder: {"latents": 3, "layers": 1, "unit_norm": True, "centred": True},
}
for kind, own in MODELS.items():
    for field, value in {"n_in": 4, "n_out": 4, **own}.items():

        def build(x, kind=kind, own=own, field=field):
            return kind(**{"n_in": 4, "n_out": 4, **own, field: x})

        wrong = NOT_FLAGS if isinstance(value, bool) else (-1, 1.5, "2", None, True, nan)
        bad(f"{kind.__name__}: {field}", build, *wrong)
        if field in ("width", "latents", "depth"):
            bad(f"{kind.__name__}: {field}", build, 10**12, 2**70)
bad("MLP: open_start", lambda x: MLP(4, 4, width=2, open_start=x), "1", 0.0, nan, [1.0])
bad("SparseAutoencoder: sparsity", lambda x: SparseAutoencoder(4, 4, latents=2, sparsity=x), models.L1, "l1", None)
bad("ResidualMLP: shape", lambda x: ResidualMLP(4, 4, shape=x), "4x2", (4, 2), None, Shape, Shape(10**9, 10**9))
for field in ("embedding", "unembedding", "blocks"):
    bad(
        f"ResidualMLP: {field}",
        lambda x, field=field: ResidualMLP(4, 4, shape=Shape(4, 1), **{field: x}),
        "none",
        None,
        1,
    )
bad("ResidualMLP: row_norm", lambda x: ResidualMLP(4, 4, shape=Shape(4, 1), row_norm=x), "1", 0.0, nan, [1.0, 2.0])
bad("ResidualMLP: relu", lambda x: ResidualMLP(4, 4, shape=Shape(4, 1), relu=x), *NOT_FLAGS)
bad("TopK: k", models.TopK, *NOT_WHOLE)
bad("JumpReLU: threshold", models.JumpReLU, *NOT_ONE, 0.0)
bad("normal: std", models.normal, *NOT_ONE, -1.0)

# -------------------------------------------------------------------------------------------------------------- shapes

bad("Shape: width", lambda x: Shape(x, 2), *NOT_WHOLE)
bad("Shape: depth", lambda x: Shape(4, x), -1, 1.0, "2", None, True)
bad("Shape: hidden", lambda x: Shape(4, 2, x), 0, 1.5, "2", True)
bad("Shape: read", lambda x: Shape(4, 2).live_parameters(x), 0, 5, 1.0, "2")
bad("shapes_at_budget: budget", shapes_at_budget, 0, 1.5, "512", None, 10**30)
bad("shapes_at_budget: tolerance", lambda x: shapes_at_budget(512, tolerance=x), "0.1", -1.0, nan, None)
bad("shapes_at_budget: depths", lambda x: shapes_at_budget(512, depths=x), 3, "12", [0], [1.0], itertools.count(10**9))
bad("model_b_of: shape", model_b_of, Shape, "4x4", None)

# ------------------------------------------------------------------------------------------------------------- setting

bad("Setting: steps", lambda x: setting(steps=x), *NOT_WHOLE, 2**63)
bad("Setting: batch", lambda x: setting(batch=x), *NOT_WHOLE, 2**62)
bad("Setting: examples", lambda x: setting(examples=x), 0, 7, 8.0, "8")
for field in ("seed", "data_seed", "init_seed"):
    bad(
        f"Setting: {field}",
        lambda x, field=field: setting(**{field: x}),
        -1,
        2**32,
        1.0,
        "1",
        True,
        nan,
        torch.tensor(3),
    )
bad("Setting: seed", lambda x: setting(seed=x), None)
bad("Setting: features", lambda x: setting(features=x), None, 3, SparseUniform, "uniform")
bad("Setting: task", lambda x: setting(task=x), None, Identity)
bad("Setting: model", lambda x: setting(model=x), None, TiedAutoencoder, TiedAutoencoder(4, 4, width=2))
bad("Setting: optimizer", lambda x: setting(optimizer=x), "adam", Adam, None)
bad("Adam: lr", Adam, *NOT_ONE, "1e-3", 0.0, -1.0, 1e300, 1e-50)
for field in ("weight_decay", "beta1", "beta2", "eps"):
    bad(f"Adam: {field}", lambda x, field=field: Adam(**{field: x}), *NOT_ONE, -1.0)
bad("Adam: beta2", lambda x: Adam(beta2=x), 1.0)
bad("Adam: schedule", lambda x: Adam(schedule=x), 3, "cosine", None, Cosine)
bad("Adam: schedule", lambda x: Adam(schedule=x), abs, lambda step, steps, more: 1.0)
bad("Cosine: warmup", Cosine, *NOT_ONE, 2.0, -0.1)
SCHEDULES = {  # what each gives
    "nan": lambda step, steps: nan,
    "text": lambda step, steps: "x",
    "None": lambda step, steps: None,
    "True": lambda step, steps: True,
    "two": lambda step, steps: np.ones(2),
    "1 / 0": lambda step, steps: 1 / 0,
    "nan at last": lambda step, steps: nan if step == steps - 1 else 1.0,
}
for name, schedule in SCHEDULES.items():
    BAD[f"Grid: schedule = {name}"] = lambda schedule=schedule: Grid(setting(optimizer=Adam(schedule=schedule)))


def refuses(n_in, n_out):
    raise RuntimeError("no\nsuch size")


bad("Model: build", Model, None, 3, "TiedAutoencoder", int, TiedAutoencoder(4, 4, width=2), type("Plain", (), {}))
bad("Model: TiedAutoencoder", lambda x: Model(TiedAutoencoder, x), 2)
bad("Model: shape", lambda x: Model(TiedAutoencoder, shape=x), Shape(4, 2))
bad("Model: width", lambda x: Grid(setting(model=x)), Model(TiedAutoencoder))
bad("Model: refuses", lambda x: Grid(setting(model=x)), Model(refuses))
bad("Model: Module", lambda x: Grid(setting(model=x)), Model(lambda n_in, n_out: "network"))
bad("get_path: axis", lambda x: get_path(setting(), x), 3, None, "", ".", "features.", "features.densty", "steps.x")
bad("set_paths: values", lambda x: set_paths(setting(), x), None, "steps", [("steps", 3)])
bad("Setting: name", setting().resolved_seed, "steps", None, 3)
bad("Setting: step", setting().draw_of, -1, 1.5, "2")
bad("describe: setting", describe, {1, 2}, 1j, b"x", object(), torch.zeros(1).to("meta"))

# ---------------------------------------------------------------------------------------------------------------- grid

bad("Grid: setting", Grid, None, Setting, {"seed": [0]})
bad("Grid: axes", lambda x: Grid(setting(), x), None, [("seed", [0], 1)], ["seed"], Axis("a", "seed", [0]), "seed", 3)
bad("Axis: name", lambda x: Axis(x, "seed", [0]), None, 3, "", " ", "a\0", "row", ("seed",))
bad("Axis: paths", lambda x: Axis("a", x, [0]), None, 3, (), ["seed"], ("seed", 3), b"seed")
bad("Axis: a", lambda x: Axis("a", "seed", x), None, 3, "01", {1, 2})
bad("Grid: seed", lambda x: Grid(setting(), [("seed", [0]), Axis(x, ("data_seed", "init_seed"), [(1, 2)])]), "seed")
bad("Grid: axis", lambda x: Grid(setting(), {x: [0, 1]}), 3, None, (), ("seed", 3), "", "sed", b"seed")
bad("Grid: seed", lambda x: Grid(setting(), {"seed": x}), [], 3, "01", None, {1, 2}, [0, 0], {}, range(10**12))
bad("Grid: seed", lambda x: Grid(setting(), {"seed": x}), itertools.count())
bad("Grid: axis", lambda x: Grid(setting(), {("seed", "steps"): x}), [1, 2], [(1,)], [(1, 2), (1, 2)], ["12"])
bad("Grid: seed", lambda x: Grid(setting(), {"seed": [0], x: [(1, 2)]}), ("seed", "steps"))
bad("Grid: seed", lambda x: Grid(setting(), {x: [(0, 1)]}), ("seed", "seed"))
bad("Grid: row", Grid(setting(), {"seed": [0, 1]}).setting_of, -1, 2, 0.0, "0", None, True)
BAD["Grid: rows = 2^48"] = lambda: Grid(setting(), dict.fromkeys(("seed", "data_seed", "init_seed"), range(2**16)))
BAD["Grid: features.density = a part"] = lambda: Grid(
    setting(), {"features": [SparseUniform(4, 0.1)], "features.density": [0.2]}
)
bad("axis features.density", axis("features.density"), 0.0, -1.0, nan, *NOT_NUMBERS[:4], 1e-46, [0.1, 0.2], [])
bad("axis features", axis("features"), 3, None, SparseUniform)
bad("axis model.width", axis("model.width"), 0, -1, 1.5, "2", None, True, nan, 10**12)
bad("axis model.relu", axis("model.relu"), "no", 1)
bad("axis optimizer.lr", axis("optimizer.lr"), 0.0, nan, "1e-3", None, True, [1e-3, 1e-2], 1e300)
bad("axis optimizer.schedule", axis("optimizer.schedule"), Cosine, SCHEDULES["nan"])
bad("axis task.importance", axis("task.importance"), nan, -1.0, np.ones(3), "a", 1e300)
bad("axis steps", axis("steps"), 4.0, 0, "4", 2**63)
bad("axis seed", axis("seed"), -1, 2**32, 1.0, None, "1", True)

# ---------------------------------------------------------------------------------------------- stacks, devices, draws

bad("Stack: setting", lambda x: Stack.of(x, [0]), None, Setting)
bad("Stack: seed", lambda x: Stack.of(setting(), x), 5, "01", [], [0.5], [True], [-1], [2**32], [0, 0], [[0]], None)
for path, values in {
    "features.densty": [0.1],
    "features.density": [0.1, 0.2],
    "steps": [3],
    "task.importance": ["1"],
}.items():
    bad(f"Stack: {path}", lambda x, path=path: Stack(setting(), [0], [0], {path: x}), values)
bad("device", resolve_device, "gpu", "meta", torch.device("meta"), "cpu:9", None, 5, True, "", "a\nb")
bad("uniforms: seed", lambda x: uniforms(x, 0, 1, 1), -1, 2**32, 0.5, "0", None, True)
bad("uniforms: step", lambda x: uniforms(0, x, 1, 1), -1, 2**63, 0.5)
bad("uniforms: batch", lambda x: uniforms(0, 0, x, 2**31), 0, "1", 2**31)
bad("uniforms: device", lambda x: uniforms(0, 0, 1, 1, device=x), "gpu", None)
bad("uniforms: out", lambda x: uniforms(0, 0, 1, 1, out=x), "x", torch.zeros(2))
LARGE = {
    "batch": setting(features=SparseUniform(10**5, 1e-3), batch=2**32 - 1),
    "steps": setting(steps=2**62),
    "And": setting(features=SparseUniform(10**7, 1e-3), task=And(), model=Model(MLP, width=1)),
}
for field, one in LARGE.items():
    BAD[f"chunks: {field} = too large"] = lambda one=one: chunks(Stack.of(one, [0]), CPU)

# ---------------------------------------------------------------------------------------------------------- statistics

X = np.linspace(1, 2, 8)
TABLE = pd.DataFrame({"seed": [0, 0, 1, 1], "load": [1.0, 2.0] * 2, "recovered": [3.0, 4.0, 3.5, 4.5], "loss": 1.0})
SAMPLES = ("a", None, 1.5, [], [nan, 1.0], [True, False], ["1", "2"], [[1.0, 2.0]], [1, [2]])
for name in ("mean", "mean_share", "quantile"):
    more = (0.5,) if name == "quantile" else ()
    bad(f"{name}: samples", lambda x, name=name, more=more: getattr(stats, name)(x, *more), *SAMPLES)
for name, given in {"mean": (X,), "share": (1, 2), "mean_share": (X - 1,), "ratio": (X, X), "tost": (X, 0.1)}.items():
    bad(f"{name}: level", lambda x, name=name, given=given: getattr(stats, name)(*given, level=x), *NOT_ONE, 0, 1, 95)
bad("share: successes", lambda x: stats.share(x, 2), -1, 3, 1.0, "1", True)
bad("ratio: denominator", lambda x: stats.ratio(X, x), *SAMPLES, [-1.0, 2.0])
bad("ratio: paired", lambda x: stats.ratio(X, X, paired=x), *NOT_FLAGS)
bad("quantile: q", lambda x: stats.quantile(X, x), *NOT_ONE, 0.0, 1.0)
bad("bootstrap: function", lambda x: stats.bootstrap(x, X), "mean", None)
bad("bootstrap: samples", lambda x: stats.bootstrap(np.mean, x), "a", None, [], 3.0, ["1"])
bad("bootstrap: resamples", lambda x: stats.bootstrap(np.mean, X, resamples=x), *NOT_WHOLE, 10**12)
bad("bootstrap: seed", lambda x: stats.bootstrap(np.mean, X, seed=x), -1, 0.5, "0", None)
bad("Interval: low", lambda x: Interval(1, x, 2), "0.5", None, True, [0.5])
bad("decide: inside", lambda x: stats.decide(Interval(1, 0, 2), x), "1", None, True, (2, 1), (1, 2, 3), nan)
bad("decide: interval", lambda x: stats.decide(x, 1.0), (1, 0, 2), None)
bad("every: a verdict", stats.every, "yes", True, None)
bad("tost: margin", lambda x: stats.tost(X, x), *NOT_ONE, 0.0)
bad("agreement: across", lambda x: stats.agreement(x, np.eye(2), np.eye(2)), "a", None, [[1.0]], [[nan] * 2] * 2)
bad("agreement: floors", lambda x: stats.agreement(np.eye(2), np.eye(2), np.eye(2), floors=x), 0.0, (0.0,), "000", None)
for name in ("capacity", "supremum"):
    where = getattr(stats, name)
    bad(f"{name}: table", where, None, "table", {"seed": [1]})
    bad(f"{name}: recovered", lambda x, where=where: where(TABLE.assign(recovered=x)), "many", True)
    bad(f"{name}: load", lambda x, where=where: where(TABLE, load=x), "lod", None, 3, ["load"])
bad("best_setting: by", lambda x: stats.best_setting(TABLE, "seed", x, "loss"), "load", [], None)
bad("equivalence_by_load: value", lambda x: stats.equivalence_by_load(TABLE, TABLE, value=x), "los", None)
bad("compare: a", lambda x: stats.compare(TABLE.assign(model="B", lr=0.1, features_offered=9.0), a=x, b="B"), "A", None)
bad("equivalence: within", lambda x: stats.equivalence(TABLE, x, shape=["load"]), *NOT_ONE, 0.0)
bad("equivalence: shape", lambda x: stats.equivalence(TABLE, 0.1, shape=x), "load", [], None)
bad("double_descent: losses", stats.double_descent, X, None, pd.DataFrame({"1": ["a"] * 3, "2": ["b"] * 3}))
bad("change_points: series", stats.change_points, "abcd", None, [1.0, 2.0], [nan] * 5, [[[1.0]]], ["1"] * 5)
bad("change_points: least", lambda x: stats.change_points(X, least=x), *NOT_WHOLE, 10**12)
bad("transitions: least", lambda x: stats.transitions(X, x), *NOT_ONE, 0.0)
bad("coincidence: span", lambda x: stats.coincidence([[1]], [[1]], 1.0, x), None, 3, (1, 1), (1, 2, 3), "01", (nan, 1))
bad("coincidence: events", lambda x: stats.coincidence(x, [[1]], 1.0, (0, 5)), 3, None, ["a"], [[9]], [1], [[nan]])
bad("around: events", lambda x: stats.around([X], x, [0]), 3, None, [[1.5]], [[-1]], [["a"]])
bad("around: lags", lambda x: stats.around([X], [[1]], x), 0, [], [0.5], "0", None)
bad("near_levels: levels", lambda x: stats.near_levels(X, x, 0.1, 0.1), 1.0, [], "1", [1.0, 1.1], [nan])
bad("busiest_levels: within", lambda x: stats.busiest_levels(X, 1, x), *NOT_ONE, 0.0, 1e-30)
bad(
    "peaks: bandwidth",
    lambda x: stats.peaks(X - 1, range(8), bandwidth=x, smooth=0.5, tolerance=0.1),
    *NOT_ONE,
    0.0,
    1e-30,
)
bad("stretches: within", lambda x: stats.stretches([1, 2], [[1, 2]], [1], x), *NOT_ONE, 0.0, 1.0)
bad("threshold: above", lambda x: stats.threshold([1, 2], x), "ab", None, ["a", "b"], [0.5, 1])
bad(
    "SuddenMoves: least_jump",
    lambda x: stats.SuddenMoves(np.zeros((1, 5, 1)), np.zeros((1, 5)), x, 1.0, 1, 1.0),
    *NOT_ONE,
)

# -------------------------------------------------------------------------------------------------------------- theory

CURVES = {
    "elhage_ratio: density": theory.elhage_ratio,
    "inverse_density: density": theory.inverse_density,
    "l1_ratio: density": theory.l1_ratio,
    "l1_weak_threshold: delta": theory.l1_weak_threshold,
    "l1_strong_threshold: delta": theory.l1_strong_threshold,
    "bayes_amp_ratio: density": theory.bayes_amp_ratio,
    "one_step_r2_gaussian: density": lambda x: theory.one_step_r2_gaussian(2.0, x),
    "counting_ratio: density": lambda x: theory.counting_ratio(x, 2.0),
}
for field, curve in CURVES.items():
    bad(field, curve, *NOT_NUMBERS, nan, 0.0, 1.5, [[0.1], [0.1, 0.2]])
for name in ("l1_ratio", "l1_weak_threshold", "l1_strong_threshold", "l1_threshold_by_faces"):
    bad(f"{name}: nonnegative", lambda x, name=name: getattr(theory, name)(0.1, x), *NOT_FLAGS)
bad("bayes_amp_r2: magnitudes", lambda x: theory.bayes_amp_r2(2.0, 0.1, x), "gaussian", None, ["uniform"])
bad("bayes_amp_r2: shapes", lambda x: theory.bayes_amp_r2(x, [0.1, 0.2]), [2.0, 3.0, 4.0])
bad("pca_r2: n", lambda x: theory.pca_r2(x, 2.0), "10", 0, True, inf)
bad("pca_r2: shapes", lambda x: theory.pca_r2(x, [1.0, 2.0]), [3.0, 4.0, 5.0])
bad("capacity_optimum: importance", lambda x: theory.capacity_optimum(1, x, 5.0), 1.0, [], "a", [-1.0], [True, False])
bad("capacity_loss: bias", lambda x: theory.capacity_loss(np.eye(2), x, [1, 1], 3.0), "0", None, True, [1j])
bad("capacity_regions: capacity", theory.capacity_regions, "0.1", None, nan, True)
bad("pair_dictionaries: p", lambda x: theory.pair_dictionaries(x, 0.3), *NOT_ONE, -0.1)
bad("pair_dictionaries: kind", lambda x: theory.pair_dictionaries(0.2, 0.3, kind=x), "l2", None, ["l1"])
bad("mcc_floor: features", lambda x: theory.mcc_floor(x, 2, 2), *NOT_WHOLE, 10**12)
bad("monosemantic_loss: importance", lambda x: theory.monosemantic_loss(x, 0.1, 1), 1.0, [], ["1"], [-1.0], [True])
bad("one_step_r2: density", lambda x: theory.one_step_r2(8, 2, x), *NOT_ONE, 0.0)
bad("one_step_r2: samples", lambda x: theory.one_step_r2(8, 2, 0.1, x), 0, 1.5, 10**15)
bad("one_step_r2: n", lambda x: theory.one_step_r2(x, 2, 0.1), *NOT_WHOLE, 10**12)
bad("random_frame: rng", lambda x: theory.random_frame(4, 2, x), 0, None, np.random)
bad("random_frame: frame", lambda x: theory.random_frame(4, 2, np.random.default_rng(0), x), "loose", None)
bad(
    "expected_loss: weights", lambda x: theory.expected_loss(x, [0, 0], 0.1, [1, 1]), "a", None, [1.0], [[True], [True]]
)
bad("toy_optimum: width", lambda x: theory.toy_optimum(2, x, 0.1, [1, 1]), *NOT_WHOLE, 10**12)
bad("toy_optimum: importance", lambda x: theory.toy_optimum(2, 1, 0.1, x), "ab", None, [1.0], [1.0, nan], [1, [2]])
bad("configuration: weights", theory.configuration, "a", None, [1.0], np.zeros((0, 3)))
bad("fit_polytope: density", lambda x: theory.fit_polytope([[1.0]], x), "0.1", None, True, [], 0.0, [[0.1]])
bad("best_polytope: shape", lambda x: theory.best_polytope(x, [0.1]), {}, None, [[1.0]])
bad("principal_loss: covariance", lambda x: theory.principal_loss(x, 1), "a", None, [1.0], [[nan, 0], [0, 1]])
bad("constructions: depth", lambda x: constructions.scattered_uand(6, 3, neurons=8, depth=x, takes=2), 0, 3, "2", None)
bad("pairs_setting: room", lambda x: constructions.pairs_setting(6, 3, 2, 4, density=0.1, room=x), -1, "3", 1.5, True)
bad(
    "best_rates: rates", lambda x: best_rates({"a": Grid(setting())}, x), ["1e-3", "1e-2"], 0.1, [0.1], [0.1, nan], "ab"
)
bad("best_rates: grid", lambda x: best_rates(x, [0.1, 0.2]), {}, None, Grid(setting()), {"a": None})

# ------------------------------------------------------------------------------------------- sweeps and their results


def swept(**options):
    grid = options.pop("grid", Grid(setting()))
    return sweep(grid, options.pop("measures", [held_out_loss]), **{"workers": 1, "progress": False, **options})


@functools.cache
def results():
    """One small sweep for all that ask its results, made when the first does."""
    return swept(grid=Grid(setting(), {"seed": [0, 1]}), snapshots=[0], engine="general", compile=False)


def first():
    return next(iter(results()))


GRID = Grid(setting())
bad("sweep: grid", lambda x: swept(grid=x), None, setting(), {}, [GRID], {"a": None}, {"a": setting()}, "g")
bad("sweep: name", lambda x: swept(name=x), None, 5, "", "a\0b", "a/b", "..\\b", "a\nb", " ", "..", "n" * 300)
bad("sweep: name", lambda x: swept(grid={x: GRID}), 7, "b/c")
bad("sweep: measures", lambda x: swept(measures=x), recovered, None, "recovered", 3, {"a": recovered})
bad("sweep: measure", lambda x: swept(measures=x), [None], ["recovered"], [recovered, recovered])
bad("sweep: results", lambda x: swept(results=x), 5, b"x", "", "a\0b", "~nosuchuser/x", True)
bad("sweep: snapshots", lambda x: swept(snapshots=x), 3, "03", None, [1.7], ["a"], [nan], [-1], [True], [99])
for field in ("progress", "compile", "durable"):
    bad(f"sweep: {field}", lambda x, field=field: swept(**{field: x}), "yes", 1)
bad("sweep: workers", lambda x: swept(workers=x), 0, -1, 1.5, "2", True)
bad("sweep: device", lambda x: swept(device=x), "gpu", "meta", None, 5)
bad("sweep: engine", lambda x: swept(engine=x), "fast", None, 3)
bad("load: path", load, None, 5, b"x", "", "a\0b", "~nosuchuser/x")
bad("results: row", lambda x: results().trained(x), -1, 99, "0", [-1], [0.0], [2], [])
bad("results: measure", lambda x: results().measure(x), None, "recovered", [recovered])
bad("results.model: row", lambda x: results().model(x), -1, 2, "0", 0.5, True, None)
bad("results.history: row", lambda x: results().history(x), -1, 2, "0")
bad("results: parameter", lambda x: results().parameters(x), "V", "", None, 3)
bad("Trained: snapshots", lambda x: first().at(x), 3, -1)
bad("sweep: name", lambda x: swept(name=x), ["a"])
bad("results.model: row", lambda x: results().model(x), [0], np.array([0, 1]))
bad("Trained: instance", lambda x: first().model(x), -1, 2, "0", 0.5)
bad("Trained: step", lambda x: first().at(x), [0], "0")
bad("train: stack", train, None, setting())
bad("train: snapshots", lambda x: train(Stack.of(setting(), [0]), snapshots=x), 3, [1.7], ["a"], [9], None)
bad("train: compile", lambda x: train(Stack.of(setting(), [0]), compile=x), "yes", 1)
bad("train: threads", lambda x: train(Stack.of(setting(), [0]), threads=x), 0, "2", True)
