"""How do features that occur together, or exclude each other, lie in a toy model? Angles counted beside a control.

"Correlated and anticorrelated features" of Elhage et al. 2022: tied ReLU autoencoders of features in groups that are
active all together, at most one at a time ("exclusive"), or, as the control, independently at the same density. The
paper's pictures name no density and count nothing, so density is an axis here and seeds are what intervals are over.
Angles are called as in `toysup.theory.configuration`: orthogonal within 15 degrees of a right angle, antipodal above
150, aligned below 30; a feature is represented if |W_i|^2 > 1/4. "Sparse" is every density p <= 0.1.

What the paper says, and the rule for each verdict (95% intervals; S is a share of the represented pairs of features
of one group, averaged over sparse densities in each seed, and compared with the control's in the same seed):
  correlated_orthogonal     S orthogonal > 0.9 and above the control: pairs at n=4, m=2 and at n=6, m=3, sets of three
                            at n=6, m=3
  anticorrelated_antipodal  S antipodal > 0.9 and above the control: pairs at n=4, m=2 and at n=6, m=3; likewise ..._at_
                            half at p = 1/2, where one of each pair is always active; and ..._is_cheaper: at n=4, p =
                            0.1 networks with antipodal pairs lose less than half of what the others do, on average
  crowded_side_by_side      three pairs at n=6, m=2: the mean cosine within pairs is > 0 and above the control
  blocks_are_orthogonal     two sets of ten at n=20, m=10: mean |cos| within sets < 0.1, and smaller than that between
                            sets by more than in the control
  collapse_is_pca_like      p = 1/2, one dimension for each group (pairs at n=4, m=2 and at n=6, m=3, sets of three at
                            n=6, m=2): more than 0.9 of |W|^2 lies in the span of the data's first m principal
                            components, the control's share there is below 0.9, and the loss is within 10% of the best
                            affine map's (PCA)
  sparsity_undoes_collapse  that share is larger at p = 1/2 than at p = 0.01, in all three

Controls: features dealt to groups at random in the same networks; twice the training, and ten times the learning rate
with a cosine schedule, at n=4; how many features are represented.

Two cores: --quick half a minute, default about 4 minutes. Settings are the paper's: AdamW, lr 0.001, weight decay 0.01,
batch 1024, 10,000 steps, importance 1. Losses are those of the last 2% of training, each step of which sees new data.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.features import Correlated, SparseUniform
from toysup.measure import RELATIONS, group_relations
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity
from toysup.theory import principal_loss, principal_share

QUESTION = "How do features that occur together, or exclude each other, lie in a toy model?"
LAYOUTS = {  # name -> n, m, features of one group
    "pairs_n4_m2": (4, 2, 2),
    "pairs_n6_m3": (6, 3, 2),
    "pairs_n6_m2": (6, 2, 2),
    "threes_n6_m3": (6, 3, 3),
    "threes_n6_m2": (6, 2, 3),
    "tens_n20_m10": (20, 10, 10),
}
PAIRS, THREES = ("pairs_n4_m2", "pairs_n6_m3"), ("threes_n6_m3",)
COLLAPSE = ("pairs_n4_m2", "pairs_n6_m3", "threes_n6_m2")  # a dimension for each group
SPARSE = 0.1
WORLDS = {"together": "#0173b2", "independent": "0.45", "exclusive": "#d55e00"}


def grids_of(run: report.Run) -> dict[tuple[str, str, str], Grid]:
    """(training, layout, world) -> grid. Independent features serve all layouts of their size."""
    steps = run.pick(default=10_000, quick=4000, smoke=20)
    batch = run.pick(default=1024, quick=512, smoke=64)
    densities = run.pick(default=[*np.geomspace(0.01, SPARSE, 5), 0.17, 0.3, 0.5], smoke=[0.01, SPARSE, 0.5])
    grids: dict[tuple[str, str, str], Grid] = {}
    for (layout, (n, m, size)), world in itertools.product(LAYOUTS.items(), WORLDS):
        if size == 3 and world != "together":
            continue
        features = SparseUniform(n, 0.1) if world == "independent" else Correlated(n, size, 0.1, world == "exclusive")
        optimizer = Adam(lr=1e-3, weight_decay=0.01)
        setting = Setting(features, Identity(), Model(TiedAutoencoder, width=m), optimizer, steps, batch)
        seeds = run.pick(default={4: 128, 6: 64, 20: 32}[n], quick={4: 32, 6: 16, 20: 6}[n], smoke=2)
        axes = {"features.density": densities if n < 20 else [0.01, 0.03, SPARSE], "seed": range(seeds)}
        grids["paper", layout, world] = Grid(setting, axes)
        if n == 4:
            few = {"features.density": [0.01, SPARSE, 0.5], "seed": axes["seed"][: run.pick(default=64, smoke=2)]}
            grids["twice as long", layout, world] = Grid(dataclasses.replace(setting, steps=2 * steps), few)
            fast = dataclasses.replace(setting, optimizer=Adam(lr=1e-2, weight_decay=0.01, schedule=Cosine()))
            grids["lr 0.01, cosine", layout, world] = Grid(fast, few)
    return grids


def measured(answer: Results, size: int, world: str, deal: bool = False) -> pd.DataFrame:
    """One row per network: angles within and between groups, |W|^2 where PCA has it, and the loss over PCA's.

    `deal` deals features to groups at random.
    """
    table, W = answer.table[["density", "seed", "train_loss"]], answer.parameters("W").astype(float)
    n, m = W.shape[1:]
    if deal:
        order = np.random.default_rng(0).permuted(np.tile(np.arange(n), (len(W), 1)), axis=1)
        W = np.take_along_axis(W, order[..., None], axis=1)
    together, own = (
        np.stack([kind(p).covariance.numpy() for p in table["density"]])
        for kind in (
            lambda p: Correlated(n, size, p),
            lambda p: Correlated(n, 1 if world == "independent" else size, p, world == "exclusive"),
        )
    )
    share, linear = principal_share(W, together), principal_loss(own, m)
    zero = n * table["density"] / 3
    more = {"principal": share, "over_pca": table["train_loss"] / linear, "over_zero": table["train_loss"] / zero}
    return pd.concat([table, group_relations(W, size), pd.DataFrame(more)], axis=1)


def by_seed(table: pd.DataFrame, column: str, low: float = 0.0, high: float = SPARSE) -> pd.Series:
    """A column's mean over densities in [low, high], for each seed."""
    rows = table[table["density"].between(low * 0.999, high * 1.001)]
    return rows.groupby("seed")[column].mean().dropna()


