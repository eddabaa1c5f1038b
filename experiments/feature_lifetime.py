"""In how many layers of a network does a feature live? The exponent s of tau ~ L^s.

Katta's note (2024) splits F features over the L layers of Model A and the L / 4 of Model B, which has as many
parameters and is twice as wide, and finds twice as many features per neuron in B. That assumes that each feature lives
in one layer. Where it lives in tau ~ L^s layers, B has 2^(1 - 2s) times A's features per neuron: twice if s = 0, as
many if s = 1/2, half if s = 1. So s is measured along the note's own line: the same features, the same live parameters,
2 to 16 (memory: 32) residual blocks, the width falling as L^-1/2 (s thus holds what the width does to tau as well).

Two tasks that networks of this size can just do. Circuits: trees of two levels of random gates over four bits, about
one circuit active at a time; the features are those gates that no affine map of the input predicts (`Circuit.pure`), so
that reading one linearly is reading something computed. Memory: one fact per parameter, one at a time, four labels; the
features are the facts' labels. Two places to look: the `stream` after each block, the d dimensions that the note
counts, and the `neurons` of each block.

A probe's score is 0 at chance and 1 if all is known. Gates: held-out R^2 of a ridge readout with a ReLU, and what the
same layer gives away before training is taken off: (R^2 - R0^2) / (1 - R0^2), since wide layers of random features know
many gates without having learned any. Labels: (P - 1/4) / (3/4), P being the probability that one softmax readout,
fitted on other facts, puts on the right label. It cannot memorise, and finds only what is written in one place for all
facts, so tau is a lower bound. A layer holds a feature if the score exceeds 1/2. tau is the longest run of layers that
hold it, averaged over the features that some layer holds.

Rules. s is the slope of ln tau over ln L, for each seed, then the interval over seeds. A depth at which fewer than 8
networks hold anything is left out (`depths_used`); with fewer than 3 depths s is undefined and all about it undecided.
`each_feature_in_one_layer` if |s| < 1/4, `every_layer_carries_it` if 3/4 < s < 5/4, `flips` if s > 1/2, each for both
tasks and places, and in all. `B_denser`: without any power law, features held per neuron (summed over layers, over d L)
in L / 4 layers over those in L, which the note takes to be 2, is above 1 at every step from L to L / 4. `power_law`:
the slopes of the first and the last factor of 4 in L differ by less than 1/4.

Controls. The same probes before training should find under 2% (`untrained_knows_nothing`; if not, s without taking that
off is `uncorrected_s`). A network built by hand, whose block L / 2 alone computes two gates and which copies its inputs
through: neurons must give s = 0, inputs s = 1 (`measure_is_right`). s may not move by more than 1/4 when a layer has to
know 3/4 (`threshold_does_not_decide`), after half the training (`length_does_not_decide`), with half the features
(`load_does_not_decide`). Each shape at its own learning rate (`learning_rate_bracketed`). Beside tau: `s_of_any_layers`
counts layers whether consecutive or not, and `shuffled_s` gives each layer's count to random features.

Added after the default run was seen, since a slope may move by less than 1/4 and yet cross 1/2: `flips_strict`, the
verdict `flips` where a layer has to know 3/4, and the slopes of single steps there (`strict_s_by_step`).

Two cores: --quick about a minute, default about 8 (12 CPU minutes, one of them compiling).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from toysup import plots, report, stats
from toysup.ensemble import Stack, Trained, initial_values, task_constants
from toysup.features import BitGroups, OnePerGroup
from toysup.measure import recovered
from toysup.measure.layers import decodable_by_layer, gates, inputs, label_chances_by_layer
from toysup.models import ResidualMLP
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sharing import longest_run
from toysup.sweep import Grid, sweep
from toysup.tasks import Circuit, Memory

QUESTION = "In how many layers does a feature live, and does it flip the note's count of features per neuron?"
TASKS, PLACES, LABELS, PROBE_FACTS = ("circuits", "memory"), ("stream", "neurons"), 4, 1024
REGIONS = {"each_feature_in_one_layer": (-0.25, 0.25), "every_layer_carries_it": (0.75, 1.25), "flips": (0.5, math.inf)}
ENOUGH, DEPTHS = 8, 3  # seeds at a depth, depths in a slope
COLUMNS = [f"{what}{how}" for how in ("", "_strict", "_uncorrected", "_shuffled") for what in ("tau", "layers", "held")]
CONTROLS = ("rates", "shapes", "recovered_share", "held_somewhere", "untrained_held", "depths_used", "strict_s")
CONTROLS += ("strict_moves_s", "half_length_moves_s", "half_load_moves_s", "uncorrected_s", "s_of_any_layers")
CONTROLS += ("strict_tau", "strict_s_by_step", "shuffled_s", "by_hand")


def shape_of(task: str, depth: int, run: report.Run) -> Shape:
    """The width that brings live parameters nearest to the task's budget."""
    budget = {"circuits": run.pick(default=18432, quick=4608, smoke=400),
              "memory": run.pick(default=9000, quick=2500, smoke=200)}[task]  # fmt: skip
    read = LABELS if task == "memory" else None
    return min((Shape(d, depth) for d in range(LABELS, 200)), key=lambda s: abs(s.live_parameters(read) - budget))


