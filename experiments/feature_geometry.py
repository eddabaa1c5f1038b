"""Do features of equal importance settle into polytopes, and is the dimension each one takes sticky?

"The Geometry of Superposition" of Elhage et al. 2022: tied ReLU autoencoders, n = 400, m = 30 (their notebook has 200,
20), importance 1, density p = 1 - S from 1 to 0.01, 10,000 steps of AdamW (lr 0.001, decay 0.01), batch 1024. Claims:
D* = m / |W|_F^2 against 1/(1-S) is sticky at 1 and 1/2; dimensionalities D_i pile up at 1, 3/4, 2/3, 1/2, 2/5 and 3/8;
the groups of interfering features are digons, triangles, tetrahedra, pentagons and square antiprisms. No two networks
share a density, so a pile is no artefact of the grid. If nothing sticks, D* falls evenly and D_i's density is smooth.

Rules. Sticky at L: D* stays within 5% of L over at least twice the stretch of ln 1/(1-S) of a curve log-linear between
its ends, and over more than at any level from 0.3 to 0.9 that is not within a factor 1.15 of 1 or 1/2; intervals over
seeds. A peak at L: the density of D_i (represented features, p >= 0.1, kernel 0.004) has a peak within 0.0125 (half of
2/5 - 3/8) that is more prominent than 99% of draws from the same density smoothed by 0.04; interval over networks. A
shape is found if it holds at least 1% of represented features more than in networks of random directions and the same
lengths. Named: most represented features at 1/(1-S) from 1.5 to 5 are in groups that have a polytope's Gram matrix.

Small: n = 6 and 8 in m = 3, 256 seeds a density, beside the exact optimum (`toysup.theory.toy_optimum`): wherever it is
the octahedron (three orthogonal digons) or the square antiprism, most seeds should be one. Controls: the second size,
ten times the learning rate, change of D* over the last third of training, no network below the exact optimum's loss.

Reference: among copies of one polytope the one that saves most loss per dimension, exactly (`best_polytope`).
Two cores: --quick 45 s, default 8 minutes (820 core-seconds of training; 11 minutes measured on cores shared with
other work); --full, of 8 seeds, 20 by proportion.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from toysup import plots, report, stats
from toysup.features import SparseUniform
from toysup.geometry import arrangements, clusters, dimensionality, polytopes
from toysup.measure import dimensions_per_feature
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity
from toysup.theory import best_polytope, expected_loss, toy_optimum

QUESTION = "Do features of equal importance settle into polytopes, and is the dimension each one takes sticky?"
LEVELS = {"1": 1, "3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}
SHAPES = ["digon", "triangle", "tetrahedron", "pentagon", "square antiprism"]
WITHIN, TOLERANCE, KERNEL, SMOOTH = 0.05, 0.0125, 0.004, 0.04
NEAR = 10 * (1 + 1e-9)  # greatest 1/(1-S) of networks whose D_i are pooled
RESOLUTION = 1e-6  # of the loss: what float32 weights can resolve
RISING = (2, np.inf)  # twice as long as without a plateau


def setting_of(n: int, m: int, run: report.Run, lr: float = 1e-3) -> Setting:
    steps = run.pick(default=10_000, quick=2000, smoke=400)
    batch = run.pick(default=1024, quick=256, smoke=64)
    optimizer = Adam(lr=run.pick(default=lr, quick=3 * lr, smoke=10 * lr), weight_decay=0.01)
    return Setting(SparseUniform(n, 0.1), Identity(), Model(TiedAutoencoder, width=m), optimizer, steps, batch)


def large(n: int, m: int, run: report.Run, seeds: int, lr: float = 1e-3) -> Grid:
    """Densities evenly spaced in ln 1/(1-S), more of them to 10 than to 100; each seed has its own but for the ends."""
    inner, tail = run.pick(default=14, quick=12, smoke=2), run.pick(default=2, quick=1)
    points = []
    for seed in range(seeds):
        shift = (seed + 1) / (seeds + 1)
        powers = np.r_[0, (np.arange(inner) + shift) / inner, 1 + (np.arange(tail) + shift) / tail, 2]
        points += [(float(p), seed) for p in 10**-powers]
    return Grid(setting_of(n, m, run, lr), {("features.density", "seed"): points})


def small(n: int, run: report.Run) -> Grid:
    sparsities = np.array(run.pick(default=[1.25, 2, 4, 10, 40], smoke=[2]))
    seeds = range(run.pick(default=256, quick=64, smoke=4))
    return Grid(setting_of(n, 3, run), {"features.density": 1 / sparsities, "seed": seeds})


def curves(answer: Results) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ln 1/(1-S), D*) of each seed."""
    table = answer.table.sort_values("density", ascending=False)
    return [
        (-np.log(t["density"].to_numpy()), t["dimensions_per_feature"].to_numpy()) for _, t in table.groupby("seed")
    ]


