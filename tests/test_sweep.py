"""A grid is the product of its axes; a sweep is training every setting alone, however it is cut, shared and ordered."""

import dataclasses
import json
import os
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import toysup.ensemble
from toysup.checks import InputError, concrete
from toysup.ensemble import Stack, chunks, train
from toysup.features import PowerLaw, Sparse, SparseUniform
from toysup.measure import Estimate, feature_norm, held_out_loss, r_squared, recovered, unknown
from toysup.models import MLP, ResidualMLP, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting, get_path, set_paths
from toysup.shapes import Shape
from toysup.sweep import Axis, Grid, load, sweep
from toysup.tasks import AbsoluteValue, Identity, Regression

SMALL = Setting(SparseUniform(4, 0.3), Identity(), Model(TiedAutoencoder, width=2), steps=8, batch=16)


def run(grid, measures=(held_out_loss,), **options):
    return sweep(grid, measures, progress=False, **{"workers": 1, "device": "cpu"} | options)


class Scaled(TiedAutoencoder):
    def __init__(self, n_in, n_out, *, factor):
        super().__init__(n_in, n_out, width=2)
        self.factor = factor


@dataclass(frozen=True)
class Least(Identity):
    """Needs features that are dense enough."""

    least: float = 0.0

    def __post_init__(self):
        pass

    def check(self, features):
        if concrete(self.least) is not None and (concrete(features.density) < concrete(self.least)).any():
            raise InputError(f"Least: density must be at least {self.least}")


# ------------------------------------------------------------------------------------------------------------- grids


def test_rows_are_the_product_of_the_axes_with_the_first_varying_slowest():
    grid = Grid(SMALL, {"features.density": [0.1, 0.2], "seed": range(3)})
    assert len(grid) == 6
    assert grid.table.to_dict("list") == {
        "row": list(range(6)),
        "density": [0.1] * 3 + [0.2] * 3,
        "seed": [0, 1, 2] * 2,
    }
    for row, (density, seed) in enumerate([(p, s) for p in (0.1, 0.2) for s in range(3)]):
        assert grid.setting_of(row) == dataclasses.replace(SMALL, features=SparseUniform(4, density), seed=seed)


def test_a_grid_without_axes_is_one_instance():
    grid = Grid(SMALL)
    assert len(grid) == 1 and grid.setting_of(0) is SMALL and grid.table.to_dict("list") == {"row": [0]}
    assert run(grid).table["held_out_loss"].notna().all()


