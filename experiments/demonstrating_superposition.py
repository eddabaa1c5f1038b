"""Do ReLU autoencoders store more features than they have dimensions, and in which geometry; do linear ones ever?

"Demonstrating Superposition" and the introduction's figure of Elhage et al. 2022, tied autoencoders with falling
importances: n = 5, m = 2, I = 0.9^i at sparsity S = 0, 0.8 and 0.9; n = 20, m = 5, I = 0.7^i; n = 80, m = 20,
I = 0.9^i. The paper shows one network of each. It says: dense features give the m most important ones a dimension each,
as a linear model always does (PCA); at S = 0.8 the four most important of five form two antipodal pairs, at S = 0.9 all
five a pentagon; more features share dimensions the sparser they are, the less important ones first, as antipodal pairs
first; n = 80 looks like n = 20 rescaled.

Ours are shares of seeds, configurations named by `arrangements` (a feature is represented where |W_i|^2 > 1/4, two
interfere where their angle is over 15 degrees off a right one), with 95% intervals:
- S0_top_two, S80_two_antipodal_pairs, S80_of_the_four_most_important, S90_pentagon: the paper's configuration is that
  of more than half of the seeds.
- pictures_are_optimal: the global optimum of the exact loss has the paper's configuration at all three S.
- linear_never_superposes: less than 1% of linear networks have features that interfere or more than m of them, at any
  size and S; linear_keeps_top_m: more than 95% represent exactly the m most important features.
- grows_with_sparsity (n = 20, n = 80): a seed's features per dimension rise with every tenfold fall of the density, in
  the mean over seeds.
- less_important_first (n = 20, density 0.3): features that interfere rank lower in importance than the other
  represented ones (mean difference of ranks above 0).
- antipodal_pairs_first (n = 20): of the interfering features more than 90% are in digons at density 0.3, less than half
  at 0.001.
- larger_is_rescaled: features per dimension at n = 80 are within 25% of those at n = 20 at every shared density.
Controls: the commonest configurations with twice the length, with another learning rate and schedule; the share of
seeds within 1% of the optimum's loss; how often random directions of unit length get each name.

Settings are the paper's (AdamW, learning rate 0.001, weight decay 0.01, batch 1024, 10,000 steps). 1,024 seeds at
n = 5, 64 at n = 20, 32 at n = 80 (which take longest). Two cores: --quick under a minute,
default about 6.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import colormaps

from toysup import plots, report, stats
from toysup.features import SparseUniform
from toysup.geometry import arrangements, clusters
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity
from toysup.theory import expected_loss, toy_optimum

QUESTION = "Do ReLU autoencoders store more features than dimensions, in which geometry, and do linear ones ever?"
SIZES = {5: (2, 0.9), 20: (5, 0.7), 80: (20, 0.9)}  # n -> m, base of the importances
DENSITIES = {5: [1.0, 0.2, 0.1], 20: [1.0, 0.3, 0.1, 0.03, 0.01, 0.001], 80: [1.0, 0.1, 0.01, 0.001]}
PAPER = {1.0: "2 points, 3 ignored", 0.2: "2 digons, 1 ignored", 0.1: "pentagon"}
PALETTE = colormaps["viridis_r"]


def importances(n: int) -> np.ndarray:
    return SIZES[n][1] ** np.arange(n)


def grid_of(n: int, relu: bool, seeds: int, run: report.Run, lengths: int = 1, optimizer: Adam | None = None) -> Grid:
    setting = Setting(
        SparseUniform(n, 0.1),
        Identity(importances(n)),
        Model(TiedAutoencoder, width=SIZES[n][0], relu=relu),
        optimizer or Adam(weight_decay=0.01),
        steps=lengths * run.pick(default=10_000, quick=5000, smoke=10),
        batch=run.pick(default=1024, quick=512, smoke=64),
    )
    return Grid(setting, {"features.density": DENSITIES[n] if relu else DENSITIES[n][:3], "seed": range(seeds)})


def described(W: np.ndarray) -> pd.DataFrame:
    """What each network (instance, feature, width) represents and shares; ranks of importance count from 0."""
    count, n, m = W.shape
    groups = clusters(W)
    on, shared, paired = np.square(W).sum(-1) > 0.25, np.zeros((count, n), bool), np.zeros((count, n), bool)
    for group in groups.itertuples():
        shared[group.instance, list(group.features)] = len(group.features) > 1
        paired[group.instance, list(group.features)] = group.name == "digon"
    rank, alone = np.arange(n), on & ~shared
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is shared
        later = (shared * rank).sum(1) / shared.sum(1) - (alone * rank).sum(1) / alone.sum(1)
        digons = paired.sum(1) / shared.sum(1)
    top = (on == (rank < m)).all(1) & ~shared.any(1)
    return pd.DataFrame(
        {"words": arrangements(W), "represented": on.sum(1), "shared": shared.sum(1), "last_ignored": ~on[:, -1],
         "top": top, "superposed": shared.any(1) | (on.sum(1) > m), "later": later, "digons": digons}
    )  # fmt: skip


def measured(name: str, answer) -> pd.DataFrame:
    """One row per network."""
    W, b, n = answer.parameters("W"), answer.parameters("b"), answer.parameters("W").shape[1]
    table = answer.table[["density", "seed", "train_loss"]].join(described(W)).assign(name=name, n=n, W=list(W))
    if n == 5 and "linear" not in name:
        table["loss"] = expected_loss(W, b, table["density"].to_numpy(), np.tile(importances(n), (len(W), 1)))
    return table


def part(table: pd.DataFrame, density: float) -> pd.DataFrame:
    return table[table["density"] == density]


def share(flags: pd.Series) -> stats.Interval:
    return stats.share(int(flags.sum()), len(flags))


def interval(samples: pd.Series) -> stats.Interval:
    samples = samples.dropna().to_numpy()
    return stats.mean(samples) if len(samples) else stats.UNDEFINED


def five(table: pd.DataFrame, controls: dict) -> tuple[dict, dict]:
    """n = 5, m = 2, ReLU: shares of configurations, and the optimum's."""
    optimum = toy_optimum(5, 2, np.array(DENSITIES[5]), np.tile(importances(5), (3, 1)))
    statistics, best = {}, arrangements(optimum.weights)
    for density, loss, word in zip(DENSITIES[5], optimum.loss, best, strict=True):
        rows, s = part(table, density), f"S{100 * (1 - density):.0f}"
        statistics[f"{s}_paper_configuration"] = share(rows["words"] == PAPER[density])
        statistics[f"{s}_at_optimum"] = share(rows["loss"] < 1.01 * loss)
        controls[f"{s}_configurations"] = {
            "optimum": word,
            "best_network": rows.loc[rows["loss"].idxmin(), "words"],
            "lowest_relative_excess": float(rows["loss"].min() / loss - 1),
            "shares": rows["words"].value_counts(normalize=True).to_dict(),
        }
    statistics["S0_top_two"] = share(part(table, 1.0)["top"])
    pairs = part(table, 0.2)
    statistics["S80_four_most_important"] = share((pairs["words"] == PAPER[0.2]) & pairs["last_ignored"])
    half = {
        "S0_top_two": "S0_top_two",
        "S80_two_antipodal_pairs": "S80_paper_configuration",
        "S80_of_the_four_most_important": "S80_four_most_important",
        "S90_pentagon": "S90_paper_configuration",
    }
    verdict = {name: stats.decide(statistics[key], (0.5, 1)) for name, key in half.items()}
    verdict["pictures_are_optimal"] = "supported" if list(best) == list(PAPER.values()) else "rejected"
    return statistics, verdict