def stickiness(answer: Results, level: float) -> dict[str, stats.Interval]:
    """How long D* stays near a level: the stretch, over log-linear's, and over the longest at any level elsewhere."""
    others = np.geomspace(0.3, 0.9, 23)
    others = others[np.abs(np.log(others[:, None] / [1, 0.5])).min(1) > np.log(1.15)]  # off both plateaus
    rows = []
    for x, y in curves(answer):
        own, *rest = stats.stretches(x, y[None], [level, *others], WITHIN)[0]
        rows.append((own, stats.log_linear_stretch(x, y[None], level, WITHIN)[0], max(rest)))
    own, straight, elsewhere = np.array(rows).T
    return {
        "length": stats.mean(own),
        "over_log_linear": stats.ratio(own, straight, paired=True),
        "over_other_levels": stats.ratio(own, elsewhere, paired=True),
    }


def groups_of(answer: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per represented feature (density, seed, D_i, group) and, per network, the share of them in each shape, with
    columns null_... for random directions of the same lengths."""
    W, table = answer.parameters("W"), answer.table
    own = dimensionality(torch.from_numpy(W)).clamp(max=1).numpy()
    found = clusters(W)
    features = found.explode("features").rename_axis("group").reset_index()
    row, feature = (features[name].to_numpy(dtype=int) for name in ("instance", "features"))
    features = features.assign(
        dimensionality=own[row, feature],
        sparsity=1 / table["density"].to_numpy()[row],
        kind=[kind_of(name) for name in features["name"]],
    )
    directions = np.random.default_rng(0).standard_normal(W.shape)
    directions *= np.linalg.norm(W, axis=-1, keepdims=True) / np.linalg.norm(directions, axis=-1, keepdims=True)
    null = clusters(directions)
    shares = pd.DataFrame({"sparsity": 1 / table["density"], "represented": features.groupby("instance").size()})
    for prefix, one in (("", found), ("null_", null)):
        sizes = one.assign(kind=[kind_of(name) for name in one["name"]]).groupby(["instance", "kind"])["size"].sum()
        for kind in [*SHAPES, "point", "other polytope", "no polytope"]:
            counts = (
                sizes.xs(kind, level="kind") if kind in sizes.index.get_level_values("kind") else pd.Series(dtype=float)
            )
            shares[prefix + kind] = counts.reindex(shares.index).fillna(0) / shares["represented"]
    return features, shares.dropna()


def peaks_of(features: pd.DataFrame, resamples: int) -> stats.Peaks:
    """Peaks of the D_i of networks with p >= 0.1."""
    near = features[features["sparsity"] <= NEAR]
    return stats.peaks(near["dimensionality"], near["instance"], unit=near["group"], bandwidth=KERNEL, smooth=SMOOTH,
                       tolerance=TOLERANCE, resamples=resamples)  # fmt: skip


def kind_of(name: str) -> str:
    if name in (*SHAPES, "point"):
        return name
    return "other polytope" if name in polytopes() else "no polytope"


def small_outcome(n: int, answer: Results) -> pd.DataFrame:
    """One row per density: the optimum, share of seeds at it, best seed's excess (of zero's loss), all shares."""
    W, b, table = answer.parameters("W"), answer.parameters("b"), answer.table
    loss = expected_loss(W.astype(float), b.astype(float), table["density"].to_numpy(), np.ones(n))
    table = table.assign(loss=loss, form=arrangements(W))
    densities = table["density"].unique()
    optimum = toy_optimum(n, 3, densities, np.ones((len(densities), n)), starts=8)
    names = arrangements(optimum.weights)
    rows = []
    for p, name, least in zip(densities, names, optimum.loss, strict=True):
        seeds = table[table["density"] == p]
        excess = (seeds["loss"].min() - least) / (n * p / 3)
        reached = stats.share(int((seeds["form"] == name).sum()), len(seeds))
        rows.append({"sparsity": 1 / p, "optimum": name, "reached": reached, "excess": excess,
                     "forms": seeds["form"].value_counts(normalize=True)})  # fmt: skip
    return pd.DataFrame(rows)


def main(run: report.Run) -> None:
    seeds = run.pick(default=3, quick=2, full=8)
    sizes = run.pick(default=[(400, 30), (200, 20)], quick=[(200, 20)])
    grids = {f"geometry_{n}_{m}": large(n, m, run, seeds) for n, m in sizes}
    grids["geometry_lr"] = large(200, 20, run, 1, lr=0.01)
    late = run.pick(default=10_000, quick=2000, smoke=400) * 2 // 3
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    answers = sweep(grids, [dimensions_per_feature], snapshots=[late], **options)
    ns = run.pick(default=(6, 8), smoke=(6,))  # an exact optimum at n = 8 takes 4 to 10 s
    tiny = sweep({f"geometry_{n}_3": small(n, run) for n in ns}, [dimensions_per_feature], **options)
    whole, *second = [answers[f"geometry_{n}_{m}"] for n, m in sizes]
    fast = answers["geometry_lr"]

    statistics, verdict, controls = {}, {}, {}
    for level in ("1", "1/2"):
        found = stickiness(whole, LEVELS[level])
        statistics |= {f"plateau_at_{level}_{name}": value for name, value in found.items()}
        verdict[f"sticky_at_{level}"] = stats.every(
            stats.decide(found["over_log_linear"], RISING), stats.decide(found["over_other_levels"], (1, np.inf))
        )
        others = {"second size": second[0]} if second else {}
        for name, other in {**others, "lr x 10, one seed": fast}.items():
            controls[f"plateau_at_{level}, {name}"] = stickiness(other, LEVELS[level])

    features, shares = groups_of(whole)
    resamples = run.pick(default=1000, smoke=50)
    piles = peaks_of(features, resamples)
    told = {name: (piles.contrast(x), piles.location(x)) for name, x in LEVELS.items()}
    for name, (contrast, location) in told.items():
        statistics |= {f"peak_at_{name}_contrast": contrast, f"peak_at_{name}_location": location}
        inside = (LEVELS[name] - TOLERANCE, LEVELS[name] + TOLERANCE)
        verdict[f"peak_at_{name}"] = stats.every(stats.decide(contrast, (1, np.inf)), stats.decide(location, inside))
    stands = piles.table[piles.table["stands_out"]]
    controls["peaks that stand out, by location"] = {
        f"{x:.3f}": p for x, p in zip(stands["location"], stands["prominence"], strict=True)
    }
    if second:
        others, other_shares = groups_of(second[0])
        piles_2 = peaks_of(others, resamples)
        controls["peaks, second size"] = {name: piles_2.contrast(x) for name, x in LEVELS.items()}
        controls["shapes, second size"] = {shape: stats.mean(other_shares[shape]) for shape in SHAPES}

    for shape in SHAPES:
        statistics[f"share_in_{shape}"] = stats.mean(shares[shape])
        more = stats.mean(shares[shape] - shares[f"null_{shape}"])
        verdict[f"{shape}_found"] = stats.decide(more, (0.01, np.inf))
        controls[f"{shape}, random directions"] = {
            "share": float(shares[f"null_{shape}"].mean()),
            "more than that": more,
        }
    middle = shares[shares["sparsity"].between(1.5, 5)]
    statistics["share_named"] = stats.mean(1 - middle["no polytope"])
    verdict["features_form_polytopes"] = stats.decide(statistics["share_named"], (0.5, np.inf))

    outcomes = {n: small_outcome(n, tiny[f"geometry_{n}_3"]) for n in ns}
    for n, wanted in {n: {6: "3 digons", 8: "square antiprism"}[n] for n in ns}.items():
        rows = outcomes[n][outcomes[n]["optimum"] == wanted]
        for row in outcomes[n].itertuples():
            statistics[f"n{n}_m3_sparsity_{row.sparsity:g}_at_optimum ({row.optimum})"] = row.reached
        if len(rows):
            verdict[f"n{n}_m3_{wanted.replace(' ', '_')}"] = stats.every(
                *(stats.decide(r, (0.5, 1)) for r in rows["reached"])
            )
        controls[f"n={n}, m=3: best seed's excess loss over the optimum"] = dict(
            zip(outcomes[n]["sparsity"].map("{:g}".format), outcomes[n]["excess"], strict=True)
        )
    beaten = any((table["excess"] < -RESOLUTION).any() for table in outcomes.values())
    verdict["optimum_never_beaten"] = "rejected" if beaten else "supported"

    change = (
        whole.table["dimensions_per_feature"] / whole.measure(dimensions_per_feature, late)["dimensions_per_feature"]
    )
    statistics["last_third_changes_D*_by"] = stats.mean((change - 1).abs())
    verdict["converged"] = stats.decide(statistics["last_third_changes_D*_by"], (-np.inf, 0.02))
    controls["last third"] = {"largest change of D*": float((change - 1).abs().max())}
    sparsities = np.geomspace(1, 10, run.pick(default=81, smoke=5))
    shapes = {name: gram for name, gram in polytopes().items() if len(gram) <= run.pick(default=8, smoke=5)}
    theory = sparsities, *best_polytope(shapes, 1 / sparsities)
    lengths = stats.stretches(np.log(sparsities), theory[2][None], [1, 0.5], WITHIN)[0]
    controls["plateaus of the reference"] = dict(zip(("1", "1/2"), lengths, strict=True))
    engine = ", ".join(sorted({e for a in [*answers.values(), *tiny.values()] for e in a.table["engine"]}))
    report.write(run, draw(answers, theory, features, piles, shares, outcomes, statistics), statistics=statistics,
                 verdict=verdict, controls=controls, engine=engine, steps=whole.grid.setting.steps,
                 instances=sum(len(a.table) for a in [*answers.values(), *tiny.values()]),
                 seconds=sum(a.seconds for a in [*answers.values(), *tiny.values()]))  # fmt: skip


def draw(
    answers: dict[str, Results],
    theory: tuple[np.ndarray, np.ndarray, np.ndarray],
    features: pd.DataFrame,
    piles: stats.Peaks,
    shares: pd.DataFrame,
    outcomes: dict[int, pd.DataFrame],
    statistics: dict[str, stats.Interval],
) -> plots.Figure:
    """D* and D_i against sparsity, the density of D_i, the shapes against sparsity, and the small models."""
    figure, axes = plots.figure(3, 2, width=13, height=4.2)
    draw_dimensions(axes[0, 0], answers, theory)
    ax = axes[0, 1]
    ax.plot(features["sparsity"], features["dimensionality"], ".", markersize=2, alpha=0.3, rasterized=True)
    for name, x in LEVELS.items():
        ax.axhline(x, color=plots.GREY, linestyle="--", linewidth=1, zorder=0)
        ax.annotate(name, (1, x), (3, {"3/8": -5, "2/5": 3}.get(name, 0)), xycoords=("axes fraction", "data"),
                    textcoords="offset points", va="center", fontsize=9, color=plots.GREY)  # fmt: skip
    ax.set(xscale="log", ylim=(0, 1.05), ylabel="dimensionality $D_i$", title="Each represented feature a dot")
    draw_density(axes[1, 0], piles)

    kinds = ["point", *SHAPES, "other polytope", "no polytope"]
    colours = plots.category_colours(kinds) | {"no polytope": (0.85, 0.85, 0.85)}
    by, ax = shares.sort_values("sparsity"), axes[1, 1]
    ax.stackplot(by["sparsity"], by[kinds].to_numpy().T, colors=[colours[kind] for kind in kinds], linewidth=0)
    named = 1 - by[[f"null_{kind}" for kind in kinds if kind != "no polytope"]].sum(axis=1)
    ax.plot(by["sparsity"], 1 - named, ":", color="black", linewidth=1.5)
    title = "Represented features by shape of their group\n(dotted: all shapes together, random directions)"
    ax.set(xscale="log", ylabel="share of represented features", ylim=(0, 1), title=title)
    plots.axes_legend(ax, colours, below=0.18)
    for ax, (n, rows) in zip(axes[2], outcomes.items(), strict=False):
        draw_small(ax, n, rows)
    for ax in [*axes[:2].flat[[0, 1, 3]], *axes[2]]:
        ax.set_xlabel("1/(1-S) = 1/p")
    stands = sorted(piles.table.loc[piles.table["stands_out"], "location"], reverse=True)
    told = {name: statistics[f"plateau_at_{name}_over_log_linear"].value for name in ("1", "1/2")}
    figure.suptitle(
        f"D* stays near 1 for {told['1']:.1f} times and near 1/2 for {told['1/2']:.1f} times as long as if log-linear; "
        f"peaks of $D_i$ that stand out: {', '.join(f'{x:.3f}' for x in stands) or 'none'};\n"
        f"polytopes hold {statistics['share_named'].value:.0%} of represented features at 1/(1-S) from 1.5 to 5",
        fontsize=13,
    )
    return figure


def draw_dimensions(ax, answers: dict[str, Results], theory: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """D* of every network, with the levels at which it should stick."""
    names = {name: "n = {}, m = {}".format(*name.split("_")[1:]) for name in answers if name != "geometry_lr"}
    for (name, label), colour in zip(names.items(), plots.category_colours(names).values(), strict=True):
        table = answers[name].table
        ax.plot(1 / table["density"], table["dimensions_per_feature"], "o", color=colour, markersize=3.5, label=label)
    at, shape, dimensions = theory
    ax.plot(at, dimensions, "--", color=plots.GREY, label="copies of the polytope that saves most, exact")
    turns = np.flatnonzero(shape[1:] != shape[:-1]) + 1
    for first, last in zip([0, *turns], [*turns, len(at)], strict=True):
        if at[last - 1] / at[first] > 1.25:
            where = at[first:last][0] * 1.05, dimensions[first:last][0] * 1.06
            ax.annotate(shape[first], where, fontsize=9, color=plots.GREY)
    table = answers[next(iter(names))].table
    ends = table.loc[[table["density"].idxmax(), table["density"].idxmin()]]
    straight = ends["dimensions_per_feature"]
    ax.plot(1 / ends["density"], straight, ":", color=plots.GREY, label="log-linear between the ends (null)")
    for level in (1, 0.5):
        ax.axhspan(level * (1 - WITHIN), level * (1 + WITHIN), color="0.9", zorder=0)
    ax.set(xscale="log", yscale="log", ylabel="$D^* = m / |W|_F^2$", title="Dimensions per feature, each network a dot")
    ax.set_yticks([1, 0.5, 0.2, 0.1, 0.05], ["1", "1/2", "0.2", "0.1", "0.05"])
    ax.minorticks_off()
    ax.legend(loc="lower left", fontsize=9)


def draw_density(ax, piles: stats.Peaks) -> None:
    """The density of D_i, its peaks that stand out, the null, and the paper's levels."""
    ax.plot(piles.grid, piles.density, color="C0")
    ax.fill_between(piles.grid, piles.density, color="C0", alpha=0.3, linewidth=0)
    ax.plot(piles.grid, piles.smooth, ":", color=plots.GREY, label="smoothed by 0.04 (null)")
    for x in piles.table.loc[piles.table["stands_out"], "location"]:
        top = np.interp(x, piles.grid, piles.density)
        ax.annotate(f"{x:.3f}", (x, top), (4, 0), textcoords="offset points", fontsize=10, fontweight="bold")
    for name, x in LEVELS.items():
        ax.axvline(x, color=plots.GREY, linewidth=0.8, linestyle="--", zorder=0)
        side = {"3/8": "right", "2/5": "left"}.get(name, "center")
        ax.text(x, 1.01, name, transform=ax.get_xaxis_transform(), ha=side, fontsize=9, color=plots.GREY)
    ax.set(yscale="log", ylim=(0.02, None), xlabel="dimensionality $D_i$", ylabel="density, 1/(1-S) from 1 to 10")
    ax.legend(loc="upper right")


