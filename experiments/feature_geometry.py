"""Do features of equal importance settle into polytopes, and is the dimension each one takes sticky?

"The Geometry of Superposition" of Elhage et al. 2022: tied ReLU autoencoders, n = 400, m = 30 (their notebook has 200,
20), importance 1, density p = 1 - S from 1 to 0.01. Claims: D* = m / |W|_F^2 against 1/(1-S) is sticky at 1 and 1/2;
dimensionalities D_i pile up at 1, 3/4, 2/3, 1/2, 2/5 and 3/8; groups of interfering features are digons, triangles,
tetrahedra, pentagons and square antiprisms. If nothing sticks, D* falls evenly and D_i's density is smooth. No two
networks share a density, so a pile is no artefact of the grid; a peak counts if it is more prominent than 99% of draws
from the same density smoothed by 0.04. Beside them n = 6 and 8 in m = 3, whose exact optimum is known (`toy_optimum`),
and as a reference copies of the one polytope that saves most loss per dimension (`best_polytope`).
Two cores: --quick 45 s, default 8 to 11 minutes, --full 20.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import plots, stats
from toysup.ensemble import Trained
from toysup.features import SparseUniform
from toysup.geometry import arrangements, clusters, dimensionality, polytopes, random_directions
from toysup.measure import dimensions_per_feature
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import best_polytope, expected_loss, toy_optimum

QUESTION = "Do features of equal importance settle into polytopes, and is the dimension each one takes sticky?"
LEVELS = {"1": 1, "3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}
SHAPES = ["digon", "triangle", "tetrahedron", "pentagon", "square antiprism"]
KINDS = ["point", *SHAPES, "other polytope", "no polytope"]
WITHIN, TOLERANCE, KERNEL, SMOOTH = 0.05, 0.0125, 0.004, 0.04  # TOLERANCE: half of 2/5 - 3/8
NEAR = 10 * (1 + 1e-9)  # greatest 1/(1-S) of networks whose D_i are pooled
MORE, GREY, RESOLUTION = (1, np.inf), (0.85, 0.85, 0.85), 1e-6  # of the loss: what float32 weights can resolve
SMALL = {6: "3 digons", 8: "square antiprism"}  # the optimum that n features in 3 dimensions should be at


class Cell(NamedTuple):
    role: str  # whole: the first size, of which claims are decided; second; fast: ten times the rate; small
    n: int
    m: int
    seeds: int
    lr: float = 1e-3


def packing(trained: Trained) -> dict[str, torch.Tensor]:
    """D* at the end, and after two thirds of training."""
    (before,) = trained.snapshots
    return {"dimensions": dimensions_per_feature(trained), "before": dimensions_per_feature(trained.at(before))}


def study(run: Run) -> Study:
    size = run.sizes(dict(sizes=[(400, 30), (200, 20)], seeds=3, steps=10_000, batch=1024, speed=1, inner=14, tail=2,
                          small=256, ns=(6, 8), sparsities=[1.25, 2, 4, 10, 40], resamples=1000, fine=81, most=8),
                     quick=dict(sizes=[(200, 20)], seeds=2, steps=1500, batch=256, speed=4, inner=10, tail=1, small=48),
                     smoke=dict(steps=400, batch=64, speed=10, inner=2, small=4, ns=(6,), sparsities=[2], resamples=50,
                                fine=5, most=5), full=dict(seeds=8))  # fmt: skip

    def grid(cell: Cell) -> Grid:
        """Densities evenly spaced in ln 1/(1-S), more to 10 than to 100; each seed has its own but for the ends."""
        points = []
        for seed in range(cell.seeds):
            shift = (seed + 1) / (cell.seeds + 1)
            inner, tail = (np.arange(size.inner) + shift) / size.inner, 1 + (np.arange(size.tail) + shift) / size.tail
            points += [(float(p), seed) for p in 10 ** -np.r_[0, inner, tail, 2]]
        adam, model = Adam(lr=size.speed * cell.lr, weight_decay=0.01), Model(TiedAutoencoder, width=cell.m)
        setting = Setting(SparseUniform(cell.n, 0.1), Identity(), model, adam, size.steps, size.batch)
        if cell.role == "small":
            return Grid(setting, {"features.density": 1 / np.array(size.sparsities), "seed": range(cell.seeds)})
        return Grid(setting, {("features.density", "seed"): points})

    def piles(groups: dict) -> stats.Peaks:
        """Peaks of the D_i of networks with p >= 0.1."""
        near = groups["features"][groups["features"]["sparsity"] <= NEAR]
        how = {"bandwidth": KERNEL, "smooth": SMOOTH, "tolerance": TOLERANCE, "resamples": size.resamples}
        return stats.peaks(near["dimensionality"], near["instance"], unit=near["group"], **how)

    def reference() -> pd.DataFrame:
        """Exact D* of the polytope that saves most, by 1/(1-S)."""
        sparsities = np.geomspace(1, 10, size.fine)
        shapes = {name: gram for name, gram in polytopes().items() if len(gram) <= size.most}
        best = dict(zip(("shape", "dimensions"), best_polytope(shapes, 1 / sparsities), strict=True))
        return pd.DataFrame({"sparsity": sparsities} | best)

    def called(role: str, column: str) -> str:
        return column if role == "whole" else f"{role}: {column}"

    large, first = {"role": ["whole", "second"]}, {"role": "whole"}
    cells = [Cell(role, *one, size.seeds) for role, one in zip(("whole", "second"), size.sizes, strict=False)]
    cells += [Cell("fast", 200, 20, 1, 0.01), *(Cell("small", n, 3, size.small) for n in size.ns)]
    return Study(
        cells, grid, measures=[packing], snapshots=[size.steps * 2 // 3], draw=draw, answer=answer,
        findings={
            "plateaus": Finding(plateaus, "role", called, {"role": ["whole", "second", "fast"]}),
            "groups": Finding(groups, "role", where=large, kept=False),
            "piles": Finding(piles, "role", where=large, kept=False),
            "peaks": Finding(lambda piles: {f"peak_at_{level}_{what}": getattr(piles, what)(x) for level, x in
                             LEVELS.items() for what in ("contrast", "location")}, "role", called, large),
            "standing_out": Finding(lambda piles: piles.table[piles.table["stands_out"]], "role", where=large),
            "shapes": Finding(shapes, "role", called, large),
            "small": Finding(small, "n", where={"role": "small"}, kept=False),
            "optima": Finding(optima, "n", "{column}", {"role": "small"}),
            "reference": Finding(reference, kept=False),
            "plateaus_of_the_reference": Finding(lambda reference: dict(zip(("1", "1/2"), stats.stretches(
                np.log(reference["sparsity"]), reference[["dimensions"]].T, [1, 0.5], WITHIN)[0], strict=True))),
        },
        claims=[
            *(Claim(f"sticky_at_{x}", f"D* stays within 5% of {x} over twice the stretch of ln 1/(1-S) of a log-linear "
                    "fall, and over more than at any level from 0.3 to 0.9 off 1 and 1/2", "plateaus", {
                    f"plateau_at_{x}_over_log_linear": (2, np.inf), f"plateau_at_{x}_over_other_levels": MORE},
                    where=first) for x in ("1", "1/2")),
            *(Claim(f"peak_at_{name}", f"single features' dimensionalities pile up near {name}", "peaks", {
                    f"peak_at_{name}_contrast": MORE, f"peak_at_{name}_location": (x - TOLERANCE, x + TOLERANCE)},
                    where=first) for name, x in LEVELS.items()),
            *(Claim(f"{shape}_found", f"1% more of the represented features form a {shape} than of random directions",
                    f"shapes.{shape}_beyond_random", (0.01, np.inf), where=first) for shape in SHAPES),
            Claim("features_form_polytopes", "most features represented at 1/(1-S) from 1.5 to 5 form a known polytope",
                  "shapes.share_named", (0.5, np.inf), where=first),
            *(Claim(f"n{n}_m3_{name.replace(' ', '_')}", f"where {n} features in 3 dimensions should form {name}, most "
                    "seeds do", lambda small, name=name: stats.every(*[stats.decide(one, (0.5, 1)) for one in small.loc[
                        small["optimum"] == name, "reached"]] or ["undecided"]), by="n",
                    where={"role": "small", "n": n}, checks=["optimum_never_beaten"]) for n, name in SMALL.items()),
            Check("optimum_never_beaten", "no network has less loss than the exact optimum", lambda small: not any(
                  (own["excess"] < -RESOLUTION).any() for own in small.values())),
            Check("converged", "the last third of training changes D* by less than 2%",
                  "plateaus.last_third_changes_D*_by", (-np.inf, 0.02), where=first),
        ],
    )  # fmt: skip


def plateaus(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    """How long D* stays near a level: the stretch, over log-linear's, and over the longest at any level elsewhere."""
    change = (rows["dimensions"] / rows["before"] - 1).abs()
    told = {"last_third_changes_D*_by": stats.mean(change), "largest_change_in_the_last_third": float(change.max())}
    others = np.geomspace(0.3, 0.9, 23)
    others = others[np.abs(np.log(others[:, None] / [1, 0.5])).min(1) > np.log(1.15)]  # off both plateaus
    curves = [(-np.log(own["density"].to_numpy()), own["dimensions"].to_numpy()[None]) for _, own in
              rows.sort_values("density", ascending=False).groupby("seed")]  # fmt: skip
    for name in ("1", "1/2"):
        found = np.array([stats.stretches(x, y, [LEVELS[name], *others], WITHIN)[0] for x, y in curves])
        straight = [stats.log_linear_stretch(x, y, LEVELS[name], WITHIN)[0] for x, y in curves]
        told |= {f"plateau_at_{name}_length": stats.mean(found[:, 0]),
                 f"plateau_at_{name}_over_log_linear": stats.ratio(found[:, 0], straight, paired=True),
                 f"plateau_at_{name}_over_other_levels": stats.ratio(found[:, 0], found[:, 1:].max(1), paired=True)
                 }  # fmt: skip
    return told


