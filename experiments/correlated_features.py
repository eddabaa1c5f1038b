"""How do features that occur together, or exclude each other, lie in a toy model? Angles counted beside a control.

"Correlated and anticorrelated features" of Elhage et al. 2022: tied ReLU autoencoders of features in groups that are
active all together, or at most one at a time ("exclusive"), or, as the control, independently at the same density. The
paper names no density and counts nothing, so density is an axis here and intervals are over seeds; other settings are
the paper's. Angles are called as in `toysup.theory.configuration` (orthogonal within 15 degrees of a right angle,
antipodal above 150, aligned below 30); a feature is represented if |W_i|^2 > 1/4. Shares are of represented pairs of
one group, averaged over sparse densities (p <= .1) in each seed and compared with the control's in the same seed.

Two cores: --quick half a minute, default about 5 (10,144 networks).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.ensemble import Trained
from toysup.features import Correlated, SparseUniform
from toysup.geometry import RELATIONS, group_relations
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.stats import Interval
from toysup.study import Claim, Finding, Run, Study, Variant, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import principal_loss, principal_share

QUESTION = "How do features that occur together, or exclude each other, lie in a toy model?"
LAYOUTS = {  # name -> n, m, features of one group, seeds: more where shares have to be told from 0.9
    "pairs_n4_m2": (4, 2, 2, 128), "pairs_n6_m3": (6, 3, 2, 128), "pairs_n6_m2": (6, 2, 2, 64),
    "threes_n6_m3": (6, 3, 3, 64), "threes_n6_m2": (6, 2, 3, 64), "tens_n20_m10": (20, 10, 10, 32),
}  # fmt: skip
PAIRS, COLLAPSE = ["pairs_n4_m2", "pairs_n6_m3"], ["pairs_n4_m2", "pairs_n6_m3", "threes_n6_m2"]
WORLDS = {"together": "#0173b2", "independent": "0.45", "exclusive": "#d55e00"}
KIND = {"together": "orthogonal", "independent": "orthogonal", "exclusive": "antipodal"}  # what the paper says
TENS = ("within_size", "between_size", "between_cosine", "between_antipodal", "identity")
SPARSE, MORE = 0.1, (1e-12, math.inf)


class Cell(NamedTuple):
    """Networks that are read as one layout; independent ones serve all layouts of their size."""

    layout: str
    world: str

    n = property(lambda cell: LAYOUTS[cell.layout][0])
    group = property(lambda cell: LAYOUTS[cell.layout][2])


def angles(trained: Trained) -> dict[str, np.ndarray]:
    """Angles and what of |W|^2 lies in PCA's span, for groups of each size; and what PCA loses."""
    W, features = trained.parameters["W"].double().numpy(), trained.setting.features
    (n, m), density = W.shape[1:], trained.stack.varying["features.density"].tolist()

    def covariance(group: int, anti: bool = False) -> np.ndarray:
        return np.stack([Correlated(n, group, p, anti).covariance.numpy() for p in density])

    own = (features.group_size, features.anti) if isinstance(features, Correlated) else (1,)
    found = {"linear": principal_loss(covariance(*own), m)}
    for group in own[:1] if own[0] > 1 else {layout[2] for layout in LAYOUTS.values() if layout[0] == n}:
        table = group_relations(W, group).assign(in_span=principal_share(W, covariance(group)))
        found |= {f"{name}_{group}": table[name].to_numpy() for name in table}
    return found


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns for each row's own groups under their plain names, and the loss over PCA's."""
    parts = [rows.filter(regex=f"_{group}$") for group, rows in table.groupby("group")]
    own = pd.concat(part.rename(columns=lambda name: name.rpartition("_")[0]) for part in parts)
    return pd.concat([table, own], axis=1).assign(over_pca=table["train_loss"] / table["linear"])


def study(run: Run) -> Study:
    size = run.sizes(dict(steps=10_000, batch=1024, share=1, longer=64,
                          densities=[*np.geomspace(0.01, SPARSE, 5), 0.17, 0.3, 0.5]),
                     quick=dict(steps=4000, batch=512, share=4),
                     smoke=dict(steps=4, batch=64, densities=[0.01, SPARSE, 0.5], share=64, longer=2))  # fmt: skip

    def grid(cell: Cell) -> Grid:
        n, m, group, seeds = LAYOUTS[cell.layout]
        features = Correlated(n, group, 0.1, cell.world == "exclusive")
        if cell.world == "independent":
            features = SparseUniform(n, 0.1)
            seeds = max(own[3] for own in LAYOUTS.values() if own[:2] == (n, m))
        setting = Setting(features, Identity(), Model(TiedAutoencoder, width=m), Adam(lr=1e-3, weight_decay=0.01),
                          size.steps, size.batch)  # fmt: skip
        densities, seeds = size.densities if n < 20 else [0.01, 0.03, SPARSE], range(max(2, seeds // size.share))
        return Grid(setting, {"features.density": densities, "seed": seeds})

    def otherwise(**change: Any) -> Variant:
        """Two pairs in two dimensions, at a few densities."""
        few = {"features.density": [0.01, SPARSE, 0.5]}
        return Variant(lambda grid: Grid(dataclasses.replace(grid.setting, **change), few | {
            "seed": grid.axes["seed"][: size.longer]}), lambda cell: cell.n == 4)  # fmt: skip

    def preferred(world: str, named: str, layouts: list[str], *between: float) -> Finding:
        return Finding(
            lambda rows: beside({"": by_seed(rows, f"within_{KIND[world]}", *between)}, world, "independent"),
            "layout", f"{{layout}}_{KIND[world]}_{named}_{{column}}", {"layout": layouts},
        )  # fmt: skip

    cells = [Cell(*own) for own in itertools.product(LAYOUTS, WORLDS) if own[1] != "exclusive" or "three" not in own[0]]
    return Study(
        cells, grid, measures=[angles], derive=derive,
        variants={"twice the steps": otherwise(steps=2 * size.steps),
                  "ten times the rate": otherwise(optimizer=Adam(lr=1e-2, weight_decay=0.01, schedule=Cosine()))},
        findings={
            "together": preferred("together", "sparse", [*PAIRS, "threes_n6_m3"]),
            "exclusive": preferred("exclusive", "sparse", PAIRS),
            "exclusive_at_half": preferred("exclusive", "at_half", PAIRS, 0.5, 0.5),
            "cheaper": Finding(cheaper, (), "pairs_n4_m2_loss_if_antipodal_over_others",
                               {"layout": PAIRS[0], "world": "exclusive"}),
            "crowded": Finding(lambda rows: beside({"": by_seed(rows, "within_cosine")}, *WORLDS, mean=stats.mean), (),
                               "pairs_n6_m2_cosine_{column}", {"layout": "pairs_n6_m2"}),
            "tens": Finding(tens, (), "tens_n20_m10_{column}", {"layout": "tens_n20_m10"}),
            "collapse": Finding(collapse, "layout", "{layout}_{column}", {"layout": COLLAPSE}),
            "dealt_at_random": Finding(dealt, "world", "", lambda table: (table["layout"] == PAIRS[0]) & (
                table["world"] != "independent")),
            "other_training": Finding(
                lambda rows, world, density: share(rows, world, KIND[world], density, density),
                ("world", "variant", "density"), "", {"layout": PAIRS[0]}, None),
            "represented": Finding(lambda rows: by_seed(rows, "represented").mean().iloc[0], ("layout", "world")),
        },
        claims=[
            Claim("correlated_orthogonal", "over 90% of pairs that occur together are orthogonal when sparse, more "
                  "than in the control", "together", {"together": (0.9, 1), "together_above": MORE}),
            Claim("anticorrelated_antipodal", "over 90% of pairs that exclude each other are antipodal when sparse, "
                  "more than in the control", "exclusive", {"exclusive": (0.9, 1), "exclusive_above": MORE}),
            Claim("anticorrelated_antipodal_at_half", "and so are they at p = 1/2, where one is always active",
                  "exclusive_at_half", {"exclusive": (0.9, 1), "exclusive_above": MORE}),
            Claim("anticorrelated_antipodal_is_cheaper", "exclusive pairs lose less than half if antipodal, at p = .1",
                  "cheaper", (0, 0.5)),
            Claim("crowded_side_by_side", "three pairs in two dimensions lie side by side if they occur together: "
                  "mean cosine above 0 and the control's", "crowded", {"together": MORE, "together_above": MORE}),
            Claim("blocks_are_orthogonal", "two sets of ten: mean |cos| inside is below .1, less than between them, by "
                  "more than in the control", "tens", {"within_size_together": (0, 0.1), "gap_together_above": MORE}),
            Claim("collapse_is_pca_like", "at p = 1/2, with a dimension for each group, over 90% of |W|^2 lies where "
                  "PCA has it, unlike the control's, and the loss is PCA's within 10%", "collapse",
                  {"in_span_p0.5_together": (0.9, 1 + 1e-9), "in_span_p0.5_independent": (0, 0.9),
                   "over_pca_p0.5_together": (0.9, 1.1)}),
            Claim("sparsity_undoes_collapse", "that share is larger at p = 1/2 than at p = .01", "collapse",
                  {"in_span_dense_above_sparse": MORE}),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def by_seed(rows: pd.DataFrame, column: str, low: float = 0.0, high: float = SPARSE) -> pd.DataFrame:
    """(seed, world): a column's mean over densities in [low, high], the sparse ones."""
    rows = rows[rows["density"].between(low * 0.999, high * 1.001)]
    return rows.groupby(["seed", "world"])[column].mean().unstack()


