"""Who gets how much of the width? Feature capacities against importance and kurtosis, beside the exact optimum.

Scherlis et al. 2022, "Polysemanticity and Capacity in Neural Networks": y = sum_i v_i x_i^2 is predicted through m <
n dimensions by y' = |W^T x|^2 + b. They predict that the most important features get a dimension each (capacity C_i =
(W_i.W_i)^2 / sum_j (W_i.W_j)^2 = 1), less important ones share, the least are ignored (0), with more sharing the
higher the features' kurtosis k; that sum C_i <= m; and that embeddings are block-semi-orthogonal, where sum C_i = m.
The optimum is derived in `toysup.theory.capacity`; nothing is shared for k <= 3. Features are 0 or +-1 (k = 1 / p). (a)
Two features in one dimension over k and v_2 / v_1; (b) 6, 12 and 20 features in 3, 4 and 5 dimensions, v_i = .8^i;
beside them the ReLU autoencoder of Elhage et al. 2022 at density 1 / k. C <= .05 counts as ignored, C >= .95 as
dedicated. (a) trains 3,000 steps: after 1,500 of a first run one start in four had not come down everywhere.
Two cores: --quick half a minute, default (15,888 networks) 4.5 minutes beside other work.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
import torch

from toysup import plots, stats
from toysup.features import SparseBoolean, SparseNormal, SparseUniform
from toysup.geometry import block_sizes, dimensionality
from toysup.grid import Axis
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
        "relu": (SparseUniform, 1.0)}  # kurtosis times density; for the ReLU model k is 1 / density # fmt: skip
PACES = {"half_the_steps": (0.5, 1.0), "twice_the_steps": (2.0, 1.0), "a_third_of_the_rate": (1.0, 1 / 3)}
MAPS = {"quadratic model, best of 4 seeds": ("two", "C1"), "its exact optimum": ("two", "O1"),
        "ReLU autoencoder, best of 4 seeds": ("relu_two", "C1")}  # fmt: skip
OF_EACH = {"capacities_as_theory": ("capacity_error", (-np.inf, 0.02), "the mean capacity error is below .02"),
           "regions_as_theory": ("regions_right", (0.9, np.inf), "regions are the optimum's for over 90% of features"),
           "ordered_by_importance": ("ordered_by_importance", (0.9, np.inf), "over 90% are ordered by importance"),
           "optimum_reached": ("seeds_at_optimum_above_3", (0.9, np.inf), "over 90% come within 1% of the optimum"),
           "block_semi_orthogonal": ("width_filled", (0.9, np.inf), "in over 90% capacities add up to m")}  # fmt: skip


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
        some = KURTOSIS[[2, 4, 6]] if cell.law in ("uniform", "normal") else KURTOSIS
        kurtosis = np.geomspace(1.25, 40, choices) if two else some
        features, task = law(cell.n, 0.1, signed=not relu), Identity() if relu else SumOfSquares()
        model = Model(TiedAutoencoder if relu else SquaredProjection, width=cell.m)
        optimizer, steps = Adam(lr=0.01 * faster, schedule=Cosine()), size.more if two or relu else size.steps
        setting = Setting(features, task, model, optimizer, int(steps * longer), size.batch)
        return Grid(setting, [Axis("kurtosis", "features.density", {float(k): scale / k for k in kurtosis}),
                              Axis("choice", "task.importance", dict(enumerate(importances(cell.n, choices)))),
                              ("seed", range(4 if two else size.seeds))])  # fmt: skip

    sizes = [Cell(f"n{n}_m{m}", n, m) for n, m in ((12, 4), (6, 3), (20, 5))[: size.sizes]]
    cells = [Cell("two", 2, 1), Cell("relu_two", 2, 1, "relu"), Cell("relu", 12, 4, "relu"), *sizes,
             *(Cell(f"n12_m4_{law}", 12, 4, law) for law in ("uniform", "normal"))]  # fmt: skip
    paces = {name: Variant(lambda _, pace=pace: grid(cells[0], size.coarse, *pace), lambda cell: cell.family == "two")
             for name, pace in PACES.items()}  # fmt: skip
    two, many = {"family": "two"}, {"family": [cell.family for cell in sizes]}
    findings = {
        "two": Finding(of_two, named="two_{column}", where=two),
        "paces": Finding(lambda rows: {"agreement": share(of_best(rows)["right"] == 2), "sharing_up_to_kurtosis_3":
                                       share(rows[rows["kurtosis"] <= 3]["shared"])},
                         "variant", where=lambda rows: rows["variant"] != "", variant=None),
        "relu_two": Finding(lambda rows: {word: share(capacity_regions(rows["C1"], TOLERANCE) == i) for i, word in
                                          enumerate(REGIONS)}, where={"family": "relu_two"}),
        "many": Finding(of_many, "family", "{family}_{column}", many),
        "law": Finding(lambda rows: stats.mean(each(rows, "error").mean(0)), "family", "{family}_capacity_error",
                       {"law": ["uniform", "normal"]}),
        "relu": Finding(lambda rows: {"width_filled": share(rows["filled"]), "ordered_by_importance":
                                      share(each(rows, "ordered").ravel())}, where={"family": "relu"}),
        "blocks": Finding(more_than_relu, "kurtosis", "largest_block_more_than_relu_at_{kurtosis:g}",
                          {"family": ["n12_m4", "relu"], "kurtosis": list(KURTOSIS[KURTOSIS > 3])}),
        "largest_sum_over_width": Finding(lambda rows: stats.Interval(*[1 + rows["over"].max()] * 3), variant=None,
                                          named="largest_sum_over_width"),
        "lowest_excess": Finding(lambda rows: stats.Interval(*[rows["excess"].min()] * 3), variant=None,
                                 where={"law": ["boolean", "uniform", "normal"]}),
    }  # fmt: skip
    claims = [
        Claim("two_regions_as_theory", "two features: in over 90% of cells the best seed has the optimum's regions",
              "two.agreement", (0.9, 1)),
        Claim("two_capacities_as_theory", "two features: the 95th percentile of the capacity error is below .05",
              "two.error_95th_percentile", (-np.inf, 0.05)),
        Claim("no_sharing_up_to_kurtosis_3", "up to k = 3 under 5% of networks share, over 90% where the optimum does",
              lambda two: stats.every(stats.decide(two["sharing_up_to_kurtosis_3"], (0, 0.05)),
                                      stats.decide(two["sharing_where_theory_shares"], (0.9, 1)))),
        *(Claim(f"many {name}", f"many features, k > 3: {says}", f"many.{of}", region, each=f"{{family}}_{name}",
                combine=None) for name, (of, region, says) in OF_EACH.items()),
        Claim("only_kurtosis_matters", "other magnitudes of equal k: the error is below .02", "law", (-np.inf, 0.02),
              each=lambda family: f"only_kurtosis_matters_{family.removeprefix('n12_m4_')}", combine=None),
        Claim("blocks_depend_on_the_model", "at some k > 3 the largest block has a feature more than the ReLU model's",
              "blocks", (1, np.inf), combine=stats.some),
        Check("sum_at_most_width", "capacities add up to at most m", "largest_sum_over_width", (0, 1 + 1e-5)),
        Check("optimum_never_beaten", "no loss is below the optimum's", "lowest_excess", (-1e-6, np.inf)),
    ]  # fmt: skip
    return Study(cells, grid, measures=[], variants=paces, derive=allocations, findings=findings, claims=claims,
                 draw=draw, answer=answer)  # fmt: skip


def allocations(table: pd.DataFrame, networks) -> pd.DataFrame:
    """Columns: capacities C_i, and of the quadratic model the optimum's O_i, who is right, and the excess loss."""
    parts = []
    for (_, n, m, law, _), rows in table.groupby(["family", "n", "m", "law", "variant"], sort=False):
        trained, k = networks(rows), rows["kurtosis"].to_numpy()
        v = importances(n, rows["choice"].nunique())[rows["choice"]]
        W, b = (trained.parameters[name].double().numpy() for name in ("W", "b"))
        C = dimensionality(torch.from_numpy(W)).numpy()
        regions = capacity_regions(C, TOLERANCE)
        found = {"over": C.sum(-1) / m - 1, "largest_block": block_sizes(W).max(-1), "shared": (regions == 1).any(-1),
                 "ordered": (np.diff(regions) <= 0).all(-1), "filled": C.sum(-1) > 0.99 * m, "ratio": v[:, 1] / v[:, 0],
                 "excess": expected_loss(W, b, 1 / k, v) if law == "relu" and n == 2 else np.nan}  # fmt: skip
        if law != "relu":
            optimum = capacity_optimum(m, v, k)
            told = capacity_regions(optimum.capacity, TOLERANCE)
            found |= {"error": np.abs(C - optimum.capacity).mean(-1), "right": (regions == told).sum(-1),
                      "theory_shares": (told == 1).any(-1).astype(float), "price": optimum.price,
                      "top_error": abs(C - (np.arange(n) < m)).mean(-1),  # from what k <= 3 would give
                      "excess": (capacity_loss(W, b[:, 0], v, k) - optimum.loss) / ((k - 1) * (v**2).sum(-1)),
                      **{f"O{i}": optimum.capacity[:, i] for i in range(n)}}  # fmt: skip
        parts.append(rows.assign(**found, **{f"C{i}": C[:, i] for i in range(n)}))
    return pd.concat(parts)