def share(values: pd.Series) -> stats.Interval:
    """The mean of shares, one for each seed, with the score interval of as many trials: no number in [0, 1] varies more
    than a yes or no, and it stays honest where all seeds agree."""
    whole, seeds = values.sum(), len(values)
    low, high = (stats.share(round(f(whole - 1e-9 * s)), seeds) for f, s in ((np.floor, -1), (np.ceil, 1)))
    return stats.Interval(whole / seeds, min(low.low, whole / seeds), max(high.high, whole / seeds))


def over(values: pd.Series, control: pd.Series) -> stats.Interval:
    """The mean difference from the control, seed by seed."""
    return stats.mean((values - control).dropna())


def main(run: report.Run) -> None:
    grids = grids_of(run)
    names = {key: "correlated_" + "_".join(key).replace(" ", "-").replace(",", "") for key in grids}
    answers = sweep(
        {names[key]: grid for key, grid in grids.items()}, [], results=run.results, device=run.device,
        workers=run.workers,
    )  # fmt: skip
    trained = {key: answers[name] for key, name in names.items()}
    for layout, (n, m, _) in LAYOUTS.items():  # independent networks serve every layout of their size
        trained.setdefault(("paper", layout, "independent"), trained.get(("paper", f"pairs_n{n}_m{m}", "independent")))
    tables = {key: measured(answer, LAYOUTS[key[1]][2], key[2]) for key, answer in trained.items()}
    paper = {key[1:]: table for key, table in tables.items() if key[0] == "paper"}
    statistics: dict[str, stats.Interval] = {}
    verdict: dict[str, stats.Verdict] = {}

    def claim(layouts: tuple[str, ...], world: str, kind: str, when: str = "sparse") -> stats.Verdict:
        """S > 0.9 and above the control, in every layout."""
        found = []
        at = (0.0, SPARSE) if when == "sparse" else (0.5, 0.5)
        for layout in layouts:
            mine, control = (by_seed(paper[layout, w], f"within_{kind}", *at) for w in (world, "independent"))
            name = f"{layout}_{kind}_{when}"
            statistics[f"{name}_{world}"], statistics[f"{name}_independent"] = share(mine), share(control)
            statistics[f"{name}_{world}_minus_independent"] = more = over(mine, control)
            found += [stats.decide(share(mine), (0.9, 1)), stats.decide(more, (1e-12, np.inf))]
        return stats.every(*found)

    verdict["correlated_orthogonal"] = claim(PAIRS + THREES, "together", "orthogonal")
    verdict["anticorrelated_antipodal"] = claim(PAIRS, "exclusive", "antipodal")
    verdict["anticorrelated_antipodal_at_half"] = claim(PAIRS, "exclusive", "antipodal", "at_half")
    rows = paper["pairs_n4_m2", "exclusive"].query(f"abs(density - {SPARSE}) < 1e-9 and represented == 4")
    antipodal = rows["within_antipodal"] == 1
    if antipodal.any() and not antipodal.all():
        cheaper = stats.ratio(rows["train_loss"][antipodal], rows["train_loss"][~antipodal])
    else:
        cheaper = stats.UNDEFINED
    statistics["pairs_n4_m2_loss_antipodal_over_others"] = cheaper
    verdict["anticorrelated_antipodal_is_cheaper"] = stats.decide(cheaper, (0, 0.5))

    cosine = {world: by_seed(paper["pairs_n6_m2", world], "within_cosine") for world in WORLDS}
    statistics |= {f"pairs_n6_m2_cosine_sparse_{world}": stats.mean(values) for world, values in cosine.items()}
    difference = over(cosine["together"], cosine["independent"])
    statistics["pairs_n6_m2_cosine_sparse_together_minus_independent"] = difference
    verdict["crowded_side_by_side"] = stats.every(
        *(stats.decide(x, (1e-12, np.inf)) for x in (stats.mean(cosine["together"]), difference))
    )

    apart = {}
    for world in WORLDS:
        within, between = (by_seed(paper["tens_n20_m10", world], f"{part}_size") for part in ("within", "between"))
        identity = by_seed(paper["tens_n20_m10", world], "identity")
        statistics |= {f"tens_n20_m10_cosine_size_within_{world}": stats.mean(within)}
        statistics |= {f"tens_n20_m10_cosine_size_between_{world}": stats.mean(between)}
        statistics |= {f"tens_n20_m10_off_identity_within_{world}": stats.mean(identity)}
        apart[world] = between - within
    statistics["tens_n20_m10_gap_over_independent"] = over(apart["together"], apart["independent"])
    verdict["blocks_are_orthogonal"] = stats.every(
        stats.decide(statistics["tens_n20_m10_cosine_size_within_together"], (0, 0.1)),
        stats.decide(statistics["tens_n20_m10_gap_over_independent"], (1e-12, np.inf)),
    )

    found, undone = [], []
    for layout in COLLAPSE:
        table, control = paper[layout, "together"], paper[layout, "independent"]
        dense, sparse = (by_seed(table, "principal", p, p) for p in (0.5, 0.01))
        loss, loss_sparse = (stats.mean(by_seed(table, "over_pca", p, p)) for p in (0.5, 0.01))
        null = share(by_seed(control, "principal", 0.5, 0.5))
        statistics |= {f"{layout}_in_principal_span_at_half": share(dense), f"{layout}_control_at_half": null}
        statistics |= {f"{layout}_loss_over_pca_at_half": loss, f"{layout}_loss_over_pca_at_0.01": loss_sparse}
        statistics[f"{layout}_span_at_half_minus_0.01"] = over(dense, sparse)
        found += [stats.decide(share(dense), (0.9, 1)), stats.decide(null, (0, 0.9)), stats.decide(loss, (0.9, 1.1))]
        undone.append(stats.decide(over(dense, sparse), (1e-12, np.inf)))
    verdict["collapse_is_pca_like"] = stats.every(*found)
    verdict["sparsity_undoes_collapse"] = stats.every(*undone)

    controls: dict[str, dict] = {"groups dealt at random": {}, "represented": {}}
    for key, kind in (((*PAIRS[:1], "together"), "orthogonal"), ((*PAIRS[:1], "exclusive"), "antipodal")):
        dealt = measured(trained["paper", *key], LAYOUTS[key[0]][2], key[1], deal=True)
        sparse_or_half = (0.0, SPARSE) if kind == "orthogonal" else (0.5, 0.5)
        controls["groups dealt at random"][f"{'_'.join(key)}_{kind}"] = share(
            by_seed(dealt, f"within_{kind}", *sparse_or_half)
        )
    for key, table in paper.items():
        controls["represented"]["_".join(key)] = by_seed(table, "represented").mean()
    for (training, layout, world), table in tables.items():
        if layout == PAIRS[0]:
            kind = "antipodal" if world == "exclusive" else "orthogonal"
            control = {f"{kind}_p_{p}": share(by_seed(table, f"within_{kind}", p, p)) for p in (0.01, SPARSE, 0.5)}
            controls.setdefault(f"training: {training}", {})[world] = control

    weights = {key[1:]: answer.parameters("W") for key, answer in trained.items() if key[0] == "paper"}
    report.write(
        run, draw(paper, weights, statistics), statistics=statistics, verdict=verdict, controls=controls,
        instances=sum(map(len, grids.values())), steps=max(grid.setting.steps for grid in grids.values()),
        engine=", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]})),
        seconds=sum(answer.seconds for answer in answers.values()),
    )  # fmt: skip