def beside(values: dict[str, pd.DataFrame], *worlds: str, mean: Callable = stats.mean_share) -> dict[str, Interval]:
    """Means by world, and the first one's difference from the control, seed by seed."""
    found = {f"{name}{world}": mean(own[world].dropna()) for name, own in values.items() for world in worlds}
    above = {name: (own[worlds[0]] - own["independent"]).dropna() for name, own in values.items()}
    return found | {f"{name}{worlds[0]}_above": stats.mean(own) for name, own in above.items()}


def share(rows: pd.DataFrame, world: str, kind: str, *between: float) -> Interval:
    return stats.mean_share(by_seed(rows, f"within_{kind}", *between)[world].dropna())


def cheaper(rows: pd.DataFrame) -> Interval:
    """Losses of networks with two antipodal pairs over those of the others, at p = .1."""
    own = rows[np.isclose(rows["density"], SPARSE) & (rows["represented"] == 4)]
    losses = [own["train_loss"][(own["within_antipodal"] == 1) == antipodal] for antipodal in (True, False)]
    return stats.ratio(*losses) if all(map(len, losses)) else stats.UNDEFINED


def tens(rows: pd.DataFrame) -> dict[str, Interval]:
    own = {f"{of}_": by_seed(rows, of) for of in TENS}
    return beside(own | {"gap_": own["between_size_"] - own["within_size_"]}, *WORLDS, mean=stats.mean)


