"""How much faster is toysup than the loop everybody writes and than public packages, on one core, to the same loss?

The loop is the field's: an instance axis by hand, einsums, torch.rand, torch.optim.AdamW (`tests/oracles.py`). The
packages are occhio 0.2.3 (`ModelGrid.fit`: each instance's own samples; samples drawn once and seen by all instances,
which is its default; that, compiled; the fastest on a workload stands for it) and tms-kit 0.4.1 (`optimize`). They come
with `pip install -e '.[bench]' torch==2.13.0`; without them the rest runs. All train at learning rate 1e-3, decay 0.01
(tms-kit: none) and batch 1024: tied ReLU autoencoders at density 0.1 (w1 to w5), and residual MLPs with a frozen
embedding (w6), where toysup chooses its engine itself.

Every engine trains every workload in a fresh process of its own, with one torch thread: in one process, toysup's
allocator settings would speed the loop too. They are asked in turn; each number is a ratio of rates (instance-steps per
second) from interleaved repetitions, because absolute times mean little on a shared machine. The limit is what this
core could do: 10 B n m operations an instance-step at its fused multiply-add peak, and B n draws at the rate of
xoshiro128+ in registers, both measured here.

Rules: a verdict faster_than_loop_w1_90x is supported if the 95% interval of the fused engine's ratio lies above 90, and
so on; ten_times_occhio if it lies above 10 on w1, w2 and w5. same_loss: from the same start, on equal draws, the loop
and both our engines differ by less than 1e-4 after 50 steps; and the loop's and the packages' held-out losses after 300
steps on draws of their own are within 2% of the fused engine's (95% interval over 100 instances). two_threads: the
fused engine's rate on two threads over that on one; no rule hangs on it.

About 10 minutes, --quick 1 minute, after compilation.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from toysup import plots, report, stats
from toysup.ensemble import load_compiler, one_thread, train
from toysup.random import Stream, uniforms

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests")]
import _engines  # noqa: E402
from _engines import Raced, Residual, Tied, race  # noqa: E402

QUESTION = "How much faster does toysup train toy models than the field's loop and packages do, to the same loss?"
WORKLOADS = {"w1": Tied(5, 2, 8), "w2": Tied(20, 5, 10), "w3": Tied(20, 5, 1000), "w4": Tied(400, 30, 10),
             "w5": Tied(2, 1, 2500)}  # fmt: skip
MORE = {"w5b": Tied(2, 1, 10_000)} | {
    f"{name}_p{p:g}": replace(WORKLOADS[name], density=p) for name in ("w2", "w4") for p in (1.0, 0.01, 0.001)
}
RESIDUAL = {f"w6_{d}_{blocks}_{instances}": Residual(d, blocks, instances)
            for d in (40, 1000) for blocks in (1, 3) for instances in (1, 100)}  # fmt: skip
GROWTH = {
    axis: {value: replace(WORKLOADS["w2"], **{axis: value}) for value in values}
    for axis, values in {
        "instances": (1, 10, 100, 1000, 10_000),
        "n": (5, 20, 80, 400),
        "m": (1, 2, 5, 10, 20),
        "batch": (64, 256, 1024, 4096),
    }.items()
}
WANTED = {"w1": 90, "w2": 40, "w3": 80, "w4": 8, "w5": 90}  # times the loop's rate
LOOKS = {  # engine: colour (of seaborn's colour-blind palette), marker, label
    "fused": ("#0173b2", "o", "fused"), "auto": ("#0173b2", "D", "toysup's own choice"),
    "general": ("#de8f05", "s", "general"), "occhio": ("#029e73", "^", "occhio"),
    "tms_kit": ("#cc78bc", "v", "tms-kit"), "loop": (plots.GREY, "x", "loop"),
}  # fmt: skip
ROOM = 4e9  # bytes; a loop that keeps more alive (8 tensors of the batch's size) is not tried
EXACT = 1e-4  # relative difference of losses on equal draws that is rounding after 50 steps
NEAR = (0.98, 1.02)  # ratio of held-out losses on draws of their own


def main(run: report.Run) -> None:
    public, controls = prepare(run)
    works = run.pick(default=WORKLOADS, quick={name: WORKLOADS[name] for name in ("w1", "w2", "w5")},
                     smoke={"w1": replace(WORKLOADS["w1"], batch=64)})  # fmt: skip
    ours = run.pick(default=["fused", "general"], smoke=["general"])
    twice = run.pick(default=["fused_twice"], smoke=[]) if len(os.sched_getaffinity(0)) > 1 else []
    aim, repetitions = run.pick(default=(0.5, 7), quick=(0.1, 5))
    timed = run.pick(default=race, smoke=_engines.race_here)
    raced = {name: timed(["loop", *ours, *twice, *public], work, aim, repetitions) for name, work in works.items()}
    statistics = {name: value for work, done in raced.items() for name, value in ratios(work, done).items()}
    controls |= {f"{name}_per_second": done.summary for name, done in raced.items()}
    if run.mode != "smoke":
        statistics |= against_the_core(raced, works, repetitions, controls)
    growth = {}
    if run.mode in ("default", "full"):
        statistics |= time_others(raced, aim, controls)
        points = dict.fromkeys(work for axis in GROWTH.values() for work in axis.values())
        growth = {work: race(["fused", *["loop"] * (work.loop_bytes < ROOM)], work, 0.2, 3) for work in points}
        controls["growth"] = {str(work): point.medians for work, point in growth.items()}
    losses, same = compare_losses(raced, works, ours, public, controls)
    statistics |= losses
    every = {**MORE, **RESIDUAL, **works}
    figure = draw(raced, statistics, growth, controls.get("this_core_per_second", {}))
    report.write(run, figure, statistics=statistics, verdict={"same_loss": same, **verdicts(statistics)},
                 controls=controls, instances=sum(every[name].instances for name in raced),
                 steps=max(done.steps for done in raced.values()), engine=", ".join(ours))  # fmt: skip


def prepare(run: report.Run) -> tuple[list[str], dict[str, dict]]:
    """The public packages' modes to time, and their versions; loads whatever children would each have to load."""
    modes = {"occhio": list(_engines.OCCHIO), "tms-kit": ["tms_kit"]}
    missing = [name for name in modes if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)} (pip install -e '.[bench]' torch==2.13.0)")
    controls = {"packages": {name: "not installed" if name in missing else version(name) for name in modes}}
    if run.mode == "smoke":
        return [], controls
    load_compiler()
    uniforms(0, 0, 1, 1)
    for name in set(modes) - set(missing):
        importlib.import_module(name.replace("-", "_"))
    return [mode for name in modes if name not in missing for mode in modes[name]], controls


