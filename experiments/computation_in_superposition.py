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

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from toysup import plots, stats
from toysup.ensemble import Trained, one_thread
from toysup.features import SparseBoolean, SparseUniform
from toysup.measure.functions import computed, power_losses, ranked
from toysup.models import ResidualMLP
from toysup.setting import Adam, Cosine, Model, QuarterCosine, Setting
from toysup.shapes import Shape
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid
from toysup.tasks import AbsoluteValue, And, XPlusRelu

QUESTION = "Do networks compute more functions than they have neurons, and do neurons or parameters set how many?"
LOSSES = {1: 6.96e-4, 2: 6.90e-4, 3: 6.58e-4}  # published, by blocks
HIDDEN, OFFERED, STEPS = {1: 50, 2: 25, 3: 17}, {1: 100, 2: 100, 3: 102}, {1: 1000, 2: 1000, 3: 10_000}
NAIVE = {2: 1 / 2 * 0.01 / 6, 4: 1 / 2 * 0.01 / 10}  # half the functions, p E relu(x)^q of an active feature
SHARED = 1 / 4  # of NAIVE[4]: twice as many functions, an eighth of each
RARE, DENSER, BOOLEAN, AUC = 0.01, 0.05, 0.2, 0.95
PASS = 1 + int(np.log(0.9) / np.log(1 - RARE))  # |x| that may share a neuron: AUC > .95 while (1 - p)^(k - 1) > .9
KINDS = {"absolute_value": ["frozen", "trained", "fourth"], "x_plus_relu": ["frozen", "trained"],
         "and": ["frozen", "trained"]}  # fmt: skip
LOADS = {("absolute_value", "frozen"): (0.5, 1, 2, 4), ("linear", "frozen"): (2,), ("linear", "trained"): (2,),
         ("absolute_value", "trained"): (1, 2, 4, 8), ("absolute_value", "fourth"): (1, 2, 4, 8)}  # fmt: skip
