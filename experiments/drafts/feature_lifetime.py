"""In how many consecutive layers of a network does a feature live? The exponent s of tau ~ L^s.

Katta's note (2024) splits F features over the L layers of Model A and the L / 4 of Model B, which is twice as wide, and
finds twice as many features per neuron in B. That assumes that each feature lives in one layer. Where it lives in
tau ~ L^s layers, B has 2^(1 - 2s) times A's features per neuron: twice if s = 0, as many if s = 1/2, half if s = 1.

Residual MLPs with 2 to 16 blocks at equal load (features offered over live parameters), trained on two tasks. Circuits:
trees of two levels of random gates over four bits, about one circuit active at a time; the features are those gates
that no affine map of the input predicts (`Circuit.pure`), so that reading one linearly is reading something computed.
Memory: one fact at a time, four labels; the features are the facts' labels. A feature is decodable from a layer if a
probe recovers more than half: held-out R^2 > 1/2 of a gate from a ridge readout with a ReLU; for a fact, more than half
of the probability on its label, from one softmax readout fitted on other facts (so it cannot memorise, and from keys or
from a network that knows no labels it is right by chance only). Two places to look: the `stream` after each block, the
d dimensions that the note counts; and the `neurons` of each block. tau is the longest run of layers that hold a
feature, averaged over the features that some layer holds.

Rules: s is the slope of ln tau over ln L, with the interval over seeds. `each_feature_in_one_layer` if |s| < 1/4,
`every_layer_carries_it` if .75 < s < 1.25, `flips` if s > 1/2; each for both tasks in stream and neurons, and in all.

Controls: the same probes before training, which should find under 2% (`untrained_knows_nothing`); a hand-built network
whose block L / 2 alone computes two gates and whose inputs are copied through all blocks: neurons must give s = 0, the
copied inputs s = 1 (`measure_is_right`); half the training length must not move s by more than .25
(`length_does_not_decide`); each depth at its own learning rate (`learning_rate_bracketed`). Beside tau, the mean share
decodable in each layer, summed over layers and divided by that of the best layer (`by_sum`).

Two cores: --quick about a minute, default about 6.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from toysup import plots, report, stats
from toysup.ensemble import Stack, Trained, initial_values, task_constants
from toysup.features import BitGroups, OnePerGroup
from toysup.measure import recovered
from toysup.measure.layers import decodable_by_layer, gates, inputs, label_chances_by_layer, longest_run
from toysup.models import ResidualMLP
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import Circuit, Memory

QUESTION = "In how many layers does a feature live, and does it flip the note's count of features per neuron?"
PLACES, LABELS = ("stream", "neurons"), 4
WIDTH = {"circuits": 16, "memory": 24}
CIRCUITS_PER_BLOCK, FACTS_PER_PARAMETER, PROBE_FACTS = 1.5, 0.5, 456  # of 912 facts at L = 2, the fewest
REGIONS = {"each_feature_in_one_layer": (-0.25, 0.25), "every_layer_carries_it": (0.75, 1.25), "flips": (0.5, math.inf)}
RATES = [0.005, 0.01, 0.02, 0.04]


def grid_of(task: str, depth: int, run: report.Run) -> Grid:
    """One task at one depth; features are in proportion to parameters."""
    width, optimizer = WIDTH[task], Adam(beta2=0.99, schedule=Cosine())
    shape = Shape(width, depth)
    if task == "circuits":
        n = round(CIRCUITS_PER_BLOCK * depth)
        model = Model(ResidualMLP, shape=shape, unembedding="trained", row_norm=math.sqrt(width) / 2)
        steps = run.pick(default=4000, quick=300, smoke=4)
        setting = Setting(
            BitGroups(4 * n, 4, 1 / n), Circuit(), model, optimizer, steps, run.pick(default=256, smoke=32)
        )
    else:
        n = round(FACTS_PER_PARAMETER * shape.live_parameters(LABELS))
        model = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(width))
        steps = run.pick(default=3000, quick=600, smoke=4)
        setting = Setting(OnePerGroup(n, 1), Memory(LABELS), model, optimizer, steps, run.pick(default=512, smoke=32))
    return Grid(setting, {"seed": range(run.pick(default=8, smoke=2))})


def held(trained: Trained, place: str) -> torch.Tensor:
    """(instance, layer, feature): 1 where a layer holds a feature, 0 where not, NaN where there is no such feature.
    The stream's first entry, the embedded input, is layer 0."""
    if isinstance(trained.setting.task, Memory):
        found = label_chances_by_layer(trained, of=place, most=PROBE_FACTS)
        return torch.where(found.isnan(), torch.nan, (found > 0.5).float())
    found = decodable_by_layer(trained, of=place, targets=gates, batches=8).value
    pure = trained.per_instance(lambda setting, constants: setting.task.pure(constants).flatten()).unsqueeze(1)
    return torch.where(pure & ~found.isnan(), (found > 0.5).float(), torch.nan)