def time_others(raced: dict[str, Raced], aim: float, controls: dict) -> dict[str, stats.Interval]:
    """Other densities, more instances, and residual MLPs, against the loop alone; adds to `raced`."""
    found = {}
    for name, work in {**MORE, **RESIDUAL}.items():
        engine = "fused" if name in MORE else "auto"
        raced[name] = race(("loop", engine), work, aim, 5)
        controls[f"{name}_per_second"] = raced[name].summary
        found[f"{name}_fused_over_loop" if name in MORE else f"{name}_over_loop"] = raced[name].over(engine)
    return found


def verdicts(statistics: Mapping[str, stats.Interval]) -> dict[str, stats.Verdict]:
    """Those that are about speed; what was not timed is undecided."""
    timed = {f"faster_than_loop_{name}_{times}x": (f"{name}_fused_over_loop", times) for name, times in WANTED.items()}
    found = {rule: stats.decide(statistics[name], (times, np.inf))
             for rule, (name, times) in timed.items() if name in statistics}  # fmt: skip
    ratios = [statistics.get(f"{name}_fused_over_occhio", stats.UNDEFINED) for name in ("w1", "w2", "w5")]
    return {**found, "ten_times_occhio": stats.every(*(stats.decide(ratio, (10, np.inf)) for ratio in ratios))}


def ratios(name: str, done: Raced) -> dict[str, stats.Interval]:
    """The statistics of one workload, for the engines that took part."""
    pairs = {f"{engine}_over_loop": (engine, "loop") for engine in ("fused", "general", "tms_kit")}
    pairs |= {"occhio_over_loop": (done.best_occhio, "loop"), "fused_over_occhio": ("fused", done.best_occhio),
              "fused_over_tms_kit": ("fused", "tms_kit"), "two_threads_over_one": ("fused_twice", "fused")}  # fmt: skip
    return {f"{name}_{pair}": done.over(*engines) for pair, engines in pairs.items() if {*engines} <= set(done.rates)}