COUNTS, NAMES = [computed, ranked(AUC)], {"absolute_value": "|x|", "x_plus_relu": "x + relu(x)", "and": "AND"}
KEY, EACH, SHAPE = ["task", "kind", "by"], "{task}_{kind}_by_{by}_", ["width", "neurons", "blocks"]
GUIDE = """Squared error counts a function by the share
of it that a line misses and the network gets.
AUC > .95 asks only that the output ranks
x on above x off: neurons can be shared.
4th powers punish one large error more
than many small ones."""


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
        quick=dict(share=0.3, published=(300, 512), depths=(1,), seeds=3, steps=400, widths=(8, 16), small=((8,), (8,)),
                   deep=(), middle=8, rates=(0.01, 0.03), extend=0),
        smoke=dict(share=0.003, published=(110, 32), seeds=2, steps=4, batch=64, booleans=12, pairs=16, widths=(4,),
                   kinds=KINDS | {"x_plus_relu": [], "and": ["frozen"]}, small=((4,), (4,)), middle=4, loads=2),
    )  # fmt: skip

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
            features, task = SparseBoolean(size.booleans, BOOLEAN), And(n_pairs=size.pairs)
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

    def denser(grid: Grid) -> Grid:
        return replace(grid, axes={**grid.axes, "features.density": [DENSER]})

    cells = [Cell(task, kind, shape, 4 if kind == "fourth" else 2) for task, kinds in size.kinds.items()
             for kind in kinds for shape in shapes(task, kind)]  # fmt: skip
    cells += [Cell("linear", kind, Shape(d, 0)) for kind in size.kinds["and"] for d in size.small[0]]
    cells += [Cell("published", kind, Shape(size.published[0], b, HIDDEN[b]), power) for kind in ("mixed", "unmixed")
              for power in (2, 4) for b in size.depths if power == 2 or b == 1]  # fmt: skip
    middle, half = Shape(size.middle, 1), Cell("published", "mixed", Shape(1000, 1, 50))
    published, counting, alone = {"task": "published"}, {"task": list(KINDS)}, {"checks": ["never_below_the_bound"]}
    fourth = published | {"kind": "unmixed", "power": 4}
    return Study(
        cells, grid, seeds=size.seeds, derive=counted,
        measures=lambda cell: [power_losses, bound] if cell.task == "published" else COUNTS,
        search=Search(probe, lambda cell: (0.01, 0.03) if cell.task == "linear" else size.rates, score,
                      extend=size.extend, of=lambda cell: cell.task != "published"),
        variants={"half the steps": Variant({"steps": 0.5}, lambda cell: cell.shape == middle or cell == half),
                  "a tenth of the steps": Variant({"steps": 0.1}, lambda cell: cell == half._replace(
                      shape=Shape(1000, 3, 17))),
                  "denser": Variant(denser, lambda cell: cell.shape == middle and cell.task == "absolute_value")},
        findings={
            "losses": Finding(losses, ["kind", "blocks", "power"], "{kind}_{blocks}_trained_{power}_{column}",
                              published),
            "beside": Finding(beside, "blocks", lambda column, blocks: column.replace("@", str(blocks)),
                              published | {"kind": "mixed", "power": 2}),
            "other_lengths": Finding(lambda rows: stats.mean(rows["squares"] / NAIVE[2]), ["blocks", "variant"],
                                     where=lambda t: (t["task"] == "published") & (t["variant"] != ""), variant=None),
            "held": Finding(capacities, KEY, where=counting, kept=False),
            "law": Finding(law, KEY, EACH + "{column}", counting),
            "facts": Finding(facts, KEY, EACH + "{column}", counting, variant=None),
            "over_linear": Finding(over_linear, ["task", "kind"], where={"task": "and"}),
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
                    where=counting, each=EACH + name, combine=None)
              for name, form in {"neurons": "d L", "parameters": "d^2 L", "width": "d"}.items()),
            *(Claim(f"more_than_{name}", f"some shape ranks more |x| than {times} a neuron", lambda held, times=times,
                    of=of: exceeds(held, times * held[of]), by=KEY, where={"task": "absolute_value", "by": "auc"},
                    each=f"{{task}}_{{kind}}_more_than_{name}", combine=None)
              for name, times, of in (("neurons", 1, "neurons"), ("sharing", PASS, "most"))),
            Claim("ranks_more_than_linear", "at d = 8 every shape ranks more ANDs than a readout without neurons",
                  lambda over_linear: stats.every(*(stats.decide(one, (1, np.inf)) for (d, *_), one in
                                                    over_linear.items() if d < 16)),
                  by=["task", "kind"], where={"task": "and"}, each=EACH[:13] + "_ranks_more_than_linear", combine=None),
            Check("never_below_the_bound", "no loss by squares lies below 99% of its bound (else there is a bug)",
                  lambda rows: stats.mean(rows["squares"] / rows["bound"]), (0.99, np.inf),
                  by=["kind", "blocks", "variant"], where=published | {"power": 2}, variant=None),
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


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each network and count: `by` squares and, of |x|, by AUC."""
    table = table.assign(offered=table["n_features"].fillna(table["importance"]).astype(float), by="squares")
    auc = table[table["task"] == "absolute_value"].assign(by="auc")
    table = pd.concat([table, auc], ignore_index=True)
    return table.assign(count=table["computed"].where(table["by"] == "squares", table["ranked"]))


def losses(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    return {"judged_2_over_naive": stats.mean(rows["squares"] / NAIVE[2]),
            "judged_4_over_naive": stats.mean(rows["fourth_powers"] / NAIVE[4]),
            "bound_over_naive": stats.mean(rows["bound"] / NAIVE[2])}  # fmt: skip


def beside(rows: pd.DataFrame, blocks: int) -> dict[str, stats.Interval]:
    gain = (NAIVE[2] - rows["squares"]) / (NAIVE[2] - rows["bound"])
    return {"loss_@": stats.mean(rows["squares"]), "gain_@_of_what_neurons_can_correct": stats.mean(gain),
            "loss_@_over_published": stats.mean(rows["squares"] / LOSSES[blocks])}  # fmt: skip


def capacities(rows: pd.DataFrame) -> pd.DataFrame:
    """Each shape's and seed's count at the shape's best offer, and whether the largest offer adds less than 5%."""
    found = []
    for key, cell in rows.groupby([*SHAPE, "parameters", "most"]):
        *smaller, largest = cell.groupby("offered")["count"].mean()
        own = dict(zip([*SHAPE, "parameters", "most"], key, strict=True), enough=1.05 * max(smaller) >= largest)
        found.append(stats.capacity(cell, load="offered", recovered="count").reset_index().assign(**own))
    return pd.concat(found, ignore_index=True)


def law(held: pd.DataFrame) -> dict:
    """Exponents over shapes of one block (with h = d, H = d L, so that H / d stands for L), and each law's AICc above
    the lowest, with F = C min(d, H) among them, which is no power law. Undecided where shapes are few."""
    one = held[held["blocks"] == 1]
    cells = one.groupby(["width", "neurons"]).mean(numeric_only=True)
    if len(cells) < 6 or cells["recovered"].min() <= 0:  # there is no logarithm
        return {"decided": dict.fromkeys(("neurons", "parameters", "width"), "undecided")}
    fit = stats.fit_exponents(one.assign(depth=one["neurons"] / one["width"], budget=one["parameters"]), hold_out=1.5)
    off, n = np.log(cells["recovered"] / cells["most"]), len(cells)
    aicc = {**fit.laws["aicc"], "min(d, H)": n * np.log(off.var(ddof=0)) + 4 + 12 / (n - 3)}  # 2 numbers fitted
    return {"a": fit.a, "b": fit.b, "a_minus_2b": fit.a_minus_2b, "decided": fit.decided(),
            "aicc_above_the_lowest": {name: value - min(aicc.values()) for name, value in aicc.items()}}  # fmt: skip


