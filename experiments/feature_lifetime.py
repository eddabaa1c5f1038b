"""In how many layers of a network does a feature live? The exponent s of tau ~ L^s.

Katta's note (2024) splits F features over the L layers of Model A and the L / 4 of Model B, twice as wide with as many
parameters, and finds twice as many features per neuron in B. That assumes that each lives in one layer. Where it is in
tau ~ L^s layers, B has 2^(1 - 2s) times A's: twice if s = 0, as many if 1/2, half if 1. s is measured along that line:
the same features and live parameters, the width falling as L^-1/2. Circuits: trees of random gates over four bits, one
active at a time; features are the gates that no affine map of the input predicts. Memory: a fact per parameter, four
labels. Places: the `stream` after each block, which the note counts, and the `neurons` of each block.

A score is 0 at chance, 1 if all is known: a ridge readout's held-out R^2 with what the layer gives away before training
taken off (random features know gates), or how surely one readout, fitted on other facts, tells a label: it can't
memorise, and finds what is written in one place for all facts, so tau is a lower bound. A layer holds what scores 1/2;
tau is the longest run of layers that hold it, over features that some layer holds. s: the slope of ln tau in ln L, for
each seed, at depths where 8 hold anything. `flips_strict` was added when the default was seen: 3/4 has to be known.
Two cores: --quick under a minute, default about 8.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import constructions, plots, stats
from toysup.features import BitGroups, OnePerGroup
from toysup.measure import recovered
from toysup.measure.layers import decodable_by_layer, inputs, outputs
from toysup.measure.lifetimes import PLACES, held_before_training, lifetimes
from toysup.models import ResidualMLP
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sharing import lifetime
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid
from toysup.tasks import Circuit, Memory

QUESTION = "In how many layers does a feature live, and does it flip the note's count of features per neuron?"
LABELS, ENOUGH = 4, 8
TAUS = {"tau": "tau", "strict_tau": "tau_strict", "shuffled_tau": "tau_shuffled"}
SLOPES = {"s": "tau", "strict_s": "tau_strict", "uncorrected_s": "tau_uncorrected", "s_of_any_layers": "layers",
          "shuffled_s": "tau_shuffled"}  # fmt: skip


class Cell(NamedTuple):
    task: str
    depth: int
    width: int
    live: int  # parameters
    offered: int  # circuits or facts


def study(run: Run) -> Study:
    size = run.sizes(dict(depths={"circuits": (2, 4, 8, 16), "memory": (2, 4, 8, 16, 32)}, steps=3000, seeds=8,
                          budgets=(18432, 9000), circuits=12, facts=9000, batch=(256, 512), extend=2,
                          rates=[0.0025, 0.005, 0.01, 0.02]),
                     quick=dict(depths={"circuits": (2, 4, 8), "memory": (2, 4, 8)}, steps=400, seeds=4, extend=0,
                                budgets=(4608, 1200), circuits=6, facts=1200, rates=[0.005, 0.01]),
                     smoke=dict(depths={"circuits": (1, 2), "memory": (1, 2)}, steps=4, seeds=2, budgets=(400, 200),
                                circuits=4, facts=200, batch=(32, 32), rates=[0.01, 0.02]))  # fmt: skip

    def cell(task: str, depth: int) -> Cell:
        """The width that brings live parameters nearest to the task's budget."""
        memory = task == "memory"
        live = {d: Shape(d, depth).live_parameters(LABELS if memory else None) for d in range(LABELS, 200)}
        width = min(live, key=lambda d: abs(live[d] - size.budgets[memory]))
        return Cell(task, depth, width, live[width], size.facts if memory else size.circuits)

    def grid(cell: Cell) -> Grid:
        n, memory = cell.offered, cell.task == "memory"
        features = OnePerGroup(n, 1) if memory else BitGroups(4 * n, 4, 1 / n)
        ends = ("coordinates", 1) if memory else ("trained", 2)
        model = Model(ResidualMLP, shape=Shape(cell.width, cell.depth), unembedding=ends[0],
                      row_norm=math.sqrt(cell.width) / ends[1])  # fmt: skip
        task, adam = Memory(LABELS) if memory else Circuit(), Adam(beta2=0.99, schedule=Cosine())
        return Grid(Setting(features, task, model, adam, size.steps, size.batch[memory]))

    by, each = ("task", "place"), "{task}_{place}_{column}"

    def controlled(cell: Cell) -> bool:
        """Smaller runs are too short to tell anyhow."""
        return run.mode in ("default", "full") or (cell.task, cell.depth) == ("memory", 1)

    def claim(name: str, says: str, of, inside=None, checks=None) -> Claim:
        return Claim(name, says, of, inside, by=by, each=f"{{task}}_{{place}}_{name}", checks=checks, least="default")

    return Study(
        [cell(task, depth) for task, depths in size.depths.items() for depth in depths], grid,
        measures=[recovered, lifetimes, held_before_training], seeds=size.seeds, snapshots=[0], derive=by_place,
        search=Search(grid, size.rates, extend=size.extend), draw=draw, answer=answer,
        variants={"half_length": Variant({"steps": 0.5}, controlled, [recovered, lifetimes]),
                  "half_load": Variant(halved, controlled, [recovered, lifetimes])},
        findings={
            "by_depth": Finding(at_depth, (*by, "depth"), f"{each}_{{depth}}"),
            "exponents": Finding(exponents, by, each, variant=None),
            "cells": Finding(lambda rows: {"width": rows["width"].iloc[0], "live_parameters": rows["live"].iloc[0],
                                           "recovered_share": mean(rows["recovered"] / rows["offered"])},
                             ("task", "depth"), where={"place": "stream"}),
            "by_hand": Finding(lambda: by_hand(size.depths["circuits"])),
        },
        claims=[
            claim("each_feature_in_one_layer", "a feature lives in one layer (s within 1/4 of 0)", "exponents.s", 0.25),
            claim("every_layer_carries_it", "every layer carries it (s within 1/4 of 1)", "exponents.s", (0.75, 1.25)),
            claim("flips", "the note's count flips (s above 1/2)", "exponents.s", (0.5, math.inf)),
            claim("flips_strict", "it flips where a layer has to know 3/4", "exponents.strict_s", (0.5, math.inf),
                  ["length_does_not_decide", "load_does_not_decide", "untrained_knows_nothing", "measure_is_right",
                   "learning_rate_bracketed"]),
            claim("B_denser", "L / 4 layers hold more features per neuron than L of as many parameters do", denser),
            claim("power_law", "slopes of the first and last factor of 4 in L differ by less than 1/4",
                  "exponents.bend", 0.25),
            *(Check(f"{name}_does_not_decide", f"{says} moves s by less than 1/4", f"exponents.{how}_moves_s", 0.25) for
              name, says, how in (("threshold", "having to know 3/4", "strict"), ("length", "half the training",
                                  "half_length"), ("load", "half the features", "half_load"))),
            Check("untrained_knows_nothing", "before training no layer holds more than 2% of the features",
                  "by_depth.untrained_held", 0.02),
            Check("measure_is_right", "where one block was built to compute all, s is 0 of that and 1 of inputs",
                  lambda by_hand: bool(np.allclose(list(by_hand.values()), [0, 1], atol=1e-6))),
            bracketed(),
        ],
    )  # fmt: skip


