"""How much faster is toysup than the loop everybody writes, on the same core, with the same result?

The loop is the field's: an instance axis by hand, two einsums, torch.rand, torch.optim.AdamW (`tests/oracles.py`). Both
train tied ReLU autoencoders at batch 1024, on one thread, in turn; each number is a ratio of rates (instance-steps per
second) from interleaved repetitions in one run, because absolute times mean little on a shared machine. The draws are
timed against torch.rand likewise.

The loop profits from the allocator settings that toysup makes for its own process (freed batches are kept), so the
ratios are lower than against the same loop alone.

Rule: an engine is faster if the 95% interval of every workload's ratio lies above 1. Control: on equal draws both end
at the same loss; without it a ratio says nothing.

About 3 minutes, --quick 1 minute, after compilation.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from toysup import plots, report, stats
from toysup.ensemble import Stack, initial_values, one_thread, train
from toysup.features import SparseUniform
from toysup.models import TiedAutoencoder
from toysup.random import uniforms
from toysup.setting import Adam, Model, Setting
from toysup.tasks import Identity

QUESTION = "How much faster does toysup train toy models than a plain einsum loop, on one core, to the same loss?"
WORKLOADS = {  # name: (n, m, instances)
    "w1": (5, 2, 8), "w2": (20, 5, 10), "w3": (20, 5, 1000), "w4": (400, 30, 10), "w5": (2, 1, 2500),
}  # fmt: skip
QUICK = ("w1", "w2", "w5")
DENSITY = 0.1


def loop() -> Callable:
    """The oracle's loop, from the tests."""
    path = Path(__file__).resolve().parent.parent / "tests" / "oracles.py"
    spec = importlib.util.spec_from_file_location("oracles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.einsum_loop


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(
    theirs: Callable[[int], object], ours: Callable[[int], object], run: report.Run
) -> tuple[np.ndarray, list[int]]:
    """(repetition, 2): steps per second of both, in turn, each for about the same time; and their steps each time."""
    aim, repetitions = run.pick(default=2.0, quick=1.0, smoke=0.0), run.pick(default=7, quick=5, smoke=2)
    steps = [max(2, round(aim / (seconds(lambda f=f: f(4)) / 4))) for f in (theirs, ours)]
    rows = [[n / seconds(lambda n=n, f=f: f(n)) for n, f in zip(steps, (theirs, ours), strict=True)]
            for _ in range(repetitions)]  # fmt: skip
    return np.array(rows), steps


def main(run: report.Run) -> None:
    oracle, statistics, controls, rates, most = loop(), {}, {}, {}, 0
    names = run.pick(default=tuple(WORKLOADS), quick=QUICK, smoke=("w1",))
    batch = run.pick(default=1024, smoke=64)
    with one_thread():
        for name in names:
            n, m, instances = WORKLOADS[name]
            optimizer = Adam(weight_decay=0.01)
            setting = Setting(
                SparseUniform(n, DENSITY), Identity(), Model(TiedAutoencoder, width=m), optimizer, 1, batch
            )
            stack = Stack.of(setting, range(instances))

            def ours(steps: int, stack: Stack = stack) -> object:
                setting = replace(stack.setting, steps=steps)
                return train(replace(stack, setting=setting), device="cpu", compile=run.mode != "smoke")

            def theirs(steps: int, size: tuple = (instances, n, m)) -> object:
                return oracle(*size, batch, steps, DENSITY)

            ours(1)  # compiles
            speeds, steps = timed(theirs, ours, run)
            rates[name], most = instances * speeds, max(most, *steps)
            statistics[f"{name}_general_over_loop"] = stats.ratio(rates[name][:, 1], rates[name][:, 0], paired=True)
            controls[name] = {"loop_per_second": np.median(rates[name][:, 0]),
                              "general_per_second": np.median(rates[name][:, 1]),
                              "relative_loss_difference": difference(oracle, ours, stack)}  # fmt: skip
        seed, out, numbers = np.arange(1), torch.empty(1, 1024, 20), torch.empty(1024, 20)
        draws, _ = timed(lambda k: [torch.rand(1024, 20, out=numbers) for _ in range(100 * k)],
                      lambda k: [uniforms(seed, s, 1024, 20, out=out) for s in range(100 * k)], run)  # fmt: skip
    statistics["uniforms_over_torch_rand"] = stats.ratio(draws[:, 1], draws[:, 0], paired=True)
    controls["draws"] = {"torch_rand_per_second": 2_048_000 * np.median(draws[:, 0])}
    faster = [stats.decide(statistics[f"{name}_general_over_loop"], (1, np.inf)) for name in names]
    same = max(control.get("relative_loss_difference", 0) for control in controls.values())
    verdict = {"faster_than_the_loop": stats.every(*faster), "same_loss": "supported" if same < 1e-4 else "rejected"}
    figure, axes = plots.figure(width=8)
    for row, name in enumerate(names):
        value = statistics[f"{name}_general_over_loop"]
        axes[0, 0].barh(row, value.value, color="#0173b2", xerr=[[value.value - value.low], [value.high - value.value]])
    labels = ["{}: n={}, m={}, I={:,}".format(name, *WORKLOADS[name]) for name in names]
    axes[0, 0].set_yticks(range(len(names)), labels)
    axes[0, 0].axvline(1, color=plots.GREY, linestyle="--")
    slowest = min(statistics[f"{name}_general_over_loop"].value for name in names)
    axes[0, 0].set(xlabel="rate over the einsum loop's, one core (dashed: equal)",
                   title=f"The general path is at least {slowest:.1f} times as fast as the loop")  # fmt: skip
    axes[0, 0].invert_yaxis()
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls, engine="general",
                 instances=sum(WORKLOADS[name][2] for name in names), steps=most)  # fmt: skip


def difference(oracle: Callable, ours: Callable, stack: Stack, steps: int = 50) -> float:
    """Largest relative difference of the last loss, same start and same draws, over at most eight instances."""
    few = stack.take(range(min(8, len(stack))))
    n, m = few.setting.features.n_features, few.setting.model.arguments["width"]
    start, _ = initial_values(few)
    data = lambda s: few.setting.features.transform(uniforms(few.data_seed, s, few.setting.batch, n))  # noqa: E731
    *_, losses = oracle(len(few), n, m, few.setting.batch, steps, DENSITY, data=data, start=(start["W"], start["b"]))
    history = ours(steps, few).history[:, -1]  # 50 stretches: the last is the last step
    return float(((history - losses[:, -1]) / losses[:, -1]).abs().max())


if __name__ == "__main__":
    report.experiment(main)