def facts(rows: pd.DataFrame, held: pd.DataFrame) -> dict:
    """Functions over those of the naive network; whether depth, offers, length and density matter."""
    sums = held.groupby("seed")[["recovered", "most"]].sum()
    others = {name: capacities(own) for name, own in rows[rows["variant"] != ""].groupby("variant")}
    both = held.merge(others["half the steps"], on=[*SHAPE, "seed"])
    found = {"over_naive": stats.mean(sums["recovered"] / sums["most"]), "offers_suffice": held["enough"].mean(),
             "half_the_steps": stats.ratio(both["recovered_y"], both["recovered_x"], paired=True),
             "highest_over_bound": (held["recovered"] / held["most"]).max()}  # fmt: skip
    if "denser" in others:
        found["denser"] = stats.mean(others["denser"]["recovered"])
    if held["blocks"].max() > 1:
        square = held[(held["width"] == held["neurons"]) & (held["width"] > 8)]
        sums = square.groupby(["blocks", "seed"])["recovered"].sum()
        found["4_blocks_over_1"] = stats.ratio(sums[4], sums[1], paired=True)
    return found


def over_linear(rows: pd.DataFrame, table: pd.DataFrame, kind: str) -> dict[tuple, stats.Interval]:
    """Shape -> the share of the most ANDs offered that it ranks, over a linear readout's."""
    linear, found = table[(table["task"] == "linear") & (table["kind"] == kind)], {}
    for shape, own in rows.groupby(SHAPE):
        own, readout = own[own["offered"] == own["offered"].max()], linear[linear["width"] == shape[0]]
        found[shape] = stats.ratio(own["ranked"] / own["offered"], readout["ranked"] / readout["offered"])
    return found


def exceeds(held: pd.DataFrame, unit: pd.Series) -> stats.Verdict:
    """Whether some shape's count exceeds a column, at a level corrected for the number of shapes."""
    groups = [own for _, own in (held["recovered"] / unit).groupby([held[name] for name in SHAPE])]
    return stats.some(*(stats.decide(stats.mean(own, 1 - 0.05 / len(groups)), (1, np.inf)) for own in groups))


def answer(losses: dict, facts: dict) -> str:
    top = max(facts["absolute_value", kind, "squares"]["over_naive"].value for kind in ("frozen", "trained"))
    mixed, unmixed = (losses[kind, 1, 2]["judged_2_over_naive"].value - 1 for kind in ("mixed", "unmixed"))
    fourth = losses["unmixed", 1, 4]["judged_4_over_naive"].value / SHARED
    return (f"By squared error |x| reaches {top:.0%} of one function a neuron or dimension, which no weights exceed; "
            f"the published loss, {mixed:+.0%} from one function a neuron, is {unmixed:+.0%} with a noiseless stream; "
            f"by 4th powers it is {fourth:.2f} of what shared neurons reach.")  # fmt: skip