AXES = {
    "zipped": {("features.density", "optimizer.lr"): [(0.1, 1e-2), (0.5, 1e-3)], "seed": [4, 5]},
    "labels": {"task": {"copy": Identity(), "fold": AbsoluteValue()}, "features.density": [0.1, 0.3]},
    "static": {"model.width": [1, 3], "features.n_features": [4, 6], "optimizer.lr": [1e-2, 1e-3], "steps": [3, 4]},
    "arrays": {"task.importance": [np.ones(4), np.linspace(0, 1, 4), 0.5], "features.density": [0.1, np.full(4, 0.2)]},
    "seeds": {"seed": [1, 2], "data_seed": [None, 7]},
    "starts": {"seed": [1, 2], "init_seed": [9, None]},
    "wholes": {"features": [SparseUniform(4, 0.1), SparseUniform(5, 0.2)], "optimizer.lr": [0.3, 0.4]},
    "zipped static": {("features.n_features", "task.importance"): [(4, np.ones(4)), (5, np.zeros(5))]},
    "named": [Axis("lr", "optimizer.lr", [0.1, 0.2]), Axis("world", ("seed", "features.density"), {"a": (1, 0.1)})],
    "exponents": {"task.exponent": [2.0, 3.5], "optimizer.weight_decay": [0.0, 0.1], "optimizer.beta1": [0.9, 0.5]},
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_stacks_hold_what_setting_of_says_for_every_row(axes):
    grid = Grid(SMALL, axes)
    rows = np.concatenate([rows for _, rows in grid.groups])
    assert sorted(rows) == list(range(len(grid)))
    for stack, own in grid.groups:
        for position, row in enumerate(own):
            expected = grid.setting_of(row)
            assert stack.data_seed[position] == expected.resolved_seed("data_seed")
            assert stack.init_seed[position] == expected.resolved_seed("init_seed")
            for path, values in stack.varying.items():
                np.testing.assert_array_equal(*np.broadcast_arrays(values[position], get_path(expected, path)))
            # what does not vary is the template's own; seeds have been compared
            left = {path: get_path(expected, path) for path in stack.varying}
            same = {name: getattr(expected, name) for name in ("seed", "data_seed", "init_seed")}
            rest = set_paths(stack.setting, left | same)
            for name in ("features", "task", "optimizer", "steps", "batch"):
                assert repr(getattr(rest, name)) == repr(getattr(expected, name))
            assert rest.model.arguments == expected.model.arguments


@pytest.mark.parametrize(
    ("axes", "groups"),
    [
        ({"features.density": [0.1, 0.2], "task.importance": [1.0, 2.0], "task.exponent": [2.0, 4.0]}, 1),
        ({"optimizer.lr": [1e-2, 1e-3], "seed": [0, 1], "data_seed": [3, 4]}, 1),
        ({"optimizer.lr": [1e-2, 1e-3], "data_seed": [3, 4], "init_seed": [5, 6]}, 1),
        ({"model.width": [1, 2, 3], "seed": [0, 1]}, 3),
        ({("model.width", "seed"): [(1, 0), (2, 0), (2, 1)]}, 2),  # equal values are one shape
        ({"features.n_features": [4, 5], "features.density": [0.1, 0.2]}, 2),
        ({"task": [Identity(), AbsoluteValue()], "steps": [2, 3]}, 4),
        ({("model.width", "features.density"): [(1, 0.1), (1, 0.2), (2, 0.3)]}, 2),
    ],
)
def test_only_static_axes_split_a_grid_into_shapes(axes, groups):
    assert len(Grid(SMALL, axes).groups) == groups


def test_a_schedules_fields_are_an_axis():
    setting = dataclasses.replace(SMALL, optimizer=Adam(0.1, schedule=Cosine()))
    grid = Grid(setting, {"optimizer.schedule.final": [0.0, 1.0], "seed": [0, 1]})
    assert len(grid.groups) == 2
    together = run(grid).table["train_loss"]
    alone = [run(Grid(grid.setting_of(row), {"seed": [row % 2]})).table["train_loss"][0] for row in range(4)]
    assert together.tolist() == alone and alone[0] != alone[2]


def test_table_columns_have_last_names_unless_two_clash():
    setting = Setting(PowerLaw(4, 1.0, 0.2), Identity(), Model(TiedAutoencoder, width=2))
    grid = Grid(setting, {"features.exponent": [0.5, 1.0], "task.exponent": [2.0], "optimizer.lr": [0.1]})
    assert list(grid.table) == ["row", "features.exponent", "task.exponent", "lr"]


def test_shapes_and_labels_in_the_table():
    setting = Setting(SparseUniform(4), Identity(), Model(ResidualMLP, shape=Shape(4, 1)))
    grid = Grid(setting, {"model.shape": [Shape(8, 1), Shape(4, 4, 2)], "task": {"a": Identity(), "b": Identity(2.0)}})
    table = grid.table
    assert table["shape"].tolist() == ["8x1", "8x1", "4x4h2", "4x4h2"]
    assert table["width"].tolist() == [8, 8, 4, 4] and table["depth"].tolist() == [1, 1, 4, 4]
    assert table["hidden"].tolist() == [8, 8, 2, 2]
    assert table["task"].tolist() == ["a", "b"] * 2 and table["importance"].tolist() == [1, 2] * 2
    kinds = table.dtypes
    assert kinds["width"].kind == "i" and kinds["importance"].kind == "f"


def world(name="world", paths=("features.density", "optimizer.lr"), values=None):
    return Axis(name, paths, {"sparse": (0.1, 1e-2), "dense": (0.5, 1e-3)} if values is None else values)


def test_a_named_axis_has_its_labels_under_its_name_and_numbers_under_theirs():
    grid = Grid(SMALL, [world(), ("seed", range(2))])
    assert grid.table.to_dict("list") == {
        "row": [0, 1, 2, 3],
        "world": ["sparse", "sparse", "dense", "dense"],
        "density": [0.1, 0.1, 0.5, 0.5],
        "lr": [1e-2, 1e-2, 1e-3, 1e-3],
        "seed": [0, 1, 0, 1],
    }
    plain = Grid(SMALL, {world().paths: list(world().values.values()), "seed": range(2)})
    assert [repr(grid.setting_of(row)) for row in range(4)] == [repr(plain.setting_of(row)) for row in range(4)]
    pd.testing.assert_frame_equal(grid.table.drop(columns="world"), plain.table)


def test_a_named_axis_without_labels_holds_values_of_one_path_and_numbers_points_of_several():
    starts = Axis("start", ("seed", "init_seed"), [(1, 7), (2, 9)])
    grid = Grid(SMALL, [Axis("p", "features.density", [0.1, 0.2]), starts, Axis("lr", "optimizer.lr", [0.1])])
    assert list(grid.table) == ["row", "p", "density", "start", "seed", "init_seed", "lr"]
    assert grid.table["p"].tolist() == grid.table["density"].tolist() == [0.1, 0.1, 0.2, 0.2]
    assert grid.table["start"].tolist() == [0, 1, 0, 1] and set(grid.table["lr"]) == {0.1}


def test_axes_are_a_mapping_again_in_which_others_may_be_put():
    grid = Grid(SMALL, [("seed", [3, 4]), world()])
    assert list(grid.axes) == ["seed", "world"] and grid.paths == ("seed", *world().paths)
    other = dataclasses.replace(grid, axes={**grid.axes, "seed": [5]})
    assert other.table["seed"].tolist() == [5, 5] and other.table["world"].tolist() == ["sparse", "dense"]
    pd.testing.assert_frame_equal(Grid(SMALL, grid.axes).table, grid.table)


def test_named_axes_are_found_and_loaded_again_and_those_without_are_accounted_for_as_ever(tmp_path):
    axes = [world(), Axis("p", "task.importance", [1.0, np.linspace(0, 1, 4)]), Axis("n", ("seed",), [(7,)])]
    results = run(Grid(SMALL, axes), results=tmp_path)
    loaded = load(results.path)
    pd.testing.assert_frame_equal(loaded.table, results.table, check_exact=True)
    assert list(loaded.grid.axes) == ["world", "p", "n"] and isinstance(loaded.grid.axes["world"], Axis)
    assert run(loaded.grid, results=tmp_path).path == results.path
    axes[0] = world("place")
    assert run(Grid(SMALL, axes), [], results=tmp_path).path != results.path
    assert GRID.account == GRID.axes and "toysup.grid" not in json.dumps(loaded.account["axes"])


def test_a_grid_shows_how_large_it_is_and_which_axes_split_it():
    setting = Setting(SparseUniform(4), Identity(), Model(Scaled, factor=1.0))
    axes = [world(), ("model.factor", [1.0, 2.0]), (("seed", "steps"), [(0, 5), (1, 5), (2, 5)])]
    assert repr(Grid(setting, axes)).splitlines() == [
        "Grid: 12 instances in 2 stacks",
        "  world (features.density, optimizer.lr): 2 values, vary inside a stack",
        "  model.factor: 2 values, split stacks",
        "  seed, steps: 3 values, steps splits stacks",
    ]
    assert repr(Grid(SMALL)) == "Grid: 1 instance in 1 stack"


BAD_NAMES = {
    "Axis: name must be text without control characters, got 3": lambda: Axis(3, "seed", [1]),
    "Axis: name must be that of a column of its own, got 'row'": lambda: Axis("row", "seed", [1]),
    "Axis: name must be that of a column of its own, got ' '": lambda: Axis(" ", "seed", [1]),
    "Axis: paths must be a dotted path, or a tuple of them, got 3": lambda: Axis("a", 3, [1]),
    "axis 'a' needs a list of values, got 3": lambda: Axis("a", "seed", 3),
    "axis 'density' is called as the column of 'features.density' is": lambda: [world("density")],
    "axis 'seed' is called as the column of 'seed' is": lambda: [world("seed"), Axis("s", "seed", [1])],
    "axis 'lr' is called as": lambda: [world("lr", values=[(0.1, 0.1), (0.2, 0.1)])],
    "axis 'seed' is called as the column": lambda: [Axis("seed", "seed", {"one": 1})],
    "axis 'world' is given twice": lambda: [world(), world(paths=("seed", "init_seed"), values=[(1, 2)])],
    "axis 'seed' is given twice": lambda: [("seed", [1]), ("seed", [2])],
    "axis 'features.density' is given twice": lambda: [world(), ("features.density", [0.3])],
    "axis 'world' has no values": lambda: [world(values={})],
    "axis 'world' needs 2 values at each point, got 1": lambda: [world(values={"a": (1,)})],
    "axis 'world' stands under another name, 'seed'": lambda: {"seed": world()},
    "or list such pairs and Axis objects, got 'seed'": lambda: "seed",
    "or list such pairs and Axis objects, got Axis(": world,
    "or list such pairs and Axis objects, got 'seed' among them": lambda: ["seed", [1, 2]],
}


@pytest.mark.parametrize("message", BAD_NAMES)
def test_bad_named_axes_are_refused_in_one_line(message):
    with pytest.raises(InputError) as caught:
        Grid(SMALL, BAD_NAMES[message]())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_iterator_is_read_once():
    grid = Grid(SMALL, {"seed": iter(range(3)), ("features.density", "optimizer.lr"): zip([0.1], [0.2], strict=True)})
    assert grid.axes["seed"] == [0, 1, 2] and len(Grid(SMALL, grid.axes)) == 3


BAD_GRIDS = {
    "Adam has lr, weight_decay, beta1, beta2, eps, schedule, not 'rate'": {"optimizer.rate": [0.1]},
    "unknown axis 'width': Setting has features, task, model": {"width": [1]},
    "unknown axis 'model.depth': Model has width, relu, hidden_relu, not 'depth'": {"model.depth": [1]},
    "unknown axis 'features.density.x': float has no fields": {"features.density.x": [1]},
    "axis 'seed' has no values": {"seed": []},
    "axis 'seed' has no values ": {"seed": {}},
    "axis 'features.density' needs a list of values, got 0.1": {"features.density": 0.1},
    "needs 2 values at each point, got 3": {("seed", "features.density"): [(1, 0.1, 2)]},
    "needs a list of values, got 3": {("seed", "features.density"): [3]},
    "axis 'seed' is given twice": {"seed": [1], ("seed", "features.density"): [(2, 0.1)]},
    "density must lie in (0, 1], got 1.5": {"features.density": [0.1, 0.2, 1.5]},
    "density must lie in (0, 1], got 1.6": {("seed", "features.density"): [(1, 0.1), (1, 1.6)]},
    "density must lie in (0, 1], got 0": {"model.width": [1, 2], "features.density": [0.1, 0.0]},
    "lr must lie in (0, inf], got -1": {"optimizer.lr": [1e-3, -1]},
    "exponent must lie in (1, inf], got 1": {"task.exponent": [2.0, 1.0]},
    "importance has 3 entries, expected one number or 4": {"task.importance": [np.ones(4), np.ones(3)]},
    "seed must be a whole number >= 0, got -1": {"seed": [0, -1]},
    "data_seed must be a whole number >= 0, got 0.5": {"data_seed": [None, 0.5]},
    "seed must lie in [0, 2^32)": {"seed": [2**32]},
    "width must be a whole number >= 1, got 0": {"model.width": [2, 0]},
    "steps must be a whole number >= 1, got 0": {"steps": [3, 0]},
    "task must be a Task, got 3": {"task": [Identity(), 3]},
    "a setting may hold numbers, arrays": {"model.width": [object()]},
    "axis 'features.density' is a part of what axis 'features' sets": {
        "features": [SparseUniform(4, 0.1), SparseUniform(5, 0.2)],
        "features.density": [0.3, 0.4],
    },
    "axis 'model.width' is a part of what axis 'model' sets": {"model": [SMALL.model], "model.width": [1]},
    "axis seed holds 1 twice": {"seed": [0, 1, 1]},
    "axis features.density holds 0.2 twice": {"features.density": [0.1, 0.2, 0.2]},
    "axis model.width holds 2 twice": {"model.width": [2, 2]},
    "axis features holds SparseUniform": {"features": [SparseUniform(4, 0.1), SparseUniform(4, 0.1)]},
    "axis seed, features.density holds (1, 0.1) twice": {("seed", "features.density"): [(1, 0.1), (2, 0.1), (1, 0.1)]},
    "rows 0 and 1 are the same instance": {"data_seed": [3], "init_seed": [4], "seed": [0, 1]},
    "rows 0 and 3 are the same instance": {("seed", "data_seed"): [(0, None), (1, 0)], "init_seed": [5, 6, 7]},
    "density must be a number": {"features.density": ["0.1"]},
    "density must be a number or an array of numbers, got True": {"features.density": [True]},
    "beta1 must lie in [0, 1), got 1": {"optimizer.beta1": [0.9, 1.0]},
    "density must lie in (0, 1] in float32": {"features.density": [1e-50]},
    "seed must be a whole number >= 0, got True": {"seed": [True]},
    "seed must be a whole number >= 0, got 1.0": {"seed": [1.0, 2.0]},
    "seed must be a whole number >= 0, got '3'": {"seed": ["3"]},
    "init_seed must lie in [0, 2^32)": {"init_seed": [0, 2**32]},
}


@pytest.mark.parametrize("message", BAD_GRIDS)
def test_bad_grids_are_refused_in_one_line_when_they_are_declared(message):
    with pytest.raises(InputError) as caught:
        Grid(SMALL, BAD_GRIDS[message])
    assert message.strip() in str(caught.value) and "\n" not in str(caught.value)


def setting_with(features, task):
    return Setting(features, task, Model(TiedAutoencoder, width=2), steps=8, batch=16)


ZIPF = setting_with(PowerLaw(16, 0.0, 0.01), Identity())
DENSE = {"features.density": [0.01, 0.5]}
TOO_ACTIVE = "the largest activity, p_1, must lie in"


@pytest.mark.parametrize(
    ("setting", "axes", "message"),
    [
        (ZIPF, {"features.exponent": [0.0, 2.0], **DENSE}, TOO_ACTIVE),
        (ZIPF, {("features.exponent", "optimizer.lr"): [(0.0, 0.1), (2.0, 0.2)], **DENSE}, TOO_ACTIVE),
        (ZIPF, {("features.exponent", "task.exponent"): [(0.0, 2.0), (2.0, 4.0)], **DENSE}, TOO_ACTIVE),
        (
            setting_with(SparseUniform(4, 0.1), Least(0.1)),
            {"features.density": [0.1, 0.5], "task.least": [0.05, 0.3]},
            "density must be at least 0.3",
        ),
    ],
)
def test_every_combination_of_a_grid_must_be_allowed(setting, axes, message):
    for name, values in axes.items():
        if isinstance(name, str):  # each alone is
            Grid(setting, {name: values[:1]})
    with pytest.raises(InputError, match=message):
        Grid(setting, axes)


@pytest.mark.parametrize("name", ["row", "feature", "engine", "train_loss", "diverged_step"])
def test_an_axis_is_not_called_as_a_column_that_every_table_has(name):
    namespace = {"TiedAutoencoder": TiedAutoencoder}
    init = f"def __init__(self, n_in, n_out, *, {name}):\n    TiedAutoencoder.__init__(self, n_in, n_out, width={name})"
    exec(init, namespace)
    setting = dataclasses.replace(
        SMALL, model=Model(type("Own", (TiedAutoencoder,), {"__init__": namespace["__init__"]}), **{name: 1})
    )
    for axes in ({f"model.{name}": [3, 1]}, {("seed", f"model.{name}"): [(0, 3), (1, 1)]}):
        with pytest.raises(InputError, match=f"axis 'model.{name}' would be a column '{name}', which every table has"):
            Grid(setting, axes)


def class_of(factor):
    class Own(TiedAutoencoder):
        def forward(self, x, record=False):
            return super().forward(factor * x, record)

    return Own


def test_values_that_differ_are_called_differently():
    models = [Model(class_of(factor), width=2) for factor in (1, 2, 3)]
    table = Grid(SMALL, {"model": models}).table
    assert table["model"].tolist() == ["Model(Own, width=2)", "Model(Own, width=2) #2", "Model(Own, width=2) #3"]
    arrays = [np.ones(40), np.ones(40) + 1e-9 * np.arange(40)]
    setting = dataclasses.replace(SMALL, features=SparseUniform(40, 0.3))
    assert Grid(setting, {"task.importance": arrays}).table["importance"].nunique() == 2


def test_none_beside_numbers_stays_none_and_numbers_stay_numbers():
    table = Grid(SMALL, {"examples": [None, 64, 32], "data_seed": [None, 7]}).table
    assert table["examples"].tolist() == [None, None, 64, 64, 32, 32] and (table["examples"] == 64).sum() == 2
    assert table["data_seed"].tolist() == [None, 7] * 3
    labels = Grid(SMALL, {"features.density": {1: 0.1, "b": 0.2}}).table["density"]
    assert labels.tolist() == [1, "b"]


def test_stacks_refuse_seeds_that_are_none():
    for seeds, message in (([0.2, 0.9], "0.2"), ([0, 2**32], "4294967296"), ([-1], "-1"), ([True, False], "True"),
                           (["1"], "'1'"), ([0, 1, 0], "seed 0 is given twice"), ([[0]], r"\(1, 1\)")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Stack.of(SMALL, seeds)
    for path in ("model.width", "steps", "optimizer.schedule.final", "optimizer.schedule", "seed"):
        with pytest.raises(InputError, match=f"{path} cannot differ by instance inside a stack"):
            Stack(SMALL, np.arange(2), np.arange(2), {path: np.array([0.1, 0.9])})
    with pytest.raises(InputError, match="init_seed must be whole numbers"):
        Stack(SMALL, np.arange(2), np.array([0.5, 1.5]))


# ------------------------------------------------------------------------------------------------------------ sweeps

GRID = Grid(
    SMALL, {"model.width": [1, 2], "features.density": [0.2, 0.6], "optimizer.lr": [1e-2, 1e-1], "seed": [3, 4]}
)
MEASURES = (held_out_loss, recovered, r_squared, feature_norm)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run(GRID, MEASURES, results=tmp_path_factory.mktemp("results"), snapshots=[0, 5])


def test_a_sweep_is_training_each_setting_alone(results):
    table = results.table
    assert len(table) == len(GRID) and table["row"].tolist() == list(range(len(GRID)))
    assert list(table)[:5] == ["row", "width", "density", "lr", "seed"]
    for row in (0, 3, 6, 9, 12, 15):
        setting = GRID.setting_of(row)
        alone = train(Stack.of(setting, [setting.seed]), device="cpu")
        for name, parameter in results.model(row).named_parameters():
            # 8 steps of Adam carry the rounding of a larger batched product, 1e-7 of each gradient
            torch.testing.assert_close(parameter.detach(), alone.parameters[name][0], rtol=1e-4, atol=1e-5)
        found = table.loc[row]
        assert found["train_loss"] == pytest.approx(alone.history[0, -1].item(), rel=1e-4)
        assert found["held_out_loss"] == pytest.approx(held_out_loss(alone).value.item(), rel=1e-4)
        assert found["held_out_loss_error"] == pytest.approx(held_out_loss(alone).error.item(), rel=1e-3)
        assert found["recovered"] == pytest.approx(recovered(alone).value.item(), rel=1e-3, abs=1e-4)
        own = results.features[results.features["row"] == row]
        assert own["feature"].tolist() == [0, 1, 2, 3]
        assert own["r_squared"].to_numpy() == pytest.approx(r_squared(alone).value[0].numpy(), rel=1e-3, abs=1e-4)
        assert own["feature_norm"].to_numpy() == pytest.approx(feature_norm(alone)[0].numpy(), rel=1e-3, abs=1e-4)
        assert results.history(row) == pytest.approx(alone.history[0].numpy(), rel=1e-4)


def test_workers_change_nothing(results, tmp_path):
    shared = run(GRID, MEASURES, results=tmp_path, workers=2, snapshots=[0, 5])
    assert shared.path.name == results.path.name
    pd.testing.assert_frame_equal(shared.table, results.table, check_exact=True)
    pd.testing.assert_frame_equal(shared.features, results.features, check_exact=True)


def test_the_order_of_axes_changes_only_the_order_of_rows(results):
    turned = run(Grid(SMALL, dict(reversed(GRID.axes.items()))), MEASURES).table
    keys = ["width", "density", "lr", "seed"]
    columns = [*keys, "held_out_loss", "recovered", "train_loss"]
    both = [t.sort_values(keys, ignore_index=True)[columns] for t in (turned, results.table)]
    pd.testing.assert_frame_equal(*both, rtol=1e-4)


def test_a_chunk_for_every_instance_changes_nothing(results, monkeypatch):
    for name in ("CACHE_BYTES", "FUSED_BYTES"):
        monkeypatch.setattr(toysup.ensemble.stack, name, 1)
    cut = run(GRID, MEASURES)
    assert len(list(cut.path.glob("*.safetensors"))) == len(GRID)
    pd.testing.assert_frame_equal(cut.table, results.table, rtol=1e-4)


def test_whole_sweeps_parts_and_rows(results):
    parts = list(results)
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(len(GRID)))
    with pytest.raises(InputError, match=r"rows are of 2 shapes, .* go through the parts"):
        results.trained()
    with pytest.raises(InputError, match="rows must be at least one, got none"):
        results.trained(rows=[])
    with pytest.raises(InputError, match="rows needs a list of rows, got 0"):
        results.trained(0)  # a chunk, once
    chosen = [7, 0, 3]
    some = results.trained(rows=chosen)
    assert some.rows.tolist() == chosen
    assert held_out_loss(some).value.tolist() == pytest.approx(
        results.table["held_out_loss"][chosen].tolist(), rel=1e-5
    )
    one_shape = run(Grid(SMALL, {"seed": range(7)}))
    whole = one_shape.trained()
    assert whole.rows.tolist() == list(range(7)) == whole.stack.data_seed.tolist()
    assert held_out_loss(whole).value.tolist() == pytest.approx(one_shape.table["held_out_loss"].tolist(), rel=1e-5)


def test_padding_is_dropped():
    cut = run(Grid(SMALL, {"seed": range(5)}))  # two chunks of three
    assert cut.table["seed"].tolist() == [0, 1, 2, 3, 4]
    assert [part.rows.tolist() for part in cut] == [[0, 1, 2], [3, 4]]
    whole = cut.trained()
    assert whole.rows.tolist() == list(range(5)) and torch.equal(
        whole.parameters["W"][3:], list(cut)[1].parameters["W"]
    )


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 4096))
@settings(deadline=None, max_examples=100)
def test_chunks_are_of_equal_size_and_hold_every_instance_once(instances, n_features, batch):
    setting = dataclasses.replace(SMALL, features=SparseUniform(n_features, 0.5), batch=batch)
    parts = chunks(Stack.of(setting, range(instances)), torch.device("cpu"))
    size = len(parts[0])
    assert {len(part) for part in parts} == {size}
    together = np.concatenate(parts)
    assert together[:instances].tolist() == list(range(instances))
    assert (together[instances:] == instances - 1).all() and len(together) - instances < size
    assert size == 1 or 4 * size * batch * n_features <= toysup.ensemble.stack.CACHE_BYTES
    assert len(parts) >= min(2, instances)  # so that two workers share them


