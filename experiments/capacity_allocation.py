"""Who gets how much of the width? Feature capacities against importance and kurtosis, beside the exact optimum.

Scherlis et al. 2022, "Polysemanticity and Capacity in Neural Networks": y = sum_i v_i x_i^2 is predicted through m <
n dimensions by y' = |W^T x|^2 + b. They predict that the most important features get a dimension each (capacity C_i =
(W_i.W_i)^2 / sum_j (W_i.W_j)^2 = 1), less important ones share, the least are ignored (0), with more sharing the
higher the features' kurtosis k; that sum C_i <= m; and that embeddings are block-semi-orthogonal, where sum C_i = m.
The optimum is derived in `toysup.theory.capacity`: dedicated where v_i >= A, ignored where v_i <= 2 A / (k - 1),
nothing shared for k <= 3. Features are 0 or +-1 (k = 1 / density). (a) Two features in one dimension over k and v_2 /
v_1; (b) 6, 12 and 20 features in 3, 4 and 5 dimensions, v_i = .8^i; beside them the ReLU autoencoder of Elhage et al.
2022 at density 1 / k. C <= .05 counts as ignored and C >= .95 as dedicated, in trained networks and in the optimum
alike. (a) trains 3,000 steps: after 1,500 of a first run one start in four had not come down everywhere.
Two cores: --quick half a minute, default (15,888 networks) 4.5 minutes beside other work.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
import torch

from toysup import plots, stats
from toysup.features import SparseBoolean, SparseNormal, SparseUniform
from toysup.grid import Axis
from toysup.measure import block_sizes, dimensionality
from toysup.models import SquaredProjection, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, Variant, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity, SumOfSquares
from toysup.theory import REGIONS, capacity_loss, capacity_optimum, capacity_regions, expected_loss

QUESTION = "Who gets how much of the width: do capacities follow importance and kurtosis as the optimum says?"
KURTOSIS = np.array([2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 40.0])
TOLERANCE = 0.05  # of a capacity, to call a feature ignored or dedicated
LAWS = {"boolean": (SparseBoolean, 1.0), "uniform": (SparseUniform, 9 / 5), "normal": (SparseNormal, 3.0),
        "relu": (SparseUniform, 1.0)}  # kurtosis times density; for the ReLU model kurtosis means 1 / density  # fmt: skip
PACES = {"half_the_steps": (0.5, 1.0), "twice_the_steps": (2.0, 1.0), "a_third_of_the_rate": (1.0, 1 / 3)}


class Cell(NamedTuple):
    family: str
    n: int
    m: int
    law: str = "boolean"


def importances(n: int, choices: int) -> np.ndarray:
    """(choice, n): .8^i; of two features, ratios v_2 / v_1 from .1 to 10, the larger is 1."""
    if n > 2:
        return 0.8 ** np.arange(n)[None]
    ratio = np.geomspace(0.1, 10, choices)
    return np.stack([np.ones(choices), ratio], -1) / np.maximum(1, ratio)[:, None]


def study(run: Run) -> Study:
    size = run.sizes(dict(cells=40, coarse=12, seeds=40, sizes=3, steps=2000, more=3000, batch=512),
                     quick=dict(cells=16, coarse=4, seeds=6, sizes=1, steps=1000, more=1000, batch=256),
                     smoke=dict(cells=4, coarse=3, seeds=2, steps=10, more=10, batch=32))  # fmt: skip

    def grid(cell: Cell, choices: int = size.cells, longer: float = 1.0, faster: float = 1.0) -> Grid:
        relu, two, (law, scale) = cell.law == "relu", cell.n == 2, LAWS[cell.law]
        kurtosis = np.geomspace(1.25, 40, choices) if two else KURTOSIS[[2, 4, 6]] if cell.law in ("uniform", "normal") else KURTOSIS
        features = law(cell.n, 0.1) if relu else law(cell.n, 0.1, signed=True)
        model = Model(TiedAutoencoder if relu else SquaredProjection, width=cell.m)
        optimizer, steps = Adam(lr=0.01 * faster, schedule=Cosine()), size.more if two or relu else size.steps
        setting = Setting(features, Identity() if relu else SumOfSquares(), model, optimizer, int(steps * longer), size.batch)
        return Grid(setting, [Axis("kurtosis", "features.density", {float(k): scale / k for k in kurtosis}),
                              Axis("choice", "task.importance", dict(enumerate(importances(cell.n, choices)))),
                              ("seed", range(4 if two else size.seeds))])  # fmt: skip

    sizes = [Cell(f"n{n}_m{m}", n, m) for n, m in ((12, 4), (6, 3), (20, 5))[: size.sizes]]
    cells = [Cell("two", 2, 1), Cell("relu_two", 2, 1, "relu"), Cell("relu", 12, 4, "relu"), *sizes,
             *(Cell(f"n12_m4_{law}", 12, 4, law) for law in ("uniform", "normal"))]  # fmt: skip
    paces = {name: Variant(lambda _, pace=pace: grid(cells[0], size.coarse, *pace), lambda cell: cell.family == "two")
             for name, pace in PACES.items()}  # fmt: skip
    two, many, laws = {"family": "two"}, {"family": [cell.family for cell in sizes]}, {"law": ["uniform", "normal"]}
    high = 1 - 0.05 / (KURTOSIS > 3).sum()
    findings = {
        "two": Finding(of_two, named="two_{column}", where=two),
        "two_controls": Finding(two_controls, where=two),
        "paces": Finding(lambda rows: {"agreement": agreement(rows), "sharing": share(rows[rows["kurtosis"] <= 3]["shared"])},
                         "variant", where=lambda rows: rows["variant"] != "", variant=None),
        "relu_two": Finding(lambda rows: {"ignored": share(rows["C1"] <= TOLERANCE), "half": share(abs(rows["C1"] - 0.5) < 0.1),
                                          "dedicated": share(rows["C1"] >= 1 - TOLERANCE)}, where={"family": "relu_two"}),
        "many": Finding(of_many, "family", "{family}_{column}", many), "many_controls": Finding(many_controls, "family", where=many),
        "law": Finding(error, "family", "{family}_capacity_error", laws),
        "relu": Finding(lambda rows: {"width_filled": share(rows["filled"]), "ordered": share(rows[rows["kurtosis"] > 3]["ordered"])},
                        where={"family": "relu"}),
        "blocks": Finding(lambda rows: stats.mean(difference(rows), level=high), "kurtosis", "largest_block_more_than_relu_at_{kurtosis:g}",
                          where=lambda rows: rows["family"].isin(["n12_m4", "relu"]) & (rows["kurtosis"] > 3)),
        "largest_sum_over_width": Finding(lambda rows: exact(1 + rows["over"].max()), named="largest_sum_over_width", variant=None),
        "lowest_excess": Finding(lambda rows: exact(rows["excess"].min()), where=lambda rows: rows["law"] != "relu", variant=None),
    }  # fmt: skip
    of_each = {"capacities_as_theory": ("capacity_error", (-np.inf, 0.02), "mean capacity error is below .02"),
               "regions_as_theory": ("regions_right", (0.9, np.inf), "regions are the optimum's for over 90% of features"),
               "ordered_by_importance": ("ordered_by_importance", (0.9, np.inf), "over 90% are ordered by importance"),
               "optimum_reached": ("seeds_at_optimum_above_3", (0.9, np.inf), "over 90% come within 1% of the optimum"),
               "block_semi_orthogonal": ("width_filled", (0.9, np.inf), "in over 90% capacities add up to m")}
    claims = [
        Claim("two_regions_as_theory", "two features: in over 90% of cells the best of 4 seeds has the optimum's regions",
              "two.agreement", (0.9, 1)),
        Claim("two_capacities_as_theory", "two features: the 95th percentile of the capacity error is below .05",
              "two.error_95th_percentile", (-np.inf, 0.05)),
        Claim("no_sharing_up_to_kurtosis_3", "up to k = 3 under 5% of networks share, over 90% where the optimum does",
              lambda two: stats.every(stats.decide(two["sharing_up_to_kurtosis_3"], (0, 0.05)),
                                      stats.decide(two["sharing_where_theory_shares"], (0.9, 1)))),
        *(Claim(f"many {name}", f"many features, k > 3: {says}", f"many.{of}", region, each=f"{{family}}_{name}", combine=None)
          for name, (of, region, says) in of_each.items()),
        Claim("only_kurtosis_matters", "with other magnitudes of equal k the error is below .02", "law", (-np.inf, 0.02),
              each=lambda family: f"only_kurtosis_matters_{family.removeprefix('n12_m4_')}", combine=None),
        Claim("blocks_depend_on_the_model", "at some k > 3 the largest block has a feature more than the ReLU model's",
              "blocks", (1, np.inf), combine=stats.some),
        Check("sum_at_most_width", "capacities never add up to more than m", "largest_sum_over_width", (0, 1 + 1e-5)),
        Check("optimum_never_beaten", "no loss is below the optimum's", "lowest_excess", (-1e-6, np.inf)),
    ]  # fmt: skip
    return Study(cells, grid, measures=[], variants=paces, derive=allocations, findings=findings, claims=claims, draw=draw,
                 answer=answer)  # fmt: skip


def allocations(table: pd.DataFrame, networks) -> pd.DataFrame:
    """Columns: capacities C_i, and of the quadratic model the optimum's O_i, who is right, and the excess loss."""
    parts = []
    for (_, n, m, law, _), rows in table.groupby(["family", "n", "m", "law", "variant"], sort=False):
        trained, k, v = networks(rows), rows["kurtosis"].to_numpy(), importances(n, rows["choice"].nunique())[rows["choice"]]
        W, b = (trained.parameters[name].double().numpy() for name in ("W", "b"))
        C = dimensionality(torch.from_numpy(W)).numpy()
        regions = capacity_regions(C, TOLERANCE)
        found = {"over": C.sum(-1) / m - 1, "largest_block": block_sizes(W).max(-1), "shared": (regions == 1).any(-1),
                 "ordered": (np.diff(regions) <= 0).all(-1), "filled": C.sum(-1) > 0.99 * m,
                 "excess": expected_loss(W, b, 1 / k, v) if law == "relu" and n == 2 else np.nan}  # fmt: skip
        if law != "relu":
            optimum = capacity_optimum(m, v, k)
            told = capacity_regions(optimum.capacity, TOLERANCE)
            found |= {"error": np.abs(C - optimum.capacity).mean(-1), "right": (regions == told).sum(-1),
                      "theory_shares": (told == 1).any(-1).astype(float), "price": optimum.price,
                      "top_error": abs(C - (np.arange(n) < m)).mean(-1),  # from what k <= 3 would give
                      "excess": (capacity_loss(W, b[:, 0], v, k) - optimum.loss) / ((k - 1) * (v**2).sum(-1))}
            found |= {f"O{i}": optimum.capacity[:, i] for i in range(n)}
        parts.append(rows.assign(**found, **{f"C{i}": C[:, i] for i in range(n)}))  # fmt: skip
    return pd.concat(parts)