def share(true: pd.Series) -> stats.Interval:
    return stats.share(int(true.sum()), len(true))


def of_best(rows: pd.DataFrame) -> pd.DataFrame:
    """The seed of least loss at each kurtosis and importance."""
    return rows.loc[rows.groupby(["kurtosis", "choice"], sort=False)["excess"].idxmin()]


def each(rows: pd.DataFrame, column: str) -> np.ndarray:
    """(kurtosis above 3, seed)"""
    return rows[rows["kurtosis"] > 3].pivot(index="kurtosis", columns="seed", values=column).to_numpy()


def regions(rows: pd.DataFrame, of: str) -> np.ndarray:
    """(network, feature): place in REGIONS, in the trained networks ("C") or the optimum ("O")."""
    return capacity_regions(rows[[f"{of}{i}" for i in range(rows["n"].iloc[0])]].to_numpy(), TOLERANCE)


def of_two(rows: pd.DataFrame) -> dict:
    best, low, high = of_best(rows), rows[rows["kurtosis"] <= 3], rows[rows["kurtosis"] > 3]
    shuffled = np.random.default_rng(0).permutation(regions(best, "C"))
    return {"agreement": share(best["right"] == 2), "error_95th_percentile": stats.quantile(best["error"], 0.95),
            "sharing_up_to_kurtosis_3": share(low["shared"]),
            "sharing_where_theory_shares": share(rows.loc[rows["theory_shares"] == 1, "shared"]),
            "seeds_at_optimum_up_to_kurtosis_3": share(low["excess"] < 0.01),
            "seeds_at_optimum_above_3": share(high["excess"] < 0.01),
            "agreement_if_shuffled": share((shuffled == regions(best, "O")).all(-1)),
            **{f"sharing_up_to_3_seed_{seed}": share(own) for seed, own in low.groupby("seed")["shared"]}}  # fmt: skip