def draw(rows: pd.DataFrame, losses: dict, held: dict) -> plots.Figure:
    """Above: published losses, 4th powers, functions against functions asked for, all tasks. Below: capacities."""
    figure, axes = plots.figure(2, 4, width=16, height=4.4)
    loss, powers, asked, shares = axes[0]
    names = {"mixed": "trained as published", "unmixed": "control: x itself instead of x W W$^T$"}
    for kind, colour in plots.category_colours(names).items():
        known = {b: own for (k, b, power), own in losses.items() if (k, power) == (kind, 2)}
        plots.interval(loss, list(known), [own["judged_2_over_naive"] for own in known.values()], color=colour,
                       label=names[kind])  # fmt: skip
        for b, own in known.items():
            loss.plot([b - 0.25, b + 0.25], [own["bound_over_naive"].value] * 2, "--", color=colour)
    plots.interval(loss, {b: value / NAIVE[2] for b, value in LOSSES.items()}, color="black", marker="_", markersize=22,
                   label="published losses")  # fmt: skip
    plots.level(loss, 1, "naive: one function a neuron, x for the rest")
    plots.ticks(loss, x=list(LOSSES))
    loss.set(xlabel="residual blocks (50 neurons in all)", ylabel="squared error / naive network's", xlim=(0.4, 3.6),
             ylim=(0.6, 1.4), title="x + relu(x), 100 functions,\n50 neurons, trained on squares")  # fmt: skip
    plots.legend(loss, {"the lowest any weights could reach": {"linestyle": "--"}}, loc="upper left", size=9)
    for (label, colour), judge in zip(plots.category_colours(["squares", "4th powers"]).items(), (2, 4), strict=True):
        found = [losses["unmixed", 1, power][f"judged_{judge}_over_naive"] for power in (2, 4)]
        plots.interval(powers, [0, 1], found, color=colour, label=f"judged by {label}", markersize=7)
    plots.level(powers, 1, "naive")
    plots.level(powers, SHARED, "two functions share each neuron (4th powers)")
    plots.ticks(powers, x=["trained on\nsquares", "trained on\n4th powers"])
    plots.ticks(powers, y=[0.03, 0.1, 0.3, 1, 3], log="y")
    powers.set(xlim=(-0.6, 1.5), ylim=(0.015, 8), ylabel="error / naive network's",
               title="The control network of 1 block,\nby either power of the error")  # fmt: skip
    plots.legend(powers, loc="upper left", size=9)

    sizes = sorted(rows.loc[rows["task"] == "absolute_value", "width"].unique())
    size, said = sizes[len(sizes) // 2], {"squares": "by squared error", "auc": "by AUC > .95"}
    own = rows[(rows["task"] == "absolute_value") & (rows["kind"] != "frozen") & (rows["shape"] == Shape(size, 1))]
    own = own.assign(by=own["by"].map(said), kind=own["kind"].map({"trained": "on squares", "fourth": "on 4th powers"}))
    plots.band(asked, own, "offered", "count", "by", line="kind")
    plots.level(asked, size, f"{size} neurons", right=True)
    plots.ticks(asked, x=own["offered"].unique(), log="x")
    asked.set(xlabel="functions asked for", ylabel="functions computed", ylim=(0, 3.4 * size),
              title=f"|x| in {size} neurons, {size} dimensions:\nwhat is asked for, what is computed")  # fmt: skip
    plots.legend(asked, loc="upper right", size=9)

    widths = plots.category_colours(sorted({width for own in held.values() for width in own["width"]}))
    tasks = [(task, kind) for task, kind, by in held if by == "squares"]
    for at, (task, kind) in enumerate(tasks):
        own = held[task, kind, "squares"]
        for place, ((width, _, blocks), one) in enumerate((own["recovered"] / own["most"]).groupby(
                [own[name] for name in SHAPE])):  # fmt: skip
            shares.plot(at + 0.05 * place - 0.3, one.mean(), marker="o" if blocks == 1 else "x", color=widths[width])
    plots.level(shares, 1, "bound: min(width, neurons)")
    plots.ticks(shares, x=[f"{NAMES[task]} {kind}" for task, kind in tasks], turn=30)
    shares.set(ylabel="functions at the best offer / bound", ylim=(0, 1.12),
               title="All tasks and shapes by squared error\n(crosses: 2 or 4 blocks)")  # fmt: skip

    panels = (("squares", "neurons", "frozen"), ("auc", "neurons", "fourth"), ("auc", "parameters", "fourth"))
    styles = {"trained": "-", "frozen": ":", "fourth": "--"}
    for ax, (by, x, other) in zip(axes[1], panels, strict=False):
        for kind in ("trained", other):
            own = held["absolute_value", kind, by].query("blocks == 1")
            for width, means in own.groupby(["width", x])["recovered"].mean().clip(lower=0.1).groupby("width"):
                plots.curve(ax, means.droplevel("width"), color=widths[width], linestyle=styles[kind])
        places = sorted(own[x].unique())
        for times in ((1, PASS) if by == "auc" else (1,)) if x == "neurons" else ():
            plots.null(ax, places, times * np.array(places), f"{times} a neuron")
        plots.ticks(ax, x=places, y=[0.1, 0.3, 1, 3, 10, 30, 100, 300], log=True)
        ax.set(xlabel=x if x == "neurons" else "parameters of the block, 2 x width x neurons",
               ylabel="functions at the best offer", title=f"|x| counted {said[by]},\nagainst {x}")  # fmt: skip
    axes[1, 3].axis("off")
    looks = {f"width {width}": {"marker": "o", "color": colour} for width, colour in widths.items()}
    looks |= dict(zip(("embeddings trained", "embeddings frozen", "trained on 4th powers of the error"),
                      ({"linestyle": style} for style in styles.values()), strict=True))  # fmt: skip
    plots.legend(axes[1, 3], looks, loc="upper left", size=11)
    plots.note(axes[1, 3], GUIDE, "lower left", size=10.5)
    return figure


if __name__ == "__main__":
    experiment(study)