def share(true: pd.Series) -> stats.Interval:
    return stats.share(int(true.sum()), len(true))


def exact(value: float) -> stats.Interval:
    return stats.Interval(value, value, value)


def of_best(rows: pd.DataFrame) -> pd.DataFrame:
    """The seed of least loss at each kurtosis and importance."""
    return rows.loc[rows.groupby(["kurtosis", "choice"], sort=False)["excess"].idxmin()]


def agreement(rows: pd.DataFrame) -> stats.Interval:
    """Share of cells whose best seed has every region right."""
    return share(of_best(rows)["right"] == rows["n"].iloc[0])


def each(rows: pd.DataFrame, column: str) -> np.ndarray:
    """(kurtosis above 3, seed)"""
    return rows[rows["kurtosis"] > 3].pivot(index="kurtosis", columns="seed", values=column).to_numpy()


def regions(rows: pd.DataFrame, of: str) -> np.ndarray:
    """(network, feature): 0 ignored, 1 shared, 2 dedicated, in the trained networks ("C") or the optimum ("O")."""
    return capacity_regions(rows[[f"{of}{i}" for i in range(rows["n"].iloc[0])]].to_numpy(), TOLERANCE)


def of_two(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    low, high = rows[rows["kurtosis"] <= 3], rows[rows["kurtosis"] > 3]
    return {
        "agreement": agreement(rows), "error_95th_percentile": stats.quantile(of_best(rows)["error"], 0.95),
        "sharing_up_to_kurtosis_3": share(low["shared"]),
        "sharing_where_theory_shares": share(rows.loc[rows["theory_shares"] == 1, "shared"]),
        "seeds_at_optimum_up_to_kurtosis_3": share(low["excess"] < 0.01),
        "seeds_at_optimum_above_3": share(high["excess"] < 0.01),
    }  # fmt: skip


def two_controls(rows: pd.DataFrame) -> dict:
    best = of_best(rows)
    shuffled = np.random.default_rng(0).permutation(regions(best, "C"))
    by_seed = rows[rows["kurtosis"] <= 3].groupby("seed")["shared"].mean()
    return {"agreement_if_shuffled": share((shuffled == regions(best, "O")).all(-1)),
            **{f"sharing_up_to_3_seed_{seed}": value for seed, value in by_seed.items()}}  # fmt: skip


def of_many(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    low, right = rows[rows["kurtosis"] <= 3], each(rows, "right")
    return {
        "capacity_error": error(rows), "regions_right": stats.mean(right.sum(0) / (len(right) * rows["n"].iloc[0])),
        "ordered_by_importance": share(each(rows, "ordered").ravel()),
        "seeds_at_optimum_above_3": share(each(rows, "excess").ravel() < 0.01),
        "seeds_at_optimum_up_to_kurtosis_3": share(low["excess"] < 0.01), "width_filled": share(rows["filled"]),
    }  # fmt: skip


def error(rows: pd.DataFrame) -> stats.Interval:
    return stats.mean(each(rows, "error").mean(0))


def many_controls(rows: pd.DataFrame, family: str) -> dict:
    n, m = rows[["n", "m"]].iloc[0]
    start = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, n, m)))
    found = regions(rows[rows["kurtosis"] > 3], "C")
    return {"width_filled_by_random_weights": stats.mean(dimensionality(start).sum(-1).numpy() / m),
            "capacity_error_if_kurtosis_did_not_matter": stats.mean(each(rows, "top_error").mean(0)),
            **{f"features_{word}": float((found == i).mean()) * n for i, word in enumerate(REGIONS)}}  # fmt: skip