def typical(table: pd.DataFrame, density: float) -> int:
    """The row of median loss among those with the commonest angles within groups, at the density nearest to this."""
    rows = table[table["density"] == table["density"].iloc[(table["density"] - density).abs().argmin()]]
    kinds = rows.filter(regex="^within_(al|ac|or|ob|an)").round(2).apply(tuple, axis=1)
    rows = rows[kinds == kinds.value_counts().index[0]].sort_values("train_loss")
    return int(rows.index[len(rows) // 2])


def draw(paper: dict, weights: dict, statistics: dict) -> plots.Figure:
    """Typical networks; shares and collapse over density; Gram matrices of the two sets of ten, and their angles."""
    figure, axes = plots.figure(3, 4, width=13, height=3.5)
    pictures = {  # title -> layout, world, density
        "two pairs together, p = 0.03": ("pairs_n4_m2", "together", 0.03),
        "two pairs together, p = 0.5": ("pairs_n4_m2", "together", 0.5),
        "two exclusive pairs, p = 0.5": ("pairs_n4_m2", "exclusive", 0.5),
        "three pairs together, p = 0.03": ("pairs_n6_m2", "together", 0.03),
    }
    palette = list(plots.category_colours(range(3)).values())
    for ax, (title, (layout, world, density)) in zip(axes[0], pictures.items(), strict=True):
        W = weights[layout, world][typical(paper[layout, world], density)]
        turn = np.linspace(0, 2 * np.pi, 200)
        ax.plot(np.cos(turn), np.sin(turn), ":", color="0.8", linewidth=1)
        for i, (x, y) in enumerate(W):
            ax.plot([0, x], [0, y], color=palette[i // 2], linewidth=2.5, alpha=0.8)
            ax.plot(x, y, "o^"[i % 2], color=palette[i // 2], markersize=10, alpha=0.7)
        ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", title=title, xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        ax.set(xlabel="hidden dimension 1")
    axes[0, 0].set_ylabel("hidden dimension 2\n(one colour for each pair)")

    control = paper["pairs_n4_m2", "independent"]
    lines = (
        ("together", {"orthogonal": palette[0], "aligned": palette[1]}, "orthogonal", 2 / 3),
        ("exclusive", {"antipodal": palette[2], "orthogonal": palette[0]}, "antipodal", 1 / 3),
    )
    for ax, (world, colours, kind, chance) in zip(axes[1], lines, strict=False):
        kinds = [(name, paper["pairs_n4_m2", world], name) for name in colours]
        kinds.append((f"{kind}, independent", control, kind))
        long = pd.concat(
            [table[["density"]].assign(share=table[f"within_{of}"], which=name) for name, table, of in kinds]
        )
        plots.band(ax, long, "density", "share", "which", colours={**colours, kinds[-1][0]: plots.GREY}, log=True)
        ax.axhline(chance, color=plots.GREY, linestyle=":", linewidth=1)
        ax.annotate("two digons by chance", (1 / 90, chance), (0, -3), textcoords="offset points", va="top", fontsize=9)
        ax.set(title=f"two pairs, {world}", ylabel="share of represented pairs", ylim=(-0.03, 1.03))
    names = {layout: f"n={LAYOUTS[layout][0]}, m={LAYOUTS[layout][1]}: " for layout in COLLAPSE}
    names = {layout: text + ("sets of three" if "threes" in layout else "pairs") for layout, text in names.items()}
    colours = dict(zip(names.values(), palette, strict=True))
    for ax, column in zip(axes[1, 2:], ("principal", "over_pca"), strict=True):
        long = pd.concat([paper[layout, "together"].assign(which=name) for layout, name in names.items()])
        plots.band(ax, long, "density", column, "which", colours=colours, log=True)
        for layout, name in names.items():
            means = paper[layout, "independent"].groupby("density")[column].mean()
            ax.plot(means.index, means, ":", color=colours[name], linewidth=1.5)
        ax.plot([], [], ":", color=plots.GREY, label="independent")
    axes[1, 2].set(title="do groups collapse to PCA's span?", ylabel="share of $|W|^2$ in PCA's span", ylim=(0, 1.03))
    plots.reference(axes[1, 3], [0.01, 0.5], 1, "PCA")
    axes[1, 3].set(title="what superposition gains on PCA", ylabel="loss / PCA's loss", ylim=(0, None))
    for ax in axes[1]:
        ax.set_xlabel("density p")
        ax.legend(fontsize=8, loc="best")

    for ax, world in zip(axes[2], ("together", "independent"), strict=False):
        W = weights["tens_n20_m10", world][typical(paper["tens_n20_m10", world], 0.03)]
        ax.imshow(W @ W.T, cmap="RdBu", vmin=-1, vmax=1)
        ax.axhline(9.5, color="black", linewidth=0.8)
        ax.axvline(9.5, color="black", linewidth=0.8)
        ax.set(
            title=f"$W W^T$, two sets of ten, {world}",
            xlabel="feature",
            ylabel="feature",
            xticks=[0, 10],
            yticks=[0, 10],
        )
    ax = axes[2, 2]
    for offset, part in ((-0.2, "within"), (0.2, "between")):
        found = [statistics[f"tens_n20_m10_cosine_size_{part}_{world}"] for world in WORLDS]
        bars(ax, np.arange(3) + offset, found, 0.36, label=f"{part} sets", color=palette[0] if offset < 0 else "0.6")
    ax.set(xticks=range(3), xticklabels=WORLDS, ylabel="mean |cos|", title="two sets of ten, p $\\leq$ 0.1")
    ax.legend(fontsize=9)
    ax = axes[2, 3]
    for offset, (world, colour) in zip((-0.27, 0, 0.27), WORLDS.items(), strict=True):
        found = [share(by_seed(paper["pairs_n6_m2", world], f"within_{kind}")) for kind in RELATIONS]
        bars(ax, np.arange(5) + offset, found, 0.25, label=world, color=colour)
    ax.set(xticks=range(5), ylabel="share of represented pairs", title="three pairs in two dimensions, p $\\leq$ 0.1")
    ax.set_xticklabels(RELATIONS, rotation=30, ha="right", rotation_mode="anchor")
    ax.legend(fontsize=9)
    told = (
        f"Features that occur together are orthogonal when sparse ({statistics['pairs_n4_m2_orthogonal_sparse_together'].value:.0%}"
        f" of pairs; independent {statistics['pairs_n4_m2_orthogonal_sparse_independent'].value:.0%}) and collapse when dense; "
        f"\nfeatures that exclude each other are antipodal in {statistics['pairs_n4_m2_antipodal_sparse_exclusive'].value:.0%} when sparse "
        f"(independent {statistics['pairs_n4_m2_antipodal_sparse_independent'].value:.0%}), in "
        f"{statistics['pairs_n4_m2_antipodal_at_half_exclusive'].value:.0%} at p = 1/2"
    )
    figure.suptitle(told, fontsize=13)
    return figure


def bars(ax, x: np.ndarray, found: list[stats.Interval], width: float, **look) -> None:
    """Bars with their intervals."""
    heights = np.array([interval.value for interval in found])
    ends = np.array([[interval.value - interval.low, interval.high - interval.value] for interval in found]).T
    ax.bar(x, heights, width, yerr=np.clip(ends, 0, 1), error_kw={"elinewidth": 1}, **look)


if __name__ == "__main__":
    report.experiment(main)