def groups(rows: pd.DataFrame, networks) -> dict[str, pd.DataFrame]:
    """A row per represented feature; per network the share of them in each shape, also of random directions (null_)."""
    W, sparsity = networks(rows).parameters["W"], 1 / rows["density"].to_numpy()
    kinds = {name: name if name in KINDS else "other polytope" for name in polytopes()}
    found, null = (one.assign(kind=one["name"].map(kinds).fillna("no polytope")).explode("features") for one in
                   (clusters(W), clusters(random_directions(W))))  # fmt: skip
    features = found.rename_axis("group").reset_index()
    row, feature = (features[name].to_numpy(dtype=int) for name in ("instance", "features"))
    own = dimensionality(W).clamp(max=1).numpy()
    shares, beside = (pd.crosstab(one["instance"], one["kind"], normalize="index").reindex(
        columns=KINDS, fill_value=0.0) for one in (found, null))  # fmt: skip
    shares = shares.assign(sparsity=sparsity[shares.index]).join(beside.add_prefix("null_"))
    return {"features": features.assign(dimensionality=own[row, feature], sparsity=sparsity[row]), "shares": shares}


def shapes(groups: dict) -> dict[str, stats.Interval]:
    shares, told = groups["shares"], {}
    for shape in SHAPES:
        told |= {f"share_in_{shape}": stats.mean(shares[shape], bounds=(0, 1)),
                 f"{shape}_random": stats.mean(shares[f"null_{shape}"], bounds=(0, 1)),
                 f"{shape}_beyond_random": stats.mean(shares[shape] - shares[f"null_{shape}"])}  # fmt: skip
    named = 1 - shares.loc[shares["sparsity"].between(1.5, 5), "no polytope"]
    return told | {"share_named": stats.mean(named, bounds=(0, 1))}