def growing(table: pd.DataFrame, n: int) -> tuple[dict, dict]:
    """Features per dimension and shares of features in superposition by density, n = 20 or 80, ReLU."""
    m, statistics = SIZES[n][0], {}
    for density in DENSITIES[n]:
        rows = part(table, density)
        statistics[f"n{n}_features_per_dimension_at_{density:g}"] = interval(rows["represented"] / m)
        statistics[f"n{n}_share_interfering_at_{density:g}"] = interval(rows["shared"] / rows["represented"])
    rising = {
        seed: np.polyfit(-np.log10(rows["density"]), rows["represented"] / m, 1)[0]
        for seed, rows in table.groupby("seed")
    }
    statistics[f"n{n}_more_per_tenfold_sparser"] = interval(pd.Series(rising))
    verdict = {f"n{n}_grows_with_sparsity": stats.decide(statistics[f"n{n}_more_per_tenfold_sparser"], (0, np.inf))}
    return statistics, verdict


def named_by_chance(draws: int) -> dict[str, float]:
    """How often five random directions in the plane, of length 1, get the paper's names."""
    W = np.random.default_rng(0).standard_normal((draws, 5, 2))
    words = arrangements(W / np.linalg.norm(W, axis=-1, keepdims=True))
    return {name: float((words == name).mean()) for name in PAPER.values()}