def draw_small(ax, n: int, rows: pd.DataFrame) -> None:
    """Shares of seeds in the commonest arrangements at each density, the optimum's named above."""
    shares = pd.DataFrame(rows["forms"].tolist(), index=rows["sparsity"]).fillna(0)
    common = dict.fromkeys([o for o in rows["optimum"] if o in shares])
    common = list(common | dict.fromkeys(shares.mean().sort_values(ascending=False).index))[:7]
    colours = plots.category_colours([*common, "other"]) | {"other": (0.85, 0.85, 0.85)}
    shares["other"] = 1 - shares[common].sum(axis=1)
    bottom = np.zeros(len(rows))
    for form, colour in colours.items():
        ax.bar(range(len(rows)), shares[form], bottom=bottom, color=colour, width=0.7)
        bottom += shares[form].to_numpy()
    for i, name in enumerate(rows["optimum"]):
        ax.text(i, 1.02, name.replace(", ", ",\n").replace("square ", "square\n"), ha="center", fontsize=9)
    ax.set_xticks(range(len(rows)), [f"{x:g}" for x in rows["sparsity"]])
    ax.set(ylabel="share of seeds", ylim=(0, 1))
    ax.set_title(f"n = {n}, m = 3: what the seeds form (on top: exact optimum)", pad=32)
    colours = {form.replace(" ignored", " out"): colour for form, colour in colours.items()}
    plots.axes_legend(ax, colours, below=0.18)
    ax.get_legend().set_ncols(2)


if __name__ == "__main__":
    report.experiment(main)
