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

Two cores: --quick half a minute, default about 5 (10,144 networks). Settings are the paper's: AdamW, lr 0.001, weight
decay 0.01, batch 1024, 10,000 steps, importance 1. Losses are those of the last 2% of training, each step of which sees
new data.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.features import Correlated, SparseUniform
from toysup.geometry import RELATIONS, group_relations
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity
from toysup.theory import principal_loss, principal_share

QUESTION = "How do features that occur together, or exclude each other, lie in a toy model?"
LAYOUTS = {  # name -> n, m, features of one group, seeds: more where shares have to be told from 0.9
    "pairs_n4_m2": (4, 2, 2, 128),
    "pairs_n6_m3": (6, 3, 2, 128),
    "pairs_n6_m2": (6, 2, 2, 64),
    "threes_n6_m3": (6, 3, 3, 64),
    "threes_n6_m2": (6, 2, 3, 64),
    "tens_n20_m10": (20, 10, 10, 32),
}
COLLAPSE = ("pairs_n4_m2", "pairs_n6_m3", "threes_n6_m2")  # a dimension for each group
SPARSE = 0.1
PARTS = ("within", "between")
WORLDS = {"together": "#0173b2", "independent": "0.45", "exclusive": "#d55e00"}


def grids_of(run: report.Run) -> dict[tuple[str, str, str], Grid]:
    """(training, layout, world) -> grid. Independent features serve all layouts of their size."""
    steps = run.pick(default=10_000, quick=4000, smoke=20)
    batch = run.pick(default=1024, quick=512, smoke=64)
    densities = run.pick(default=[*np.geomspace(0.01, SPARSE, 5), 0.17, 0.3, 0.5], smoke=[0.01, SPARSE, 0.5])
    grids: dict[tuple[str, str, str], Grid] = {}
    for (layout, (n, m, size, seeds)), world in itertools.product(LAYOUTS.items(), WORLDS):
        if size == 3 and world != "together":
            continue
        features = SparseUniform(n, 0.1) if world == "independent" else Correlated(n, size, 0.1, world == "exclusive")
        optimizer = Adam(lr=1e-3, weight_decay=0.01)
        setting = Setting(features, Identity(), Model(TiedAutoencoder, width=m), optimizer, steps, batch)
        seeds = run.pick(default=seeds, quick=seeds // 4, smoke=2)
        axes = {"features.density": densities if n < 20 else [0.01, 0.03, SPARSE], "seed": range(seeds)}
        grids["paper", layout, world] = Grid(setting, axes)
        if n == 4 and (run.mode != "smoke" or world == "together"):
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
    more = {"in_span": share, "over_pca": table["train_loss"] / linear}
    return pd.concat([table, group_relations(W, size), pd.DataFrame(more)], axis=1)


def by_seed(table: pd.DataFrame, column: str, low: float = 0.0, high: float = SPARSE) -> pd.Series:
    """A column's mean over densities in [low, high] (the sparse ones), for each seed."""
    rows = table[table["density"].between(low * 0.999, high * 1.001)]
    return rows.groupby("seed")[column].mean().dropna()


def above(values: pd.Series, control: pd.Series) -> stats.Interval:
    """The mean difference from the control, seed by seed."""
    return stats.mean((values - control).dropna())


def statistics_of(paper: dict) -> tuple[dict[str, stats.Interval], dict[str, stats.Verdict]]:
    """What the docstring promises, from one table for each (layout, world)."""
    found: dict[str, stats.Interval] = {}
    verdict: dict[str, stats.Verdict] = {}

    def preferred(layouts: tuple[str, ...], world: str, kind: str, when: str, *between: float) -> stats.Verdict:
        said = []
        for layout in layouts:
            mine, control = (by_seed(paper[layout, w], f"within_{kind}", *between) for w in (world, "independent"))
            name = f"{layout}_{kind}_{when}"
            found[f"{name}_{world}"], found[f"{name}_independent"] = stats.mean_share(mine), stats.mean_share(control)
            found[f"{name}_{world}_above"] = above(mine, control)
            said += [stats.decide(found[f"{name}_{world}"], (0.9, 1)), positive(found[f"{name}_{world}_above"])]
        return stats.every(*said)

    pairs = ("pairs_n4_m2", "pairs_n6_m3")
    verdict["correlated_orthogonal"] = preferred((*pairs, "threes_n6_m3"), "together", "orthogonal", "sparse")
    verdict["anticorrelated_antipodal"] = preferred(pairs, "exclusive", "antipodal", "sparse")
    verdict["anticorrelated_antipodal_at_half"] = preferred(pairs, "exclusive", "antipodal", "at_half", 0.5, 0.5)
    rows = paper["pairs_n4_m2", "exclusive"]
    rows = rows[np.isclose(rows["density"], SPARSE) & (rows["represented"] == 4)]
    losses = [rows["train_loss"][(rows["within_antipodal"] == 1) == antipodal] for antipodal in (True, False)]
    cheaper = stats.ratio(*losses) if all(map(len, losses)) else stats.UNDEFINED
    found["pairs_n4_m2_loss_if_antipodal_over_others"] = cheaper
    verdict["anticorrelated_antipodal_is_cheaper"] = stats.decide(cheaper, (0, 0.5))

    for world in WORLDS:
        found[f"pairs_n6_m2_cosine_{world}"] = stats.mean(by_seed(paper["pairs_n6_m2", world], "within_cosine"))
        for column in ("within_size", "between_size", "between_cosine", "between_antipodal", "identity"):
            found[f"tens_n20_m10_{column}_{world}"] = stats.mean(by_seed(paper["tens_n20_m10", world], column))
    cosine, within, between = (
        [by_seed(paper[layout, world], column) for world in ("together", "independent")]
        for layout, column in (
            ("pairs_n6_m2", "within_cosine"),
            ("tens_n20_m10", "within_size"),
            ("tens_n20_m10", "between_size"),
        )
    )
    found["pairs_n6_m2_cosine_together_above"] = above(*cosine)
    found["tens_n20_m10_gap_together_above"] = above(*(b - w for w, b in zip(within, between, strict=True)))
    verdict["crowded_side_by_side"] = stats.every(
        positive(found["pairs_n6_m2_cosine_together"]), positive(found["pairs_n6_m2_cosine_together_above"])
    )
    verdict["blocks_are_orthogonal"] = stats.every(
        stats.decide(found["tens_n20_m10_within_size_together"], (0, 0.1)),
        positive(found["tens_n20_m10_gap_together_above"]),
    )

    alike, undone = [], []
    for layout in COLLAPSE:
        for world in ("together", "independent"):
            for column, p in itertools.product(("in_span", "over_pca"), (0.5, 0.01)):
                found[f"{layout}_{column}_p{p}_{world}"] = stats.mean(by_seed(paper[layout, world], column, p, p))
        lies, null, loss = (
            found[f"{layout}_{name}"]
            for name in ("in_span_p0.5_together", "in_span_p0.5_independent", "over_pca_p0.5_together")
        )
        alike += [stats.decide(lies, (0.9, 1 + 1e-9)), stats.decide(null, (0, 0.9)), stats.decide(loss, (0.9, 1.1))]
        dense, sparse = (by_seed(paper[layout, "together"], "in_span", p, p) for p in (0.5, 0.01))
        found[f"{layout}_in_span_dense_above_sparse"] = above(dense, sparse)
        undone.append(positive(above(dense, sparse)))
    verdict["collapse_is_pca_like"], verdict["sparsity_undoes_collapse"] = stats.every(*alike), stats.every(*undone)
    return found, verdict


def positive(interval: stats.Interval) -> stats.Verdict:
    """The verdict on "more than nothing"."""
    return stats.decide(interval, (1e-12, np.inf))


def controls_of(trained: dict, tables: dict) -> dict[str, dict]:
    """Groups dealt at random, other training, features represented."""
    controls: dict[str, dict] = {"groups_dealt_at_random": {}, "represented_when_sparse": {}}
    for world, kind, *between in (("together", "orthogonal"), ("exclusive", "antipodal", 0.5, 0.5)):
        dealt = measured(trained["paper", "pairs_n4_m2", world], 2, world, deal=True)
        dealt_share = stats.mean_share(by_seed(dealt, f"within_{kind}", *between))
        controls["groups_dealt_at_random"][f"pairs_n4_m2_{kind}_{world}"] = dealt_share
    for (training, layout, world), table in tables.items():
        if training == "paper":
            controls["represented_when_sparse"][f"{layout}_{world}"] = by_seed(table, "represented").mean()
        if layout == "pairs_n4_m2":
            kind = "antipodal" if world == "exclusive" else "orthogonal"
            for p in (0.01, SPARSE, 0.5):
                one = stats.mean_share(by_seed(table, f"within_{kind}", p, p))
                controls.setdefault(f"{kind}_{world}_p{p}", {})[training] = one
    return controls


def main(run: report.Run) -> None:
    grids = grids_of(run)
    names = {key: "correlated_" + "_".join(key).replace(" ", "-").replace(",", "") for key in grids}
    answers = sweep(
        {names[key]: grid for key, grid in grids.items()}, [], results=run.results, device=run.device,
        workers=run.workers,
    )  # fmt: skip
    trained = {key: answers[name] for key, name in names.items()}
    for layout, (n, m, *_) in LAYOUTS.items():  # independent networks serve every layout of their size
        trained.setdefault(("paper", layout, "independent"), trained.get(("paper", f"pairs_n{n}_m{m}", "independent")))
    tables = {key: measured(answer, LAYOUTS[key[1]][2], key[2]) for key, answer in trained.items()}
    paper = {key[1:]: table for key, table in tables.items() if key[0] == "paper"}
    weights = {key[1:]: answer.parameters("W") for key, answer in trained.items() if key[0] == "paper"}
    statistics, verdict = statistics_of(paper)
    report.write(
        run, draw(paper, weights, statistics), statistics=statistics, verdict=verdict,
        controls=controls_of(trained, tables),
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
    """Typical networks; shares and collapse over density; Gram matrices of two sets of ten, and angles counted."""
    figure, axes = plots.figure(3, 4, width=13, height=3.5)
    palette = list(plots.category_colours(range(3)).values())
    draw_networks(axes[0], paper, weights, palette)
    draw_shares(axes[1, :2], paper, palette)
    draw_collapse(axes[1, 2:], paper, palette)
    for ax, world in zip(axes[2], ("together", "independent"), strict=False):
        W = weights["tens_n20_m10", world][typical(paper["tens_n20_m10", world], 0.03)]
        ax.imshow(W @ W.T, cmap="RdBu", vmin=-1, vmax=1)
        ax.axhline(9.5, color="black", linewidth=0.8)
        ax.axvline(9.5, color="black", linewidth=0.8)
        ax.set(title=f"$W W^T$, two sets of ten {world}", xlabel="feature (blue 1, white 0, red -1)", ylabel="feature")
        ax.set(xticks=[0, 10], yticks=[0, 10])
    sizes = {f"{part} sets": [statistics[f"tens_n20_m10_{part}_size_{world}"] for world in WORLDS] for part in PARTS}
    plots.bars(axes[2, 2], WORLDS, sizes, dict(zip(sizes, ("#0173b2", "0.7"), strict=True)))
    axes[2, 2].set(ylabel="mean |cos| of two features", title="two sets of ten, p $\\leq$ 0.1")
    crowded = {
        world: [stats.mean_share(by_seed(paper["pairs_n6_m2", world], f"within_{kind}")) for kind in RELATIONS]
        for world in WORLDS
    }
    plots.bars(axes[2, 3], RELATIONS, crowded, WORLDS)
    axes[2, 3].set(ylabel="share of pairs", title="three pairs, m=2, p $\\leq$ 0.1")
    axes[2, 3].set(ylim=(0, 1.3), yticks=[0, 0.5, 1])
    for ax in axes[2, 2:]:
        ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=25, ha="right", rotation_mode="anchor")
        ax.legend(fontsize=9)
    for ax in axes.flat:
        ax.set_title(ax.get_title(), fontsize=11)
    together, exclusive = "pairs_n4_m2_orthogonal_sparse", "pairs_n4_m2_antipodal"
    percent = {name: f"{interval.value:.0%}" for name, interval in statistics.items()}
    figure.suptitle(
        f"Pairs that occur together are orthogonal when sparse: {percent[f'{together}_together']}, "
        f"if independent {percent[f'{together}_independent']}. Pairs that exclude each other\n"
        f"are antipodal when dense: {percent[f'{exclusive}_at_half_exclusive']} at p = 1/2, but "
        f"{percent[f'{exclusive}_sparse_exclusive']} at p $\\leq$ 0.1 (independent "
        f"{percent[f'{exclusive}_sparse_independent']})",
        fontsize=13,
    )
    return figure


def draw_networks(axes: np.ndarray, paper: dict, weights: dict, palette: list) -> None:
    """Feature directions of typical networks with two hidden dimensions."""
    pictures = {  # title -> layout, world, density
        "two pairs together, p = 0.03": ("pairs_n4_m2", "together", 0.03),
        "two pairs together, p = 0.5": ("pairs_n4_m2", "together", 0.5),
        "two exclusive pairs, p = 0.5": ("pairs_n4_m2", "exclusive", 0.5),
        "three pairs together, p = 0.03": ("pairs_n6_m2", "together", 0.03),
    }
    turn = np.linspace(0, 2 * np.pi, 200)
    for ax, (title, (layout, world, density)) in zip(axes, pictures.items(), strict=True):
        ax.plot(np.cos(turn), np.sin(turn), ":", color="0.8", linewidth=1)
        for i, (x, y) in enumerate(weights[layout, world][typical(paper[layout, world], density)]):
            ax.plot([0, x], [0, y], color=palette[i // 2], linewidth=2.5, alpha=0.8)
            ax.plot(x, y, "o^"[i % 2], color=palette[i // 2], markersize=10, alpha=0.7)
        ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", title=title, xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        ax.set(xlabel="hidden dimension 1")
    axes[0].set_ylabel("hidden dimension 2\n(a colour for each pair)")


def draw_shares(axes: np.ndarray, paper: dict, palette: list) -> None:
    """What the two pairs at n=4, m=2 do over density, the control, and two digons whoever is in them."""
    colours = {"orthogonal": palette[0], "aligned": palette[1], "antipodal": palette[2]}
    for ax, world, kinds, chance in (
        (axes[0], "together", ("orthogonal", "aligned"), 2 / 3),
        (axes[1], "exclusive", ("antipodal", "orthogonal"), 1 / 3),
    ):
        shown = [(kind, world, kind) for kind in kinds] + [(kinds[0], "independent", f"{kinds[0]}, independent")]
        tables = [
            paper["pairs_n4_m2", of].assign(share=lambda t, kind=kind: t[f"within_{kind}"], which=name)
            for kind, of, name in shown
        ]
        look = {name: colours.get(name, plots.GREY) for *_, name in shown}
        plots.band(ax, pd.concat(tables), "density", "share", "which", colours=look, log=True)
        ax.axhline(chance, color=plots.GREY, linestyle=":", linewidth=1.5, label="two digons at random")
        ax.set(title=f"two pairs, {world}", xlabel="density p", ylabel="share of represented pairs")
        ax.set(ylim=(-0.03, 1.5), yticks=[0, 0.5, 1])
        ax.legend(fontsize=8, loc="upper left")


def draw_collapse(axes: np.ndarray, paper: dict, palette: list) -> None:
    """How far the networks are PCA's, over density: where a dimension is left for each group."""
    names = {"pairs_n4_m2": "pairs, n=4, m=2", "pairs_n6_m3": "pairs, n=6, m=3", "threes_n6_m2": "threes, n=6, m=2"}
    colours = dict(zip(names.values(), palette, strict=True))
    for ax, column in zip(axes, ("in_span", "over_pca"), strict=True):
        tables = [paper[layout, "together"].assign(which=names[layout]) for layout in COLLAPSE]
        plots.band(ax, pd.concat(tables), "density", column, "which", colours=colours, log=True)
        for layout, name in names.items():
            means = paper[layout, "independent"].groupby("density")[column].mean()
            ax.plot(means.index, means, ":", color=colours[name], linewidth=1.5)
        ax.plot([], [], ":", color=plots.GREY, label="independent")
        ax.set_xlabel("density p")
    axes[0].set(title="collapse of groups that occur together", ylabel="share of $|W|^2$ in PCA's span", ylim=(0, 1.03))
    axes[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.97))
    axes[1].axhline(1, color=plots.GREY, linestyle="--", linewidth=1.5, zorder=1)
    axes[1].set(title="loss beside PCA's (dashed)", ylabel="loss / PCA's loss", ylim=(0, None))


if __name__ == "__main__":
    report.experiment(main)
