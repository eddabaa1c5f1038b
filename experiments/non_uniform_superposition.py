"""Where does a pentagon of five features break, when one of them becomes rarer or less important than the others?

"Non-Uniform Superposition: perturbing a single feature" of Elhage et al. 2022: n = 5 features in m = 2 dimensions, of
importance 1 and density 0.05. One feature's density, or its importance, is r times that of the others. The paper says:
a regular pentagon stretches continuously, the others giving way to a denser feature; a feature rare enough is dropped
and the rest form two digons, where the losses of the two geometries cross (first order). Single fits often end in the
worse one; ours is the best of 8 seeds. Theory (`toy_branch`) follows both as local minima of the exact loss. A network
is in the pentagon if its features form one cluster (`clusters` stops calling it so when stretched beyond 0.1).
Two cores: --quick under a minute, default about 4.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.features import SparseUniform
from toysup.geometry import arrangements
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, Variant, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import expected_loss, toy_branch, toy_optimum

QUESTION = "Does a pentagon stretch and then jump to two digons as one feature becomes rarer or less important?"
DENSITY, GROUP, NEAR, RESOLUTION = 0.05, 8, 1.25, 1e-6  # of the loss: what float32 weights can resolve
PATHS = {"density": "features.density", "importance": "task.importance"}
PENTAGON, DIGONS, OTHER = "pentagon", "two digons, odd feature dropped", "another geometry"
ANGLE = 2 * np.pi * np.arange(5) / 5
STARTS = {  # geometry -> weights and biases near it; the odd feature is the first
    PENTAGON: (1.13 * np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=-1), np.full(5, -0.24)),
    DIGONS: (np.array([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]), np.zeros(5)),
}
PANELS = {"loss": "expected loss", "norm": "odd feature's\nnorm $|W_i|$", "angle": "angle to its\nneighbours, degrees"}
CLAIMS = {  # name -> what it says, and where columns of the finding must lie
    "pentagon_deforms": ("the less there is of one feature, the closer its neighbours in the pentagon: their angle "
                         "rises with ln r (from the jump to r = 2)", {"angle_slope": (0, np.inf)}),
    "deforms_as_theory": ("this slope is within 5% of the exact branch's", {"angle_slope_over_theory": (0.95, 1.05)}),
    "jumps_to_digons": ("below it the best network is two digons in 95% of cells", {"digons_below_jump": (0.95, 1)}),
    "first_order": ("its norm jumps 5 times as far as it moves in any other step of r; the losses cross at an angle",
                    {"norm_jump_over_other_steps": (5, np.inf), "slope_at_crossing": (-np.inf, 0)}),
    "jump_where_theory_puts_it": ("jump and exact crossing lie within one step of r (6%) of each other",
                                  {"jump_over_theory": lambda rows: np.exp([-rows["step"].max(), rows["step"].max()])}),
    "geometries_coexist": ("up to 1.25 times from the exact crossing over 5% of networks are in the worse geometry",
                           {"worse_pentagons_below": (0.05, 1), "worse_digons_above": (0.05, 1)}),
}  # fmt: skip


class Cell(NamedTuple):
    axis: str  # what is varied


def world(axis: str, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities and importances (r, 5) where the odd feature has r times the others'."""
    odd = np.insert(np.ones((len(r), 4)), 0, r, axis=1)
    return (DENSITY * odd, np.ones_like(odd)) if axis == "density" else (np.full_like(odd, DENSITY), odd)


