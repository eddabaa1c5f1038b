"""Do several layers hold features jointly that none of them holds alone: cross-layer superposition?

Katta's note (2024) has two ways out of its contradiction; one is features shared by the neurons of several layers, whose
number grows faster than that of layers. For a set S of k layers, F(S) is the number of features recovered from their
neurons and X(S) = F(S) - |union over l in S of what l recovers alone|; gamma = d ln F / d ln k. Networks with 48 neurons
in 2 to 16 blocks are trained on four tasks, each at three loads: AND of pairs of 12 booleans (p = .1), circuits of two
levels of gates over 4 bits, identity of 64 features in 16 dimensions (p = .05), memory of facts with 4 labels.

**The decoder.** A probe fitted for each feature is a free layer, and random neurons do AND as well as designed ones
(Haenni et al. 2024): such probes find an X and a gamma > 1 before training (control `fitted_probes`). So features are read
along the network's own readout, from what the neurons of S add to each output, with a gain and a threshold fitted for
each on other draws; for AND and circuits without what is affine in the inputs, since a + b > 1 needs no neurons. A
feature is recovered if R^2 > 1/2. Facts: one softmax readout for all, fitted on other facts, gives the label more than
half; luck is taken off. All nets but memory's keep inputs and outputs in disjoint subspaces of the stream.

**Conditions** (THEORY 5), at k = L and the load with the most features recovered jointly, each as a share of the features
offered, with its 95% interval over seeds (level corrected for the number of depths) wholly above .05:
(i) X; (ii, start) X less that of the network before training; (ii, one layer) X less that of a trained single layer of as
many neurons and parameters, N = 2 d h L, whose neurons are dealt at random to L parts: what spreads no more over layers
than neurons spread over one layer is not special to layers; (iii) capacity: the supremum over loads of F less that of the
union, as a share of the former; (iv) F less what a fitted probe reads from the embedded input, the stream without what S
wrote. (The final stream holds every output that neurons are read for, by construction; it is among the controls.)
A network has cross-layer superposition if all hold; a task, if trained networks of some depth do.

**Controls.** `scattered_uand`: 96 neurons of a universal AND at random in 8 and 16 blocks, must be supported.
`single_block_uand` (the same in one block), `one_feature_one_block` (a universal AND in each block, on inputs of its own),
`copied_identity`, `random_init` (of every task; X compared between halves of the seeds): must be rejected; then
`measure_is_right`. Half the training length moves X by less than .1 of what is offered (`length_does_not_decide`). Rates
are searched for each task and depth. Participation ratios of blocks in each feature, by exact attribution and by zero,
mean and resample ablation, stand beside their shuffled nulls: below it blocks divide features, above they share them.

Two cores: --quick about a minute, default about 9 minutes.
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

from toysup import plots, report, stats
from toysup.constructions import (
    SplitStream,
    confined_uand,
    copied_identity,
    pairs_setting,
    scattered_uand,
    single_block_uand,
)
from toysup.ensemble import Stack, Trained, initial_values, task_constants
from toysup.features import BitGroups, OnePerGroup, SparseUniform
from toysup.measure import (
    Decoded,
    ablation_drops,
    attribution,
    by_size,
    dealt,
    decode,
    decode_labels,
    participation,
    recovered,
    subsets,
)
from toysup.measure.layers import inputs
from toysup.models import ResidualMLP
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import Circuit, Identity, Memory

QUESTION = "Do several layers hold features jointly that none of them holds alone?"
TASKS = ("and", "circuits", "identity", "memory")
NEURONS, BY_HAND, MARGIN = 48, 96, 0.05
SIZES = (1, 2, 4, 8, 16)
OFFERED = {"and": (16, 32, 64), "circuits": (4, 8, 16), "identity": (16, 32, 64), "memory": (512, 1024, 2048)}
HOWS = ("attribution", "zero", "mean", "resample")
CONDITIONS = ("i", "ii_start", "ii_one_layer", "iii", "iv")


def setting_of(task: str, depth: int, run: report.Run, neurons: int = NEURONS) -> Setting:
    """One task for networks of `depth` blocks; loads and seeds come from axes."""
    hidden, steps = neurons // depth, run.pick(default=1000, quick=200, smoke=3)
    common = {
        "optimizer": Adam(beta2=0.99, schedule=Cosine()),
        "steps": steps,
        "batch": run.pick(default=128, smoke=32),
    }
    most = OFFERED[task][-1]
    if task == "and":
        return pairs_setting(12, most, depth, hidden, density=0.1, **common)
    if task == "memory":
        model = Model(ResidualMLP, shape=Shape(16, depth, hidden), unembedding="coordinates", row_norm=4.0)
        common |= {"steps": 3 * steps, "batch": 4 * common["batch"]}  # it has a fused kernel, and labels are many
        return Setting(OnePerGroup(most, 1), Memory(4), model, **common)
    inside = 4 * most if task == "circuits" else 16
    model = Model(SplitStream, shape=Shape(inside + most, depth, hidden), room=most)
    if task == "circuits":
        return Setting(BitGroups(4 * most, 4, 1 / most), Circuit(), model, **common)
    return Setting(SparseUniform(most, 0.05), Identity(), model, **common)


def loads(task: str) -> dict[str, dict[int, Any]]:
    """Axis -> features offered -> value: facts that occur, or outputs that count."""
    most = OFFERED[task][-1]
    if task == "memory":
        return {"features.offered": {n: n / most for n in OFFERED[task]}}
    return {"task.importance": {n: (1.0,) * n + (0.0,) * (most - n) for n in OFFERED[task]}}


# ----------------------------------------------------------------------------------------------------------- measures


def read(trained: Trained, sets: Sequence[Sequence[int]], fitted: bool = False, **where: Any) -> Decoded:
    """Which of the features asked for each set recovers, by the decoder of the task."""
    task = trained.setting.task
    if isinstance(task, Memory):
        return decode_labels(trained, sets, **where)
    beyond = None if isinstance(task, Identity) else inputs
    found = decode(trained, sets, beyond=beyond, own=not fitted, batches=8 if fitted else 4, scored=8, **where)
    asked = trained.per_instance(
        lambda setting, _: torch.as_tensor(setting.task.importance).expand(found.share.shape[-1])
    )
    asked = (asked > 0).unsqueeze(1)
    return found._replace(share=torch.where(asked, found.share, torch.nan), found=found.found & asked.unsqueeze(-1))


def counts(trained: Trained, *, fitted: bool = False, sizes: Sequence[int] = SIZES) -> dict[str, torch.Tensor]:
    """joint_k and union_k by size of the set of layers; of a single layer, of the whole dealt to k parts."""
    depth, units = trained.setting.build().shape.depth, trained.setting.build().shape.hidden
    out: dict[str, torch.Tensor] = {}
    if depth == 1:
        for parts in (size for size in sizes if size > 1 and units % size == 0):
            found = read(trained, [range(parts)], fitted, parts=dealt(units, parts))
            out |= {f"joint_{parts}": found.count()[:, -1], f"union_{parts}": found.union()[:, -1]}
        return out
    found = read(trained, subsets(depth, [size for size in sizes if 1 < size <= depth], 2), fitted)
    curve = by_size(found)
    for place, size in enumerate(curve.sizes):
        out |= {f"joint_{size}": curve.joint[:, place], f"union_{size}": curve.union[:, place]}
    return out | {"best": found.best_part()}


def shares(trained: Trained) -> dict[str, torch.Tensor]:
    """Participation ratios and their nulls."""
    drops = {"attribution": attribution(trained, batches=4)[:, 1:]}
    drops |= {how: ablation_drops(trained, how, batches=2) for how in HOWS[1:]}
    out = {}
    for how, a in drops.items():
        found = participation(a)
        out |= {f"pr_{how}": found.ratio, f"null_{how}": found.null}
    return out


def everything(trained: Trained) -> dict[str, torch.Tensor]:
    """All that is measured of trained networks, once; of a single layer less."""
    if "cross" not in trained.kept:
        found = counts(trained)
        shape = trained.setting.build().shape
        if shape.depth > 1:
            ends = [range(shape.width), range(shape.depth * shape.width, (shape.depth + 1) * shape.width)]
            alone = read(trained, [], fitted=True, of="stream", parts=ends).count()
            found |= shares(trained) | {"input": alone[:, 0], "final": alone[:, 1]}
            start = trained.at(0)
            found |= {f"start_{k}": v for k, v in counts(start, sizes=(1, shape.depth)).items()}
            if not isinstance(trained.setting.task, Circuit | Identity | Memory):
                for name, which in (("fitted", trained), ("fitted_start", start)):
                    found |= {f"{name}_{k}": v for k, v in counts(which, fitted=True).items()}
        trained.kept["cross"] = found
    return trained.kept["cross"]


def column(name: str) -> Callable[[Trained], torch.Tensor]:
    """A measure: one entry of `everything`, NaN where there is none."""

    def measure(trained: Trained) -> torch.Tensor:
        return everything(trained).get(name, torch.full((len(trained),), torch.nan)).float()

    measure.__name__ = name
    return measure


def names() -> list[str]:
    curves = [f"{what}_{size}" for what, size in itertools.product(("joint", "union"), SIZES)]
    prefixed = [f"{prefix}{name}" for prefix in ("", "start_", "fitted_", "fitted_start_") for name in curves]
    return [*prefixed, "best", "input", "final", *(f"{what}_{how}" for what in ("pr", "null") for how in HOWS)]


def started(setting: Setting, seeds: Sequence[int]) -> Trained:
    """Networks before training."""
    stack = Stack.of(setting, seeds)
    blank = torch.zeros(len(stack), 1), torch.full((len(stack),), -1), {}, ""
    return Trained(stack, *initial_values(stack), task_constants(stack), *blank)


def built(run: report.Run, seeds: Sequence[int]) -> dict[tuple[str, int], pd.DataFrame]:
    """(construction, depth) -> table of counts by load and seed, with those of networks before training."""
    depth, deep = run.pick(default=8, smoke=2), run.pick(default=16, quick=8, smoke=2)
    universal, most = {"neurons": BY_HAND, "room": OFFERED["and"][-1], "seeds": seeds}, OFFERED["and"][-1]
    confined = {"neurons": 16 * depth, "takes": 3, "room": 6 * depth, "seeds": seeds}
    made: dict[tuple[str, int], Callable[[int], Trained]] = {
        ("scattered_uand", depth): lambda n: scattered_uand(12, n, depth=depth, **universal),
        ("scattered_uand", deep): lambda n: scattered_uand(12, n, depth=deep, **universal),
        ("single_block_uand", depth): lambda n: single_block_uand(12, n, depth=depth, **universal),
        ("one_feature_one_block", depth): lambda n: confined_uand(4 * depth, 6 * depth * n // most, depth=depth, **confined),
        ("copied_identity", depth): lambda n: copied_identity(n, depth=depth, seeds=seeds),
    }  # fmt: skip
    found = {}
    for (name, blocks), make in made.items():
        rows = []
        for load in run.pick(default=OFFERED["and"] if name == "scattered_uand" else OFFERED["and"][1:], smoke=(most,)):
            networks = make(load)
            offered, whole = networks.setting.task.n_outputs(networks.setting.features), load == most
            own = counts(networks, sizes=SIZES if whole else (1, blocks))
            width = networks.setting.build().shape.width
            own["input"] = read(networks, [], fitted=True, of="stream", parts=[range(width)]).count()[:, 0]
            own |= shares(networks) if whole else {}
            before = counts(started(networks.setting, seeds), sizes=(1, blocks))
            own |= {f"start_{key}": value for key, value in before.items()}
            table = pd.DataFrame({key: value.numpy() for key, value in own.items()})
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


def conditions(table: pd.DataFrame, single: pd.DataFrame | None, depth: int, level: float) -> dict[str, stats.Interval]:
    """What conditions (i) to (iv) ask for, each of which must lie above MARGIN."""
    top = at_top(table, depth)
    offered, x = top["load"], excess(top, depth)
    found = {"i": stats.mean(x / offered, level)}
    found["ii_start"] = stats.mean((x - excess(top, depth, "start_")) / offered, level)
    if single is not None:
        one = single[single["load"] == offered.iloc[0]].set_index("seed").sort_index()
        found["ii_one_layer"] = stats.mean((x - excess(one, depth)) / offered, level)
    joint, union = (stats.capacity(table, recovered=f"{what}_{depth}")["held_out"] for what in ("joint", "union"))
    scale = max(float(joint.mean()), 1.0)
    found["iii"] = stats.mean((joint - union) / scale, level)
    found["iv"] = stats.mean((top[f"joint_{depth}"] - top["input"]) / offered, level)
    return found


def judge(found: Mapping[str, stats.Interval]) -> stats.Verdict:
    return stats.every(*(stats.decide(interval, (MARGIN, math.inf)) for interval in found.values()))


def exponent(top: pd.DataFrame, depth: int, prefix: str = "") -> stats.Interval:
    """gamma: each seed's slope of ln F over ln k; counts below one feature count as one."""
    sizes = [k for k in SIZES if k <= depth and f"{prefix}joint_{k}" in top and top[f"{prefix}joint_{k}"].notna().all()]
    if len(sizes) < 2:
        return stats.UNDEFINED
    x = np.log(sizes) - np.log(sizes).mean()
    return stats.mean(np.log(top[[f"{prefix}joint_{k}" for k in sizes]].clip(lower=1)) @ x / (x @ x))


