"""Do features run out before space does? Recovered against offered, from far under to far over capacity.

A bound on what a network holds is one-sided. Commenters on Katta's note (2024, "Scaling Laws and Superposition") say
that one "runs out of meaningful features long before one runs out of space": then Model A (16 wide, 8 deep) and Model B
(32 wide, 2 deep, the same parameters) both hold all there is, and that they hold equally much contradicts nothing.

Worlds: `uniform`: representation through the width, density .05, so that further features make data denser. `zipf`: p_i
= c / i, as many active as in the uniform world at n = 64: further features are rarer, as in language. `memory`: facts,
one at a time. n is the number offered, F the number recovered (F_eff = sum max(0, R^2); for memory bits / log2 C).
Departure: the n beyond which F / n stays below .95, by seed; lossless: below .99. Up to n = width nothing needs to be
superposed; capacity in the zipf world is a lower bound. Added after a first run: twice the steps (half of them had
halved A's count at the largest zipf load), and a memory load, as capacity lay between two. Two cores: default 5 min.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.ensemble import Trained
from toysup.features import Features, OnePerGroup, PowerLaw, SparseUniform
from toysup.measure import r_squared, recovered
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.stats import Interval
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity, Memory
from toysup.theory import one_step_r2

QUESTION = "From far under to far over capacity: where do equal budgets hold equally much, and where not?"
DENSITY, LABELS, ANCHOR, WITHIN = 0.05, 4, 64, (1 / 1.1, 1.1)
WORLDS = {"uniform": "uniform, p = .05", "zipf": "Zipf, p = c / rank", "memory": "memory, one fact at a time"}


class Cell(NamedTuple):
    """Model A or B in one world, offered n features."""

    world: str
    model: str
    n: int
    shape: Shape

    width = property(lambda cell: cell.shape.width)


def features_of(world: str, n: int) -> Features:
    if world == "memory":
        return OnePerGroup(n, 1)
    if world == "uniform":
        return SparseUniform(n, DENSITY)
    here, there = (float((1 / np.arange(1, most + 1)).sum()) for most in (n, ANCHOR))  # sum of 1 / i
    return PowerLaw(n, 1.0, DENSITY * ANCHOR / there * here / n)


def study(run: Run) -> Study:
    size = run.sizes(
        dict(few=[8, 16, 32, 48, 64, 96, 128, 256, 512], most=[1024], powers=[-5, -4, -3, -2, -1, 0, 0.5, 1, 2, 3],
             middle=128, searched=[128, 256, 512, 1024], full=[-1, 0, 1, 2, 3], a=Shape(16, 8), steps=1800, batch=512,
             seeds=8, extend=3),
        quick=dict(few=[8, 32, 128, 256], most=[512], powers=[-5, -3, -1, 0, 1, 2], searched=[256], full=[0],
                   steps=500, batch=256, seeds=5, extend=1),
        smoke=dict(few=[8, 16], most=[], powers=[-1, 0], middle=16, searched=[16], a=Shape(8, 4), steps=4, batch=64,
                   seeds=2, extend=0))  # fmt: skip
    budget = size.a.live_parameters(LABELS)
    memory, full = ([round(budget * 2.0**power) for power in powers] for powers in (size.powers, size.full))
    offered = {"uniform": size.few, "zipf": size.few + size.most, "memory": memory}
    searched = {"uniform": size.searched, "zipf": size.searched, "memory": full}
    middle = {"uniform": size.middle, "zipf": size.middle, "memory": budget}

    def grid(cell: Cell) -> Setting:
        shape, task = cell.shape, Identity()
        model = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
        if cell.world == "memory":
            task = Memory(LABELS)
            model = Model(ResidualMLP, shape=shape, row_norm=math.sqrt(shape.width), unembedding="coordinates")
        optimizer = Adam(0.01, beta2=0.99, schedule=Cosine())
        return Setting(features_of(cell.world, cell.n), task, model, optimizer, size.steps, size.batch)

    def probe(cell: Cell) -> Setting:
        """Of the nearest load at which rates are searched."""
        near = [n for n in searched[cell.world] if n in offered[cell.world]]
        return grid(cell._replace(n=min(near, key=lambda n: abs(math.log(n / cell.n)))))

    def plain(trained: Grid) -> Grid:
        """A's width without any blocks, which is one of the functions that A could learn."""
        model = Model(UntiedAutoencoder, width=size.a.width, depth=0, hidden=size.a.width)
        optimizer = dataclasses.replace(trained.setting.optimizer, lr=0.01)
        return Grid(dataclasses.replace(trained.setting, model=model, optimizer=optimizer), trained.axes)

    def at(cell: Cell, *places: int) -> bool:
        """Whether a cell's load is the middle one, or at one of these places among all."""
        return cell.n in [middle[cell.world], *(offered[cell.world][place] for place in places)]

    shapes = {(world, "A"): size.a for world in WORLDS} | {
        (world, "B"): model_b_of(size.a, LABELS if world == "memory" else None) for world in WORLDS}  # fmt: skip
    last_two, between = offered["zipf"][-2:], ("world", "model")
    largest = {"world": "zipf", "n": last_two[1]}
    return Study(
        [Cell(world, model, n, shape) for (world, model), shape in shapes.items() for n in offered[world]], grid,
        measures=[recovered], seeds=size.seeds, search=Search(probe, (0.01, 0.02), extend=size.extend),
        variants={
            "half the steps": Variant({"steps": 0.5}, lambda cell: at(cell, *[-1] * (cell.world == "zipf"))),
            "twice the steps": Variant({"steps": 2.0}, lambda cell: cell[:2] == ("zipf", "A") and cell.n in last_two),
            "without blocks": Variant(plain, lambda c: c.model == "A" and c.world != "memory" and at(c, -1)),
            "untrained": Variant({"steps": 0.0, "optimizer.lr": 1e-6}, lambda cell: at(cell, 0)),
        },
        findings={
            "counts": Finding(lambda rows: rows.pivot(index="seed", columns="n", values="recovered"),
                              ("world", "variant", "model"), variant=None, kept=False),
            "means": Finding(lambda rows: stats.mean(rows["recovered"]), (*between, "variant", "n"), variant=None),
            "held": Finding(held, between, "{world}_{column}_{model}"),
            "compared": Finding(compared, "world", "{world}_B_over_{column}"),
            "twice": Finding(lambda counts: stats.ratio(
                *(counts["zipf", "twice the steps", "A"][n] for n in last_two[::-1]), paired=True)),
            "ranks": Finding(ranks, ("variant", "model"), lambda column, variant, model: "_".join(
                ["zipf", column, model, *variant.split()]), largest, None, kept=False),
            "start": Finding(lambda rows: float(rows["recovered"].max()), "world", variant="untrained"),
        },
        claims=[
            Claim("slack_when_few", "up to half the smaller departure both recover 95% or more, and as much within 3%",
                  "compared.slack", each="{world}_slack_when_few"),
            Claim("binds_when_many", "beyond the larger capacity B / A differs from 1 by over 10%", "compared.binds",
                  each="{world}_binds_when_many", least="default"),
            Claim("binds_against_best_A", "so they do at the largest n where A takes the best of its own count, that "
                  "without blocks and that at twice the steps", "compared.best_A_at_most", outside=WITHIN,
                  where={"world": ["uniform", "zipf"]}),
            Claim("uniform_full", "at the last doubling of n, F grows by less than 5% or falls (uniform, memory)",
                  "held.last_doubling", (0, 1.05), where={"world": ["uniform", "memory"]}),
            Claim("zipf_never_full", "by Zipf's law it grows by more", "held.last_doubling", outside=(0, 1.05),
                  where={"world": "zipf"}),
            Claim("zipf_A_full_at_twice_the_steps", "A's grows by less, too, at twice the steps", "twice", (0, 1.05),
                  checks=["learning_rate_bracketed"]),
            Claim("zipf_set_is_prefix", "by Zipf's law, at the largest n, at least 90% of the F features with R^2 > .5 "
                  "are among the F most frequent", "ranks.prefix", (0.9, math.inf), where={"variant": ""}),
            Check("length_does_not_decide", "half the steps move B / A by less than 10%, half-way",
                  "compared.A_at_half_the_steps_over_at_all", WITHIN),
            bracketed(),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def held(rows: pd.DataFrame, world: str, model: str, counts: dict) -> dict[str, Any]:
    """Capacity and departure, and how F grows between loads: dlnF / dln n at their geometric mean."""
    own, full, growth = counts[world, "", model], stats.capacity(rows, load="n"), {}
    left = stats.departure(own)
    for before, n in zip(own, list(own)[1:], strict=False):
        last = stats.ratio(own[n], own[before], paired=True)
        slopes = (math.log(max(end, 1e-9)) / math.log(n / before) for end in last.asdict().values())
        growth[math.sqrt(n * before)] = Interval(*slopes)
    return {"capacity": stats.mean(full["recovered"]), "departure": stats.mean(left), "last_doubling": last,
            "departure_share_of_capacity": stats.ratio(left, full["recovered"], paired=True), "growth": growth,
            "lossless": stats.mean(stats.departure(own, 0.01)), "best_load": float(full["load"].mode()[0])}  # fmt: skip


def compared(world: str, counts: dict, held: dict) -> dict[str, Any]:
    """B over A at each load, over A's best at the largest, at half the steps over at all; what few and many say."""
    a, b = counts[world, "", "A"], counts[world, "", "B"]
    found = {n: stats.ratio(b[n], a[n], paired=True) for n in a}
    few = [n for n in a if n <= min(held[world, m]["departure"].value for m in "AB") / 2]
    slack = [stats.decide(stats.mean(own[n] / n), (0.95, math.inf)) for n in few for own in (a, b)]
    slack += [stats.decide(found[n], (1 / 1.03, 1.03)) for n in few]
    many = [n for n in a if n > max(held[world, m]["capacity"].value for m in "AB")]
    contrary = {"supported": "rejected", "rejected": "supported", "undecided": "undecided"}
    binds = [contrary[stats.decide(found[n], WITHIN)] for n in many]
    half_a, half_b, least, most = *(counts[world, "half the steps", m] for m in "AB"), min(a), max(a)
    middle = min(half_a)
    trainings = [(world, variant, "A") for variant in ("", "without blocks", "twice the steps")]
    best = max((counts[one][most] for one in trainings if one in counts), key=lambda own: own.mean())
    drift = stats.ratio(half_b[middle] * a[middle], half_a[middle] * b[middle], paired=True)
    return {"A_at_least": found[least], "A_at_most": found[most], "A_at_half_the_steps_over_at_all": drift,
            "best_A_at_most": stats.ratio(b[most], best, paired=True), "ratios": found,
            "slack": stats.every(*slack) if slack else "undecided",
            "binds": stats.every(*binds) if binds else "undecided"}  # fmt: skip


def ranks(rows: pd.DataFrame, networks: Callable[..., Trained]) -> dict[str, Any]:
    """The place that best divides features with R^2 > .5 from rarer ones, how many these are, their share among as many
    most frequent ones (and of all: `chance`), R^2 weighted by activity, and by rank."""
    value = r_squared(networks(rows)).value  # NaN where a feature was seen too seldom
    r2, over = value.nan_to_num().numpy(), (value > 0.5).numpy()
    activity = features_of("zipf", r2.shape[1]).activity.numpy() * ~value.isnan().numpy()
    found = {
        "rank": [stats.threshold(np.arange(1, r2.shape[1] + 1), ~row) for row in over], "above_half": over.sum(1),
        "prefix": [row[: row.sum()].mean() if row.any() else 0.0 for row in over], "chance": over.mean(1),
        "share_of_activity": (r2.clip(min=0) * activity).sum(axis=1) / activity.sum(axis=1),
    }  # fmt: skip
    return {name: stats.mean(values) for name, values in found.items()} | {"profile": value.nanmean(0).numpy()}


def answer(judged: dict, compared: dict) -> str:
    alike = sum(group.verdict == "supported" for group in judged["slack_when_few"].groups)
    apart = ", ".join(f"{own['A_at_most'].value:.2g} ({world})" for world, own in compared.items())
    return (f"Offered few features, a deep network (A) and a wide one (B) of equal size hold them all alike in {alike} "
            f"of {len(WORLDS)} worlds; offered the most, B holds {apart} times what A does.")  # fmt: skip


def draw(rows, table, held: dict, compared: dict, ranks: dict, start: dict) -> plots.Figure:
    """Recovered against offered in each world; B over A; growth; and which ranks are recovered."""
    figure, axes = plots.figure(2, 3, width=13, height=4.4)
    colours = plots.category_colours([*"AB", *WORLDS])
    for ax, (world, name) in zip(axes[0], WORLDS.items(), strict=True):
        own = rows[rows["world"] == world]
        n, widths = np.unique(own["n"]), own.groupby("model")["width"].first()
        plots.band(ax, own, "n", "recovered", "model", colours={m: colours[m] for m in "AB"}, log=True)
        plots.reference(ax, n, n, "all that is offered")
        for m in "AB":
            at, look = held[world, m]["departure"].value, {"color": colours[m]}
            ax.plot(at, at, "v", markersize=11, markeredgecolor="black", zorder=4, label=f"{m} departs", **look)
            if world != "memory":
                plots.level(ax, widths[m], f"{m}, linear (PCA): its width", right=True, **look)
            if world == "uniform":
                theory = [k * one_step_r2(int(k), widths[m], DENSITY).r2 for k in n]
                ax.plot(n, theory, "-.", linewidth=1.2, label=f"{m}, one-step decoding (theory)", **look)
        if world == "memory":
            plots.level(ax, own["shape"].iloc[0].live_parameters(LABELS), "2 bits per parameter")
        else:
            plain = table[(table["world"] == world) & (table["variant"] == "without blocks")]
            ax.plot(plain.groupby("n")["recovered"].mean(), "xk", markersize=8, label="A without its blocks")
        plots.note(ax, f"untrained: at most {start[world]:.2g}", "lower right")
        ax.set(yscale="log", xlabel="features offered, n", ylabel="features recovered, F", title=name,
               ylim=(0.6 * n[0], 1.6 * n[-1]))  # fmt: skip
    over, added, profile = axes[1]
    for world in WORLDS:
        first = min(held[world, m]["departure"].value for m in "AB")
        ratios = {n / first: ratio for n, ratio in compared[world]["ratios"].items()}
        plots.curve(over, ratios, color=colours[world], label=world)
        for m, style in (("A", "-"), ("B", "--")):
            slopes = {n / first: one.value for n, one in held[world, m]["growth"].items()}
            plots.curve(added, slopes, color=colours[world], linestyle=style, label=f"{world}, {m}")
    for ax in (over, added):
        ax.set(xscale="log", xlabel="features offered / smaller departure")
        plots.legend(ax, size=9)
    plots.zone(over, min(0.25, over.get_xlim()[0]), 0.5, "slack: the bound\nsays nothing", upright=True)
    plots.zone(over, *WITHIN, "within 10%", color="0.8")
    plots.ticks(over, y=[0.5, 1, 2, 4, 8, 16], log=True)
    plots.level(added, 1, "all that is added", linestyle="--")
    plots.level(added, 0, "full")
    over.set(ylabel="recovered, B over A", title="B over A")
    added.set(ylabel="growth, dlnF / dln n", title="What more features add", ylim=(-1.1, 1.15))
    for m in "AB":
        means, at = ranks["", m]["profile"], ranks["", m]["rank"].value
        profile.plot(np.arange(len(means)) + 1, means, ".", markersize=3, color=colours[m])
        plots.level(profile, at, f"{m}, divides at rank {at:.0f}", upright=True, color=colours[m])
    plots.level(profile, 0.5, linestyle="--")
    profile.set(xscale="log", xlabel="rank by frequency", ylabel="R$^2$ of the feature, mean over seeds",
                ylim=(-0.2, 1.05), title=f"Zipf, {len(means)} offered: which are recovered")  # fmt: skip
    plots.legend(figure)
    return figure


if __name__ == "__main__":
    experiment(study)