def reading(place: str, untrained: bool) -> Callable[[Trained], torch.Tensor]:
    """A measure, (instance, 3 + layer): tau (NaN if nothing is held), the share of features held somewhere, how many
    features there are, and the share held in each layer."""

    def measure(trained: Trained) -> torch.Tensor:
        on = held(trained.at(0) if untrained else trained, place)
        blocks = on[:, 1:] if place == "stream" else on  # what was computed, not what came in
        run = torch.where(on[:, 0].isnan(), torch.nan, longest_run(blocks == 1).float())
        lives = torch.where(run > 0, run, torch.nan).nanmean(1)
        head = [lives, (run > 0).float().sum(1) / (~run.isnan()).sum(1), (~run.isnan()).sum(1)]
        return torch.cat([torch.stack(head, 1), on.nanmean(2)], 1)

    measure.__name__ = f"{place}_untrained" if untrained else place
    return measure


def unpack(table: pd.DataFrame, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(tau, held somewhere, features by seed; the share held by seed and layer)."""
    wide = table[table[name].notna() | (table["feature"] < 3)].pivot(index="seed", columns="feature", values=name)
    return wide[[0, 1, 2]].set_axis(["tau", "held", "features"], axis=1), wide.drop(columns=[0, 1, 2]).dropna(axis=1)


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
    return {"computed once": float(longest_run(computed).float().mean()), "copied": float(longest_run(copied).min())}


def slope(lives: pd.DataFrame) -> pd.Series:
    """Each seed's slope of ln tau (seed, depth) over ln L."""
    x = np.log(lives.columns.to_numpy(dtype=float))
    return np.log(lives) @ ((x - x.mean()) / ((x - x.mean()) ** 2).sum())


def main(run: report.Run) -> None:
    depths = run.pick(default=(2, 4, 8, 16), quick=(2, 4, 8), smoke=(1, 2))
    cells = [(task, depth) for task in WIDTH for depth in depths]
    names = {cell: f"lifetime_{cell[0]}_{cell[1]}" for cell in cells}
    base = {name: grid_of(*cell, run) for cell, name in names.items()}
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    search = {name: dataclasses.replace(grid, axes={"seed": SEARCH_SEEDS}) for name, grid in base.items()}
    rates = best_rates(search, run.pick(default=RATES, quick=RATES[1:3], smoke=[0.01, 0.02]),
                       extend=run.pick(default=2, quick=0), **options)  # fmt: skip
    grids, lengths = {}, {"whole": 1, "half": 2}
    for (cell, name), (length, parts) in itertools.product(names.items(), lengths.items()):
        setting, axes = base[name].setting, base[name].axes
        shorter = dataclasses.replace(setting, steps=setting.steps // parts)
        grids[cell, length] = Grid(shorter, {"optimizer.lr": [rates.loc[name, "lr"]], **axes})
    measures = [recovered] + [reading(place, untrained) for untrained in (False, True) for place in PLACES]
    done = sweep({f"{names[cell]}_{length}": grid for (cell, length), grid in grids.items()}, measures, snapshots=(0,),
                 **options)  # fmt: skip
    answers = {length: {cell: done[f"{name}_{length}"] for cell, name in names.items()} for length in lengths}

    statistics, verdict, rows, profiles = {}, {}, [], {}
    controls: dict[str, dict] = {
        "rates": {},
        "recovered_share": {},
        "untrained_held": {},
        "half_length": {},
        "by_sum": {},
    }
    controls |= {"held_somewhere": {}, "load_B_over_A": {}, "seeds_with_a_lifetime": {}, "by_hand": {}}
    slopes, settled, known, found_regions = {}, [], [], {name: [] for name in REGIONS}
    for task, place in itertools.product(WIDTH, PLACES):
        key = f"{task}_{place}"
        lives: dict[str, pd.DataFrame] = {}
        for length in answers:
            parts = {depth: unpack(answers[length][task, depth].features, place) for depth in depths}
            lives[length] = pd.DataFrame({depth: part[0]["tau"] for depth, part in parts.items()})
            if length == "half":
                continue
            total = pd.DataFrame({depth: part[1].sum(axis=1) / part[1].max(axis=1) for depth, part in parts.items()})
            for depth, (head, profile) in parts.items():
                profiles[key, depth] = profile
                before, null = unpack(answers[length][task, depth].features, f"{place}_untrained")
                profiles[f"{key}_untrained", depth] = null
                known.append(stats.mean(before["held"].dropna()))
                controls["untrained_held"][f"{key}_{depth}"] = known[-1]
                controls["held_somewhere"][f"{key}_{depth}"] = stats.mean(head["held"].dropna())
                rows += [{"key": key, "L": depth, "tau": tau} for tau in head["tau"].dropna()]
                if head["tau"].notna().any():
                    statistics[f"{key}_tau_{depth}"] = stats.mean(head["tau"].dropna())
        whole, half = (slope(lives[length]).replace([np.inf, -np.inf], np.nan) for length in ("whole", "half"))
        controls["seeds_with_a_lifetime"][key] = int(whole.notna().sum())
        few = whole.notna().sum() < 2
        slopes[key] = statistics[f"{key}_s"] = stats.UNDEFINED if few else stats.mean(whole.dropna())
        for region, inside in REGIONS.items():
            verdict[f"{key}_{region}"] = stats.decide(slopes[key], inside)
            found_regions[region].append(verdict[f"{key}_{region}"])
        controls["load_B_over_A"][key] = [2 ** (1 - 2 * end) for end in (slopes[key].value, slopes[key].low,
                                                                         slopes[key].high)]  # fmt: skip
        moved = (half - whole).dropna()
        controls["half_length"][key] = stats.mean(moved) if len(moved) > 1 else stats.UNDEFINED
        settled.append(stats.decide(controls["half_length"][key], 0.25))
        sums = slope(total).replace([np.inf, -np.inf], np.nan).dropna()
        controls["by_sum"][key] = stats.mean(sums) if len(sums) > 1 else stats.UNDEFINED
    verdict |= {region: stats.every(*found) for region, found in found_regions.items()}
    hand = pd.DataFrame({depth: by_hand(depth) for depth in depths})
    controls["by_hand"] = slope(hand).to_dict()
    right = np.allclose([controls["by_hand"]["computed once"], controls["by_hand"]["copied"]], [0, 1], atol=1e-6)
    verdict["measure_is_right"] = "supported" if right else "rejected"
    verdict["untrained_knows_nothing"] = stats.every(*(stats.decide(share, 0.02) for share in known))
    verdict["length_does_not_decide"] = stats.every(*settled)
    verdict["learning_rate_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"
    controls["rates"] = rates.to_dict("index")
    for cell, answer in answers["whole"].items():
        offered = answer.table["recovered"] / float(offered_by(answer))
        controls["recovered_share"]["_".join(map(str, cell))] = stats.mean(offered)
    every = [answer for found in answers.values() for answer in found.values()]
    engine = ", ".join(sorted({engine for answer in every for engine in answer.table["engine"]}))
    report.write(run, draw(pd.DataFrame(rows), profiles, slopes, depths), statistics=statistics, verdict=verdict,
                 controls=controls, instances=sum(len(answer.table) for answer in every), engine=engine,
                 steps=max(grid.setting.steps for grid in base.values()))  # fmt: skip


def offered_by(answer: Any) -> int:
    """How many features the task offers: circuits or facts."""
    setting = answer.grid.setting
    return setting.features.n_features // (4 if isinstance(setting.task, Circuit) else 1)


def draw(lives: pd.DataFrame, profiles: dict, slopes: dict, depths: tuple[int, ...]) -> plots.Figure:
    """For each task and place: the share of features that each layer holds, and tau against L."""
    figure, axes = plots.figure(2, 4, width=15, height=3.7)
    colours = plots.category_colours(depths)
    names = {"stream": "stream after each block", "neurons": "neurons of each block"}
    for column, (key, interval) in enumerate(slopes.items()):
        task, place = key.split("_")
        top, bottom = axes[0, column], axes[1, column]
        for depth in depths:
            first = 0 if place == "stream" else 1
            for which, style in ((key, "-"), (f"{key}_untrained", ":")):
                shares = profiles[which, depth]
                x = np.arange(first, first + shares.shape[1]) / depth
                mean = shares.mean()
                line = {"label": f"L = {depth}", "marker": "o", "markersize": 4} if style == "-" else {}
                top.plot(x, mean, style, color=colours[depth], linewidth=1.5, **line)
                if style == "-":
                    half = 1.96 * shares.std() / np.sqrt(len(shares))
                    top.fill_between(x, mean - half, mean + half, color=colours[depth], alpha=0.15, linewidth=0)
        top.set(title=f"{task}: {names[place]}", xlabel="layer / L", ylabel="share of features decodable",
                ylim=(-0.03, 1.03), xlim=(-0.03, 1.03))  # fmt: skip
        own = lives[lives["key"] == key] if len(lives) else lives
        if len(own):
            plots.band(bottom, own, "L", "tau", log=True)
            bottom.lines[-1].set(color="black", label="measured")
            start = own.loc[own["L"] == own["L"].min(), "tau"].mean()
            low = own["L"].min()
            for power, label in ((0, "s = 0"), (0.5, "1/2"), (1, "s = 1")):
                plots.reference(bottom, depths, start * (np.array(depths) / low) ** power, label)
        bottom.set(xlabel="blocks L", ylabel="lifetime, layers", yscale="log", ylim=(0.85, 1.3 * depths[-1]),
                   xticks=depths, yticks=depths)  # fmt: skip
        bottom.set_yticks([1, *depths], [str(tick) for tick in (1, *depths)])
        bottom.minorticks_off()
        ends = f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
        bottom.set_title(f"s = {ends}" if math.isfinite(interval.value) else "no lifetime at some depth")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(axes[0, 0].plot([], [], ":", color=plots.GREY)[0])
    figure.legend(handles, [*labels, "untrained"], loc="outside lower center", ncols=len(depths) + 1, fontsize=11)
    told = ", ".join(f"{key.replace('_', ' in ')} {interval.value:.2f}" for key, interval in slopes.items())
    figure.suptitle(f"Lifetime grows as $L^s$ (the note's count flips above 1/2): {told}", fontsize=14)
    return figure


if __name__ == "__main__":
    report.experiment(main)