def against_the_core(
    raced: Mapping[str, Raced], works: Mapping[str, Tied], repetitions: int, controls: dict
) -> dict[str, stats.Interval]:
    """Shares of the limit, and our draws against torch.rand; what the core can do goes into the controls."""
    done = race(("flops", "xoshiro", "own_draws", "torch_rand"), None, 0.2, repetitions)
    core = {name: max(done.rates[name]) * size for name, size in _engines.SIZES.items()}
    controls["this_core_per_second"] = core
    found = {"uniforms_over_torch_rand": done.over("own_draws", "torch_rand")}
    for name, work in works.items():
        limit = controls[f"{name}_per_second"]["limit"] = 1 / work.seconds_at_least(core["flops"], core["xoshiro"])
        for label in ("fused", "general", "loop", "occhio", "tms_kit"):
            engine = raced[name].best_occhio if label == "occhio" else label
            if engine in raced[name].rates:
                found[f"{name}_{label}_share_of_limit"] = stats.mean(raced[name].rates[engine] / limit)
    return found


# ------------------------------------------------------------------------------------------------------- the same loss


def compare_losses(
    raced: Mapping[str, Raced], works: Mapping[str, Tied], ours: list[str], public: list[str], controls: dict
) -> tuple[dict[str, stats.Interval], stats.Verdict]:
    """Ratios of losses on draws of their own, and the verdict on those and on equal draws."""
    with one_thread():
        gaps = {name: {engine: difference(work, engine) for engine in ours} for name, work in works.items()}
        for name, work in RESIDUAL.items():
            if name in raced and work.instances == 1:
                gaps[name] = {"auto": difference(work, "auto")}
        own = [name for name in ("occhio", "tms_kit") if name in public]  # occhio's other modes share their draws
        ratios = own_draws_losses(["loop", *own], controls) if "fused" in ours else {}
    controls["relative_loss_difference"] = gaps
    equal = max(gap for engines in gaps.values() for gap in engines.values()) < EXACT
    near = [stats.decide(ratio, NEAR) for ratio in ratios.values()]
    return ratios, stats.every("supported" if equal else "rejected", *near)


def difference(work: Tied | Residual, engine: str, steps: int = 50) -> float:
    """Largest relative difference of the last loss, same start and same draws, over at most eight instances."""
    few = replace(work, instances=min(8, work.instances))
    stack = few.stack(steps)
    features, batch = stack.setting.features, stack.setting.batch
    data = lambda step: features.transform(uniforms(stack.data_seed, step, batch, features.n_uniforms))  # noqa: E731
    *_, losses = few.loop(steps, data=data, start=few.start())
    history = train(stack, device="cpu", engine=engine, compile=False).history[:, -1]  # 50 stretches: the last step's
    return float(((history - losses[:, -1]) / losses[:, -1]).abs().max())


def own_draws_losses(names: Iterable[str], controls: dict) -> dict[str, stats.Interval]:
    """Each engine's held-out loss over the fused engine's, from the same start, on draws of their own."""
    work, losses = Tied(5, 2, 100), {}
    for name in ("fused", *names):
        try:
            losses[name] = held_out(work, *_engines.ENGINES[name](work, _engines.clocked([300], lambda _: None)))
        except Exception as error:
            controls[f"{name}_failed"] = {"why": repr(error)[:200]}
    return {f"{name}_loss_over_fused": stats.ratio(losses[name], losses["fused"], paired=True)
            for name in names if {name, "fused"} <= set(losses)}  # fmt: skip


def held_out(work: Tied, W: Tensor, b: Tensor) -> np.ndarray:
    """Each instance's loss on the same 16,384 samples."""
    x = work.stack(1).setting.features.transform(uniforms(0, 0, 16_384, work.n, stream=Stream.HELD_OUT))
    output = torch.relu(x @ W @ W.mT + b[:, None])
    return (x - output).square().sum(-1).mean(-1).double().numpy()


# ------------------------------------------------------------------------------------------------------------- figure