def difference(rows: pd.DataFrame) -> pd.Series:
    by_seed = rows.pivot(index="seed", columns="family", values="largest_block")
    return by_seed["n12_m4"] - by_seed["relu"]


def answer(two: dict, many: dict) -> str:
    return (f"In {two['agreement'].value:.0%} of settings two features are ignored, share or get the dimension as the exact "
            f"optimum has it; capacities of 12 features are off by {many['n12_m4']['capacity_error'].value:.2g} on average")  # fmt: skip


def draw(rows: pd.DataFrame, networks) -> plots.Figure:
    """Above, two features in one dimension: trained, optimum, ReLU. Below, many: profile, ramp, blocks."""
    figure, axes = plots.figure(2, 3, width=13, height=4.2)
    of = dict(iter(rows.groupby("family", sort=False)))
    curve = np.geomspace(3, 40, 200)
    maps = {"quadratic model, best of 4 seeds": ("two", "C1"), "its exact optimum": ("two", "O1"),
            "ReLU autoencoder, best of 4 seeds": ("relu_two", "C1")}  # fmt: skip
    for ax, (title, (family, column)) in zip(axes[0], maps.items(), strict=True):
        best = of_best(of[family])
        ratio = np.geomspace(0.1, 10, best["choice"].nunique())
        best = best.assign(ratio=ratio[best["choice"].astype(int)])
        plots.phase_map(ax, best, "kurtosis", "ratio", column, cmap="cividis", vmin=0, vmax=1, bar=False)
        if family == "two":
            for edge in (2 / (curve - 1), (curve - 1) / 2):
                ax.plot(curve, edge, color="white", linewidth=2)
            for x, y, word, ink in ((15, 1, "both share", "white"), (2, 5, "2 alone", "black"), (2, 0.2, "1 alone", "white")):
                ax.text(x, y, word, color=ink, ha="center", va="center", fontsize=11)
        plots.ticks(ax, x=[2, 3, 5, 10, 20, 40], y=[0.1, 0.3, 1, 3, 10], log=True)
        ax.set(title=title, ylim=(ratio[0], ratio[-1]), xlabel="kurtosis k = 1 / density", ylabel="importance ratio $v_2$ / $v_1$")
    plots.colour_bar(axes[0], "capacity of feature 2")
    many, shown = of["n12_m4"], KURTOSIS[KURTOSIS >= 3]
    colours = dict(zip(shown, sns.color_palette("viridis", len(shown)), strict=True))
    for k in (3, 4, 10, 40):
        own, ranks = many[many["kurtosis"] == k], np.arange(1, 13)
        C, O = (own[[f"{of_what}{i - 1}" for i in ranks]] for of_what in "CO")
        spread = [stats.Interval(*np.quantile(C.iloc[:, i], [0.5, 0.05, 0.95])) for i in range(12)]
        plots.interval(axes[1, 0], ranks, spread, color=colours[k], label=f"k = {k:g}")
        axes[1, 0].plot(ranks, O.iloc[0], color=colours[k])
    axes[1, 0].set(title="n = 12, m = 4: dots trained, lines optimum", ylabel="capacity $C_i$",
                   xlabel="feature i, importance $v_i = 0.8^{i - 1}$")  # fmt: skip
    for k in shown[1:]:
        relative = np.linspace(0, 1.5, 301)
        axes[1, 1].plot(relative, np.clip(((k - 1) * relative - 2) / (k - 3), 0, 1), color=colours[k], label=f"k = {k:g}")
        for name, marker in zip(("n12_m4", "n6_m3", "n20_m5"), "osD", strict=True):
            if name in of:
                own = of[name][of[name]["kurtosis"] == k]
                n = own["n"].iloc[0]
                axes[1, 1].plot(importances(n, 1)[0] / own["price"].iloc[0], own[[f"C{i}" for i in range(n)]].mean(), marker,
                                color=colours[k], markersize=4)  # fmt: skip
    axes[1, 1].set(title="all sizes: dots trained, lines optimum", xlim=(0, 1.5), ylabel="capacity $C_i$",
                   xlabel="importance over the price of a dimension, $v_i$ / A")  # fmt: skip
    blocks = pd.concat([many.assign(model="quadratic"), of["relu"].assign(model="ReLU autoencoder")])
    plots.band(axes[1, 2], blocks, "kurtosis", "largest_block", "model", log=True)
    random = block_sizes(np.random.default_rng(0).normal(size=(500, 12, 4))).max(-1).mean()
    plots.null(axes[1, 2], KURTOSIS, random, "random weights")
    axes[1, 2].set(title="n = 12, m = 4: the largest block", xlabel="kurtosis k, or 1 / density",
                   ylabel="features bound by overlap", ylim=(0, 14))  # fmt: skip
    for ax in axes[1]:
        plots.legend(ax, size=9)
    return figure


if __name__ == "__main__":
    experiment(study)