def test_snapshots_come_back(results):
    trained = results.trained(rows=[1, 0])
    assert sorted(trained.snapshots) == [0, 5] and trained.rows.tolist() == [1, 0]
    again = train(trained.stack, device="cpu", snapshots=[0, 5])
    for step in (0, 5):
        torch.testing.assert_close(trained.snapshots[step], again.snapshots[step], rtol=1e-5, atol=1e-6)
    assert not torch.equal(trained.snapshots[0]["W"], trained.parameters["W"])


def test_snapshots_are_checked_against_every_number_of_steps():
    grid = Grid(SMALL, {"steps": [4, 12]})
    with pytest.raises(InputError, match=r"snapshots must lie in \[0, steps=4\], got 10"):
        run(grid, snapshots=[10])
    longer = run(Grid(SMALL, {"steps": [12]}), snapshots=np.array([10]))  # SMALL itself has 8 steps
    assert list(longer.trained().snapshots) == [10]


def test_a_further_measure_from_disk_is_the_column_of_the_sweep(results):
    again = results.measure(held_out_loss)
    both = ["held_out_loss", "held_out_loss_error"]
    pd.testing.assert_frame_equal(again[both], results.table[both], check_exact=True)
    vectors = results.measure(r_squared)
    pd.testing.assert_series_equal(vectors["r_squared"], results.features["r_squared"], check_exact=True)
    assert vectors["row"].tolist() == results.features["row"].tolist()


