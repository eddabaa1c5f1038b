"""Where does a pentagon of five features break, when one of them becomes rarer or less important than the others?

"Non-Uniform Superposition: perturbing a single feature" of Elhage et al. 2022: n = 5 features in m = 2 dimensions, all
of importance 1 and density 0.05, which make a regular pentagon. One feature's density is varied, as there, and, as a
second axis, its importance: r times that of the others, 0.1 to 4. The paper says: the pentagon stretches continuously,
the others giving way to a denser feature; a feature that is rare enough is dropped and the rest form two digons; this
is where the loss curves of the two geometries cross, so the transition is of first order. And that single fits often
end in the worse geometry, so that it takes the best of several: ours is the best of 8 seeds, in groups of 8.

Theory (`toy_branch`) follows both geometries as local minima of the exact loss: where they cross, and how far each one
exists. Per axis, with 95% intervals over seeds or groups of seeds:
- pentagon_deforms: the angle between the odd feature and its two neighbours rises with ln r among pentagons (r from
  the jump to 2): the seeds' mean slope lies above 0; deforms_as_theory: it lies within 5% of the exact branch's at
  the same r.
- jumps_to_digons: below each group's jump the best network is two digons without the odd feature in 95% of cells.
- first_order: the odd feature's norm changes at the jump by 5 times or more what it changes in any other step of r,
  and the two losses cross at an angle (the slope of their ratio at the crossing lies below 0).
- jump_where_theory_puts_it: jump / theory's crossing lies within one step of r (6%); the interval over groups is
  widened by half a step at either end, since a change point is known no better.
- geometries_coexist: on either side of theory's crossing, within a factor of 1.25, more than 5% of a seed's networks
  are in the geometry that is not optimal.
A network is in the pentagon if its five features form one cluster (`clusters` stops calling it a pentagon when it is
stretched beyond 0.1). Controls: the jump at doubled length and with another learning rate and schedule (every other r
up to 1, 32 seeds); the change point of shuffled networks; the global optimum is one of the two branches; no network
beats it.

Two cores: --quick under a minute, default about 4.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.features import SparseUniform
from toysup.geometry import arrangements
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity
from toysup.theory import expected_loss, toy_branch, toy_optimum

QUESTION = "Does a pentagon stretch and then jump to two digons as one feature becomes rarer or less important?"
DENSITY, GROUP, NEAR = 0.05, 8, 1.25
PATHS = {"density": "features.density", "importance": "task.importance"}
ANGLE = 2 * np.pi * np.arange(5) / 5
STARTS = {  # geometry -> weights and biases near it; the odd feature is the first
    "pentagon": (1.13 * np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=-1), np.full(5, -0.24)),
    "digons": (np.array([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]), np.zeros(5)),
}


def world(axis: str, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities and importances (..., 5) where the odd feature has r times the others'."""
    odd = np.concatenate([np.asarray(r)[..., None], np.ones((*np.shape(r), 4))], axis=-1)
    return (DENSITY * odd, np.ones_like(odd)) if axis == "density" else (np.full_like(odd, DENSITY), odd)


def grid_of(axis: str, ratios: np.ndarray, seeds: int, optimizer: Adam, steps: int, batch: int) -> Grid:
    setting = Setting(
        SparseUniform(5, np.full(5, DENSITY)),
        Identity(np.ones(5)),
        Model(TiedAutoencoder, width=2),
        optimizer,
        steps,
        batch,
    )
    values = dict(zip(ratios, world(axis, ratios)[axis == "importance"], strict=True))
    return Grid(setting, {PATHS[axis]: values, "seed": range(seeds)})


def neighbours(W: np.ndarray) -> np.ndarray:
    """Degrees between the odd feature and its neighbours, the mean of the two least angles, (...)."""
    unit = W / np.maximum(np.linalg.norm(W, axis=-1, keepdims=True), 1e-12)
    cosines = np.clip((unit[..., 1:, :] * unit[..., :1, :]).sum(-1), -1, 1)
    return np.degrees(np.sort(np.arccos(cosines), axis=-1)[..., :2].mean(-1))


