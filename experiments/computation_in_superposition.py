"""Do networks compute more functions than they have neurons, and do neurons or parameters set how many?

A bound: outputs read H neurons linearly; if r is what targets ask beyond what they get without neurons, no weights
bring E |r - readout|^2 below the sum of all but the H largest eigenvalues of E r r^T. Braun et al. 2025 train residual
MLPs on y = x + relu(x), 100 features in 50 neurons, frozen unit rows W in 1000 dimensions, read by W^T: 17 to 21% below
the naive network (one function a neuron, x for the rest). Bhagat et al. 2026: the stream carries x W W^T and neurons
correct that mixture; then the bound is .69 of naive, and .996 where x replaces it ("unmixed"). 4th powers of the error
prefer small errors on all functions: two may share a neuron (an eighth of naive each). Capacity of |x|, x + relu(x) and
AND (random pairs of 16 booleans) at width d, H neurons in 1 to 4 blocks, by two counts: by squares, beyond the best
line, at most min(d, H); by AUC > .95, where |x| can share neurons and AND is held against a readout without neurons.
After the first default run: rates of frozen embeddings are searched at n = min(d, H), frozen |x| is offered up to 4.
AND is short of training, so its laws decide nothing. Two cores: --quick about a minute, default about 11.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from toysup import plots, stats
from toysup.ensemble import Trained, one_thread
from toysup.features import SparseBoolean, SparseUniform
from toysup.measure.functions import computed, power_losses
from toysup.models import ResidualMLP
from toysup.setting import Adam, Cosine, Model, QuarterCosine, Setting
from toysup.shapes import Shape
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid
from toysup.tasks import AbsoluteValue, And, XPlusRelu

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _counting
from _counting import COUNTS, KEY, PASS, RARE

QUESTION = "Do networks compute more functions than they have neurons, and do neurons or parameters set how many?"
LOSSES = {1: 6.96e-4, 2: 6.90e-4, 3: 6.58e-4}  # published, by blocks
HIDDEN, OFFERED, STEPS = {1: 50, 2: 25, 3: 17}, {1: 100, 2: 100, 3: 102}, {1: 1000, 2: 1000, 3: 10_000}
NAIVE = {2: 1 / 2 * 0.01 / 6, 4: 1 / 2 * 0.01 / 10}  # half the functions, p E relu(x)^q of an active feature
SHARED = 1 / 4  # of NAIVE[4]: twice as many functions, an eighth of each
BOTH, EACH = ["frozen", "trained"], "{task}_{kind}_by_{by}_"
KINDS = {"absolute_value": [*BOTH, "fourth"], "x_plus_relu": BOTH, "and": BOTH}
LOADS = {("absolute_value", "frozen"): (0.5, 1, 2, 4), ("linear", "frozen"): (2,), ("linear", "trained"): (2,),
         ("absolute_value", "trained"): (1, 2, 4, 8), ("absolute_value", "fourth"): (1, 2, 4, 8)}  # fmt: skip


class Cell(NamedTuple):
    """`kind`: embeddings frozen, trained, or "fourth" (trained, on 4th powers); published networks: mixed, unmixed."""

    task: str  # "linear": AND, by a readout without neurons
    kind: str
    shape: Shape
    power: int = 2  # of the error; a whole number, so that networks of either power train apart

    width = property(lambda self: self.shape.width)
    blocks = property(lambda self: self.shape.depth)
    neurons = property(lambda self: self.shape.neurons)
    parameters = property(lambda self: 2 * self.width * self.neurons)
    most = property(lambda self: min(self.width, self.neurons or self.width))  # that squares can count


class Unbiased(ResidualMLP):
    """The published residual MLP; unmixed, each output gets x_i in place of (x W_E W_E^T)_i."""

    def __init__(self, n_in: int, n_out: int, *, shape: Shape, mixed: bool = True) -> None:
        super().__init__(n_in, n_out, shape=shape, hidden_bias=False)
        self.mixed = mixed

    def forward(self, x: Tensor, record: bool = False) -> Tensor:
        output = super().forward(x)
        return output if self.mixed else output + x - x @ (self.W_E @ self.W_E.T)


class Written(ResidualMLP):
    """A residual MLP whose outputs read what the blocks wrote to the stream, and not the embedded input."""

    def forward(self, x: Tensor, record: bool = False) -> Tensor:
        return super().forward(x) - x @ self.W_E @ self._unembed.T


def study(run: Run) -> Study:
    size = run.sizes(
        dict(share=1, published=(1000, 2048), depths=(1, 2, 3), seeds=8, steps=1500, batch=512, kinds=KINDS,
             booleans=16, pairs=64, widths=(8, 16, 32), small=((8, 16), (4, 8, 16)), deep=(2, 4), middle=16, loads=4,
             rates=(0.01, 0.02, 0.04), extend=2),
        quick=dict(share=0.2, published=(300, 512), depths=(1,), seeds=3, steps=180, widths=(8, 16), small=((8,), (8,)),
                   deep=(), middle=8, rates=(0.01, 0.03), extend=0),
        smoke=dict(share=0.003, small=2 * ((4,),), seeds=2, steps=4, batch=64, booleans=12, pairs=16, middle=4, loads=2,
                   kinds=KINDS | {"x_plus_relu": [], "and": BOTH[:1]}, widths=(4,), published=(110, 32)))  # fmt: skip

    def grid(cell: Cell, loads: tuple[float, ...] = ()) -> Grid:
        """All numbers of functions offered; AND learns the first of its pairs, the others have no importance."""
        if cell.task == "published":
            features, task = SparseUniform(OFFERED[cell.blocks], RARE, signed=True), XPlusRelu(exponent=cell.power)
            model = Model(Unbiased, shape=cell.shape, mixed=cell.kind == "mixed")
            steps = round(size.share * (STEPS[cell.blocks] if cell.kind == "mixed" else 1000))
            optimizer = Adam(3e-3, weight_decay=0.01, schedule=QuarterCosine())
            return Grid(Setting(features, task, model, optimizer, steps, size.published[1]))
        loads = loads or LOADS.get(cell[:2], (0.5, 1, 2))[: size.loads]
        numbers, own = [round(cell.most * load) for load in loads], "frozen" if cell.kind == "frozen" else "trained"
        optimizer = Adam(beta2=0.99, schedule=Cosine())
        if cell.task in ("and", "linear"):
            cls, read = (Written, own) if cell.task == "and" else (ResidualMLP, "trained")
            model = Model(cls, shape=cell.shape, embedding=own, unembedding=read)
            features, task = SparseBoolean(size.booleans, 0.2), And(n_pairs=size.pairs)
            axes = {"task.importance": {n: [1.0] * n + [0.0] * (size.pairs - n) for n in numbers}}
            return Grid(Setting(features, task, model, optimizer, size.steps, size.batch // 2), axes)
        model = Model(ResidualMLP, shape=cell.shape, embedding=own, unembedding="tied" if own == "frozen" else own)
        features, task = SparseUniform(8, RARE, signed=True), XPlusRelu if cell.task == "x_plus_relu" else AbsoluteValue
        setting = Setting(features, task(exponent=cell.power), model, optimizer, size.steps, size.batch)
        return Grid(setting, {"features.n_features": numbers})

    def shapes(task: str, kind: str) -> list[Shape]:
        """Of one block; with as many neurons as dimensions, of 2 and 4 too. Trained AND has only such, of one."""
        few, (widths, neurons) = (task, kind) == ("and", "trained"), size.small if task == "and" else 2 * [size.widths]
        return [Shape(d, b, h // b) for d in widths for h in neurons if d == h or not few
                for b in (1, *(size.deep if d == h > 8 and not few else ()))]  # fmt: skip

    def probe(cell: Cell) -> Grid:
        """Offered twice what the naive network computes; frozen embeddings learn nothing there, and get as much."""
        return grid(cell, (1 if cell.kind == "frozen" and cell.task in ("absolute_value", "x_plus_relu") else 2,))

    cells = [Cell(task, kind, shape, 4 if kind == "fourth" else 2) for task, kinds in size.kinds.items()
             for kind in kinds for shape in shapes(task, kind)]  # fmt: skip
    cells += [Cell("linear", kind, Shape(d, 0)) for kind in size.kinds["and"] for d in size.small[0]]
    cells += [Cell("published", kind, Shape(size.published[0], b, HIDDEN[b]), power) for kind in ("mixed", "unmixed")
              for power in (2, 4) for b in size.depths if power == 2 or b == 1]  # fmt: skip
    middle, half = Shape(size.middle, 1), Cell("published", "mixed", Shape(1000, 1, 50))
    paper, counting, fourth = {"task": "published"}, {"task": list(KINDS)}, {"kind": "unmixed", "power": 4}
    alone = {"checks": ["never_below_the_bound"]}  # published networks have a published rate; others have no bound
    counts = {"checks": ["learning_rate_bracketed"], "combine": None}
    return Study(
        cells, grid, seeds=size.seeds, derive=_counting.counted,
        measures=lambda cell: [power_losses, bound] if cell.task == "published" else COUNTS,
        search=Search(probe, lambda cell: (0.01, 0.03) if cell.task == "linear" else size.rates, score,
                      extend=size.extend, of=lambda cell: cell.task != "published"),
        variants={"half the steps": Variant({"steps": 0.5}, lambda cell: cell.shape == middle or cell == half),
                  "a tenth of the steps": Variant({"steps": 0.1}, lambda c: c == (*half[:2], Shape(1000, 3, 17), 2)),
                  "denser": Variant(lambda own: replace(own, axes={**own.axes, "features.density": [0.05]}),
                                    lambda cell: cell.shape == middle and cell.task == "absolute_value")},
        findings={
            "losses": Finding(losses, ["kind", "blocks", "power"], "{kind}_{blocks}_trained_{power}_{column}", paper),
            "beside": Finding(beside, "blocks", lambda column, blocks: column.replace("@", str(blocks)),
                              paper | {"kind": "mixed", "power": 2}),
            "other_lengths": Finding(lambda rows: stats.mean(rows["squares"] / NAIVE[2]), ["blocks", "variant"],
                                     where=lambda t: (t["task"] == "published") & (t["variant"] != ""), variant=None),
            "held": Finding(_counting.capacities, KEY, where=counting, kept=False),
            "law": Finding(_counting.law, KEY, EACH + "{column}", counting),
            "facts": Finding(_counting.facts, KEY, EACH + "{column}", counting, variant=None),
            "over_linear": Finding(_counting.over_linear, ["task", "kind"], where={"task": "and"}),
        },
        claims=[
            Claim("published_losses", "losses are the published ones, within 5%", "beside.loss_@_over_published",
                  (0.95, 1.05), **alone),
            Claim("beats_naive", "they lie below the naive network's", "losses.judged_2_over_naive", (0, 1),
                  where={"kind": "mixed", "power": 2}, **alone),
            Claim("gain_vanishes_without_mixing", "with a noiseless stream they lie above 98% of it",
                  "losses.judged_2_over_naive", (0.98, np.inf), where={"kind": "unmixed", "power": 2}, **alone),
            Claim("fourth_powers_beat_naive", "without mixing, trained and judged by 4th powers, they lie below it",
                  "losses.judged_4_over_naive", (0, 1), where=fourth, **alone),
            Claim("fourth_powers_beat_sharing", "and below what two functions that share each neuron reach",
                  "losses.judged_4_over_naive", (0, SHARED), where=fourth, **alone),
            Claim("but_not_by_squares", "judged by squares, these lie above naive", "losses.judged_2_over_naive",
                  (1, np.inf), where=fourth, **alone),
            *(Claim(name, f"functions computed grow as {form}", lambda law, name=name: law["decided"][name], by=KEY,
                    where=counting, each=EACH + name, **counts)
              for name, form in {"neurons": "d L", "parameters": "d^2 L", "width": "d"}.items()),
            *(Claim(f"more_than_{name}", f"some shape ranks more |x| than {times} a neuron",
                    lambda held, times=times, of=of: _counting.exceeds(held, times * held[of]), by=KEY,
                    where={"task": "absolute_value", "by": "auc"}, each=f"{{task}}_{{kind}}_more_than_{name}", **counts)
              for name, times, of in (("neurons", 1, "neurons"), ("sharing", PASS, "most"))),
            Claim("ranks_more_than_linear", "at d = 8 every shape ranks more ANDs than a readout without neurons",
                  lambda over_linear: stats.every(*(stats.decide(one, (1, np.inf)) for (d, *_), one in
                                                    over_linear.items() if d < 16)), by=["task", "kind"],
                  where={"task": "and"}, each=EACH[:13] + "_ranks_more_than_linear", **counts),
            Check("never_below_the_bound", "no loss by squares lies below 99% of its bound (else there is a bug)",
                  lambda rows: stats.mean(rows["squares"] / rows["bound"]), (0.99, np.inf),
                  by=["kind", "blocks", "variant"], where=paper | {"power": 2}, variant=None),
            bracketed(where=lambda table: table["task"] != "published"),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def bound(trained: Trained) -> Tensor:
    """The lowest mean squared error that any readout of H neurons has beside the fixed part, (instance,)."""
    rows, p, shape = trained.buffers["W_E"].double(), RARE, trained.setting.build().shape
    one = torch.eye(rows.shape[1], dtype=torch.float64)
    off = one - rows @ rows.mT if trained.setting.model.arguments["mixed"] else 0 * rows @ rows.mT
    second = p / 3 * off @ off + p / 6 * (2 * off + one) + p * p / 16 * (1 - one)  # of x (1 - W W^T) + relu(x)
    with one_thread():
        return torch.linalg.eigvalsh(second)[:, : -shape.neurons].sum(-1) / len(one)


def score(trained: Trained) -> Tensor:
    """What a rate is chosen by: functions computed, but the loss for 4th powers and without neurons."""
    if trained.setting.task.exponent == 4:
        return -power_losses(trained)["fourth_powers"]
    return computed(trained) if trained.setting.model.arguments["shape"].depth else -power_losses(trained)["squares"]


def losses(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    return {"judged_2_over_naive": stats.mean(rows["squares"] / NAIVE[2]),
            "judged_4_over_naive": stats.mean(rows["fourth_powers"] / NAIVE[4]),
            "bound_over_naive": stats.mean(rows["bound"] / NAIVE[2])}  # fmt: skip


def beside(rows: pd.DataFrame, blocks: int) -> dict[str, stats.Interval]:
    gain = (NAIVE[2] - rows["squares"]) / (NAIVE[2] - rows["bound"])
    return {"loss_@": stats.mean(rows["squares"]), "gain_@_of_what_neurons_can_correct": stats.mean(gain),
            "loss_@_over_published": stats.mean(rows["squares"] / LOSSES[blocks])}  # fmt: skip


def answer(losses: dict, facts: dict) -> str:
    top = max(facts["absolute_value", kind, "squares"]["over_naive"].value for kind in ("frozen", "trained"))
    mixed, unmixed = (losses[kind, 1, 2]["judged_2_over_naive"].value - 1 for kind in ("mixed", "unmixed"))
    fourth = losses["unmixed", 1, 4]["judged_4_over_naive"].value / SHARED
    return f"""By squared error |x| reaches {top:.0%} of one function a neuron or dimension, which no weights exceed;
        the published loss, {mixed:+.0%} from one function a neuron, is {unmixed:+.0%} with a noiseless stream; by 4th
        powers it is {fourth:.2f} of what shared neurons reach."""


def draw(rows: pd.DataFrame, losses: dict, held: dict) -> plots.Figure:
    """Above: published losses, 4th powers, functions against functions asked for, all tasks. Below: capacities."""
    figure, axes = plots.figure(2, 4, width=16, height=4.4)
    loss, powers = axes[0, :2]
    names = {"mixed": "trained as published", "unmixed": "control: x itself instead of x W W$^T$"}
    for kind, colour in plots.category_colours(names).items():
        known = {b: own for (k, b, power), own in losses.items() if (k, power) == (kind, 2)}
        over = {b: own["judged_2_over_naive"] for b, own in known.items()}
        plots.interval(loss, over, color=colour, label=names[kind])
        for b, own in known.items():
            loss.plot([b - 0.25, b + 0.25], [own["bound_over_naive"].value] * 2, "--", color=colour)
    plots.interval(loss, {b: value / NAIVE[2] for b, value in LOSSES.items()}, color="black", marker="_", markersize=22,
                   label="published losses")  # fmt: skip
    plots.level(loss, 1, "naive: one function a neuron, x for the rest")
    plots.ticks(loss, x=list(LOSSES))
    loss.set(xlabel="residual blocks", xlim=(0.4, 3.6), title="x + relu(x), 100 functions,\n50 neurons in all blocks",
             ylabel="squared error / naive network's", ylim=(0.6, max(1.4, 1.2 * loss.get_ylim()[1])))  # fmt: skip
    plots.legend(loss, {"the lowest any weights could reach": {"linestyle": "--"}}, loc="upper left", size=9)
    for (label, colour), judge in zip(plots.category_colours(["squares", "4th powers"]).items(), (2, 4), strict=True):
        found = [losses["unmixed", 1, power][f"judged_{judge}_over_naive"] for power in (2, 4)]
        plots.interval(powers, [0, 1], found, color=colour, label=f"judged by {label}", markersize=7)
    plots.level(powers, 1, "naive")
    plots.level(powers, SHARED, "two functions share each neuron (4th powers)")
    plots.ticks(powers, x=["trained on\nsquares", "trained on\n4th powers"], y=[0.03, 0.1, 0.3, 1, 3], log="y")
    powers.set(xlim=(-0.6, 1.5), ylim=(0.015, 8), ylabel="error / naive network's",
               title="The control network of 1 block,\nby either power of the error")  # fmt: skip
    plots.legend(powers, loc="upper left", size=9)
    _counting.draw_asked(axes[0, 2], rows)
    _counting.draw_counts(axes[0, 3], axes[1], held)
    return figure


if __name__ == "__main__":
    experiment(study)