def test_snapshots_are_measured_like_the_end(results):
    chunk = next(iter(results))
    for step in (0, 5):
        found = results.measure(held_out_loss, snapshot=step)["held_out_loss"][chunk.rows]
        assert found.tolist() == held_out_loss(chunk.at(step)).value.tolist()
        assert (found != results.table["held_out_loss"][chunk.rows]).all()
    with pytest.raises(InputError, match=r"snapshots were taken at \[0, 5\], not at 4"):
        results.measure(held_out_loss, snapshot=4)


def test_a_row_that_is_not_there(results):
    for row in (-1, 16, 0.0, True, None):
        for ask in (results.model, results.history, results.grid.setting_of, lambda row: results.trained(rows=[row])):
            with pytest.raises(InputError, match=r"row must be a whole number in \[0, 16\), got"):
                ask(row)


def test_diverged_instances_are_counted_aloud_and_leave_the_others_alone():
    grid = Grid(SMALL, {"optimizer.lr": [1e-2, 1e30], "seed": [0, 1]})
    with pytest.warns(UserWarning, match="2 of 4 instances diverged"):
        table = run(grid).table
    assert (table["diverged_step"] >= 0).tolist() == [False, False, True, True]
    fine = run(Grid(SMALL, {"optimizer.lr": [1e-2], "seed": [0, 1]})).table
    assert table["held_out_loss"][:2].tolist() == pytest.approx(fine["held_out_loss"].tolist(), rel=1e-4)