def described(W: np.ndarray, loss: np.ndarray) -> pd.DataFrame:
    """What each network is: its geometry, how long the odd feature is, how far off its neighbours are."""
    words, norm = arrangements(W), np.linalg.norm(W[:, 0], axis=-1)
    geometry = np.where(np.isin(words, ["pentagon", "5-cluster"]), "pentagon", "other")
    geometry = np.where((words == "2 digons, 1 ignored") & (norm**2 < 0.25), "digons", geometry)
    return pd.DataFrame({"loss": loss, "geometry": geometry, "words": words, "norm": norm, "angle": neighbours(W)})


class Theory(NamedTuple):
    """Both geometries followed away from where they are sure to be minima; `branch` has a row per geometry and r."""

    branch: pd.DataFrame
    crossing: float
    ends: dict[str, float]  # the r where following it down (pentagon) or up (digons) leaves the geometry
    missed: float  # how far the better branch lies above the global optimum, relative, at its worst


def theory(axis: str, fine: np.ndarray, checked: int) -> Theory:
    frames = []
    for name, (W, b) in STARTS.items():
        parts = [fine[fine < 1][::-1], fine[fine >= 1]] if name == "pentagon" else [fine]
        for r in parts:
            density, importance = world(axis, r)
            dropped = density[0] / 2 * (np.linalg.norm(W, axis=1) == 0)  # an ignored feature is put at its mean
            found = toy_branch(W, b + dropped, density, importance)
            frames.append(described(found.weights, found.loss).assign(r=r, branch=name))
    branch = pd.concat(frames).sort_values(["branch", "r"], ignore_index=True)
    held = branch[branch["geometry"] == branch["branch"]]
    both = held.pivot(index="r", columns="branch", values="loss").dropna()
    crossing = float(np.exp(np.interp(0, np.log(both["digons"] / both["pentagon"]), np.log(both.index))))
    ends = {"pentagon": float(both.index.min()), "digons": float(both.index.max())}
    some = fine[:: len(fine) // checked]
    best = branch[branch["r"].isin(some)].groupby("r")["loss"].min()
    missed = float((best / toy_optimum(5, 2, *world(axis, some)).loss - 1).max())
    return Theory(held, crossing, ends, missed)


def trained(axis: str, answer) -> pd.DataFrame:
    """One row per network."""
    W, b = answer.parameters("W"), answer.parameters("b")
    r = answer.table[axis].to_numpy()
    table = described(W, expected_loss(W, b, *world(axis, r))).assign(r=r, seed=answer.table["seed"].to_numpy())
    return table.assign(W=list(W), dead=b[:, 0] <= 0)


def best_of_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The network of lowest loss in each group of seeds, at each r."""
    table = table.assign(group=table["seed"] // GROUP)
    return table.loc[table.groupby(["group", "r"])["loss"].idxmin()]


def jumps(best: pd.DataFrame) -> np.ndarray:
    """ln r of each group's change point."""
    return np.array(
        [stats.threshold(np.log(rows["r"]), rows["geometry"] == "pentagon") for _, rows in best.groupby("group")]
    )


def at_jump(best: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The change of the odd feature's norm at each group's jump, and its largest change in any other step."""
    found = []
    for (_, rows), at in zip(best.groupby("group"), jumps(best), strict=True):
        step = np.diff(rows["norm"])
        k = np.clip(np.sum(np.log(rows["r"]) < at) - 1, 0, len(step) - 1)
        found.append((step[k], np.abs(np.delete(step, k)).max()))
    return tuple(np.array(found).T)


def loss_crossing(pentagon: np.ndarray, digons: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """x where the median losses (seed, x; NaN where a seed is in the other geometry) cross, and the slope of
    ln(pentagon / digons) there, from a parabola through the points where they differ by less than 15%."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no seed in a geometry: NaN
        ratio = np.log(np.nanmedian(pentagon, 0) / np.nanmedian(digons, 0))
    use = np.abs(ratio) < 0.15
    if use.sum() < 4:
        return np.nan, np.nan
    inverse = np.polyfit(ratio[use], x[use], 2)  # x as a function of the ratio: its value and slope at 0
    return float(inverse[2]), float(1 / inverse[1])


def slopes(table: pd.DataFrame, exact: pd.DataFrame, low: float, high: float) -> np.ndarray:
    """Slopes of the neighbours' angle over ln r, degrees, (seed, 2): among each seed's pentagons with r in [low, high],
    and of the exact branch at the same r."""
    rows = table[(table["geometry"] == "pentagon") & table["r"].between(low, high)]
    rows = rows.assign(exact=rows["r"].map(exact.set_index("r")["angle"])).dropna(subset="exact")
    fits = [
        np.polyfit(np.log(own["r"]), own[["angle", "exact"]], 1)[0] for _, own in rows.groupby("seed") if len(own) > 4
    ]
    return np.reshape(fits, (-1, 2))


def interval(samples: np.ndarray) -> stats.Interval:
    return stats.mean(samples) if len(samples) else stats.UNDEFINED


def scaled(found: stats.Interval, by: float = 1.0, give: float = 0.0) -> stats.Interval:
    """exp of an interval whose ends are known only to within `give`, over `by`."""
    if not np.isfinite(found.value):
        return stats.UNDEFINED
    return stats.Interval(*(np.exp(end) / by for end in (found.value, found.low - give, found.high + give)))


def judged(axis: str, table: pd.DataFrame, exact: Theory) -> tuple[dict, dict, dict]:
    """Statistics, verdicts and controls of one axis."""
    ratios = np.sort(table["r"].unique())
    step, best = ratios[1] / ratios[0], best_of_groups(table)
    x, half = np.log(ratios), np.log(step) / 2
    by_seed = {
        name: table["loss"].where(table["geometry"] == name).groupby([table["seed"], table["r"]]).first().unstack()
        for name in STARTS
    }
    curves = [by_seed[name].to_numpy() for name in STARTS]
    exact_curves = [
        exact.branch[exact.branch["branch"] == name].set_index("r")["loss"].reindex(ratios).to_numpy()[None]
        for name in STARTS
    ]
    crossed = loss_crossing(*exact_curves, x)
    at, angle = (
        stats.bootstrap(lambda *two, k=k: loss_crossing(*two, x)[k], *curves, paired=True, resamples=1000)
        for k in range(2)
    )
    jump, (size, other) = interval(jumps(best)), at_jump(best)
    slope = slopes(table, exact.branch[exact.branch["branch"] == "pentagon"], np.exp(jump.value), 2)
    steeper, relative = interval(slope[:, 0]), interval(slope[:, 0] / slope[:, 1])
    below = best[np.log(best["r"]) < best["group"].map(dict(enumerate(jumps(best))))]
    dropped = stats.share(int((below["geometry"] == "digons").sum()), len(below))
    near = {
        name: (table[table["r"].between(low, high)]["geometry"] == name).groupby(table["seed"]).mean().to_numpy()
        for name, low, high in (
            ("pentagon", exact.crossing / NEAR, exact.crossing),
            ("digons", exact.crossing, exact.crossing * NEAR),
        )
    }
    worse = {name: interval(found) for name, found in near.items()}
    statistics = {
        "jump": scaled(jump, give=half),
        "jump_over_theory": scaled(jump, exact.crossing, half),
        "losses_cross": scaled(at),
        "losses_cross_over_theory": scaled(at, exact.crossing),
        "slope_at_crossing": angle,
        "norm_jump": interval(size),
        "norm_jump_over_other_steps": interval(size / other),
        "angle_slope": steeper,
        "angle_slope_over_theory": relative,
        "digons_below_jump": dropped,
        "worse_pentagons_below": worse["pentagon"],
        "worse_digons_above": worse["digons"],
    }
    verdict = {
        "pentagon_deforms": stats.decide(steeper, (0, np.inf)),
        "deforms_as_theory": stats.decide(relative, (0.95, 1.05)),
        "jumps_to_digons": stats.decide(dropped, (0.95, 1)),
        "first_order": stats.every(
            stats.decide(statistics["norm_jump_over_other_steps"], (5, np.inf)), stats.decide(angle, (-np.inf, 0))
        ),
        "jump_where_theory_puts_it": stats.decide(statistics["jump_over_theory"], (1 / step, step)),
        "geometries_coexist": stats.every(*(stats.decide(found, (0.05, 1)) for found in worse.values())),
    }
    shuffled = best.assign(geometry=np.random.default_rng(0).permutation(best["geometry"]))
    pentagon = table[table["geometry"] == "pentagon"]["r"]
    digons = table[(table["geometry"] == "digons") & (table["r"] < exact.crossing)]
    optimum = table["r"].map(exact.branch.groupby("r")["loss"].min())
    controls = {
        "theory": {
            "losses_cross": exact.crossing,
            "slope_at_crossing": crossed[1],
            "angle_slope": interval(slope[:, 1]),
            "pentagon_followed_down_to": exact.ends["pentagon"],
            "digons_followed_up_to": exact.ends["digons"],
            "branches_above_global_optimum_at_most": exact.missed,
        },
        "trained": {
            "lowest_r_of_a_pentagon": float(pentagon.min()) if len(pentagon) else None,
            # a dropped feature's output is stuck at 0, below its mean, once its bias is negative: no gradient
            "share_of_digons_with_a_dead_output": stats.share(int(digons["dead"].sum()), len(digons)),
            "lowest_excess_over_theory": float((table["loss"] / optimum - 1).min()),
            "words": table["words"].value_counts(normalize=True).head(6).to_dict(),
        },
        "jump_of_shuffled_networks": scaled(interval(jumps(shuffled))).asdict(),
        "grid_step": {"ratio": float(step)},
    }
    return statistics, verdict, controls


def main(run: report.Run) -> None:
    ratios = np.geomspace(0.1, 4, run.pick(default=64, quick=22, smoke=8))
    seeds, batch = run.pick(default=64, quick=16), run.pick(default=1024, smoke=64)
    steps = run.pick(default=10_000, quick=5000, smoke=20)
    paper, other = Adam(weight_decay=0.01), Adam(lr=0.01, weight_decay=0.01, schedule=Cosine())
    coarse = ratios[ratios <= 1][::2]
    grids = {axis: grid_of(axis, ratios, seeds, paper, steps, batch) for axis in PATHS}
    for axis in PATHS:
        few = seeds // 2
        grids[f"{axis}_doubled"] = grid_of(axis, coarse, few, paper, 2 * steps, batch)
        grids[f"{axis}_other_rate"] = grid_of(axis, coarse, few, other, steps, batch)
    answers = sweep(grids, [], results=run.results, device=run.device, workers=run.workers)
    statistics, verdict, controls, drawn = {}, {}, {}, {}
    for axis in PATHS:
        finer = run.pick(default=8, smoke=1)
        fine = np.geomspace(ratios[0], ratios[-1], finer * (len(ratios) - 1) + 1)
        fine[::finer] = ratios  # the same numbers, to the bit
        exact = theory(axis, fine, run.pick(default=16, quick=8, smoke=2))
        table = trained(axis, answers[axis])
        drawn[axis] = table, exact
        found = judged(axis, table, exact)
        for kept, new in zip((statistics, verdict, controls), found, strict=True):
            kept |= {f"{axis}_{name}": value for name, value in new.items()}
        for name in ("doubled", "other_rate"):
            again = interval(jumps(best_of_groups(trained(axis, answers[f"{axis}_{name}"]))))
            half = np.log(coarse[1] / coarse[0]) / 2
            controls[f"{axis}_jump_{name}"] = scaled(again, give=half).asdict()
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    report.write(run, draw(drawn, statistics), statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(map(len, grids.values())), steps=2 * steps,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(drawn: dict, statistics: dict) -> plots.Figure:
    """The best network's polygon, then loss, norm, angle and share of seeds over r; theory in grey."""
    figure, axes = plots.figure(
        5, 2, width=13, height=2.3, sharex="col", sharey="row", height_ratios=[0.5, 1.4, 0.9, 1, 0.8]
    )
    blue, _, green, red = plots.category_colours(range(4)).values()
    colours = {"pentagon": blue, "digons": green, "other": "0.75"}
    names = {"pentagon": "pentagon", "digons": "two digons, odd feature dropped", "other": "another geometry"}
    for column, (axis, (table, exact)) in zip(axes.T, drawn.items(), strict=True):
        ratios, best = np.sort(table["r"].unique()), best_of_groups(table)
        jump = statistics[f"{axis}_jump"]
        low, high = np.log(ratios[[0, -1]])
        column[0].axis("off")
        column[0].set_title(f"{axis} of one feature (red) varied, best network")
        for place in np.linspace(0.05, 0.95, 9):
            r = ratios[np.abs(np.log(ratios) - low - place * (high - low)).argmin()]
            own = table[table["r"] == r]
            W = own.loc[own["loss"].idxmin(), "W"]
            inset = column[0].inset_axes([place - 0.055, 0, 0.11, 1])
            plots.directions(inset, W, [red, *["0.4"] * 4], up=int(np.linalg.norm(W[0]) < 0.5))
        for name in ("other", "digons", "pentagon"):
            rows, line = table[table["geometry"] == name], exact.branch[exact.branch["branch"] == name]
            style = {"color": colours[name], "markersize": 3, "linestyle": "", "marker": "o", "alpha": 0.6}
            column[1].plot(rows["r"], 1e3 * rows["loss"], **style, label=names[name])
            column[2].plot(rows["r"], rows["norm"], **style)
            column[4].plot(ratios, rows.groupby("r").size().reindex(ratios, fill_value=0) / table["seed"].nunique(),
                           color=colours[name], linewidth=2)  # fmt: skip
            if len(line):
                column[1].plot(line["r"], 1e3 * line["loss"], color="black", linewidth=1)
                column[2].plot(line["r"], line["norm"], color="black", linewidth=1)
            if name == "pentagon":
                column[3].plot(rows["r"], rows["angle"], **style)
                column[3].plot(line["r"], line["angle"], color="black", linewidth=1)
        column[2].plot(best["r"], best["norm"], "kx", markersize=4)
        column[3].axhline(72, color=plots.GREY, linestyle=":")
        column[3].text(ratios[-1], 71, "regular pentagon: 72", ha="right", va="top", fontsize=9, color=plots.GREY)
        for ax in column[1:]:
            ax.axvline(exact.crossing, color="black", linestyle="--", linewidth=1)
            ax.axvspan(jump.low, jump.high, color=red, alpha=0.3, linewidth=0)
            ax.set(xscale="log", xlim=(ratios[0] / 1.03, ratios[-1] * 1.03))
            ax.set_xticks([0.1, 0.2, 0.5, 1, 2, 4], [0.1, 0.2, 0.5, 1, 2, 4])
            ax.set_xticks([], minor=True)
        column[1].set(yscale="log")
        column[1].set_yticks([5, 10, 20, 50], [5, 10, 20, 50])
        column[1].set_yticks([], minor=True)
        column[-1].set(xlabel=f"r: the odd feature's {axis} over the others'", ylim=(-0.03, 1.03))
    labels = ("expected loss, $10^{-3}$", "odd feature's\nnorm $|W_i|$", "angle to its\nneighbours, degrees",
              "share of seeds")  # fmt: skip
    for ax, label in zip(axes[1:, 0], labels, strict=True):
        ax.set_ylabel(label)
    axes[1, 0].legend(loc="lower right", markerscale=2)
    axes[2, 1].plot([], [], "kx", label=f"best of {GROUP} seeds")
    axes[2, 1].plot([], [], color="black", linewidth=1, label="exact local minima")
    axes[2, 1].legend(loc="lower right")
    told = " or ".join(
        f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] of the others' {axis}"
        for axis in drawn
        for found in [statistics[f"{axis}_jump"]]
    )
    exact = " and ".join(f"{exact.crossing:.2f}" for _, exact in drawn.values())
    title = f"The pentagon stretches, then drops a feature of {told}\n(the exact losses cross at {exact})"
    figure.suptitle(title, fontsize=14)
    return figure


if __name__ == "__main__":
    report.experiment(main)