def of_many(rows: pd.DataFrame) -> dict:
    low, high, (n, m) = rows[rows["kurtosis"] <= 3], rows[rows["kurtosis"] > 3], rows[["n", "m"]].iloc[0]
    right = each(rows, "right")
    start = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, n, m)))
    return {"capacity_error": stats.mean(each(rows, "error").mean(0)), "width_filled": share(rows["filled"]),
            "regions_right": stats.mean(right.sum(0) / (len(right) * n)),
            "ordered_by_importance": share(high["ordered"]), "seeds_at_optimum_above_3": share(high["excess"] < 0.01),
            "seeds_at_optimum_up_to_kurtosis_3": share(low["excess"] < 0.01),
            "width_filled_by_random_weights": stats.mean(dimensionality(start).sum(-1).numpy() / m),
            "capacity_error_if_kurtosis_did_not_matter": stats.mean(each(rows, "top_error").mean(0)),
            **{f"features_{word}": (regions(high, "C") == i).mean() * n for i, word in enumerate(REGIONS)}}  # fmt: skip


def more_than_relu(rows: pd.DataFrame) -> stats.Interval:
    """Corrected for the number of kurtoses above 3."""
    by_seed = rows.pivot(index="seed", columns="family", values="largest_block")
    return stats.mean(by_seed["n12_m4"] - by_seed["relu"], level=1 - 0.05 / (KURTOSIS > 3).sum())


def answer(two: dict, many: dict) -> str:
    right, off = two["agreement"].value, many["n12_m4"]["capacity_error"].value
    return (f"In {right:.0%} of settings two features are ignored, share or get the dimension as in the exact optimum; "
            f"12 features' shares of 4 dimensions are off by {off:.1g} on average")  # fmt: skip