def test_results_that_nobody_asked_to_keep_go_when_they_do():
    kept = run(Grid(SMALL), [])
    path = kept.path
    assert path.exists() and kept.features.empty
    del kept
    assert not path.exists()


# ------------------------------------------------------------------------------------------ what a user writes himself


@dataclass(frozen=True)
class Squares(Sparse):
    """Independent features active with probability `density` and then U^2."""

    density: float = 0.3

    def transform(self, uniforms):
        return torch.where(uniforms < self.density, (uniforms / self.density).square(), 0)

    @property
    def mean(self):
        return self.activity / 3

    @property
    def second_moment(self):
        return self.activity / 5


@dataclass(frozen=True)
class Halved(Regression):
    def target(self, x, constants):
        return x / 2

    def target_moments(self, features, constants):
        return features.mean / 2, features.second_moment / 4, features.variance / 4


class TwoLinears(nn.Module):
    """No `initial`, no `record`: any module will do."""

    def __init__(self, n_in, n_out, *, width=3):
        super().__init__()
        self.first, self.second = nn.Linear(n_in, width), nn.Linear(width, n_out)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def first_weight(trained):
    return trained.parameters["first.weight"][:, 0, 0]


def test_own_classes_go_through_workers_wherever_they_are_defined():
    @dataclass(frozen=True)
    class Thirds(Halved):
        def target(self, x, constants):
            return x / 3

    def bias(trained):
        return trained.parameters["second.bias"], torch.zeros_like(trained.parameters["second.bias"])

    setting = Setting(Squares(4), Halved(), Model(TwoLinears), steps=4, batch=16)
    grid = Grid(
        setting, {"task": {"half": Halved(), "third": Thirds()}, "features.density": [0.2, 0.4], "seed": [1, 2]}
    )
    shared, alone = (run(grid, [held_out_loss, first_weight, bias], workers=w) for w in (2, 1))
    pd.testing.assert_frame_equal(shared.table, alone.table, check_exact=True)
    pd.testing.assert_frame_equal(shared.features, alone.features, check_exact=True)
    assert set(shared.features) == {"row", "task", "density", "seed", "feature", "bias", "bias_error"} | {
        "importance",
        "exponent",
    }
    model = shared.model(5)
    assert isinstance(model, TwoLinears)
    assert model.first.weight[0, 0].item() == pytest.approx(shared.table["first_weight"][5])