def main(run: report.Run) -> None:
    seeds = {5: run.pick(default=1024, quick=128, smoke=4), 20: run.pick(default=64, quick=8, smoke=2),
             80: run.pick(default=32, quick=2)}  # fmt: skip
    grids = {f"n{n}_{kind}": grid_of(n, kind == "relu", seeds[n], run) for n in SIZES for kind in ("relu", "linear")}
    few, other = max(2, seeds[5] // 4), Adam(lr=0.01, weight_decay=0.01, schedule=Cosine())
    grids["n5_doubled"] = grid_of(5, True, few, run, lengths=2)
    grids["n5_other_rate"] = grid_of(5, True, few, run, optimizer=other)
    answers = sweep(grids, [], results=run.results, device=run.device, workers=run.workers)
    tables = {name: measured(name, answer) for name, answer in answers.items()}
    controls = {"named_by_chance": named_by_chance(run.pick(default=20_000, smoke=200))}
    statistics, verdict = five(tables["n5_relu"], controls)
    for n in (20, 80):
        for kept, new in zip((statistics, verdict), growing(tables[f"n{n}_relu"], n), strict=True):
            kept |= new
    linear = pd.concat([table for name, table in tables.items() if "linear" in name])
    statistics["linear_superposed"], statistics["linear_top_m"] = share(linear["superposed"]), share(linear["top"])
    verdict["linear_never_superposes"] = stats.decide(statistics["linear_superposed"], (0, 0.01))
    verdict["linear_keeps_top_m"] = stats.decide(statistics["linear_top_m"], (0.95, 1))
    some = tables["n20_relu"]
    statistics["n20_rank_of_interfering_less_rank_of_others"] = interval(part(some, 0.3)["later"])
    first, last = (interval(part(some, density)["digons"]) for density in (0.3, 0.001))
    statistics |= {"n20_share_in_digons_at_0.3": first, "n20_share_in_digons_at_0.001": last}
    verdict["less_important_first"] = stats.decide(
        statistics["n20_rank_of_interfering_less_rank_of_others"], (0, np.inf)
    )
    verdict["antipodal_pairs_first"] = stats.every(stats.decide(first, (0.9, 1)), stats.decide(last, (0, 0.5)))
    shared = [density for density in DENSITIES[20] if density in DENSITIES[80]]
    for density in shared:
        counts = [part(tables[f"n{n}_relu"], density)["represented"] / SIZES[n][0] for n in (80, 20)]
        statistics[f"n80_over_n20_at_{density:g}"] = stats.ratio(*counts)
    verdict["larger_is_rescaled"] = stats.every(
        *(stats.decide(statistics[f"n80_over_n20_at_{density:g}"], (0.75, 1.25)) for density in shared)
    )
    for name in ("n5_relu", "n5_doubled", "n5_other_rate"):
        rows = {density: part(tables[name], density)["words"].value_counts() for density in DENSITIES[5]}
        controls[f"commonest_{name}"] = {
            f"S{100 * (1 - density):.0f}": {counts.index[0]: share_of(counts)} for density, counts in rows.items()
        }
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    report.write(run, draw(tables, statistics), statistics=statistics, verdict=verdict, controls=controls,
                 engine=engine, instances=sum(map(len, grids.values())), steps=grids["n5_doubled"].setting.steps,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def share_of(counts: pd.Series) -> dict[str, float]:
    """The share of the commonest, with its interval."""
    return stats.share(int(counts.iloc[0]), int(counts.sum())).asdict()


def typical(rows: pd.DataFrame) -> tuple[pd.Series, float]:
    """The network of lowest training loss in the commonest configuration, and the share of seeds in that."""
    words = rows["words"].mode().iloc[0]
    own = rows[rows["words"] == words]
    return own.loc[own["train_loss"].idxmin()], len(own) / len(rows)


def draw(tables: dict[str, pd.DataFrame], statistics: dict) -> plots.Figure:
    """n = 5: the commonest configurations. Counts against density. n = 20: W W^T, norms and interference."""
    figure = plots.Figure(figsize=(13, 12.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    left, right = upper.subfigures(1, 2, width_ratios=[1.35, 1])
    for kind, row in zip(("linear", "relu"), left.subplots(2, 3), strict=True):
        for density, ax in zip(DENSITIES[5], row, strict=True):
            network, often = typical(part(tables[f"n5_{kind}"], density))
            plots.directions(ax, network["W"], PALETTE(np.linspace(0.1, 1, 5)), numbers=True, reach=1.5)
            ax.set_title(f"S = {1 - density:.1f}: {network['words']}\n{often:.0%} of seeds", fontsize=11)
        row[0].set_ylabel({"linear": "linear model", "relu": "ReLU model"}[kind])
    left.suptitle("n = 5, m = 2: directions in the commonest configuration", fontsize=12)
    ax = right.subplots()
    colours = dict(zip((20, 80), plots.category_colours("ab").values(), strict=True))
    for n, colour in colours.items():
        for kind, style in (("relu", "-"), ("linear", ":")):
            rows = tables[f"n{n}_{kind}"].assign(per=lambda rows, m=SIZES[n][0]: rows["represented"] / m)
            means = rows.groupby("density")["per"].agg(["mean", "min", "max"])
            name = {"relu": "ReLU", "linear": "linear"}[kind]
            ax.plot(means.index, means["mean"], style, color=colour, marker="o", markersize=5,
                    label=f"n = {n}, m = {SIZES[n][0]}, {name}")  # fmt: skip
            ax.fill_between(means.index, means["min"], means["max"], color=colour, alpha=0.2, linewidth=0)
    for n, colour in colours.items():
        ax.axhline(n / SIZES[n][0], color=colour, linestyle="--", linewidth=0.8)
    ax.set(xscale="log", xlabel="density 1 - S", ylabel="represented features per dimension", ylim=(0, 4.3))
    ax.text(1, 4.05, "all features", fontsize=9, color=plots.GREY)
    ax.invert_xaxis()
    ax.legend(loc="center left", bbox_to_anchor=(0, 0.72))
    right.suptitle("means over seeds (bands: all seeds)", fontsize=12)
    shown = [("linear", 1.0), *(("relu", density) for density in DENSITIES[20])]
    panels = lower.subplots(2, len(shown), sharex="row", sharey="row", height_ratios=[1, 1])
    for (kind, density), (above, below) in zip(shown, panels.T, strict=True):
        W = typical(part(tables[f"n20_{kind}"], density))[0]["W"]
        gram, norm = W @ W.T, np.linalg.norm(W, axis=1)
        mesh = above.imshow(gram, cmap="RdBu", vmin=-1.2, vmax=1.2)
        above.set_title(f"{'linear' if kind == 'linear' else 'ReLU'}, 1 - S = {density:g}", fontsize=11)
        pressed = (np.square(gram).sum(1) - norm**4) / np.maximum(norm, 1e-9) ** 2
        below.barh(np.arange(20) + 1, norm, color=colormaps["viridis"](np.clip(pressed, 0, 1)))
        below.axvline(0.5, color=plots.GREY, linewidth=0.8, linestyle=":")
        above.set(xticks=[], yticks=[])
        below.set(xlabel="$|W_i|$", ylim=(20.7, 0.3), xlim=(0, 1.6))
    panels[0, 0].set_ylabel("$W W^T$")
    panels[1, 0].set_ylabel("feature, by importance")
    lower.colorbar(mesh, ax=panels[0], label="$W_i \\cdot W_j$", shrink=0.9)
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "viridis")
    lower.colorbar(scale, ax=panels[1], label="interference", shrink=0.9)
    lower.suptitle("n = 20, m = 5: a network of the commonest configuration (represented beyond the dots)", fontsize=12)
    pairs, pentagon = statistics["S80_paper_configuration"], statistics["S90_paper_configuration"]
    linear = statistics["linear_superposed"]
    figure.suptitle(
        f"{pairs.value:.0%} of seeds form two antipodal pairs at S = 0.8, {pentagon.value:.0%} a pentagon at S = 0.9;\n"
        f"superposition in {linear.value:.1%} of linear networks (at most {linear.high:.2%})",
        fontsize=14,
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