def collapse(rows: pd.DataFrame) -> dict[str, Interval]:
    own = {f"{of}_p{p}_": by_seed(rows, of, p, p) for of in ("in_span", "over_pca") for p in (0.5, 0.01)}
    undone = (own["in_span_p0.5_"] - own["in_span_p0.01_"])["together"].dropna()
    found = beside(own, "together", "independent", mean=stats.mean)
    return found | {"in_span_dense_above_sparse": stats.mean(undone)}


def dealt(rows: pd.DataFrame, world: str, networks: Callable[..., Trained]) -> Interval:
    """The share if the same networks' features are dealt to groups at random."""
    W = networks(rows).parameters["W"].double().numpy()
    order = np.random.default_rng(0).permuted(np.tile(np.arange(W.shape[1]), (len(W), 1)), axis=1)
    other = group_relations(np.take_along_axis(W, order[..., None], axis=1), 2).set_index(rows.index)
    between = (0.5, 0.5) if world == "exclusive" else ()
    return share(other.assign(**rows[["seed", "density", "world"]]), world, KIND[world], *between)


def answer(together: dict, exclusive: dict, exclusive_at_half: dict) -> str:
    apart, free = (f"{together[PAIRS[0]][world].value:.0%}" for world in ("together", "independent"))
    dense, sparse = (f"{found[PAIRS[0]]['exclusive'].value:.0%}" for found in (exclusive_at_half, exclusive))
    return f"""Features that occur together lie at right angles when sparse ({apart} of pairs; {free} if independent);
        ones that exclude each other lie opposite when dense ({dense} at p = 1/2; {sparse} when sparse)."""