def three_numbers(trained):
    return torch.zeros(3 + len(trained))


def one_number(trained):
    return 1.0


def nothing(trained):
    return None


def a_cube(trained):
    return torch.zeros(len(trained), 2, 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_measure_of_the_wrong_shape_is_refused(workers):
    with pytest.raises(InputError) as caught:
        run(Grid(SMALL, {"seed": [0, 1]}), [three_numbers], workers=workers)
    said = "measure three_numbers, row {}: expected (instance,) or (instance, feature) with 1 instances, got (4,)"
    assert str(caught.value) in (said.format(0), said.format(1))  # whichever worker is first


@pytest.mark.parametrize(("measure", "got"), [(one_number, r"\(\)"), (nothing, "None"), (a_cube, r"\(1, 2, 2\)")])
def test_what_is_not_one_number_or_vector_for_each_instance_is_refused(measure, got):
    with pytest.raises(InputError, match=f"measure {measure.__name__}, row 0: expected .* got {got}"):
        run(Grid(SMALL), [measure])


# ------------------------------------------------------------------------------------- measures of several columns


def row_and_half(trained):
    """A mapping of three columns, one of them with its error."""
    row = torch.as_tensor(trained.rows, dtype=torch.float32)
    return {"twice": 2 * row, "half": Estimate(row / 2, row + 1), "even": row % 2 == 0}


def by_feature(trained):
    n = torch.arange(4.0).expand(len(trained), 4)
    return {"up": n, "down": Estimate(-n, n + 1)}


def test_a_mapping_is_several_columns_in_one_file(tmp_path, monkeypatch):
    grid = Grid(SMALL, {"model.width": [1, 2], "seed": range(3)})
    monkeypatch.setattr("toysup.results.measured_at_once", lambda setting: 1)  # so that tiles are joined
    measures = [row_and_half, by_feature, feature_norm, unknown(row_and_half)]
    found = run(grid, measures, results=tmp_path)
    table, rows = found.table, np.arange(6)
    assert table["twice"].tolist() == (2 * rows).tolist() and table["half"].tolist() == (rows / 2).tolist()
    assert table["half_error"].tolist() == (rows + 1).tolist() and table["even"].tolist() == (rows % 2 == 0).tolist()
    assert (table["twice_unknown"] == 0).all() and "row_and_half" not in table
    features = found.features.set_index(["row", "feature"])
    assert list(features.columns[-4:]) == ["up", "down", "down_error", "feature_norm"] and len(features) == 24
    assert (features["down_error"] - features["up"] == 1).all() and features["feature_norm"].notna().all()
    assert len(list(found.path.glob("*.row_and_half-*.parquet"))) == len(found.jobs)  # one file holds all columns
    again = load(found.path)
    pd.testing.assert_frame_equal(again.table, table)
    pd.testing.assert_frame_equal(again.features, found.features)
    again.verify()
    assert again.measure(row_and_half)["half"].tolist() == table["half"].tolist()
    next(iter(found.path.glob("*.by_feature-*.parquet"))).unlink()  # measured again, the others read
    pd.testing.assert_frame_equal(run(grid, measures, results=tmp_path).features, found.features)


def unlike(one, other):
    def several(trained):
        return {"a": torch.zeros(len(trained), *one), "b": torch.zeros(len(trained), *other)}

    return several


def keyed(*names):
    def several(trained):
        return {name: Estimate(torch.zeros(len(trained)), torch.zeros(len(trained))) for name in names}

    return several


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (unlike((), (3,)), r"expected \(1,\), as the column before, with 1 instances for b, got \(1, 3\)"),
        (unlike((2,), (3,)), r"expected \(1, 2\), as the column before, with 1 instances for b, got \(1, 3\)"),
        (
            unlike((2, 2), ()),
            r"expected \(instance,\) or \(instance, feature\) with 1 instances for a, got \(1, 2, 2\)",
        ),
        (keyed(), "expected at least one column, got an empty mapping"),
        (keyed(3), "expected columns named by text, got 3"),
        (keyed("a\nb"), "expected columns named by text, got "),
        (keyed("row"), "a column row says where a value belongs; rename it"),
        (keyed("a", "a_error"), "two of its columns are called a_error"),
    ],
)
def test_a_mapping_that_makes_no_columns_is_refused_in_one_line(measure, said):
    with pytest.raises(InputError, match=f"^measure several, row 0: {said}") as caught:
        run(Grid(SMALL), [measure])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        ([keyed("density")], "measure several: its column density is one the table has"),
        ([row_and_half, keyed("half")], "measure several: its column half is one row_and_half has"),
        ([keyed("feature_norm"), feature_norm], "measure feature_norm: its column feature_norm is one several has"),
    ],
)
def test_columns_that_are_there_already_are_refused_and_the_networks_kept(measures, said, tmp_path, monkeypatch):
    grid = Grid(SMALL, {"features.density": [0.1]})
    for _ in range(2):  # also where the first of the two is on disk
        with pytest.raises(InputError, match=f"^{said}; rename it; the trained networks are kept in ") as caught:
            run(grid, measures, results=tmp_path)
        assert "\n" not in str(caught.value)
        monkeypatch.setattr("toysup.sweep.train_chunk", lambda *_, **__: pytest.fail("trained again"))
    assert "train_loss" in run(grid, measures[:1] if len(measures) > 1 else [], results=tmp_path).table