def small(n: int, rows: pd.DataFrame, networks) -> pd.DataFrame:
    """One row per density: the optimum, share of seeds at it, best seed's excess (of zero's loss), all shares."""
    W, b = (networks(rows).parameters[name].numpy() for name in ("W", "b"))
    loss = expected_loss(W.astype(float), b.astype(float), rows["density"].to_numpy(), np.ones(n))
    rows, densities = rows.assign(loss=loss, form=arrangements(W)), rows["density"].unique()
    optimum = toy_optimum(n, 3, densities, np.ones((len(densities), n)), starts=8)
    told = []
    for p, name, least in zip(densities, arrangements(optimum.weights), optimum.loss, strict=True):
        seeds = rows[rows["density"] == p]
        told.append({"sparsity": 1 / p, "optimum": name, "reached": stats.share(seeds["form"] == name),
                     "excess": (seeds["loss"].min() - least) / (n * p / 3),
                     "forms": seeds["form"].value_counts(normalize=True)})  # fmt: skip
    return pd.DataFrame(told)


def optima(n: int, small: pd.DataFrame) -> dict:
    told = {f"n{n}_m3_sparsity_{row.sparsity:g}_at_optimum ({row.optimum})": row.reached for row in small.itertuples()}
    return told | {f"best_excess_loss_at_sparsity_{row.sparsity:g}": row.excess for row in small.itertuples()}


def answer(plateaus: dict, standing_out: dict, shapes: dict) -> str:
    known, found = shapes["whole"]["share_named"].value, plateaus["whole"]
    told = [f"{found[f'plateau_at_{x}_over_log_linear'].value:.1f} times as long near {x}" for x in ("1", "1/2")]
    piles = " and ".join(f"{x:.3f}" for x in standing_out["whole"]["location"].sort_values())
    return (f"Dimensions per feature stay {' and '.join(told)} as on an even fall; {known:.0%} of features form known "
            f"polytopes, and single features' dimensionalities pile up at {piles or 'no level'}.")  # fmt: skip


