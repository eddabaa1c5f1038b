"""Do several layers hold features jointly that none of them holds alone: cross-layer superposition?

One way out of the contradiction in Katta's note (2024) is features shared by the neurons of several layers. For a set S
of k layers, F(S) is the number of features recovered from their neurons, X(S) = F(S) - |union over l in S of what l
recovers alone|, gamma = d ln F / d ln k. Networks of 16 neurons in 2 to 16 blocks are trained at three loads on AND of
pairs of 12 booleans (p = .1), circuits of two levels of gates over 4 bits, identity of 32 features in 8 dimensions
(p = .05), memory of facts with 4 labels. A probe fitted for each feature is a free layer of neurons, and random neurons
do AND as well as ones built for it (Haenni et al. 2024), so features are read along the network's own readout, with a
gain and a threshold fitted on other draws, for AND and circuits without what is affine in the inputs; recovered if
R^2 > 1/2. Facts: one softmax readout for all, fitted on other facts, gives the label more than half; luck is taken off.
A first run had 32 neurons, which no load filled, and half the length moved X by up to .17: hence 16, and the checks of
length. `any_as_share_of_recovered` came after a second: memory's single layer, of fewer live parameters, recovers a
quarter of what deep networks do. Two cores: --quick about a minute, default about 8 minutes.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from toysup import constructions, plots, stats
from toysup.ensemble import Trained
from toysup.features import BitGroups, OnePerGroup, SparseUniform
from toysup.grid import Grid
from toysup.measure import recovered
from toysup.measure.jointly import HOWS, SIZES, held_jointly, jointly_and_alone
from toysup.models import ResidualMLP
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.stats.cross_layer import ABOVE, at, at_best, conditions, divided, excess, exponent, growth, superposed
from toysup.study import Check, Claim, Finding, Given, Run, Search, Study, Variant, bracketed, experiment
from toysup.tasks import Circuit, Identity, Memory

QUESTION = "Do several layers hold features jointly that none of them holds alone?"
OFFERED = {"and": (8, 16, 32), "circuits": (3, 6, 12), "identity": (8, 16, 32), "memory": (256, 512, 1024),
           "by_hand": (16, 32, 64)}  # fmt: skip
TASKS = {"and": "AND of two inputs", "circuits": "circuits", "identity": "identity", "memory": "memory of facts"}
NEURONS, SOME, NEGATIVE = 16, (ABOVE, np.inf), ("single_block_uand", "one_feature_one_block", "copied_identity")
KINDS = ("trained", "one layer, dealt to L parts", "before training")
CELL, TRAINED, DEEP = ("task", "depth"), {"kind": "trained"}, {"kind": ["trained", "by hand"]}
CONDITIONS = {"i": "(i) X > 0", "ii_untrained": "(ii) more than untrained", "ii_one_layer": "(ii) than one layer dealt",
              "iii": "(iii) at capacity", "iv": "(iv) than the input"}  # fmt: skip


class Cell(NamedTuple):
    """A task, or a network built by hand; "by_hand" is a trained single layer in the world of those."""

    task: str
    depth: int
    kind = property(lambda cell: "one layer" if cell.depth == 1 else "trained" if cell.task in TASKS else "by hand")


def study(run: Run) -> Study:
    size = run.sizes(dict(depths=(2, 4, 8, 16), tasks=tuple(TASKS), seeds=8, draws=4, steps=1000, batch=64, loads=3,
                          rates=(0.005, 0.01, 0.02), extend=2, hand=(8, 16), hand_neurons=96, hand_loads=3),
                     quick=dict(depths=(2, 8), seeds=2, draws=2, steps=80, loads=1, rates=(0.01, 0.02), extend=0,
                                hand=(8,), hand_loads=1),
                     smoke=dict(depths=(2,), tasks=("and",), seeds=2, draws=1, steps=2, batch=16, loads=1, hand=(2,),
                                hand_neurons=24, hand_loads=1))  # fmt: skip
    level = 1 - 0.05 / len(size.depths)  # of the four conditions' intervals

    def setting(cell: Cell) -> Setting:
        """At the largest load."""
        most, hidden = OFFERED[cell.task][-1], (96 if cell.task == "by_hand" else NEURONS) // cell.depth
        common = {"optimizer": Adam(beta2=0.99, schedule=Cosine()), "steps": size.steps, "batch": size.batch}
        if cell.task in ("and", "by_hand"):
            return constructions.pairs_setting(12, most, cell.depth, hidden, density=0.1, **common)
        if cell.task == "memory":
            model = Model(ResidualMLP, shape=Shape(16, cell.depth, hidden), unembedding="coordinates", row_norm=4.0)
            common |= {"steps": 3 * size.steps, "batch": 8 * size.batch}  # it has a fused kernel
            return Setting(OnePerGroup(most, 1), Memory(4), model, **common)
        inside = 4 * most if cell.task == "circuits" else 8
        model = Model(constructions.SplitStream, shape=Shape(inside + most, cell.depth, hidden), room=most)
        world = (BitGroups(4 * most, 4, 1 / most), Circuit()) if cell.task == "circuits" else (
            SparseUniform(most, 0.05), Identity())  # fmt: skip
        return Setting(*world, model, **common)

    def grid(cell: Cell) -> Grid:
        """At each load: of facts that occur, or of outputs that count."""
        offered, most = OFFERED[cell.task][-size.loads :], OFFERED[cell.task][-1]
        if cell.task == "memory":
            return Grid(setting(cell), {"features.offered": [n / most for n in offered]})
        return Grid(setting(cell), {"task.importance": [(1.0,) * n + (0.0,) * (most - n) for n in offered]})

    def half(grid: Grid) -> Grid:
        """Half the steps, at the largest load."""
        axes = {name: values if name == "seed" else values[-1:] for name, values in grid.axes.items()}
        return dataclasses.replace(Variant({"steps": 0.5})(grid), axes=axes)

    def built() -> list[Given]:
        found, (first, *_, most), depth = [], OFFERED["by_hand"], size.hand[0]
        seeds = {"seeds": range(size.seeds)}
        uand, few = {"neurons": size.hand_neurons, "room": most, **seeds}, {"neurons": 16 * depth, "takes": 3, **seeds}
        for n in OFFERED["by_hand"][-size.hand_loads :]:
            found += [Given(Cell("scattered_uand", own), constructions.scattered_uand(12, n, depth=own, **uand))
                      for own in size.hand]  # fmt: skip
            made = [constructions.single_block_uand(12, n, depth=depth, **uand),
                    constructions.confined_uand(4 * depth, 6 * depth * n // most, depth=depth, room=6 * depth, **few),
                    constructions.copied_identity(n, depth=depth, **seeds)] if n > first else []  # fmt: skip
            found += [Given(Cell(name, depth), own) for name, own in zip(NEGATIVE, made, strict=False)]
        return found

    def layers(trained: Trained, draws: int = size.draws) -> dict[str, Tensor]:
        return jointly_and_alone(trained, draws)

    def joint(trained: Trained, draws: int = size.draws) -> dict[str, Tensor]:
        return held_jointly(trained, draws)

    return Study(
        [Cell(task, depth) for task in size.tasks for depth in (1, *size.depths)] + [Cell("by_hand", 1)], grid,
        measures=[recovered, layers], seeds=size.seeds, snapshots=(0,), compile=False, workers=2, given=built,
        search=Search(setting, size.rates, extend=size.extend),
        variants={"half": Variant(half, lambda cell: cell.task != "by_hand", [joint])},
        findings={
            "top": Finding(at_best, CELL, where=DEEP, kept=False),
            "one": Finding(one_layer, CELL, where=DEEP, kept=False),
            "conditions": Finding(lambda rows, depth, one: conditions(rows, depth, one, level), CELL, where=DEEP),
            "found": Finding(lambda conditions: superposed(conditions), CELL, where=DEEP, kept=False),
            "held": Finding(lambda top, depth: {"excess_share": stats.mean(excess(top, depth) / top["load"]),
                                                "gamma": exponent(top, depth)}, CELL, "{task}_{depth}_{column}", DEEP),
            "layers": Finding(beside, CELL, where=DEEP),
            "share_of_recovered": Finding(partial(share_of_recovered, level=level), CELL, where=TRAINED),
            "participation": Finding(lambda top: {how: divided(top, how) for how in HOWS}, CELL, where=DEEP),
            "random_init": Finding(partial(random_init, level=level), CELL, where=TRAINED),
            "fitted_probes": Finding(fitted, CELL, "{task}_{depth}_{column}", where={"kind": "trained", "task": "and"}),
            "half_length": Finding(half_length, CELL, where=TRAINED, variant=None),
        },
        claims=[
            *(Claim(task, f"networks trained on {name} have cross-layer superposition at some depth: (i) to (iv) hold",
                    "found", where={"kind": "trained", "task": task}, combine=stats.some,
                    each="{task}_{depth}", least="default") for task, name in TASKS.items() if task in size.tasks),
            Claim("any_as_share_of_recovered", "some has it, and more of it as a share of what is recovered than parts "
                  "of one layer", by=CELL, where=TRAINED, combine=stats.some, least="default", of=lambda found,
                  share_of_recovered: stats.every(found, stats.decide(share_of_recovered["difference"], SOME))),
            *(Claim(name, f"{name.replace('_', ' ')}, built by hand, has it", "found", where={"task": name},
                    each="{task}_{depth}", combine=combine, checks=()) for name, combine in
              {"scattered_uand": stats.every, **dict.fromkeys(NEGATIVE, stats.some)}.items()),
            Claim("random_init", "networks before training have it", lambda random_init: superposed(random_init),
                  by=CELL, where=TRAINED, combine=stats.some, checks=()),
            Check("measure_is_right", "of networks built by hand and untrained ones only AND scattered over layers has "
                  "cross-layer superposition", right),
            Check("length_does_not_decide", "half the length moves X by less than .1", "half_length.excess", 0.1),
            Check("nor_the_comparison", "half the length moves X less one layer's by less than .1",
                  "half_length.comparison", 0.1),
            Check("loads_suffice", "the best load is not the largest offered in most cells", lambda layers: np.mean(
                [own["offered"] < OFFERED[task][-1] for (task, _), own in layers.items() if task in TASKS]) > 0.5),
            bracketed(where={"kind": ["trained", "one layer"]}),
        ],
        draw=draw, answer=answer)  # fmt: skip


def one_layer(table: pd.DataFrame, task: str, variant: str = "") -> pd.DataFrame:
    """A trained single layer of as many neurons and parameters; none for some constructions."""
    task = "by_hand" if task in ("scattered_uand", "single_block_uand") else task
    return table[(table["task"] == task) & (table["kind"] == "one layer") & (table["variant"] == variant)]


def right(found: dict, random_init: dict) -> bool:
    null = all(superposed(own) == "rejected" for own in random_init.values())
    return null and all(own == ("supported" if task == "scattered_uand" else "rejected")
                        for (task, _), own in found.items() if task not in TASKS)  # fmt: skip


def random_init(rows: pd.DataFrame, depth: int, level: float = 0.95) -> dict[str, stats.Interval]:
    """X before training at the largest load, and between halves of the seeds."""
    most = at(rows, rows["load"].max())
    start = excess(most, depth, "start_") / most["load"]
    pairs = start.to_numpy()[: len(start) // 2 * 2].reshape(2, -1)
    return {"i": stats.mean(start, level), "ii_untrained": stats.mean(pairs[1] - pairs[0], level)}


def beside(top: pd.DataFrame, one: pd.DataFrame, depth: int) -> dict:
    """What X is made of and held against: as shares of what is offered the three that are drawn, and F in features."""
    offered, joint, alone = top["load"], top[f"joint_{depth}"], at(one, top["load"].iloc[0])
    found = {KINDS[0]: excess(top, depth) / offered, KINDS[2]: excess(top, depth, "start_") / offered, "joint": joint,
             "best_layer": top["best"], "recovered_share": top["recovered"] / offered}  # fmt: skip
    found |= {KINDS[1]: excess(alone, depth) / offered, "one_layer": alone[f"joint_{depth}"]} if len(alone) else {}
    return {"offered": float(offered.iloc[0]), **{name: stats.mean(own) for name, own in found.items()}}


def share_of_recovered(top: pd.DataFrame, one: pd.DataFrame, depth: int, level: float = 0.95) -> dict:
    """X as a share of what is recovered: of layers, and of parts of one."""
    both = (top, at(one, top["load"].iloc[0]))
    own, parts = (excess(net, depth) / net[f"joint_{depth}"].clip(lower=1) for net in both)
    return {"layers": stats.mean(own), "parts": stats.mean(parts), "difference": stats.mean(own - parts, level)}


def half_length(rows: pd.DataFrame, table: pd.DataFrame, task: str, depth: int) -> dict[str, stats.Interval]:
    """What half the length does to X at the largest load, and to X less that of one layer."""
    most = at(rows, rows["load"].max())
    half, whole = ((most[most["variant"] == name], at(one_layer(table, task, name), rows["load"].max()))
                   for name in ("half", ""))  # fmt: skip
    moved, one = (excess(a, depth) - excess(b, depth) for a, b in zip(half, whole, strict=True))
    return {"excess": stats.mean(moved / whole[0]["load"]), "comparison": stats.mean((moved - one) / whole[0]["load"])}


def fitted(rows: pd.DataFrame, depth: int) -> dict[str, stats.Interval]:
    """What probes fitted for each feature would say: a gamma above 1 before training."""
    most, prefixes = at(rows, rows["load"].max()), {"trained": "fitted_", "untrained": "fitted_start_"}
    found = {f"{name}_fitted_gamma": exponent(most, depth, prefix) for name, prefix in prefixes.items()}
    return found | {f"{name}_fitted_excess": stats.mean(excess(most, depth, p)) for name, p in prefixes.items()}


def answer(conditions: dict, verdicts: dict) -> str:
    cells = [own for (task, _), own in conditions.items() if task in TASKS]
    some, more = (sum(stats.decide(own[name], SOME) == "supported" for own in cells) for name in list(CONDITIONS)[1:3])
    built = {"supported": "is found", "rejected": "is NOT found"}.get(verdicts["scattered_uand"], "can't be told yet")
    fair = {"rejected": "none", "supported": "some"}.get(verdicts["any_as_share_of_recovered"], "clearly none")
    return (f"Layers hold jointly what none holds alone in {some} of {len(cells)} kinds of trained networks, more than "
            f"parts of one layer do in {more} (as a share of what is recovered in {fair}); where it was built by hand "
            f"it {built}")  # fmt: skip


def draw(rows: pd.DataFrame, layers: dict, participation: dict, conditions: dict, found: dict) -> plots.Figure:
    """X by depth for each task; F by number of layers; participation beside its null; the board of conditions."""
    figure, axes = plots.figure(2, 4, width=16, height=4.3)
    colours, hues = plots.category_colours([*KINDS, "scattered by hand"]), plots.category_colours(TASKS)
    (grown, shared), depths = axes[1, :2], sorted({depth for task, depth in conditions if task in TASKS})
    for ax, (task, name) in zip(axes[0], TASKS.items(), strict=True):
        own = {depth: layers[task, depth] for depth in depths if (task, depth) in layers}
        plots.curves(ax, {kind: {depth: one[kind] for depth, one in own.items()} for kind in KINDS}, colours=colours)
        by_hand = {depth: one[KINDS[0]] for (built, depth), one in layers.items() if built == "scattered_uand"}
        if task == "and":
            plots.curve(ax, by_hand, color=colours["scattered by hand"], label="scattered by hand", marker="^")
        plots.level(ax, ABOVE)
        plots.ticks(ax, x=depths, log="x")
        ax.set(title=name, ylim=(-0.15, 1))
        for how, marker, line in (("attribution", "o", "-"), ("mean", "s", "--")):
            plots.interval(shared, {depth: participation[task, depth][how] for depth in own}, color=hues[task],
                           marker=marker, linestyle=line, label=task if how == "attribution" else None)  # fmt: skip
    plots.labels(axes[:1], "blocks L", "excess X(L) / features offered")
    for kind, task, depth, prefix in (("trained", "and", depths[-1], ""),
                                      ("before training", "and", depths[-1], "fitted_start_"),
                                      ("scattered by hand", "scattered_uand", max(by_hand), "")):  # fmt: skip
        top = at_best(rows[(rows["task"] == task) & (rows["depth"] == depth)], depth)
        shares = growth(top, depth, prefix).div(top["load"], axis=0)
        plots.curve(grown, {k: stats.mean(own) for k, own in shares.items()}, color=colours[kind],
                    label=f"{kind}{', fitted probe' * bool(prefix)}")  # fmt: skip
    plots.level(shared, 0)
    looks = {"attribution": {"marker": "o", "linestyle": "-"}, "mean ablation": {"marker": "s", "linestyle": "--"}}
    for ax, places, more in ((grown, SIZES, None), (shared, depths, looks)):
        plots.ticks(ax, x=places, log="x")
        plots.legend(ax, more, loc="upper left", size=9)
    plots.legend(figure)
    grown.set(xlabel="layers read k", ylabel="F(k) / features offered", title=f"AND, L = {depths[-1]}")
    shared.set(xlabel="blocks L", ylabel="participation ratio less its null", title="blocks for each feature")
    wide = figure.add_subplot(axes[1, 2].get_gridspec()[1, 2:])
    for ax in axes[1, 2:]:
        ax.remove()
    plots.board(wide, {f"{task.replace('_', ' ')}, L = {depth}": {
        **{CONDITIONS[name]: stats.decide(one, SOME) for name, one in own.items()}, "all": found[task, depth]}
        for (task, depth), own in conditions.items()})  # fmt: skip
    return figure


if __name__ == "__main__":
    experiment(study)