def main(run: report.Run) -> None:
    depths = run.pick(default=(2, 4, 8, 16), quick=(2, 8), smoke=(2,))
    tasks = run.pick(default=TASKS, smoke=("and", "memory"))
    seeds = range(run.pick(default=8, quick=3, smoke=2))
    level = 1 - 0.05 / len(depths)
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    shapes = {f"{task}_{depth}": (task, depth, NEURONS) for task in tasks for depth in (1, *depths)}
    shapes["byhand_1"] = ("and", 1, BY_HAND)
    search = {name: Grid(setting_of(task, depth, run, neurons), {"seed": SEARCH_SEEDS})
              for name, (task, depth, neurons) in shapes.items()}  # fmt: skip
    rates = best_rates(search, run.pick(default=[0.005, 0.01, 0.02], quick=[0.01, 0.02]),
                       extend=run.pick(default=2, quick=0), **options)  # fmt: skip
    grids = {}
    for name, (task, depth, _) in shapes.items():
        own = {"optimizer.lr": [rates.loc[name, "lr"]], "seed": seeds}
        grids[f"cross_{name}"] = Grid(search[name].setting, {**loads(task), **own})
        if depth > 1:
            setting = search[name].setting
            axis, values = next(iter(loads(task).items()))
            half = dataclasses.replace(setting, steps=max(1, setting.steps // 2))
            grids[f"half_{name}"] = Grid(half, {axis: dict([list(values.items())[-1]]), **own})
    answers = sweep(grids, [recovered, *(column(name) for name in names())], snapshots=(0,), **options)
    tables = {}
    for name, answer in answers.items():
        axis = next(path for path in answer.grid.axes if path != "seed")
        table = answer.table
        loaded = axis.split(".")[-1]
        tables[name] = table.assign(load=table[loaded].map(float) if loaded in table else np.nan)
    hand = built(run, seeds)

    statistics, verdict = {}, {}
    controls: dict[str, dict] = {name: {} for name in ("conditions", "rates", "half_length", "fitted_probes", "gap",
                                                       "participation", "recovered_share", "final_stream", "capacity")}  # fmt: skip
    judged, moved, untrained = {}, [], []
    for task, depth in itertools.product(tasks, depths):
        key, table = f"{task}_{depth}", tables[f"cross_{task}_{depth}"]
        found = conditions(table, tables[f"cross_{task}_1"], depth, level)
        top = at_top(table, depth)
        judged[task, depth] = {name: stats.decide(one, (MARGIN, math.inf)) for name, one in found.items()}
        verdict[key] = judge(found)
        controls["conditions"][key] = found
        statistics[f"{key}_excess_share"] = stats.mean(excess(top, depth) / top["load"])
        statistics[f"{key}_gamma"] = exponent(top, depth)
        single = tables[f"cross_{task}_1"]
        one = single[single["load"] == top["load"].iloc[0]]
        controls["gap"][key] = {"joint": stats.mean(top[f"joint_{depth}"]), "best_layer": stats.mean(top["best"]),
                                "union": stats.mean(top[f"union_{depth}"]), "single_layer": stats.mean(one[f"joint_{depth}"]),
                                "single_layer_union": stats.mean(one[f"union_{depth}"]), "offered": top["load"].iloc[0]}  # fmt: skip
        controls["final_stream"][key] = stats.mean(top["final"] - top[f"joint_{depth}"])
        controls["recovered_share"][key] = stats.mean(top["recovered"] / top["load"])
        controls["capacity"][key] = {
            what: stats.supremum(table, recovered=f"{what}_{depth}") for what in ("joint", "union")
        }
        controls["participation"][key] = ratios(top)
        half = tables[f"half_{task}_{depth}"].set_index("seed")
        full = table[table["load"] == table["load"].max()].set_index("seed")
        change = stats.mean((excess(half, depth) - excess(full, depth)) / full["load"])
        controls["half_length"][key] = change
        moved.append(stats.decide(change, 0.1))
        before = full.assign(**{f"{what}_{depth}": full[f"start_{what}_{depth}"] for what in ("joint", "union")})
        untrained.append(judge(of_untrained(before, depth, level)))
        if task == "and":
            controls["fitted_probes"][key] = {name: {"gamma": exponent(full, depth, f"{prefix}_"),
                                              "excess_share": stats.mean(excess(full, depth, f"{prefix}_") / full["load"])}
                                              for name, prefix in (("trained", "fitted"), ("untrained", "fitted_start"))}  # fmt: skip
            statistics[f"{key}_untrained_fitted_gamma"] = exponent(full, depth, "fitted_start_")
    for task in tasks:
        verdict[task] = stats.some(*(verdict[f"{task}_{depth}"] for depth in depths))
    verdict["random_init"] = stats.some(*untrained)
    for (name, depth), table in hand.items():
        single = tables["cross_byhand_1"] if name.endswith("uand") else None
        found = conditions(table, single, depth, level)
        judged[name, depth] = {key: stats.decide(one, (MARGIN, math.inf)) for key, one in found.items()}
        controls["conditions"][f"{name}_{depth}"] = found
        top = at_top(table, depth)
        statistics[f"{name}_{depth}_excess_share"] = stats.mean(excess(top, depth) / top["load"])
        statistics[f"{name}_{depth}_gamma"] = exponent(top, depth)
        if "pr_zero" in top:
            controls["participation"][f"{name}_{depth}"] = ratios(top)
        verdict[f"{name}_{depth}"] = judge(found)
    for name in dict.fromkeys(name for name, _ in hand):
        combine = stats.every if name == "scattered_uand" else stats.some
        verdict[name] = combine(*(verdict[key] for key in verdict if key.startswith(f"{name}_")))
    wanted = {name: "supported" if name == "scattered_uand" else "rejected" for name, _ in [*hand, ("random_init", 0)]}
    verdict["measure_is_right"] = (
        "supported" if all(verdict[name] == want for name, want in wanted.items()) else "rejected"
    )
    verdict["length_does_not_decide"] = stats.every(*moved)
    verdict["learning_rate_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"
    controls["rates"] = rates.to_dict("index")
    engine = ", ".join(sorted({engine for answer in answers.values() for engine in answer.table["engine"]}))
    figure = draw(tables, hand, judged, controls, verdict, tasks, depths)
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(map(len, grids.values())), steps=max(grid.setting.steps for grid in grids.values()))  # fmt: skip


def of_untrained(before: pd.DataFrame, depth: int, level: float) -> dict[str, stats.Interval]:
    """(i), and (ii) between halves of the seeds."""
    x = (excess(before, depth) / before["load"]).sort_index().to_numpy()
    half = len(x) // 2
    return {"i": stats.mean(x, level), "ii_start": stats.mean(x[:half] - x[half : 2 * half], level)}


def ratios(top: pd.DataFrame) -> dict[str, dict[str, stats.Interval]]:
    """Participation ratio, its null and the difference, by kind; where some seed has no such feature, undefined."""
    out = {}
    for how in HOWS:
        pair = top[[f"pr_{how}", f"null_{how}"]].dropna()
        columns = {"ratio": pair.iloc[:, 0], "null": pair.iloc[:, 1], "difference": pair.iloc[:, 0] - pair.iloc[:, 1]}
        out[how] = {name: stats.mean(own) if len(own) > 1 else stats.UNDEFINED for name, own in columns.items()}
    return out


def draw(
    tables: Mapping[str, pd.DataFrame], hand: Mapping[tuple[str, int], pd.DataFrame], judged: Mapping, controls: Mapping,
    verdict: Mapping[str, str], tasks: Sequence[str], depths: Sequence[int],
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
            top = at_top(tables[f"cross_{task}_{depth}"], depth)
            one = tables[f"cross_{task}_1"]
            one = one[one["load"] == top["load"].iloc[0]]
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
        ax.label_outer()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=11)
    growth(axes[1, 0], tables, hand, depths[-1])
    ax, hues = axes[1, 1], plots.category_colours(tasks)
    for task, (how, style) in itertools.product(tasks, (("attribution", "-o"), ("mean", "--s"))):
        differences = [controls["participation"][f"{task}_{depth}"][how]["difference"] for depth in depths]
        ends = np.array([(one.value, one.value - one.low, one.high - one.value) for one in differences]).T
        shift = 1.05 ** (list(tasks).index(task) - 1.5)
        if np.isfinite(ends).any():
            ends = np.where(np.isfinite(ends), ends, np.nan)
            ax.errorbar(np.array(depths) * shift, ends[0], ends[1:], fmt=style, color=hues[task], markersize=4, linewidth=1.2,
                        label=task if how == "attribution" else None)  # fmt: skip
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xscale="log", xlabel="blocks L", title="blocks for each feature", ylabel="participation ratio less its null")
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.minorticks_off()
    ax.plot([], [], "-o", color=plots.GREY, markersize=4, label="attribution")
    ax.plot([], [], "--s", color=plots.GREY, markersize=4, label="mean ablation")
    ax.legend(fontsize=9, loc="lower left")
    wide = figure.add_subplot(axes[1, 2].get_gridspec()[1, 2:])
    for ax in axes[1, 2:]:
        ax.remove()
    board(wide, judged, verdict)
    yes = [task for task in tasks if verdict[task] == "supported"]
    control = "scattered AND is found" if verdict["scattered_uand"] == "supported" else "scattered AND is NOT found"
    told = f"found in {', '.join(yes)}" if yes else "not found in any trained task"
    figure.suptitle(f"Cross-layer superposition {told}; {control} by the same measure", fontsize=14)
    return figure


def growth(ax: Any, tables: Mapping, hand: Mapping, depth: int) -> None:
    """F against the number of layers read, for AND."""
    colours = plots.category_colours(["trained", "", "before training", "scattered by hand"])
    trained = at_top(tables[f"cross_and_{depth}"], depth).reset_index()
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
    ax.set_yticks(range(len(rows)), [f"{name.replace('_', ' ')}, L = {depth}" for name, depth in rows], fontsize=9)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    report.experiment(main)