def study(run: Run) -> Study:
    size = run.sizes(dict(ratios=64, finer=8, seeds=64, steps=10_000, batch=1024), quick=dict(
        ratios=22, seeds=16, steps=5000), smoke=dict(ratios=8, finer=1, steps=20, batch=64))  # fmt: skip
    ratios = np.geomspace(0.1, 4, size.ratios)
    fine = np.geomspace(ratios[0], ratios[-1], size.finer * (len(ratios) - 1) + 1)
    fine[:: size.finer] = ratios  # the same numbers, to the bit

    def grid(cell: Cell) -> Grid:
        task, model, optimizer = Identity(np.ones(5)), Model(TiedAutoencoder, width=2), Adam(weight_decay=0.01)
        setting = Setting(SparseUniform(5, np.full(5, DENSITY)), task, model, optimizer, size.steps, size.batch)
        values = dict(zip(ratios, world(cell.axis, ratios)[cell.axis == "importance"], strict=True))
        return Grid(setting, {PATHS[cell.axis]: values, "seed": range(size.seeds)})

    def otherwise(grid: Grid, **changed) -> Grid:
        """Every other r up to 1, half the seeds."""
        path, values = next(iter(grid.axes.items()))
        some = {r: values[r] for r in ratios[ratios <= 1][::2]}
        return Grid(replace(grid.setting, **changed), {path: some, "seed": range(size.seeds // 2)})

    return Study(
        [Cell(axis) for axis in PATHS], grid, measures=[], derive=described,
        variants={"doubled": Variant(lambda grid: otherwise(grid, steps=2 * size.steps)),
                  "other_rate": Variant(lambda grid: otherwise(grid, optimizer=replace(
                      grid.setting.optimizer, lr=0.01, schedule=Cosine())))},
        findings={
            "branch": Finding(lambda axis: followed(axis, fine), "axis", kept=False),
            "theory": Finding(theory, "axis"),
            "jump": Finding(jump, "axis", "{axis}_{column}", variant=None),
            "found": Finding(found, "axis", "{axis}_{column}"),
        },
        claims=[
            *(Claim(name, says, "found", inside, each=f"{{axis}}_{name}") for name, (says, inside) in CLAIMS.items()),
            Check("training_sufficient", "twice as long, or at another rate, the jump is the same to two steps of r",
                  lambda rows, jump: np.ptp(np.log([own.value for own in jump.values()])) < 2.01 * rows["step"].max(),
                  by="axis"),
            Check("optimum_is_a_branch", "the better of the two geometries is the exact global optimum",
                  lambda theory: theory["above_global_optimum_at_most"] < RESOLUTION, by="axis"),
            Check("optimum_never_beaten", "no network beats it by more than float32 resolves",
                  lambda found: found["lowest_excess_over_theory"] > -RESOLUTION, by="axis"),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def geometries(W: np.ndarray) -> dict[str, np.ndarray]:
    """Of each network: its geometry, how long the odd feature is, and how far off its neighbours are in a pentagon."""
    words, norm = arrangements(W), np.linalg.norm(W, axis=-1)
    unit = W / np.maximum(norm[..., None], 1e-12)
    angle = np.degrees(np.sort(np.arccos(np.clip((unit[:, 1:] * unit[:, :1]).sum(-1), -1, 1)))[:, :2].mean(-1))
    digons = (words == "2 digons, 1 ignored") & (norm[:, 0] ** 2 < 0.25)
    geometry = np.select([digons, np.isin(words, [PENTAGON, "5-cluster"])], [DIGONS, PENTAGON], OTHER)
    angle[geometry != PENTAGON] = np.nan
    return {"geometry": geometry, "words": words, "norm": norm[:, 0], "angle": angle}


def described(table: pd.DataFrame, networks) -> pd.DataFrame:
    """With each network's r, exact loss and geometry, and whether it is the best of its group."""
    parts = []
    for (axis, _), rows in table.groupby(["axis", "variant"], sort=False):
        W, b = (networks(rows).parameters[name].numpy() for name in "Wb")
        r, group = rows[axis].to_numpy(dtype=float), rows["seed"] // GROUP
        loss, step = expected_loss(W, b, *world(axis, r)), np.log(np.divide(*np.unique(r)[[1, 0]]))
        rows = rows.assign(r=r, step=step, group=group, loss=loss, dead=b[:, 0] <= 0)
        best = rows.index.isin(rows.groupby(["group", "r"])["loss"].idxmin())
        parts.append(rows.assign(best=best, **geometries(W)))
    return pd.concat(parts)


def followed(axis: str, fine: np.ndarray) -> pd.DataFrame:
    """Both geometries followed from where they are sure to be minima, as far as they exist: a row for each r."""
    parts = []
    for name, (W, b) in STARTS.items():
        for r in [fine[fine < 1][::-1], fine[fine >= 1]] if name == PENTAGON else [fine]:
            density, importance = world(axis, r)
            dropped = density[0] / 2 * (np.linalg.norm(W, axis=1) == 0)  # an ignored feature is put at its mean
            exact = toy_branch(W, b + dropped, density, importance)
            parts.append(pd.DataFrame({"r": r, "loss": exact.loss, "start": name, **geometries(exact.weights)}))
    return pd.concat(parts).query("geometry == start").sort_values(["geometry", "r"])


def theory(rows: pd.DataFrame, branch: pd.DataFrame, axis: str) -> dict[str, float]:
    """Where the exact losses cross, how far each geometry exists, and how far the better one misses the optimum."""
    losses, some = branch.pivot(index="r", columns="geometry", values="loss")[list(STARTS)], np.unique(rows["r"])[::4]
    both, missed = losses.dropna(), losses.min(axis=1)[some] / toy_optimum(5, 2, *world(axis, some)).loss - 1
    return {"losses_cross": np.exp(np.interp(0, np.log(both[DIGONS] / both[PENTAGON]), np.log(both.index))),
            "slope_at_crossing": stats.crossing(*losses.T.to_numpy()[:, None], np.log(losses.index))[1],
            "pentagon_down_to": both.index.min(), "digons_up_to": both.index.max(),
            "above_global_optimum_at_most": missed.max()}  # fmt: skip


def jumps(best: pd.DataFrame) -> np.ndarray:
    """ln r of each group's change point."""
    return np.array([stats.threshold(np.log(g["r"]), g["geometry"] == PENTAGON) for _, g in best.groupby("group")])


def jump(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    """r of the jump; half a step wider at either end than over groups, since a change point is known no better."""
    found = {}
    for variant, own in rows[rows["best"]].groupby("variant"):
        log, half = stats.mean(jumps(own)), own["step"].max() / 2
        found[f"jump_{variant}".strip("_")] = stats.Interval(*np.exp([log.value, log.low - half, log.high + half]))
    return found


def found(rows: pd.DataFrame, branch: pd.DataFrame, theory: dict, jump: dict) -> dict:
    """Jump and crossing beside theory's; who stretches, drops a feature, is in the worse geometry; what is odd."""
    best, (pentagon, digons) = rows[rows["best"]], (rows["geometry"] == name for name in STARTS)
    place, groups, r, x = theory["losses_cross"], jumps(best), rows["r"], np.log(np.unique(rows["r"]))
    losses = [rows["loss"].where(flag).groupby([rows["seed"], r]).first().unstack() for flag in (pentagon, digons)]
    cross, slope = (stats.bootstrap(lambda *two, k=k: stats.crossing(*two, x)[k], *losses, paired=True, resamples=1000)
                    for k in range(2))  # fmt: skip
    change = np.diff(best.pivot(index="group", columns="r", values="norm").to_numpy())  # (group, step)
    own = np.arange(len(x) - 1) == np.clip((x < groups[:, None]).sum(1, keepdims=True) - 1, 0, len(x) - 2)
    exact = r.map(branch[branch["geometry"] == PENTAGON].set_index("r")["angle"])
    some = rows.assign(exact=exact)[pentagon & r.between(jump["jump"].value, 2) & exact.notna()]
    slopes = np.reshape([np.polyfit(np.log(one["r"]), one[["angle", "exact"]], 1)[0]
                         for _, one in some.groupby("seed") if len(one) > 4], (-1, 2)).T  # fmt: skip
    worse = pentagon[r.between(place / NEAR, place)], digons[r.between(place, place * NEAR)]
    below, above = (stats.mean(flag.groupby(rows["seed"]).mean(), skipna=True) for flag in worse)
    shuffled = best.assign(geometry=np.random.default_rng(0).permutation(best["geometry"]))
    return {
        "jump_over_theory": jump["jump"].transformed(lambda r: r / place), "losses_cross": cross.transformed(np.exp),
        "losses_cross_over_theory": cross.transformed(lambda log: np.exp(log) / place), "slope_at_crossing": slope,
        "norm_jump": stats.mean(change[own]),
        "norm_jump_over_other_steps": stats.mean(change[own] / np.where(own, 0, np.abs(change)).max(1)),
        "angle_slope": stats.mean(slopes[0], skipna=True),
        "angle_slope_over_theory": stats.mean(slopes[0] / slopes[1], skipna=True),
        "worse_pentagons_below": below, "worse_digons_above": above,
        "digons_below_jump": stats.share(digons[best.index][np.log(best["r"]) < groups[best["group"]]]),
        "jump_of_shuffled_networks": stats.mean(jumps(shuffled)).transformed(np.exp),
        # a dropped feature's output is stuck at 0, below its mean, once its bias is negative: no gradient
        "digons_with_a_dead_output": stats.share(rows.loc[digons & (r < place), "dead"]),
        "lowest_r_of_a_pentagon": r[pentagon].min(), "words": rows["words"].value_counts(normalize=True).to_dict(),
        "lowest_excess_over_theory": (rows["loss"] / r.map(branch.groupby("r")["loss"].min()) - 1).min(),
    }  # fmt: skip


def answer(jump: dict, theory: dict) -> str:
    told = " or ".join(f"{own['jump'].value:.2f} of their {axis} (exact: {theory[axis]['losses_cross']:.2f})"
                       for axis, own in jump.items())  # fmt: skip
    return (f"As one of five features becomes rarer or less important than the others, the pentagon that they form "
            f"stretches, then drops that one at once, at {told}.")  # fmt: skip


def draw(rows: pd.DataFrame, networks, branch: dict, theory: dict, jump: dict) -> plots.Figure:
    """The best network's polygon, then loss, norm, angle and share of seeds over r; theory in black."""
    figure, axes = plots.figure(5, 2, width=13, height=2.4, sharex="col", sharey="row",
                                height_ratios=[0.5, 1.4, 0.9, 1, 0.8])  # fmt: skip
    blue, _, green, red = plots.category_colours(range(4)).values()
    colours = {PENTAGON: blue, DIGONS: green, OTHER: "0.75"}
    for (top, *panels), (axis, own) in zip(axes.T, rows.groupby("axis", sort=False), strict=True):
        r, best = np.unique(own["r"]), own[own["best"]]
        top.set_title(f"{axis} of one feature (red) varied, best network")
        top.axis("off")
        for place in np.linspace(0.05, 0.95, 9):
            one = own[own["r"] == r[round(place * (len(r) - 1))]].nsmallest(1, "loss")
            W, look = networks(one).parameters["W"][0].numpy(), [red, *["0.4"] * 4]
            plots.directions(top.inset_axes([place - 0.055, 0, 0.11, 1]), W, look, up=int(one["norm"].iloc[0] < 0.5))
        for ax, value in zip(panels, PANELS, strict=False):
            plots.scatter(ax, own, "r", value, "geometry", colours=colours)
            for _, line in branch[axis].groupby("geometry"):
                ax.plot(line["r"], line[value], color="black", linewidth=1, label="exact local minima")
        panels[1].plot(best["r"], best["norm"], "kx", markersize=4, label=f"best of {GROUP} seeds")
        plots.level(panels[2], 72, "regular pentagon", right=True)
        shares = own.groupby("r")["geometry"].value_counts(normalize=True).unstack(fill_value=0)
        plots.stack(panels[3], shares.reindex(columns=list(colours), fill_value=0), colours)
        for ax, label in zip(panels, [*PANELS.values(), "share of seeds"], strict=True):
            plots.level(ax, theory[axis]["losses_cross"], upright=True, color="black", linestyle="--")
            low, high = jump[axis]["jump"].low, jump[axis]["jump"].high
            plots.zone(ax, low, high, "the jump, 95%", upright=True, color="#f5cfb3", legend=True)
            ax.set(xlabel="", ylabel=label if axis == "density" else "")
        plots.ticks(panels[0], y=[0.005, 0.01, 0.02, 0.05], log="y")
        plots.ticks(panels[3], x=[0.1, 0.2, 0.5, 1, 2, 4], log="x")
        panels[3].set(xlabel=f"r: the odd feature's {axis} over the others'", xlim=r[[0, -1]])
    plots.legend(figure, {"exact losses cross": {"linestyle": "--", "color": "black"}})
    return figure


if __name__ == "__main__":
    experiment(study)