def test_measures_of_one_folder_that_clash_are_told_where_both_are_read(tmp_path):
    def another(trained):
        return {"half": torch.zeros(len(trained))}

    first = run(Grid(SMALL), [row_and_half], results=tmp_path)
    assert run(Grid(SMALL), [another], results=tmp_path).table["half"].tolist() == [0]
    with pytest.raises(InputError, match=r"measures row_and_half and another of .* columns of the same name"):
        load(first.path).table  # noqa: B018
    with pytest.raises(InputError, match="measure several: its column steps is one the table has"):
        run(Grid(SMALL, {"steps": [2]}), []).measure(keyed("steps"))


def density(trained):
    return torch.zeros(len(trained))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": [recovered, recovered]}, "two measures are called recovered"),
        ({"measures": [density]}, "a measure is called density, as another column of the table is"),
        ({"measures": ["recovered"]}, "a measure must be a named function of a Trained, got 'recovered'"),
        ({"workers": 0}, "workers must be a whole number >= 1, got 0"),
        ({"snapshots": [1.7]}, "snapshots must be a whole number >= 0, got 1.7"),
        ({"compile": "yes"}, "compile must be True, False or None, got 'yes'"),
        ({"snapshots": [9]}, "snapshots must lie in [0, steps=8], got 9"),
        ({"device": "nowhere"}, "device: expected one of"),
    ],
)
def test_bad_sweeps_are_refused_before_training(options, message, monkeypatch, tmp_path):
    monkeypatch.setattr("toysup.sweep.train_chunk", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError) as caught:
        run(Grid(SMALL, {"features.density": [0.1]}), results=tmp_path, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


PARENT = os.getpid()


def fatal_for_the_second(trained):
    if os.getpid() != PARENT and trained.stack.data_seed[0] == 1:
        time.sleep(0.5)  # so that the first chunk is done
        os._exit(9)
    return torch.zeros(len(trained))


def test_a_killed_worker_is_said_and_finished_chunks_are_kept(tmp_path):
    grid = Grid(SMALL, {"seed": [0, 1]})
    with pytest.raises(RuntimeError, match=r"a worker was killed .* run again to go on"):
        run(grid, [fatal_for_the_second], results=tmp_path, workers=2)
    (path,) = tmp_path.iterdir()
    assert {p.stem for p in path.glob("*.parquet") if p.stem.isdigit()} == {"00000", "00001"}  # networks are kept
    assert len(list(path.glob("*.fatal*.parquet"))) == 1
    assert len(run(grid, [fatal_for_the_second], results=tmp_path).table) == 2  # here it does no harm


def test_config_says_what_ran(results):
    config = json.loads((results.path / "config.json").read_text())
    assert list(json.loads((results.path / "measures.json").read_text())["measures"]) == [m.__name__ for m in MEASURES]
    assert config["identity"]["snapshots"] == [0, 5] and config["identity"]["device"] == "cpu"
    assert {"python", "torch", "numpy", "toysup", "commit", "dirty"} <= set(config["versions"])


def test_models_of_different_classes_are_an_axis():
    grid = Grid(SMALL, {"model": {"tied": Model(TiedAutoencoder, width=2), "mlp": Model(MLP, width=3)}, "seed": [0, 1]})
    answer = run(grid)
    assert answer.table["model"].tolist() == ["tied", "tied", "mlp", "mlp"]
    assert [type(answer.model(row)) for row in (1, 2)] == [TiedAutoencoder, MLP]