def grid_of(task: str, depth: int, run: report.Run, load: float = 1.0, length: float = 1.0) -> Grid:
    """One task at one depth, with a share of its features and of its steps."""
    shape, optimizer = shape_of(task, depth, run), Adam(beta2=0.99, schedule=Cosine())
    steps = round(length * run.pick(default=3000, quick=500, smoke=4))
    if task == "circuits":
        n = round(load * run.pick(default=12, quick=6, smoke=4))
        model = Model(ResidualMLP, shape=shape, unembedding="trained", row_norm=math.sqrt(shape.width) / 2)
        features, batch = BitGroups(4 * n, 4, 1 / n), run.pick(default=256, smoke=32)
        return Grid(Setting(features, Circuit(), model, optimizer, steps, batch), {})
    n = round(load * run.pick(default=9000, quick=2500, smoke=200))
    model = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(shape.width))
    batch = run.pick(default=512, smoke=32)
    return Grid(Setting(OnePerGroup(n, 1), Memory(LABELS), model, optimizer, steps, batch), {})


def scores(trained: Trained, place: str) -> torch.Tensor:
    """(instance, layer, feature): 0 at chance, 1 if known, NaN where there is no such feature. The stream's first
    entry, the embedded input, is layer 0."""
    if isinstance(trained.setting.task, Memory):
        return (label_chances_by_layer(trained, of=place, most=PROBE_FACTS) - 1 / LABELS) / (1 - 1 / LABELS)
    found = decodable_by_layer(trained, of=place, targets=gates, batches=8).value
    pure = trained.per_instance(lambda setting, constants: setting.task.pure(constants).flatten()).unsqueeze(1)
    return torch.where(pure, found, torch.nan)


def lifetime(on: torch.Tensor) -> list[float]:
    """tau and the number of layers of the features that some (layer, feature) holds, and the share of those."""
    held = on.any(0)
    runs, layers = longest_run(on).float()[held].mean(), on.sum(0).float()[held].mean()
    return [float(runs), float(layers), float(held.float().mean())]


def shuffled(on: torch.Tensor, times: int = 8) -> list[float]:
    """The same where each layer holds as many features, but any."""
    draws = torch.rand(times, *on.shape, generator=torch.Generator().manual_seed(0)).argsort(-1)
    return (
        np.nanmean([lifetime(on.gather(-1, draw)) for draw in draws], axis=0).tolist() if on.any() else [math.nan] * 3
    )