def draw(rows: pd.DataFrame) -> plots.Figure:
    """Above, two features in one dimension: trained, optimum, ReLU. Below, many: profile, ramp, blocks."""
    figure, axes = plots.figure(2, 3, width=13, height=4.2)
    of = dict(iter(rows.groupby("family", sort=False)))
    curve = np.geomspace(3, 40, 200)
    for ax, (head, (family, column)) in zip(axes[0], MAPS.items(), strict=True):
        best = of_best(of[family])
        plots.phase_map(ax, best, "kurtosis", "ratio", column, cmap="cividis", vmin=0, vmax=1, bar=False)
        for edge in (2 / (curve - 1), (curve - 1) / 2) if family == "two" else ():
            ax.plot(curve, edge, color="white", linewidth=2)
        for x, y, word in ((15, 1, "both share"), (2, 5, "2 alone"), (2, 0.2, "1 alone")) if family == "two" else ():
            ax.text(x, y, word, color="black" if y == 5 else "white", ha="center", va="center", fontsize=11)
        plots.ticks(ax, x=[2, 3, 5, 10, 20, 40], y=[0.1, 0.3, 1, 3, 10], log=True)
        ax.set(title=head, ylim=(best["ratio"].min(), best["ratio"].max()), ylabel="importance ratio $v_2$ / $v_1$",
               xlabel="kurtosis k = 1 / density")  # fmt: skip
    plots.colour_bar(axes[0], "capacity of feature 2")
    many, shown = of["n12_m4"], KURTOSIS[KURTOSIS >= 3]
    colours = dict(zip(shown, sns.color_palette("viridis", len(shown)), strict=True))
    for k in (3, 4, 10, 40):
        own = many[many["kurtosis"] == k]
        spread = [stats.Interval(*np.quantile(own[f"C{i}"], [0.5, 0.05, 0.95])) for i in range(12)]
        plots.interval(axes[1, 0], range(1, 13), spread, color=colours[k], label=f"k = {k:g}")
        axes[1, 0].plot(range(1, 13), own[[f"O{i}" for i in range(12)]].iloc[0], color=colours[k])
    axes[1, 0].set(title="n = 12, m = 4: dots trained, lines optimum", ylabel="capacity $C_i$",
                   xlabel="feature i, importance $v_i = 0.8^{i - 1}$")  # fmt: skip
    for k in shown[1:]:
        relative = np.linspace(0, 1.5, 301)
        ramp = np.clip(((k - 1) * relative - 2) / (k - 3), 0, 1)
        axes[1, 1].plot(relative, ramp, color=colours[k], label=f"k = {k:g}")
        for family, marker in (("n12_m4", "o"), ("n6_m3", "s"), ("n20_m5", "D")):
            own = rows[(rows["family"] == family) & (rows["kurtosis"] == k)]
            if own.empty:
                continue
            n = own["n"].iloc[0]
            x, C = importances(n, 1)[0] / own["price"].iloc[0], own[[f"C{i}" for i in range(n)]].mean()
            axes[1, 1].plot(x, C, marker, color=colours[k], markersize=4)
    axes[1, 1].set(title="all sizes: dots trained, lines optimum", xlim=(0, 1.5), ylabel="capacity $C_i$",
                   xlabel="importance over the price of a dimension, $v_i$ / A")  # fmt: skip
    blocks = pd.concat([many.assign(model="quadratic"), of["relu"].assign(model="ReLU autoencoder")])
    plots.band(axes[1, 2], blocks, "kurtosis", "largest_block", "model", log=True)
    random = block_sizes(np.random.default_rng(0).normal(size=(500, 12, 4))).max(-1).mean()
    plots.null(axes[1, 2], KURTOSIS, random, "random weights")
    axes[1, 2].set(title="n = 12, m = 4: the largest block", xlabel="kurtosis k, or 1 / density",
                   ylabel="features bound by overlap", ylim=(0, 14))  # fmt: skip
    plots.ticks(axes[1, 0], x=range(1, 13, 2))
    plots.ticks(axes[1, 2], x=KURTOSIS, log="x")
    for ax, loc in zip(axes[1], ("upper right", "lower right", "center left"), strict=True):
        plots.legend(ax, size=9, loc=loc)
    return figure


if __name__ == "__main__":
    experiment(study)