def draw(
    raced: Mapping[str, Raced],
    statistics: Mapping[str, stats.Interval],
    growth: Mapping[Tied, Raced],
    core: Mapping[str, float],
) -> Figure:
    rows = [name for name in raced if name not in MORE or name == "w5b"]
    height = 1.8 + 0.2 * len(rows)
    figure = Figure(figsize=(10, height + 3.2 * bool(growth)), layout="constrained")
    parts = figure.subfigures(1 + bool(growth), 1, height_ratios=[height, 3.2][: 1 + bool(growth)], squeeze=False)[:, 0]
    shares = {name: statistics.get(f"{name}_fused_share_of_limit") for name in rows}
    if any(shares.values()):
        left, right = parts[0].subplots(1, 2, sharey=True, width_ratios=[3, 1])
        draw_shares(right, shares)
    else:
        left = parts[0].subplots()
    draw_ratios(left, rows, statistics)
    parts[0].legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
    if growth:
        axes = parts[1].subplots(1, 4)
        for ax, (axis, works) in zip(axes, GROWTH.items(), strict=True):
            limit = [1e6 * work.seconds_at_least(core["flops"], core["xoshiro"]) for work in works.values()]
            draw_growth(ax, axis, {value: growth[work] for value, work in works.items()}, limit)
        axes[0].set_ylabel("µs an instance-step")
        axes[0].legend(fontsize=9)
    return figure


def draw_ratios(ax: Axes, rows: list[str], statistics: Mapping[str, stats.Interval]) -> None:
    """A mark for each engine in each workload's row, at its rate over the loop's."""
    for engine, (colour, marker, label) in LOOKS.items():
        names = {name: f"{name}_{engine}_over_loop" if engine != "auto" else f"{name}_over_loop" for name in rows}
        found = {row: statistics[names[name]] for row, name in enumerate(rows) if names[name] in statistics}
        if found:
            ends = [[v.value - v.low, v.high - v.value] for v in found.values()]
            values = [v.value for v in found.values()]
            ax.errorbar(values, list(found), xerr=np.transpose(ends), fmt=marker, color=colour, label=label)
    ax.plot([WANTED.get(name, np.nan) for name in rows], range(len(rows)), "|", color=plots.GREY, markersize=13,
            label="aim")  # fmt: skip
    ax.axvline(1, color=plots.GREY, linestyle="--", linewidth=1)
    every = {**WORKLOADS, **MORE, **RESIDUAL}
    ax.set_yticks(range(len(rows)), [f"{name[:2] if name in RESIDUAL else name}: {every[name]}" for name in rows])
    ax.tick_params(axis="y", labelsize=9)
    ax.set(xscale="log", xlabel="rate over the einsum loop's on one core (dashed: equal)", ylim=(len(rows) - 0.5, -0.5))
    best = next(engine for engine in LOOKS if f"{rows[0]}_{engine}_over_loop" in statistics)
    values = [statistics[f"{name}_{best}_over_loop"].value for name in rows if name in WORKLOADS]
    ax.set_title(f"{LOOKS[best][2]}: {min(values):.3g} to {max(values):.3g} times as fast as the loop", loc="left")


def draw_shares(ax: Axes, shares: Mapping[str, stats.Interval | None]) -> None:
    for row, share in enumerate(shares.values()):
        if share is not None:
            ax.barh(row, 100 * share.value, color=LOOKS["fused"][0])
            ax.text(100 * share.value + 2, row, f"{100 * share.value:.0f}%", va="center", fontsize=9)
    known = [share.value for share in shares.values() if share is not None]
    ax.axvline(100, color=plots.GREY, linestyle="--", linewidth=1)
    ax.set(xlabel="fused, % of the limit", xlim=(0, 125))
    ax.set_title(f"{100 * min(known):.0f}-{100 * max(known):.0f}% of the limit", loc="left")


def draw_growth(ax: Axes, axis: str, points: Mapping[int, Raced], limit: list[float]) -> None:
    """Cost of an instance-step along one axis, with the limit."""
    for engine in ("fused", "loop"):
        costs = {x: 1e6 / done.medians[engine] for x, done in points.items() if engine in done.rates}
        colour, marker, _ = LOOKS[engine]
        ax.plot(list(costs), list(costs.values()), color=colour, marker=marker, markersize=5, label=engine)
        if engine == "fused":
            title = f"{max(costs) / min(costs):,.0f} x {axis}:\ncost x {costs[max(costs)] / costs[min(costs)]:.3g}"
    ax.set(xscale="log", yscale="log", xlabel={"instances": "I"}.get(axis, axis))
    ax.set_title(title, fontsize=10)
    ax.plot(list(points), limit, color=plots.GREY, linestyle="--", label="limit")


if __name__ == "__main__":
    report.experiment(main)