def reading(place: str) -> Callable[[Trained], torch.Tensor]:
    """A measure, (instance, COLUMNS and layer): lifetimes by each rule, and the share held in each layer."""

    def measure(trained: Trained) -> torch.Tensor:
        found = scores(trained, place)
        known = isinstance(trained.setting.task, Memory)  # no layer gives labels away
        before = torch.zeros_like(found) if known else scores(trained.at(0), place).clamp(min=0)
        rows = []
        for own, start in zip(found, before, strict=True):
            real = ~own[0].isnan()
            own, start = own[:, real], start[:, real]
            learned = (own - start) / (1 - start).clamp(min=1e-6)
            blocks = slice(1 if place == "stream" else 0, None)  # what was computed, not what came in
            main, rules = learned > 0.5, (learned > 0.5, learned > 0.75, own > 0.5)
            row = [number for on in rules for number in lifetime(on[blocks])] + shuffled(main[blocks])
            rows.append(torch.tensor(row + main.float().mean(1).tolist()))
        return torch.stack(rows)

    measure.__name__ = place
    return measure


def start(place: str) -> Callable[[Trained], torch.Tensor]:
    """A measure, (instance, layer): the share of features with a score above 1/2 before training."""

    def measure(trained: Trained) -> torch.Tensor:
        found = scores(trained.at(0), place)
        return torch.where(found.isnan(), torch.nan, (found > 0.5).float()).nanmean(2)

    measure.__name__ = f"{place}_untrained"
    return measure