def typical(rows: pd.DataFrame, layout: str, world: str, density: float) -> pd.DataFrame:
    """The row of median loss among those with the commonest angles within groups, at the density nearest to this."""
    rows = rows[(rows["layout"] == layout) & (rows["world"] == world)]
    rows = rows[rows["density"] == rows["density"].iloc[(rows["density"] - density).abs().argmin()]]
    kinds = rows[[f"within_{kind}" for kind in RELATIONS]].round(2).apply(tuple, axis=1)
    rows = rows[kinds == kinds.value_counts().index[0]].sort_values("train_loss")
    return rows.iloc[[len(rows) // 2]]


def draw(rows: pd.DataFrame, networks: Callable[..., Trained], tens: dict) -> plots.Figure:
    """Typical networks; shares and collapse over density; Gram matrices of two sets of ten, and angles counted."""
    figure, axes = plots.figure(3, 4, width=13, height=3.5)
    palette = list(plots.category_colours(range(3)).values())
    pictures = ((PAIRS[0], "together", 0.03), (PAIRS[0], "together", 0.5), (PAIRS[0], "exclusive", 0.5),
                ("pairs_n6_m2", "together", 0.03), ("tens_n20_m10", "together", 0.03),
                ("tens_n20_m10", "independent", 0.03))  # fmt: skip
    for ax, (layout, world, p) in zip((*axes[0], *axes[2, :2]), pictures, strict=True):
        W = networks(typical(rows, layout, world, p)).parameters["W"][0].numpy()
        if len(W) == 20:
            plots.gram(ax, W, groups=[10])
            ax.set(title=f"$W W^T$, two sets of ten {world}", xlabel="blue 1, white 0, red -1", ylabel="feature")
            continue
        plots.directions(ax, W, [palette[i // 2] for i in range(len(W))], markers="o^", up=None)
        ax.set(title=f"{len(W) // 2} pairs {world}, p = {p}")
    plots.note(axes[0, 0], "a colour for each pair")
    two, own = rows[rows["layout"] == PAIRS[0]], rows[rows["layout"].isin(COLLAPSE) & (rows["world"] != "exclusive")]
    for ax, kind, chance in ((axes[1, 0], "orthogonal", 2 / 3), (axes[1, 1], "antipodal", 1 / 3)):
        plots.band(ax, two, "density", f"within_{kind}", "world", colours=WORLDS, log=True)
        plots.level(ax, chance, "two digons at random", right=True)
        ax.set(title=f"two pairs: {kind}", ylabel="share of represented pairs", ylim=(-0.03, 1.03))
        plots.legend(ax, size=8)
    for ax, column, title, label in ((axes[1, 2], "in_span", "Collapse", "share of $|W|^2$ in PCA's span"),
                                     (axes[1, 3], "over_pca", "Loss beside PCA's", "loss / PCA's loss")):  # fmt: skip
        plots.band(ax, own, "density", column, "layout", line="world", log=True,
                   lines={"together": "-", "independent": ":"})  # fmt: skip
        ax.set(title=title, ylabel=label, ylim=(0, None))
        plots.level(ax, 1, linestyle="--")
    plots.legend(axes[1, 2], size=8)
    sizes = {f"{part} sets": [tens[f"{part}_size_{world}"] for world in WORLDS] for part in ("within", "between")}
    plots.bars(axes[2, 2], WORLDS, sizes, turn=25)
    axes[2, 2].set(ylabel="mean |cos| of two features", title="two sets of ten, p $\\leq$ 0.1")
    three = rows[rows["layout"] == "pairs_n6_m2"]
    shares = {world: [share(three, world, kind) for kind in RELATIONS] for world in WORLDS}
    plots.bars(axes[2, 3], RELATIONS, shares, WORLDS, turn=25)
    axes[2, 3].set(ylabel="share of pairs", title="three pairs, m = 2, p $\\leq$ 0.1", ylim=(0, 1.03))
    for ax in axes[2, 2:]:
        plots.legend(ax, size=9)
    for ax in axes.flat:
        ax.set_title(ax.get_title(), fontsize=11)
    return figure


if __name__ == "__main__":
    experiment(study)