def halved(grid: Grid) -> Grid:
    """With half the features, one circuit or fact at a time as before."""
    features = grid.setting.features
    less = {"n_features": features.n_features // 2}
    less |= {"density": 2 * features.density} if isinstance(features, BitGroups) else {}
    return replace(grid, setting=replace(grid.setting, features=replace(features, **less)))


def by_place(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each network and place."""
    return pd.concat([
        table[[name for name in table if not name.startswith(other)]].rename(
            columns=lambda name, place=place: name.removeprefix(f"{place}_")).assign(place=place)
        for place, other in (PLACES, PLACES[::-1])]).sort_values("task", kind="stable", ignore_index=True)  # fmt: skip


def mean(samples: pd.Series) -> stats.Interval:
    """Over seeds that have one, or undefined."""
    samples = samples.dropna()
    return stats.mean(samples) if len(samples) > 1 else stats.UNDEFINED


def at_depth(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    lives = {name: mean(rows[column]) for name, column in TAUS.items()}
    before = rows.filter(regex="^before_").max(axis=1)
    return {**lives, "held": mean(rows["held"].fillna(0)), "untrained_held": mean(before)}


def wide(rows: pd.DataFrame, column: str, variant: str = "") -> pd.DataFrame:
    """A lifetime, (seed, depth)."""
    own = rows[rows["variant"] == variant]
    return own.pivot(index="seed", columns="depth", values=column).astype(np.float32)


def slope(lives: pd.DataFrame) -> pd.Series:
    """Each seed's slope of ln lives (seed, depth) over ln L, at the depths where enough seeds have one; or nothing."""
    enough = min(ENOUGH, len(lives))
    used = lives.loc[:, lives.count() >= enough].dropna()
    if used.shape[1] < max(2, min(3, lives.shape[1])) or len(used) < enough:
        return pd.Series(dtype=np.float64)
    x = np.log(used.columns.to_numpy(dtype=float))
    return np.log(used) @ ((x - x.mean()) / ((x - x.mean()) ** 2).sum())


def exponents(rows: pd.DataFrame) -> dict:
    """s by each rule, by step from L / 4 to L, and what moves it; features per neuron in L / 4 layers over L."""
    found = {name: slope(wide(rows, column)) for name, column in SLOPES.items()}
    taus, main = {rule: wide(rows, rule) for rule in ("tau", "tau_strict")}, rows[rows["variant"] == ""]
    told = {name: mean(own) for name, own in found.items()} | {"strict_moves_s": mean(found["strict_s"] - found["s"])}
    for half in ("half_length", "half_load"):
        told[f"{half}_moves_s"] = mean(slope(wide(rows, "tau", half)) - found["s"])
    density, steps = {}, []
    for depth in taus["tau"]:
        own = main[main["depth"] == depth].set_index("seed")
        held = own[[f"at_{layer}" for layer in range(1, depth + 1)]].astype(np.float32).sum(axis=1)
        density[depth] = held / (own["width"].iloc[0] * depth)
    for deep, shallow in ((depth, depth // 4) for depth in density if depth // 4 in density):
        rise, strict = (np.log(one[deep] / one[shallow]) / math.log(4) for one in taus.values())
        steps.append(rise)
        told |= {f"s_{shallow}_to_{deep}": mean(rise), f"strict_s_{shallow}_to_{deep}": mean(strict),
                 f"B_over_A_{deep}_to_{shallow}": stats.ratio(density[shallow], density[deep], paired=True)
                 }  # fmt: skip
    used = taus["tau"].columns[taus["tau"].count() >= min(ENOUGH, len(taus["tau"]))]
    bend = mean(steps[-1] - steps[0]) if len(steps) > 1 else stats.UNDEFINED
    return told | {"bend": bend, "depths_used": used.tolist()}


def denser(exponents: dict) -> stats.Verdict:
    ratios = [value for name, value in exponents.items() if name.startswith("B_over_A")]
    return stats.every(*[stats.decide(ratio, (1, math.inf)) for ratio in ratios] or ["undecided"])


def by_hand(depths: tuple[int, ...]) -> dict[str, float]:
    """s of ANDs in the neurons and of inputs in the stream, where only block depth // 2 does anything."""
    lives = {"computed_once": [], "copied": []}
    for depth in depths:
        trained = constructions.single_block_uand(6, 4, neurons=24, depth=depth, takes=3, density=0.3, seeds=[0])
        computed = decodable_by_layer(trained, of="neurons", targets=outputs, batches=2).value
        copied = decodable_by_layer(trained, targets=inputs, batches=2).value[:, 1:]
        for own, found in zip(lives.values(), (computed, copied), strict=True):
            own.append(lifetime(found[0] > 0.5).run)
    return {name: float(np.polyfit(np.log(depths), np.log(own), 1)[0]) for name, own in lives.items()}


def answer(exponents: dict) -> str:
    told = [f"{own['s'].value:.2f} for {task} in the {place}" for (task, place), own in exponents.items()
            if math.isfinite(own["s"].value)]  # fmt: skip
    return (f"Of L layers about L^s hold a feature, s = {', '.join(told) or 'unknown'}; above 1/2 the note's count of "
            "features per neuron turns around.")  # fmt: skip


def draw(rows: pd.DataFrame, by_depth: dict, exponents: dict) -> plots.Figure:
    """For each task and place: the share of features that each layer holds, and tau against L."""
    figure, axes = plots.figure(2, len(exponents), width=15, height=3.9)
    colours = plots.category_colours(sorted(rows["depth"].unique()))
    for top, bottom, ((task, place), found) in zip(*axes, exponents.items(), strict=True):
        own, lines = rows[(rows["task"] == task) & (rows["place"] == place)], {}
        depths = own["depth"].unique()
        for depth, part in own.groupby("depth"):
            first = int(place == "neurons")
            x = np.arange(first, depth + 1) / depth
            shares = [stats.mean(part[f"at_{layer}"], bounds=(0, 1)) for layer in range(first, depth + 1)]
            before = part[[f"before_{layer}" for layer in range(first, depth + 1)]].mean()
            plots.curve(top, x, shares, color=colours[depth], markersize=3.5, alpha=0.15)
            top.plot(x, before, ":", color=colours[depth], linewidth=1.5)
        top.set(title=f"{task}: {place}", xlabel="block / L (0: the input)", ylim=(-0.03, 1.03), xlim=(-0.03, 1.03))
        for label, what in zip(("score > 1/2", "score > 3/4", "features shuffled"), TAUS, strict=True):
            lives = {depth: by_depth[task, place, depth][what] for depth in depths}
            lines[label] = lives if what == "tau" else {depth: one.value for depth, one in lives.items()}
        looks = dict(zip(lines, ("black", plots.GREY, "0.6"), strict=True))
        plots.curves(bottom, lines, colours=looks)
        start = next((one.value for one in lines["score > 1/2"].values() if math.isfinite(one.value)), math.nan)
        at = np.array([*depths, 2.4 * depths[-1]], dtype=float)  # room for the labels
        for power, label in ((0, "s = 0"), (0.5, "s = 1/2"), (1, "s = 1")) if math.isfinite(start) else ():
            plots.reference(bottom, at, start * (at / at[0]) ** power, label, linestyle=(0, (1, 3)))
        plots.ticks(bottom, x=depths, y=sorted({1, *depths}), log=True)
        s, ratios = found["s"], [one.value for name, one in found.items() if name.startswith("B_over_A")]
        told = f"s = {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" if math.isfinite(s.value) else "s unknown"
        if np.isfinite(ratios).any():
            told += f"\nper neuron, B / A = {np.nanmin(ratios):.2f} to {np.nanmax(ratios):.2f} (note: 2)"
        bottom.set_title(told, fontsize=10.5)
        bottom.set(xlabel="blocks L", ylim=(0.85, 2.6 * depths[-1]))
    axes[0, 0].set_ylabel("share of features held")
    axes[1, 0].set_ylabel("lifetime, layers")
    plots.legend(axes[1, 0], loc="upper left", size=9)
    depths = {f"L = {depth}": colour for depth, colour in colours.items()}
    plots.legend(figure, {**depths, "before training": {"linestyle": ":"}}, only=True, size=11)
    return figure


if __name__ == "__main__":
    experiment(study)
