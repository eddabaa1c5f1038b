"""Do several layers hold features jointly that none of them holds alone: cross-layer superposition?

Katta's note (2024) has two ways out of its contradiction; one is features shared by the neurons of several layers,
whose number grows faster than that of layers. For a set S of k layers, F(S) is the number of features recovered from
their neurons, X(S) = F(S) - |union over l in S of what l recovers alone|, gamma = d ln F / d ln k. Networks of 16
neurons in 2 to 16 blocks are trained on four tasks, each at three loads: AND of pairs of 12 booleans (p = .1), circuits
of two levels of gates over 4 bits, identity of 32 features in 8 dimensions (p = .05), memory of facts with 4 labels.

**The decoder.** A probe fitted for each feature is a free layer of neurons, and random neurons do AND as well as ones
built for it (Haenni et al. 2024): such probes find an X and a gamma > 1 before training (control `fitted_probes`). So
features are read along the network's own readout, from what the neurons of S add to each output, with a gain and a
threshold fitted for each on other draws; for AND and circuits without what is affine in the inputs, since a + b > 1
needs no neurons. A feature is recovered if R^2 > 1/2. Facts: one softmax readout for all, fitted on other facts, gives
the label more than half; luck is taken off. Networks keep inputs and outputs in disjoint subspaces of the stream
(but for memory).

**Conditions** (THEORY 5), at k = L and the load with the most features recovered jointly, each as a share of what is
offered there, with its interval over seeds (95%, corrected for the number of depths) wholly above .05:
(i) X. (ii, untrained) X less that of the network before training. (ii, one layer) X less that of a trained single layer
of as many neurons and parameters (N = 2 d h L), whose neurons are dealt at random to L parts: what layers share no more
than parts of one layer do is not special to layers. (iii) Capacity: the supremum over loads of F less that of the
union, as a share of the former. (iv) F less what a fitted probe reads from the embedded input, the stream without what
S wrote. (The final stream holds every output that neurons are read for, by construction: control `final_stream`.)
A network has cross-layer superposition if all hold; a task has it if trained networks of some depth do.

**Controls.** `scattered_uand`: 96 neurons of a universal AND at random in 8 and in 16 blocks, must be supported; the
same in one block (`single_block_uand`), a universal AND in each block on inputs of its own (`one_feature_one_block`),
`copied_identity` and `random_init` (every task; for ii, X between halves of the seeds) must be rejected: then
`measure_is_right`. Half the training length must move X by less than .1 of what is offered (`length_does_not_decide`),
and likewise what (ii, one layer) compares (`nor_the_comparison`). The best load must not be the largest offered in most
cells (`loads_suffice`; not asked of constructions). Learning rates are searched for each task and depth. Participation
ratios of blocks in each feature, by exact attribution and by zero, mean and resample ablation, stand beside their
shuffled nulls: below it blocks divide the features among them, above it they share them.

A first run had 32 neurons, which no load filled, and half the length moved X by up to .17: hence 16 neurons, and the
two new controls. Rules and thresholds are those of the first run. What came after looking at the second: memory's
single layer, of fewer live parameters, recovers a quarter of what deep networks do at the largest load, so that its X
is small whatever its parts share. `any_as_share_of_recovered` asks in addition that X / F exceed one layer's by .05.

Two cores: --quick about a minute and a half, default about 8 minutes (7:48 measured).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor

from toysup import plots, report, stats
from toysup.constructions import (
    SplitStream,
    confined_uand,
    copied_identity,
    pairs_setting,
    scattered_uand,
    single_block_uand,
    untrained,
)
from toysup.ensemble import Trained
from toysup.features import BitGroups, OnePerGroup, SparseUniform
from toysup.measure import recovered
from toysup.measure.cross_layer import decode, decode_labels
from toysup.measure.layers import inputs
from toysup.measure.participation import ablation_drops, attribution
from toysup.models import ResidualMLP
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sharing import BySize, Decoded, by_size, dealt, gamma, participation, subsets
from toysup.sweep import Grid, sweep
from toysup.tasks import And, Circuit, Identity, Memory

QUESTION = "Do several layers hold features jointly that none of them holds alone?"
TASKS = ("and", "circuits", "identity", "memory")
NEURONS, BY_HAND, MARGIN = 16, 96, 0.05
UNIVERSAL = (16, 32, 64)  # pairs asked of those built by hand
SIZES = (1, 2, 4, 8, 16)
OFFERED = {"and": (8, 16, 32), "circuits": (3, 6, 12), "identity": (8, 16, 32), "memory": (256, 512, 1024)}
HOWS = ("attribution", "zero", "mean", "resample")
CONDITIONS = ("i", "ii_untrained", "ii_one_layer", "iii", "iv")


def setting_of(task: str, depth: int, run: report.Run) -> Setting:
    """One task for networks of `depth` blocks; "by_hand" is the world of the constructions. Loads come from axes."""
    hidden, steps = (BY_HAND if task == "by_hand" else NEURONS) // depth, run.pick(default=1000, quick=200, smoke=2)
    common = {"optimizer": Adam(beta2=0.99, schedule=Cosine()), "steps": steps, "batch": run.pick(default=64, smoke=16)}
    most = loads_of(task)[-1]
    if task in ("and", "by_hand"):
        return pairs_setting(12, most, depth, hidden, density=0.1, **common)
    if task == "memory":
        model = Model(ResidualMLP, shape=Shape(16, depth, hidden), unembedding="coordinates", row_norm=4.0)
        common |= {"steps": 3 * steps, "batch": 8 * common["batch"]}  # it has a fused kernel
        return Setting(OnePerGroup(most, 1), Memory(4), model, **common)
    inside = 4 * most if task == "circuits" else 8
    model = Model(SplitStream, shape=Shape(inside + most, depth, hidden), room=most)
    if task == "circuits":
        return Setting(BitGroups(4 * most, 4, 1 / most), Circuit(), model, **common)
    return Setting(SparseUniform(most, 0.05), Identity(), model, **common)


def loads_of(task: str) -> tuple[int, ...]:
    return UNIVERSAL if task == "by_hand" else OFFERED[task]


def load_axis(task: str, run: report.Run) -> dict[str, dict[int, Any]]:
    """Axis -> features offered -> value: facts that occur, or outputs that count."""
    offered = loads_of(task)
    most, offered = offered[-1], offered[-1:] if run.mode == "smoke" else offered
    if task == "memory":
        return {"features.offered": {n: n / most for n in offered}}
    return {"task.importance": {n: (1.0,) * n + (0.0,) * (most - n) for n in offered}}


# ----------------------------------------------------------------------------------------------------------- measures


def read(trained: Trained, sets: Sequence[Sequence[int]], draws: int, fitted: bool = False, **where: Any) -> Decoded:
    """Which of the features asked for each set recovers, by the decoder of the task."""
    task = trained.setting.task
    if isinstance(task, Memory):
        return decode_labels(trained, sets, **where)
    beyond, n = None if isinstance(task, Identity) else inputs, task.n_outputs(trained.setting.features)
    found = decode(trained, sets, beyond=beyond, own=not fitted, batches=draws, scored=2 * draws, **where)
    asked = trained.per_instance(lambda setting, _: torch.as_tensor(setting.task.importance).expand(n) > 0).unsqueeze(1)
    return found._replace(share=torch.where(asked, found.share, torch.nan), found=found.found & asked.unsqueeze(-1))


def counts(trained: Trained, draws: int, *, fitted: bool = False, sizes: Sequence[int] = SIZES) -> dict[str, Tensor]:
    """joint_k and union_k by size of the set of layers; of a single layer, of the whole dealt to k parts."""
    shape = trained.setting.build().shape
    if shape.depth == 1:
        out: dict[str, Tensor] = {}
        for parts in (size for size in sizes if size > 1 and shape.hidden % size == 0):
            found = read(trained, [range(parts)], draws, fitted, parts=dealt(shape.hidden, parts))
            out |= {f"joint_{parts}": found.count()[:, -1], f"union_{parts}": found.union()[:, -1]}
        return out
    found = read(trained, subsets(shape.depth, [size for size in sizes if 1 < size <= shape.depth], 2), draws, fitted)
    curve, out = by_size(found), {"best": found.best_part()}
    for place, size in enumerate(curve.sizes):
        out |= {f"joint_{size}": curve.joint[:, place], f"union_{size}": curve.union[:, place]}
    return out


def around(trained: Trained, draws: int) -> dict[str, Tensor]:
    """What the embedded input and the final stream alone hold, by fitted probes; participation ratios and nulls."""
    shape = trained.setting.build().shape
    ends = [range(shape.width), range(shape.depth * shape.width, (shape.depth + 1) * shape.width)]
    alone = read(trained, [], draws, fitted=True, of="stream", parts=ends).count()
    drops = {how: ablation_drops(trained, how, batches=max(1, draws // 2)) for how in HOWS[1:]}
    drops["attribution"] = attribution(trained, batches=draws)[:, 1:]
    found = {how: participation(a) for how, a in drops.items()}
    out = {"input": alone[:, 0], "final": alone[:, 1]}
    return out | {f"pr_{how}": one.ratio for how, one in found.items()} | {
        f"null_{how}": one.null for how, one in found.items()
    }  # fmt: skip


def measures(draws: int) -> list[Callable[[Trained], Tensor]]:
    """Measures by name, NaN where there is no such thing; what several share is computed once."""

    def start(trained: Trained) -> dict[str, Tensor]:
        return counts(trained.at(0), draws, sizes=(1, trained.setting.build().shape.depth))

    def probed(untrained: bool) -> Callable[[Trained], dict[str, Tensor]]:
        return lambda trained: counts(trained.at(0) if untrained else trained, 2 * draws, fitted=True)

    curves = [f"{what}_{size}" for what, size in itertools.product(("joint", "union"), SIZES)]
    beside = ["input", "final", *(f"{what}_{how}" for what in ("pr", "null") for how in HOWS)]
    groups = {"": (lambda trained: counts(trained, draws), [*curves, "best"]), "start_": (start, curves)}
    groups |= {"around_": (lambda trained: around(trained, draws), beside)}
    groups |= {"fitted_": (probed(False), curves), "fitted_start_": (probed(True), curves)}

    def measure(prefix: str, name: str) -> Callable[[Trained], Tensor]:
        def one(trained: Trained) -> Tensor:
            single = trained.setting.build().shape.depth == 1
            skipped = (prefix and single) or ("fitted" in prefix and not isinstance(trained.setting.task, And))
            if prefix not in trained.kept:
                trained.kept[prefix] = {} if skipped else groups[prefix][0](trained)
            return trained.kept[prefix].get(name, torch.full((len(trained),), torch.nan)).float()

        one.__name__ = prefix + name
        return one

    return [measure(prefix, name) for prefix, (_, members) in groups.items() for name in members]


def built(run: report.Run, seeds: Sequence[int], draws: int) -> dict[tuple[str, int], pd.DataFrame]:
    """(construction, depth) -> table of counts by load and seed, with those of networks before training."""
    depth, deep, most = run.pick(default=8, smoke=2), run.pick(default=16, quick=8, smoke=2), UNIVERSAL[-1]
    universal = {"neurons": run.pick(default=BY_HAND, smoke=24), "room": most, "seeds": seeds}
    confined = {"neurons": 16 * depth, "takes": 3, "room": 6 * depth, "seeds": seeds}
    made: dict[tuple[str, int], Callable[[int], Trained]] = {
        ("scattered_uand", depth): lambda n: scattered_uand(12, n, depth=depth, **universal),
        ("scattered_uand", deep): lambda n: scattered_uand(12, n, depth=deep, **universal),
        ("single_block_uand", depth): lambda n: single_block_uand(12, n, depth=depth, **universal),
        ("one_feature_one_block", depth): lambda n: confined_uand(
            4 * depth, 6 * depth * n // most, depth=depth, **confined
        ),
        ("copied_identity", depth): lambda n: copied_identity(n, depth=depth, seeds=seeds),
    }
    found = {}
    for (name, blocks), make in made.items():
        rows, offers = [], UNIVERSAL if name == "scattered_uand" else UNIVERSAL[1:]
        for load in run.pick(default=offers, smoke=(most,)):
            networks = make(load)
            own = counts(networks, draws, sizes=SIZES if load == most else (1, blocks))
            own |= around(networks, draws) if load == most else {}
            ends = [range(networks.setting.build().shape.width)]
            own["input"] = read(networks, [], draws, fitted=True, of="stream", parts=ends).count()[:, 0]
            before = counts(untrained(networks.setting, seeds), draws, sizes=(1, blocks))
            own |= {f"start_{key}": value for key, value in before.items()}
            table = pd.DataFrame({key: value.numpy() for key, value in own.items()})
            offered = networks.setting.task.n_outputs(networks.setting.features)
            rows.append(table.assign(seed=list(seeds), load=float(offered)))
        found[name, blocks] = pd.concat(rows, ignore_index=True)
    return found


# ---------------------------------------------------------------------------------------------------------- conditions


def excess(table: pd.DataFrame, depth: int, prefix: str = "") -> pd.Series:
    return table[f"{prefix}joint_{depth}"] - table[f"{prefix}union_{depth}"]


def at_top(table: pd.DataFrame, depth: int) -> pd.DataFrame:
    """The rows of the load with the most features recovered jointly, indexed by seed."""
    best = table.groupby("load")[f"joint_{depth}"].mean().idxmax()
    return table[table["load"] == best].set_index("seed").sort_index()


def same_load(single: pd.DataFrame, top: pd.DataFrame) -> pd.DataFrame:
    return single[single["load"] == top["load"].iloc[0]].set_index("seed").sort_index()


def conditions(table: pd.DataFrame, single: pd.DataFrame | None, depth: int, level: float) -> dict[str, stats.Interval]:
    """What conditions (i) to (iv) ask for, each of which must lie above MARGIN."""
    top = at_top(table, depth)
    offered, x = top["load"], excess(top, depth)
    found = {"i": stats.mean(x / offered, level)}
    found["ii_untrained"] = stats.mean((x - excess(top, depth, "start_")) / offered, level)
    if single is not None:
        found["ii_one_layer"] = stats.mean((x - excess(same_load(single, top), depth)) / offered, level)
    joint, union = (stats.capacity(table, recovered=f"{what}_{depth}")["held_out"] for what in ("joint", "union"))
    found["iii"] = stats.mean((joint - union) / max(float(joint.mean()), 1.0), level)
    alone = top["around_input"] if "around_input" in top else top["input"]
    found["iv"] = stats.mean((top[f"joint_{depth}"] - alone) / offered, level)
    return found


def judge(found: Mapping[str, stats.Interval]) -> stats.Verdict:
    return stats.every(*(stats.decide(interval, (MARGIN, math.inf)) for interval in found.values()))


def exponent(top: pd.DataFrame, depth: int, prefix: str = "") -> stats.Interval:
    """`gamma` of each seed, over the sizes there are."""
    sizes = [k for k in SIZES if k <= depth and f"{prefix}joint_{k}" in top and top[f"{prefix}joint_{k}"].notna().all()]
    if len(sizes) < 2:
        return stats.UNDEFINED
    joint = torch.tensor(top[[f"{prefix}joint_{k}" for k in sizes]].to_numpy())
    return stats.mean(gamma(BySize(tuple(sizes), joint, joint, joint)))


def main(run: report.Run) -> None:
    depths = run.pick(default=(2, 4, 8, 16), quick=(2, 8), smoke=(2,))
    tasks = run.pick(default=TASKS, smoke=("and",))
    seeds, draws = range(run.pick(default=8, quick=3, smoke=2)), run.pick(default=4, smoke=1)
    level = 1 - 0.05 / len(depths)
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    cells = {f"{task}_{depth}": (task, depth) for task in tasks for depth in (1, *depths)}
    cells |= {"by_hand_1": ("by_hand", 1)}
    search = {name: Grid(setting_of(*cell, run), {"seed": SEARCH_SEEDS}) for name, cell in cells.items()}
    rates = best_rates(search, run.pick(default=[0.005, 0.01, 0.02], quick=[0.01, 0.02]),
                       extend=run.pick(default=2, quick=0), **options)  # fmt: skip
    grids, halves = {}, {}
    for name, (task, _) in cells.items():
        axis, values = next(iter(load_axis(task, run).items()))
        own = {"optimizer.lr": [rates.loc[name, "lr"]], "seed": seeds}
        grids[f"cross_{name}"] = Grid(search[name].setting, {axis: values, **own})
        if task != "by_hand":
            setting = dataclasses.replace(search[name].setting, steps=search[name].setting.steps // 2)
            halves[f"cross_half_{name}"] = Grid(setting, {axis: dict(list(values.items())[-1:]), **own})
    every = measures(draws)
    answers = sweep(grids, [recovered, *every], snapshots=(0,), compile=False, **options)
    answers |= sweep(
        halves, [one for one in every if one.__name__.startswith(("joint", "union"))], compile=False, **options
    )
    tables = {}
    for name, answer in answers.items():
        column = "offered" if "memory" in name else "importance"
        tables[name.removeprefix("cross_")] = answer.table.assign(load=answer.table[column].astype(float))
    hand = built(run, seeds, draws)

    statistics: dict[str, stats.Interval] = {}
    verdict: dict[str, stats.Verdict] = {}
    kinds = ("conditions", "layers", "capacity", "participation", "fitted_probes", "final_stream", "recovered_share")
    controls: dict[str, dict] = {
        name: {} for name in (*kinds, "excess_of_recovered", "half_length", "half_length_comparison", "rates")
    }
    judged, before, moved, shifted, inside, fair = {}, [], [], [], [], {}
    for task, depth in itertools.product(tasks, depths):
        key, table, single = f"{task}_{depth}", tables[f"{task}_{depth}"], tables[f"{task}_1"]
        top = at_top(table, depth)
        judged[task, depth] = enter(key, table, single, depth, level, statistics, verdict, controls)
        one = same_load(single, top)
        controls["layers"][key] |= {"one_layer": stats.mean(one[f"joint_{depth}"]),
                                    "one_layer_union": stats.mean(one[f"union_{depth}"])}  # fmt: skip
        own, parts = (excess(net, depth) / net[f"joint_{depth}"].clip(lower=1) for net in (top, one))
        controls["excess_of_recovered"][key] = {"layers": stats.mean(own), "parts_of_one_layer": stats.mean(parts),
                                                "difference": stats.mean(own - parts, level)}  # fmt: skip
        difference = controls["excess_of_recovered"][key]["difference"]
        fair[key] = stats.every(verdict[key], stats.decide(difference, (MARGIN, math.inf)))
        controls["final_stream"][key] = stats.mean(top["around_final"] - top[f"joint_{depth}"])
        controls["recovered_share"][key] = stats.mean(top["recovered"] / top["load"])
        most = table[table["load"] == table["load"].max()].set_index("seed").sort_index()
        half = tables[f"half_{key}"].set_index("seed").sort_index()
        controls["half_length"][key] = stats.mean((excess(half, depth) - excess(most, depth)) / most["load"])
        moved.append(stats.decide(controls["half_length"][key], 0.1))
        ones = [same_load(tables[name], most) for name in (f"half_{task}_1", f"{task}_1")]
        change = excess(half, depth) - excess(most, depth) - (excess(ones[0], depth) - excess(ones[1], depth))
        controls["half_length_comparison"][key] = stats.mean(change / most["load"])
        shifted.append(stats.decide(controls["half_length_comparison"][key], 0.1))
        inside.append(bool(top["load"].iloc[0] < table["load"].max()))
        start = excess(most, depth, "start_") / most["load"]
        pairs = start.to_numpy()[: len(start) // 2 * 2].reshape(2, -1)
        parts = {"i": stats.mean(start, level), "ii_untrained": stats.mean(pairs[1] - pairs[0], level)}
        before.append(judge(parts))
        controls["conditions"][f"random_init_{key}"] = parts
        if task == "and":
            probed = {"trained": "fitted_", "untrained": "fitted_start_"}
            controls["fitted_probes"][key] = {
                name: {"gamma": exponent(most, depth, prefix), "excess": stats.mean(excess(most, depth, prefix))}
                for name, prefix in probed.items()
            }
            statistics[f"{key}_untrained_fitted_gamma"] = exponent(most, depth, "fitted_start_")
    for (name, depth), table in hand.items():
        single = tables["by_hand_1"] if name in ("scattered_uand", "single_block_uand") else None
        judged[name, depth] = enter(f"{name}_{depth}", table, single, depth, level, statistics, verdict, controls)
    for task in tasks:
        verdict[task] = stats.some(*(verdict[f"{task}_{depth}"] for depth in depths))
    verdict["any_as_share_of_recovered"] = stats.some(*fair.values())
    verdict["random_init"] = stats.some(*before)
    for name in dict.fromkeys(name for name, _ in hand):
        combine = stats.every if name == "scattered_uand" else stats.some
        verdict[name] = combine(*(verdict[f"{own}_{depth}"] for own, depth in hand if own == name))
    negative = ("single_block_uand", "one_feature_one_block", "copied_identity", "random_init")
    right = verdict["scattered_uand"] == "supported" and all(verdict[name] == "rejected" for name in negative)
    verdict["measure_is_right"] = "supported" if right else "rejected"
    verdict["length_does_not_decide"] = stats.every(*moved)
    verdict["nor_the_comparison"] = stats.every(*shifted)
    verdict["loads_suffice"] = "supported" if sum(inside) > len(inside) / 2 else "rejected"
    verdict["learning_rate_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"
    controls["rates"] = rates.to_dict("index")
    engine = ", ".join(sorted({engine for answer in answers.values() for engine in answer.table["engine"]}))
    figure = draw(tables, hand, judged, controls, verdict, tasks, depths)
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(len(answer.table) for answer in answers.values()),
                 steps=max(grid.setting.steps for grid in grids.values()))  # fmt: skip


def enter(
    key: str, table: pd.DataFrame, single: pd.DataFrame | None, depth: int, level: float,
    statistics: dict, verdict: dict, controls: dict,
) -> dict[str, stats.Verdict]:  # fmt: skip
    """Write down what one kind of network shows; its conditions, judged."""
    found, top = conditions(table, single, depth, level), at_top(table, depth)
    statistics[f"{key}_excess_share"] = stats.mean(excess(top, depth) / top["load"])
    statistics[f"{key}_gamma"] = exponent(top, depth)
    controls["conditions"][key] = found
    controls["layers"][key] = {"offered": float(top["load"].iloc[0]), "joint": stats.mean(top[f"joint_{depth}"]),
                               "union": stats.mean(top[f"union_{depth}"]),
                               "best_layer": stats.mean(top["best"])}  # fmt: skip
    controls["capacity"][key] = {
        what: stats.supremum(table, recovered=f"{what}_{depth}") for what in ("joint", "union")
    }
    controls["participation"][key] = ratios(top)
    verdict[key] = judge(found)
    return {name: stats.decide(one, (MARGIN, math.inf)) for name, one in found.items()}


def ratios(top: pd.DataFrame) -> dict[str, dict[str, stats.Interval]]:
    """Participation ratio, its null and the difference, by kind; where some seed has no such feature, undefined."""
    out = {}
    for how in HOWS:
        prefix = "around_" if f"around_pr_{how}" in top else ""
        pair = top[[f"{prefix}pr_{how}", f"{prefix}null_{how}"]].dropna()
        columns = {"ratio": pair.iloc[:, 0], "null": pair.iloc[:, 1], "difference": pair.iloc[:, 0] - pair.iloc[:, 1]}
        out[how] = {name: stats.mean(own) if len(own) > 1 else stats.UNDEFINED for name, own in columns.items()}
    return out


def draw(
    tables: Mapping[str, pd.DataFrame], hand: Mapping[tuple[str, int], pd.DataFrame], judged: Mapping,
    controls: Mapping, verdict: Mapping[str, str], tasks: Sequence[str], depths: Sequence[int],
) -> plots.Figure:  # fmt: skip
    """X by depth for each task; F by number of layers; participation beside its null; the table of conditions."""
    figure, axes = plots.figure(2, 4, width=16, height=4.3)
    colours = plots.category_colours(["trained", "one layer, dealt to L parts", "before training", "scattered by hand"])
    for ax, task in itertools.zip_longest(axes[0], tasks):
        if task is None:
            ax.remove()
            continue
        rows = []
        for depth in depths:
            top = at_top(tables[f"{task}_{depth}"], depth)
            one = same_load(tables[f"{task}_1"], top)
            kinds = {"trained": excess(top, depth), "one layer, dealt to L parts": excess(one, depth),
                     "before training": excess(top, depth, "start_")}  # fmt: skip
            rows += [
                {"L": depth, "X": x, "net": kind} for kind, own in kinds.items() for x in own / top["load"].iloc[0]
            ]
        if task == "and":
            for (name, depth), table in hand.items():
                top = at_top(table, depth)
                share = excess(top, depth) / top["load"]
                if name == "scattered_uand":
                    rows += [{"L": depth, "X": x, "net": "scattered by hand"} for x in share]
        plots.band(ax, pd.DataFrame(rows), "L", "X", "net", colours=colours, log=True)
        ax.axhline(MARGIN, color=plots.GREY, linestyle=":", linewidth=1)
        names = {
            "and": "AND of two inputs",
            "identity": "identity",
            "circuits": "circuits",
            "memory": "memory of facts",
        }
        ax.set(title=names[task], xlabel="blocks L", ylabel="excess X(L) / features offered", ylim=(-0.15, 1))
        ax.set_xticks(depths, [str(depth) for depth in depths])
        ax.minorticks_off()
        if task != tasks[0]:
            ax.set_ylabel("")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=11)
    growth(axes[1, 0], tables, hand, depths[-1])
    ax, hues = axes[1, 1], plots.category_colours(tasks)
    for task, (how, style) in itertools.product(tasks, (("attribution", "-o"), ("mean", "--s"))):
        differences = [controls["participation"][f"{task}_{depth}"][how]["difference"] for depth in depths]
        ends = np.array([(one.value, one.value - one.low, one.high - one.value) for one in differences]).T
        shift = 1.05 ** (list(tasks).index(task) - 1.5)
        if np.isfinite(ends).any():
            ends = np.where(np.isfinite(ends), ends, np.nan)
            ax.errorbar(np.array(depths) * shift, ends[0], ends[1:], fmt=style, color=hues[task],
                        markersize=4, linewidth=1.2, label=task if how == "attribution" else None)  # fmt: skip
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xscale="log", xlabel="blocks L", title="blocks for each feature", ylabel="participation ratio less its null")
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.minorticks_off()
    ax.plot([], [], "-o", color=plots.GREY, markersize=4, label="attribution")
    ax.plot([], [], "--s", color=plots.GREY, markersize=4, label="mean ablation")
    ax.legend(fontsize=9, loc="upper left")
    wide = figure.add_subplot(axes[1, 2].get_gridspec()[1, 2:])
    for ax in axes[1, 2:]:
        ax.remove()
    board(wide, judged, verdict)
    cells = [judged[key] for key in judged if key[0] in tasks]
    some, more = (sum(one[name] == "supported" for one in cells) for name in ("ii_untrained", "ii_one_layer"))
    fair = verdict["any_as_share_of_recovered"]
    told = {"rejected": "in none", "undecided": "clearly in none", "supported": "in some"}[fair]
    control = "is" if verdict["scattered_uand"] == "supported" else "is NOT"
    figure.suptitle(
        f"Layers hold jointly what none holds alone in {some} of {len(cells)} trained cells, more than parts of one "
        f"layer do in {more}\n(as a share of what is recovered {told}). "
        f"Scattered by hand, cross-layer superposition {control} found",
        fontsize=13,
    )
    return figure


def growth(ax: Any, tables: Mapping, hand: Mapping, depth: int) -> None:
    """F against the number of layers read, for AND."""
    colours = plots.category_colours(["trained", "", "before training", "scattered by hand"])
    trained = at_top(tables[f"and_{depth}"], depth).reset_index()
    found = [("trained", trained, "joint", "-", "trained"), ("before training", trained, "fitted_start_joint", "--",
             "untrained, fitted probe")]  # fmt: skip
    deep = max(blocks for name, blocks in hand if name == "scattered_uand")
    found.append(
        ("scattered by hand", at_top(hand["scattered_uand", deep], deep).reset_index(), "joint", "-", "by hand")
    )
    for name, table, what, style, label in found:
        sizes = [k for k in SIZES if f"{what}_{k}" in table and table[f"{what}_{k}"].notna().all()]
        means = [stats.mean(table[f"{what}_{k}"] / table["load"]) for k in sizes]
        low, high = ([getattr(one, end) for one in means] for end in ("low", "high"))
        ax.plot(sizes, [one.value for one in means], style, marker="o", markersize=4, color=colours[name], label=label)
        if np.isfinite(low).all():
            ax.fill_between(sizes, low, high, color=colours[name], alpha=0.2, linewidth=0)
    ax.set(xscale="log", xlabel="layers read k", ylabel="F(k) / features offered", title=f"AND, L = {depth}")
    ax.set_xticks(SIZES, [str(size) for size in SIZES])
    ax.minorticks_off()
    ax.legend(fontsize=9)


def board(ax: Any, judged: Mapping, verdict: Mapping) -> None:
    """Which condition holds for which network."""
    code = {"supported": 0, "rejected": 1, "undecided": 2}
    colours = plots.category_colours(range(3))
    rows = list(judged)
    cells = np.full((len(rows), len(CONDITIONS) + 1), np.nan)
    for row, key in enumerate(rows):
        for place, name in enumerate(CONDITIONS):
            if name in judged[key]:
                cells[row, place] = code[judged[key][name]]
        cells[row, -1] = code[verdict["_".join(map(str, key))]]
    shown = ListedColormap([colours[0], colours[1], "0.8"])
    ax.imshow(cells, cmap=shown, vmin=0, vmax=2, aspect="auto", alpha=0.7)
    for row, place in np.argwhere(np.isfinite(cells)):
        ax.text(place, row, ("yes", "no", "?")[int(cells[row, place])], ha="center", va="center", fontsize=9)
    heads = ("(i) X > 0", "(ii) more than\nuntrained", "(ii) than one\nlayer dealt", "(iii) at\ncapacity",
             "(iv) than\nthe input", "all")  # fmt: skip
    ax.set_xticks(range(len(heads)), heads, fontsize=9)
    ax.xaxis.tick_top()
    for row, (name, depth) in enumerate(rows):  # inside the axes, so that they don't push the panels above apart
        ax.text(-0.6, row, f"{name.replace('_', ' ')}, L = {depth}", ha="right", va="center", fontsize=9)
    ax.set(xlim=(-2.9, len(heads) - 0.5), yticks=[])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    report.experiment(main)
