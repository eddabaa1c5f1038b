"""A study: cells become a table at their own rates, findings are computed once, claims follow their rules."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from toysup import constructions, report, stats
from toysup.checks import InputError
from toysup.features import SparseUniform
from toysup.measure import features_offered
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.stats import Interval
from toysup.study import Check, Claim, Finding, Given, Search, Study, Variant, bracketed, loads_suffice, moves
from toysup.study.rules import GroupVerdict, Judged, Known
from toysup.study.training import stacked
from toysup.sweep import Axis, Grid
from toysup.tasks import Identity


class Cell(NamedTuple):
    width: int
    density: float

    @property
    def load(self) -> float:
        return 4 / self.width


def setting(cell: Cell, steps: int = 3) -> Setting:
    return Setting(
        SparseUniform(4, cell.density), Identity(), Model(TiedAutoencoder, width=cell.width), Adam(), steps, 32
    )


def rate_of(trained):
    """(instance,)"""
    return torch.as_tensor(
        trained.stack.varying.get("optimizer.lr", np.full(len(trained), trained.setting.optimizer.lr))
    )


def norm(trained):
    """What tells networks apart, and the rate at which each trained."""
    return {"norm": trained.parameters["W"].square().sum((-1, -2)), "lr_seen": rate_of(trained)}


def peaked(trained):
    """Best at a rate that depends on the width, so that cells of two widths find different ones."""
    return 1 - (rate_of(trained) / (0.02 * trained.parameters["W"].shape[-1])).log().square()


CELLS = [Cell(width, density) for width in (1, 2) for density in (0.1, 0.3)]


def test_every_cell_becomes_rows_with_its_fields_properties_and_axes(tmp_path):
    made = Study(
        CELLS, setting, measures=[norm], seeds=3, variants={"longer": Variant({"steps": 2}, lambda c: c.width == 1)}
    )
    table = made.train(results=tmp_path).trained.rows
    assert len(table) == 3 * (4 + 2) and list(table.columns[:3]) == ["width", "density", "load"]
    assert (table["load"] == 4 / table["width"]).all()
    assert (
        table.groupby(["width", "density", "variant"], sort=False)["seed"]
        .apply(list)
        .map(lambda s: s == [0, 1, 2])
        .all()
    )
    assert set(table.loc[table["variant"] == "longer", "steps"]) == {6} and set(
        table.loc[table["variant"] == "", "steps"]
    ) == {3}
    # cells that differ in numbers alone train as one stack: two widths, two lengths for one of them
    assert len(made.outcome.trained.answers) == 3
    alone = Study(CELLS[3:], setting, measures=[norm], seeds=3).table()
    np.testing.assert_array_equal(alone["norm"], table.loc[(table["width"] == 2) & (table["density"] == 0.3), "norm"])
    some = table[(table["width"] == 2) & (table["density"] == 0.3)].iloc[[2, 0]]
    networks = made.outcome.trained.networks(some)
    np.testing.assert_array_equal(norm(networks)["norm"], some["norm"])
    with pytest.raises(InputError, match="one sweep"):
        made.outcome.trained.networks(table)


def test_derived_columns_may_come_from_networks(tmp_path):
    def derive(table, networks):
        return pd.concat([rows.assign(again=norm(networks(rows))["norm"].numpy()) for _, rows in table.groupby("cell")])

    table = Study(CELLS[:2], setting, measures=[norm], seeds=2, derive=derive).train(results=tmp_path).trained.rows
    np.testing.assert_array_equal(table["again"], table["norm"])


def test_joined_grids_have_each_cells_setting():
    grids = {str(cell): Grid(setting(cell), {"seed": [5, 7]}) for cell in CELLS}
    for stack in stacked(grids):
        each = len(stack.grid) // len(stack.members)
        for label, place in stack.members:
            for row in range(2):
                own = stack.grid.setting_of(place * each + row)
                assert repr(own) == repr(grids[label].setting_of(row))
    twice = {"a": grids[str(CELLS[0])], "b": grids[str(CELLS[0])], "c": grids[str(CELLS[1])]}
    (joined,) = stacked(twice)
    assert len(joined.grid) == 4 and [place for _, place in joined.members] == [0, 0, 1]


def test_each_cell_trains_at_the_rate_that_its_search_found():
    def grid(cell, best):
        assert best.bracketed and best.score == pytest.approx(1, abs=1e-5)
        return setting(cell)

    search = Search(lambda cell: setting(cell._replace(density=0.2)), (0.01, 0.02, 0.04, 0.08), peaked)
    made = Study(CELLS, grid, measures=[norm], seeds=2, search=search, claims=[bracketed()])
    table = made.table()
    np.testing.assert_allclose(table["lr"], 0.02 * table["width"], rtol=1e-6)
    np.testing.assert_allclose(table["lr_seen"], table["lr"], rtol=1e-6)
    assert len(made.outcome.trained.rates) == 4 and made.outcome.verdicts == {"learning_rate_bracketed": "supported"}
    narrow = Search(search.grid, (0.02, 0.04), peaked, extend=0)
    assert Study(CELLS, setting, measures=[norm], seeds=2, search=narrow, claims=[bracketed()]).outcome.verdicts == {
        "learning_rate_bracketed": "undecided"
    }


def test_cells_have_measures_of_their_own_and_not_all_need_be_searched():
    search = Search(setting, (0.01, 0.02, 0.04), peaked, of=lambda cell: cell.width == 1)
    made = Study(CELLS, setting, measures=lambda cell: [norm] if cell.width == 1 else [rate_of], seeds=2, search=search)
    table = made.table()
    wide = table["width"] == 2
    assert table.loc[~wide, "lr_seen"].to_numpy() == pytest.approx(0.02) and table.loc[wide, "lr"].isna().all()
    assert table.loc[wide, "rate_of"].to_numpy() == pytest.approx(Adam().lr) and len(made.outcome.trained.rates) == 2


TABLE = pd.DataFrame({"task": ["a"] * 4 + ["b"] * 4, "seed": [0, 1] * 4, "x": [1.0, 2.0, 1.5, 1.6, 5.0, 6.0, 5.5, 5.6],
                      "variant": ["", "", "longer", "longer"] * 2, "cell": ["one"] * 4 + ["two"] * 4})  # fmt: skip


def test_findings_are_computed_once_and_handed_to_whoever_asks():
    calls = []

    def centre(rows):
        calls.append(len(rows))
        return rows["x"].mean()

    known = Known(TABLE, {"centre": Finding(centre, "task"), "span": Finding(lambda centre: centre["b"] - centre["a"]),
                          "share": Finding(lambda centre, span, task: (task, centre / span), "task"),
                          "all": Finding(lambda rows: len(rows), variant=None)})  # fmt: skip
    assert known["share"] == {"a": ("a", 1.5 / 4), "b": ("b", 5.5 / 4)} and known["all"] == 8
    assert known["span"] == 4 and calls == [2, 2]
    with pytest.raises(InputError, match="asks for 'nothing'"):
        Known(TABLE, {"f": Finding(lambda nothing: 1)})
    with pytest.raises(InputError, match="no column 'colour'"):
        Known(TABLE, {"f": Finding(len, "colour")})
    circle = Known(TABLE, {"f": Finding(lambda g: g), "g": Finding(lambda f: f)})
    with pytest.raises(InputError, match="circle: f -> g -> f"):
        circle["f"]


def outcome(*claims, mode="default", **findings):
    given = [
        Given(NamedTuple("Own", [("k", int)])(1), TABLE.drop(columns=["variant", "cell"]).assign(w=TABLE["variant"]))
    ]
    made = Study(given=given, findings=findings, claims=claims, draw=lambda: None, answer=lambda: "It is so.")
    return made.train(mode=mode)


def test_claims_follow_their_rules():
    interval = Finding(lambda rows: stats.mean(rows["x"]), "task", "{task}_mean")
    found = outcome(
        Claim("near one", "x is about 1", "centre", (0, 3), each="{task}_near_one"),
        Claim("near something", "x is about 1 somewhere", "centre", (0, 3), combine=stats.some),
        Claim("far", "x is not about 1", "centre", outside=(0, 3), where={"task": ["b"]}),
        Claim("flag", "seeds are few", lambda rows: len(rows) > 100, otherwise="undecided"),
        Claim("own region", "x lies by its task", "centre", lambda task: (4, 7) if task == "b" else (0, 3)),
        centre=interval,
    )
    assert found.verdicts == {"a_near_one": "supported", "b_near_one": "rejected", "near one": "rejected",
                              "near something": "supported", "far": "supported", "flag": "undecided",
                              "own region": "supported"}  # fmt: skip
    assert set(found.known.statistics()) == {"a_mean", "b_mean"}
    with pytest.raises(InputError, match="no finding 'middle'"):
        outcome(Claim("c", "s", "middle", 1), centre=interval)
    with pytest.raises(InputError, match="region"):
        outcome(Claim("c", "s", "centre"), centre=interval)
    with pytest.raises(InputError, match="interval, a verdict or a flag"):
        outcome(Claim("c", "s", lambda rows: 3.5))


def test_several_columns_each_lie_in_a_region_of_their_own():
    known = Known(TABLE, {"law": Finding(lambda rows: {"mean": stats.mean(rows["x"]), "n": Interval(4, 4, 4)}, "task",
                                         variant=None)})  # fmt: skip
    claim = Claim("c", "x is about 1 or 2, four times", "law", {"mean": (-9, 9), "n": 5}, each="{task}_so")
    found = known.judge(claim)
    assert found.verdicts == {"a_so": "supported", "b_so": "supported", "c": "supported"}
    assert [group.key for group in found.groups][:2] == [{"task": "a", "column": column} for column in ("mean", "n")]
    few = Claim("c", "x is about 1, thrice", "law", {"mean": (-9, 9), "n": 3}, where={"task": "a"})
    assert known.judge(few).verdicts == {"c": "rejected"}
    with pytest.raises(InputError, match="expected a column 'm', got mean, n"):
        known.judge(Claim("c", "s", "law", {"m": 3}))


def test_a_claim_whose_checks_fail_is_shown_as_such_and_a_short_run_decides_nothing():
    claims = [Claim("c", "it holds", lambda: True), Claim("d", "it holds anyhow", lambda: True, checks=()),
              Check("length", "training is long enough", lambda: False)]  # fmt: skip
    full, quick = outcome(*claims), outcome(*claims, mode="quick")
    assert full.judged["c"].words == "yes, but checks fail: length" and full.judged["d"].words == "yes"
    assert (
        full.answer == "It is so. (Checks that fail, on which 1 of 2 claims rest: training is long enough.)"
        and full.verdicts["c"] == "supported"
    )
    assert quick.judged["c"].words == "too short to tell" and quick.judged["d"].words == "yes"
    assert quick.verdicts == {"c": "undecided", "d": "supported", "length": "rejected"}
    assert "Too short to tell with --quick (checks that fail: training is long enough)" in quick.answer
    many = [Claim("c", "it holds", lambda: True), *(Check(f"n{i}", f"{i} do", lambda: False) for i in range(4))]
    assert outcome(*many).answer == "It is so. (Checks that fail: 0 do; 1 do; 2 more.)"
    least = [Claim("c", "it holds", lambda: True, least="default")]
    assert outcome(*least, mode="quick").verdicts == {"c": "undecided"} and outcome(*least).verdicts == {
        "c": "supported"
    }


def test_the_usual_checks():
    known = Known(TABLE, {})
    difference = lambda other, main: stats.mean(other["x"].to_numpy() - main["x"].to_numpy())  # noqa: E731
    check = moves(
        "longer", difference, 20, by="cell", name="length", says="the length does not matter", each="{cell}_length"
    )
    assert known.judge(check).verdicts == {"one_length": "supported", "two_length": "supported", "length": "supported"}
    assert known.judge(moves("other", difference, 20, name="n", says="s")).verdicts == {"n": "undecided"}
    only = moves("longer", difference, 20, by="cell", name="n", says="s", where={"task": "b"}, each="{cell}")
    assert known.judge(only).verdicts == {"two": "supported", "n": "supported"}
    with pytest.raises(InputError, match="no column 'colour'"):
        known.judge(moves("longer", difference, 20, name="n", says="s", where={"colour": "red"}))
    some, none = ({"bracketed": [True, *rest]} for rest in ([np.nan], [False]))
    for table, verdict in (
        (some, "supported"),
        (none, "undecided"),
        ({"bracketed": [np.nan]}, "undecided"),
        ({"x": [1]}, "undecided"),
    ):
        assert Known(pd.DataFrame(table), {}).judge(bracketed()).verdict == verdict
    loads = pd.DataFrame({"cell": "a", "features_offered": [1, 2, 3], "recovered": [1.0, 2.0, 2.01]})
    assert Known(loads, {}).judge(loads_suffice()).verdict == "supported"
    assert Known(loads.assign(recovered=[1, 2, 3]), {}).judge(loads_suffice()).verdict == "undecided"


def test_a_study_goes_on_from_an_earlier_one():
    first = Study(given=[Given(Cell(2, 0.5), constructions.copied_identity(6, depth=2, seeds=[3, 4]))],
                  measures=[features_offered]).train()  # fmt: skip
    built = Given(Cell(1, 0.5), constructions.copied_identity(4, depth=1, seeds=[5]))
    again = Study(given=[built, first.trained, first.trained], measures=[features_offered]).train().trained
    assert sorted(again.rows["features_offered"]) == [4, 6, 6, 6, 6] and len(again.given) == 3
    for row, seed in zip(again.rows.index, again.rows["seed"], strict=True):
        assert again.networks(again.rows.loc[[row]]).stack.init_seed.tolist() == [seed]


def test_given_networks_and_values_are_rows():
    networks = constructions.copied_identity(6, depth=2, seeds=[3, 4])
    built = Given(Cell(2, 0.5), networks)
    published = Given(Cell(1, 0.5), pd.DataFrame({"features_offered": [7.0]}), trained=5)
    made = Study(given=[built, published], measures=[features_offered], draw=lambda: None)
    table = made.table()
    assert list(table["features_offered"]) == [6, 6, 7] and list(table["seed"][:2]) == [3, 4]
    assert made.outcome.trained.instances == 5
    again = made.outcome.trained.networks(table.iloc[[1]])
    assert again.stack.init_seed.tolist() == [4]
    with pytest.raises(InputError, match="published values"):
        made.outcome.trained.networks(table.iloc[[2]])


def test_a_check_bears_on_claims_about_the_groups_where_it_fails():
    only_b = Check("length", "{task} is trained long enough", lambda task: task == "a", by=("task", "x"))
    claims = [
        Claim("a", "it holds", lambda: True, by="task", where={"task": "a"}),
        Claim("b", "it holds", lambda: True, by="task", where={"task": "b"}),
        Claim("both", "it holds", lambda: True, by="task"),
        Claim("all", "it holds", lambda: True),
        Claim("of x", "it holds", lambda: True, by="variant"),
    ]
    found = outcome(*claims, only_b)
    assert {one.claim.name: one.failing for one in found.claims} == {
        "a": [], "b": ["length"], "both": ["length"], "all": ["length"], "of x": ["length"]
    }  # fmt: skip
    fails = sum(group.verdict != "supported" for group in found.judged["length"].groups)
    assert 1 < fails < len(found.judged["length"].groups)
    assert f"b is trained long enough (not in {fails} of" in found.answer
    none = Check("length", "{task} is trained long enough", lambda task: False, by="task")
    assert "every task is trained long enough (not in 2 of 2)" in outcome(*claims, none).answer
    halved = GroupVerdict({"task": "a", "variant": "half the steps", "column": "x"}, "", "rejected")
    usual = GroupVerdict({"task": "a", "variant": "", "column": "y"}, "", "supported")
    assert Judged(none, [halved], "rejected").bears_on(Judged(claims[0], [usual], "supported"))


def test_a_study_without_a_picture_or_an_answer_of_its_own_shows_its_claims():
    rows = pd.DataFrame({"x": [1.0, 2.0]})
    claims = [Claim("one", "x is positive", lambda rows: bool((rows["x"] > 0).all())),
              Check("two", "there are many rows", lambda rows: len(rows) > 9, otherwise="undecided")]  # fmt: skip
    made = Study(given=[Given(Cell(1, 0.5), rows)], claims=claims)
    texts = {text.get_text() for text in made.figure().findobj(Text)}
    assert {"x is positive", "there are many rows", "supported", "undecided"} <= texts
    assert made.figure().get_suptitle().startswith("x is positive")
    assert list(made.claims()["verdict"]) == ["yes, but checks fail: two", "undecided"]


def test_seeds_and_given_rows_may_come_from_iterators():
    rows = pd.DataFrame({"x": [1.0]})
    made = Study(
        CELLS[:2], setting, measures=[norm], seeds=iter([3, 4]), given=lambda: (Given(cell, rows) for cell in CELLS)
    )
    table = made.table()
    assert list(table["seed"][:4]) == [3, 4, 3, 4] and table["x"].notna().sum() == len(CELLS)


def test_named_axes_are_axes_of_a_study_too():
    """Cells that differ in what a named axis sets are not joined over it, and a named axis over seeds is one."""
    worlds = Axis("world", "features.density", {"sparse": 0.05, "dense": 0.5})

    def grid(cell):
        return Grid(setting(cell), [worlds, Axis("draw", "seed", {"a": 1, "b": 2})])

    search = Search(lambda cell: Grid(setting(cell), [worlds]), (0.01, 0.02, 0.04, 0.08), peaked)
    table = Study([Cell(1, 0.1), Cell(2, 0.1)], grid, measures=[norm], search=search).table()
    assert len(table) == 8 and set(table["world"]) == {"sparse", "dense"} and set(table["draw"]) == {"a", "b"}
    np.testing.assert_allclose(table["lr"], 0.02 * table["width"], rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(cells=[Cell(1, 0.1)] * 2, grid=setting), "cells must differ"),
        (dict(cells=[Cell(1, 0.1)]), "expected grid"),
        (dict(cells=[(1, 2)], grid=lambda cell: setting(Cell(1, 0.1))), "NamedTuple"),
        (dict(), "neither"),
        (dict(cells=[Cell(1, 0.1)], grid=lambda cell: 3), "must be a Grid"),
        (dict(claims=[Claim("c", "s", len, checks=["no"])]), "no check"),
        (dict(claims=[Claim("c", "s", len)] * 2), "two claims"),
    ],
)
def test_refusals(wrong, says):
    with pytest.raises(InputError, match=says):
        Study(**wrong).train()


def test_sizes_are_declared_once():
    def sizes(mode):
        run = report.Run("a", "b", mode, "cpu", None, None, None, {})
        return vars(
            run.sizes(dict(steps=100, seeds=8), quick=dict(steps=10), smoke=dict(seeds=2), full=dict(steps=1000))
        )

    assert [sizes(mode) for mode in ("smoke", "quick", "default", "full")] == [
        {"steps": 10, "seeds": 2}, {"steps": 10, "seeds": 8}, {"steps": 100, "seeds": 8}, {"steps": 1000, "seeds": 8}
    ]  # fmt: skip
    with pytest.raises(InputError, match="'stepps' is not among"):
        report.Run("a", "b", "quick", "cpu", None, None, None, {}).sizes(dict(steps=1), smoke=dict(stepps=2))


def test_intervals_become_records():
    known = Known(TABLE, {"law": Finding(lambda rows: {"a": Interval(1, 0, 2), "n": len(rows)}, "task")})
    assert known.records() == {
        "law": [{"task": "a", "a": Interval(1, 0, 2), "n": 2}, {"task": "b", "a": Interval(1, 0, 2), "n": 2}]
    }
    assert Known(TABLE, {"all": Finding(lambda rows: rows, kept=False)}).records() == {}