def draw(rows: pd.DataFrame, groups: dict, piles: dict, small: dict, reference: pd.DataFrame) -> plots.Figure:
    """D* and D_i against sparsity, the density of D_i, the shapes against sparsity, and the small models."""
    figure, ((ax, dots), (density, stack), last) = plots.figure(3, 2, width=13, height=4.2)
    for (n, m), own in rows[rows["role"].isin(groups)].groupby(["n", "m"], sort=False):
        ax.plot(1 / own["density"], own["dimensions"], "o", markersize=3.5, label=f"n = {n}, m = {m}")
    own = rows[rows["role"] == "whole"].sort_values("density").iloc[[-1, 0]]
    ax.plot(1 / own["density"], own["dimensions"], ":", color=plots.GREY, label="log-linear between the ends (null)")
    ax.plot(reference["sparsity"], reference["dimensions"], "--", color=plots.GREY,
            label="copies of the polytope that saves most, exact")  # fmt: skip
    for _, part in reference.groupby((reference["shape"] != reference["shape"].shift()).cumsum()):
        if part["sparsity"].iloc[-1] / part["sparsity"].iloc[0] > 1.25:
            x, name, y = part.iloc[0]
            ax.annotate(name, (x * 1.05, y * 1.06), fontsize=9, color=plots.GREY)
    for level in (1, 0.5):
        plots.zone(ax, level * (1 - WITHIN), level * (1 + WITHIN))
    ax.set(ylabel="$D^* = m / |W|_F^2$", title="Dimensions per feature, each network a dot")
    plots.ticks(ax, x=[1, 10, 100], y={1: "1", 0.5: "1/2", 0.2: "0.2", 0.1: "0.1", 0.05: "0.05"}, log=True)
    plots.legend(ax, loc="lower left", size=9)
    features, shares, pile = *groups["whole"].values(), piles["whole"]
    dots.plot(features["sparsity"], features["dimensionality"], ".", markersize=2, alpha=0.3, rasterized=True)
    dots.set(xscale="log", ylim=(0, 1.05), ylabel="dimensionality $D_i$", title="Each represented feature a dot")
    density.fill_between(pile.grid, pile.density, alpha=0.3, edgecolor="C0", linewidth=2)
    density.plot(pile.grid, pile.smooth, ":", color=plots.GREY, label="smoothed by 0.04 (null)")
    for x in pile.table.loc[pile.table["stands_out"], "location"]:
        density.annotate(f"{x:.3f}", (x, np.interp(x, pile.grid, pile.density)), (-4, 0), textcoords="offset points",
                         ha="right", fontsize=10, fontweight="bold")  # fmt: skip
    for name, x in LEVELS.items():
        plots.level(dots, x, name, right=name != "2/5")
        plots.level(density, x, name, upright=True)
    density.set(yscale="log", ylim=(0.02, None), xlabel="dimensionality $D_i$", ylabel="density, 1/(1-S) from 1 to 10")
    plots.legend(density, below=True)
    colours = plots.category_colours(KINDS) | {"no polytope": GREY}
    plots.stack(stack, shares.set_index("sparsity")[KINDS], colours)
    stack.plot(1 - shares.set_index("sparsity")["null_no polytope"].sort_index(), "k:", linewidth=1.5)
    stack.set(xscale="log", ylabel="share of represented features")
    stack.set_title("Represented features by shape of their group\n(dotted: all shapes, random directions)")
    for panel in (ax, dots, stack, *last):
        panel.set_xlabel("1/(1-S) = 1/p")
    plots.legend(stack, colours, below=True, only=True, ncols=3, size=9)
    for panel, (n, own) in zip(last, small.items(), strict=False):
        forms = pd.DataFrame(own["forms"].tolist(), index=own["sparsity"]).fillna(0)
        common = [*(name for name in own["optimum"] if name in forms), *forms.mean().sort_values(ascending=False).index]
        common = list(dict.fromkeys(common))[:7]
        told = forms[common].assign(other=1 - forms[common].sum(axis=1))
        colours = plots.category_colours(told.columns) | {"other": GREY}
        plots.stack(panel, told, colours, bars=True)
        for i, name in enumerate(own["optimum"]):
            panel.text(i, 1.02, name.replace(", ", ",\n").replace("e a", "e\na"), ha="center", fontsize=9)
        panel.set_ylabel("share of seeds")
        panel.set_title(f"{n} features in 3 dimensions: what seeds form (on top: the optimum)", pad=32)
        plots.legend(panel, below=True, ncols=2, size=9)
    return figure


if __name__ == "__main__":
    experiment(study)