def unpack(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """By seed: what the measure found, its columns numbered."""
    return table.dropna(subset=[name]).pivot(index="seed", columns="feature", values=name)


def lifetimes(answers: Mapping[int, Any], place: str, column: str) -> pd.DataFrame:
    """One of COLUMNS by seed and depth."""
    number = COLUMNS.index(column)
    return pd.DataFrame({depth: unpack(answer.features, place).reindex(columns=[number])[number]
                         for depth, answer in answers.items()})  # fmt: skip


def slope(lives: pd.DataFrame, run: report.Run) -> pd.Series:
    """Each seed's slope of ln lives (seed, depth) over ln L, at the depths where enough seeds have one; or nothing."""
    used = lives.loc[:, lives.notna().sum() >= min(ENOUGH, len(lives))].dropna()
    if used.shape[1] < run.pick(default=DEPTHS, smoke=2) or len(used) < min(ENOUGH, len(lives)):
        return pd.Series(dtype=np.float64)
    x = np.log(used.columns.to_numpy(dtype=float))
    return np.log(used) @ ((x - x.mean()) / ((x - x.mean()) ** 2).sum())


def interval(samples: pd.Series) -> stats.Interval:
    """The mean over seeds, or undefined."""
    return stats.mean(samples) if len(samples) > 1 else stats.UNDEFINED


def by_hand(depth: int) -> dict[str, float]:
    """tau of gates in the neurons, and of inputs in the stream, where only block depth // 2 does anything."""
    setting = Setting(BitGroups(4, 2, 0.5), Circuit(depth=1), Model(ResidualMLP, shape=Shape(6, depth, 4),
                      unembedding="frozen"), steps=1, batch=64)  # fmt: skip
    stack = Stack.of(setting, [0])
    parameters, buffers = initial_values(stack)
    parameters = {name: torch.zeros_like(value) for name, value in parameters.items()}
    buffers["W_E"] = torch.eye(4, 6)[None]
    for gate, sign in itertools.product(range(2), (1.0, -1.0)):  # XOR = (relu(a - b) + relu(b - a)) / 2
        neuron = 2 * gate + (sign < 0)
        parameters[f"W_in.{depth // 2}"][0, 2 * gate : 2 * gate + 2, neuron] = torch.tensor([sign, -sign])
        parameters[f"W_out.{depth // 2}"][0, neuron, 4 + gate] = 0.5
    constants = {"kinds": torch.full_like(task_constants(stack)["kinds"], 2)}
    trained = Trained(stack, parameters, buffers, constants, torch.zeros(1, 1), torch.tensor([-1]), {}, "")
    computed = decodable_by_layer(trained, of="neurons", targets=gates, batches=2).value > 0.5
    copied = decodable_by_layer(trained, targets=inputs, batches=2).value[:, 1:] > 0.5
    return {"computed_once": lifetime(computed[0])[0], "copied": lifetime(copied[0])[0]}


def train(run: report.Run, depths: Mapping[str, tuple[int, ...]]) -> tuple[pd.DataFrame, dict[str, dict]]:
    """Rates by cell, and for each way of training {(task, depth): results}."""
    cells = [(task, depth) for task in TASKS for depth in depths[task]]
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    search = {f"lifetime_{task}_{depth}": dataclasses.replace(grid_of(task, depth, run), axes={"seed": SEARCH_SEEDS})
              for task, depth in cells}  # fmt: skip
    tried = run.pick(default=[0.0025, 0.005, 0.01, 0.02], quick=[0.005, 0.01], smoke=[0.01, 0.02])
    rates = best_rates(search, tried, extend=run.pick(default=2, quick=0), **options)

    def grids(way: str, **changes: float) -> dict[str, Grid]:
        seeds = range(run.pick(default=8, quick=4, smoke=2))
        lr = {cell: float(rates.loc["lifetime_{}_{}".format(*cell), "lr"]) for cell in cells}
        return {f"{way}_{cell[0]}_{cell[1]}": dataclasses.replace(grid_of(*cell, run, **changes),
                axes={"optimizer.lr": [lr[cell]], "seed": seeds}) for cell in cells}  # fmt: skip

    read, before = [recovered, *map(reading, PLACES)], list(map(start, PLACES))
    options["snapshots"] = (0,)
    done = sweep(grids("whole"), read + before, **options)
    done |= sweep(grids("half_length", length=0.5) | grids("half_load", load=0.5), read, **options)
    ways = ("whole", "half_length", "half_load")
    return rates, {way: {cell: done[f"{way}_{cell[0]}_{cell[1]}"] for cell in cells} for way in ways}


def main(run: report.Run) -> None:
    depths = {"circuits": run.pick(default=(2, 4, 8, 16), quick=(2, 4, 8), smoke=(1, 2)),
              "memory": run.pick(default=(2, 4, 8, 16, 32), quick=(2, 4, 8), smoke=(1, 2))}  # fmt: skip
    rates, answers = train(run, depths)
    statistics, verdict, controls = {}, {}, {name: {} for name in CONTROLS}
    checks = {name: [] for name in ("threshold", "length", "load", "untrained")}
    panels = {}
    for task, place in itertools.product(TASKS, PLACES):
        key = f"{task}_{place}"
        whole, half, light = ({depth: answers[way][task, depth] for depth in depths[task]} for way in answers)
        shares = {depth: unpack(answer.features, place).drop(columns=range(len(COLUMNS)), errors="ignore")
                  for depth, answer in whole.items()}  # fmt: skip
        before = {depth: unpack(answer.features, f"{place}_untrained") for depth, answer in whole.items()}
        taus, s = lifetimes(whole, place, "tau"), slope(lifetimes(whole, place, "tau"), run)
        controls["depths_used"][key] = [d for d in taus if taus[d].notna().sum() >= min(ENOUGH, len(taus))]
        for depth in depths[task]:
            name = f"{key}_{depth}"
            statistics[f"{key}_tau_{depth}"] = interval(taus[depth].dropna())
            controls["held_somewhere"][name] = interval(lifetimes(whole, place, "held")[depth].fillna(0))
            controls["strict_tau"][name] = interval(lifetimes(whole, place, "tau_strict")[depth].dropna())
            controls["untrained_held"][name] = interval(before[depth].max(axis=1))
            checks["untrained"].append(stats.decide(controls["untrained_held"][name], 0.02))
        statistics[f"{key}_s"] = interval(s)
        steps = [(depth, depth // 4) for depth in depths[task] if depth // 4 in depths[task]]
        local = {deep: np.log(taus[deep] / taus[shallow]).dropna() / math.log(4) for deep, shallow in steps}
        denser = []
        for deep, shallow in steps:
            statistics[f"{key}_s_{shallow}_to_{deep}"] = interval(local[deep])
            strict = lifetimes(whole, place, "tau_strict")
            rise = np.log(strict[deep] / strict[shallow]).dropna() / math.log(4)
            controls["strict_s_by_step"][f"{key}_{shallow}_to_{deep}"] = interval(rise)
            density = {depth: shares[depth].iloc[:, -depth:].sum(axis=1) / (shape_of(task, depth, run).width * depth)
                       for depth in (deep, shallow)}  # fmt: skip
            ratio = stats.ratio(density[shallow], density[deep], paired=True)
            statistics[f"{key}_B_over_A_{deep}_to_{shallow}"] = ratio
            denser.append(stats.decide(ratio, (1, math.inf)))
        for region, inside in REGIONS.items():
            verdict[f"{key}_{region}"] = stats.decide(statistics[f"{key}_s"], inside)
        verdict[f"{key}_B_denser"] = stats.every(*denser) if denser else "undecided"
        bend = (local[steps[-1][0]] - local[steps[0][0]]).dropna() if len(steps) > 1 else pd.Series(dtype=np.float64)
        verdict[f"{key}_power_law"] = stats.decide(interval(bend), 0.25)
        for name, column in (("strict_s", "tau_strict"), ("uncorrected_s", "tau_uncorrected"),
                             ("s_of_any_layers", "layers"), ("shuffled_s", "tau_shuffled")):  # fmt: skip
            controls[name][key] = interval(slope(lifetimes(whole, place, column), run))
        verdict[f"{key}_flips_strict"] = stats.decide(controls["strict_s"][key], REGIONS["flips"])
        others = {"strict_moves_s": (whole, "tau_strict", "threshold"), "half_length_moves_s": (half, "tau", "length"),
                  "half_load_moves_s": (light, "tau", "load")}  # fmt: skip
        for name, (own, column, check) in others.items():
            controls[name][key] = interval((slope(lifetimes(own, place, column), run) - s).dropna())
            checks[check].append(stats.decide(controls[name][key], 0.25))
        strict, null = (lifetimes(whole, place, f"tau_{how}") for how in ("strict", "shuffled"))
        panels[key] = {"shares": shares, "before": before, "taus": taus, "strict": strict, "null": null}
    for region in (*REGIONS, "flips_strict", "B_denser", "power_law"):
        verdict[region] = stats.every(*(verdict[f"{key}_{region}"] for key in panels))
    hand = pd.DataFrame({depth: by_hand(depth) for depth in depths["circuits"]})
    x = np.log(hand.columns.to_numpy(dtype=float))
    controls["by_hand"] = {name: float(np.polyfit(x, np.log(row), 1)[0]) for name, row in hand.iterrows()}
    right = np.allclose([controls["by_hand"][name] for name in ("computed_once", "copied")], [0, 1], atol=1e-6)
    verdict["measure_is_right"] = "supported" if right else "rejected"
    for name in ("threshold", "length", "load"):
        verdict[f"{name}_does_not_decide"] = stats.every(*checks[name])
    verdict["untrained_knows_nothing"] = stats.every(*checks["untrained"])
    verdict["learning_rate_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"
    controls["rates"] = rates.to_dict("index")
    for (task, depth), answer in answers["whole"].items():
        shape = shape_of(task, depth, run)
        read = LABELS if task == "memory" else None
        controls["shapes"][f"{task}_{depth}"] = {"width": shape.width, "live": shape.live_parameters(read)}
        offered = answer.grid.setting.features.n_features // (4 if task == "circuits" else 1)
        controls["recovered_share"][f"{task}_{depth}"] = interval(answer.table["recovered"] / offered)
    every = [answer for found in answers.values() for answer in found.values()]
    engine = ", ".join(sorted({engine for answer in every for engine in answer.table["engine"]}))
    report.write(run, draw(panels, statistics, depths), statistics=statistics, verdict=verdict, controls=controls,
                 instances=sum(len(answer.table) for answer in every), engine=engine,
                 seconds=sum(answer.seconds for answer in every),
                 steps=max(answer.grid.setting.steps for answer in every))  # fmt: skip


def draw(panels: dict, statistics: dict, depths: Mapping[str, tuple[int, ...]]) -> plots.Figure:
    """For each task and place: the share of features that each layer holds, and tau against L."""
    figure, axes = plots.figure(2, len(panels), width=15, height=3.9)
    colours = plots.category_colours(max(depths.values(), key=len))
    names = {"stream": "stream", "neurons": "neurons"}
    for (key, panel), top, bottom in zip(panels.items(), axes[0], axes[1], strict=True):
        task, place = key.split("_")
        for depth, shares in panel["shares"].items():
            x = np.arange(1 if place == "neurons" else 0, depth + 1) / depth
            half = 1.96 * shares.std() / np.sqrt(len(shares))
            top.plot(x, shares.mean(), "o-", color=colours[depth], markersize=3.5, label=f"L = {depth}")
            top.fill_between(x, shares.mean() - half, shares.mean() + half, color=colours[depth], alpha=0.15, lw=0)
            top.plot(x, panel["before"][depth].mean(), ":", color=colours[depth], linewidth=1.5)
        top.set(title=f"{task}: {names[place]}", xlabel="block / L (0: the input)", ylim=(-0.03, 1.03),
                xlim=(-0.03, 1.03), ylabel="share of features held")  # fmt: skip
        lines = {"score > 1/2": ("taus", "o-", "black"), "score > 3/4": ("strict", "s--", plots.GREY),
                 "features shuffled": ("null", "^:", plots.GREY)}  # fmt: skip
        for label, (which, style, colour) in lines.items():
            means = panel[which].mean()
            bottom.plot(means.index, means, style, color=colour, markersize=5, label=label)
        sure = panel["taus"].apply(lambda column: stats.mean(column.dropna()).asdict() if column.notna().any() else {})
        ends = pd.DataFrame({depth: found for depth, found in sure.items() if found}).T.replace(
            [-np.inf, np.inf], np.nan
        )
        if len(ends):
            bottom.fill_between(ends.index, ends["low"].astype(float), ends["high"].astype(float), color="black",
                                alpha=0.15, linewidth=0)  # fmt: skip
            at = np.array([*depths[task], 2.4 * depths[task][-1]], dtype=float)  # room for the labels
            for power, label in ((0, "s = 0"), (0.5, "s = 1/2"), (1, "s = 1")):
                plots.reference(bottom, at, ends["value"].iloc[0] * (at / at[0]) ** power, label, linestyle=(0, (1, 3)))
        bottom.set(xlabel="blocks L", ylabel="lifetime, layers", xscale="log", yscale="log",
                   ylim=(0.85, 2.6 * depths[task][-1]))  # fmt: skip
        bottom.set_xticks(depths[task], list(map(str, depths[task])))
        bottom.set_yticks([1, *depths[task][depths[task][0] == 1 :]])
        bottom.set_yticklabels([f"{tick:g}" for tick in bottom.get_yticks()])
        bottom.minorticks_off()
        s = statistics[f"{key}_s"]
        told = f"s = {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" if math.isfinite(s.value) else "s undefined"
        ratios = [found.value for name, found in statistics.items() if name.startswith(f"{key}_B_over_A")]
        if np.isfinite(ratios).any():
            told += f"\nper neuron, B / A = {np.nanmin(ratios):.2f} to {np.nanmax(ratios):.2f} (note: 2)"
        bottom.set_title(told, fontsize=10.5)
        for ax in (top, bottom):
            ax.set_ylabel(ax.get_ylabel() if ax in axes[:, 0] else "")
    axes[1, 0].legend(fontsize=9, loc="upper left")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    handles.append(axes[0, 0].plot([], [], ":", color=plots.GREY)[0])
    figure.legend(handles, [*labels, "before training"], loc="outside lower center", ncols=len(handles), fontsize=11)
    values = {tuple(key.split("_")): statistics[f"{key}_s"].value for key in panels}
    told = ", ".join(
        f"{' and '.join(f'{values[task, place]:.2f}' for task in TASKS)} in the {place}" for place in PLACES
    )
    figure.suptitle(
        f"A feature lives in $L^s$ layers, s = {told} ({', '.join(TASKS)}); above 1/2 the note's count flips",
        fontsize=14,
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
