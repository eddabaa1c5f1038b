"""What computation_in_superposition.py counts: functions at the best offer, laws of their growth, their pictures."""

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.measure.functions import computed, ranked
from toysup.shapes import Shape

RARE, AUC = 0.01, 0.95
PASS = 1 + int(np.log(0.9) / np.log(1 - RARE))  # |x| that may share a neuron: AUC > .95 while (1 - p)^(k - 1) > .9
COUNTS, NAMES = [computed, ranked(AUC)], {"absolute_value": "|x|", "x_plus_relu": "x + relu(x)", "and": "AND"}
KEY, SHAPE = ["task", "kind", "by"], ["width", "neurons", "blocks"]
SAID = {"squares": "by squared error", "auc": "by AUC > .95"}
GUIDE = """Squared error counts a function by the share
of it that a line misses and the network gets.
AUC > .95 asks only that the output ranks
x on above x off: neurons can be shared.
4th powers punish one large error more
than many small ones."""


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each network and count: `by` squares and, of |x|, by AUC."""
    table = table.assign(offered=table["n_features"].fillna(table["importance"]).astype(float), by="squares")
    auc = table[table["task"] == "absolute_value"].assign(by="auc")
    table = pd.concat([table, auc], ignore_index=True)
    return table.assign(count=table["computed"].where(table["by"] == "squares", table["ranked"]))


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


def draw_asked(asked: plots.Axes, rows: pd.DataFrame) -> None:
    """|x| computed against |x| asked for, by either count and either loss, at the middle shape."""
    sizes = sorted(rows.loc[rows["task"] == "absolute_value", "width"].unique())
    size = sizes[len(sizes) // 2]
    own = rows[(rows["task"] == "absolute_value") & (rows["kind"] != "frozen") & (rows["shape"] == Shape(size, 1))]
    own = own.assign(by=own["by"].map(SAID), kind=own["kind"].map({"trained": "on squares", "fourth": "on 4th powers"}))
    plots.band(asked, own, "offered", "count", "by", line="kind")
    plots.level(asked, size, f"{size} neurons", right=True)
    plots.ticks(asked, x=own["offered"].unique(), log="x")
    asked.set(xlabel="functions asked for", ylabel="functions computed", ylim=(0, 3.4 * size),
              title=f"|x| in {size} neurons, {size} dimensions:\nwhat is asked for, what is computed")  # fmt: skip
    plots.legend(asked, loc="upper right", size=9)


def draw_counts(shares: plots.Axes, below: np.ndarray, held: dict) -> None:
    """All tasks and shapes over their bound; capacity of |x| against neurons and parameters, by either count."""
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
    for ax, (by, x, other) in zip(below, panels, strict=False):
        for kind in ("trained", other):
            own = held["absolute_value", kind, by].query("blocks == 1")
            for width, means in own.groupby(["width", x])["recovered"].mean().clip(lower=0.1).groupby("width"):
                plots.curve(ax, means.droplevel("width"), color=widths[width], linestyle=styles[kind])
        places = sorted(own[x].unique())
        for times in ((1, PASS) if by == "auc" else (1,)) if x == "neurons" else ():
            plots.null(ax, places, times * np.array(places), f"{times} a neuron")
        plots.ticks(ax, x=places, y=[0.1, 0.3, 1, 3, 10, 30, 100, 300], log=True)
        ax.set(xlabel=x if x == "neurons" else "parameters of the block, 2 x width x neurons",
               ylabel="functions at the best offer", title=f"|x| counted {SAID[by]},\nagainst {x}")  # fmt: skip
    below[3].axis("off")
    looks = {f"width {width}": {"marker": "o", "color": colour} for width, colour in widths.items()}
    looks |= dict(zip(("embeddings trained", "embeddings frozen", "trained on 4th powers of the error"),
                      ({"linestyle": style} for style in styles.values()), strict=True))  # fmt: skip
    plots.legend(below[3], looks, loc="upper left", size=11)
    plots.note(below[3], GUIDE, "lower left", size=10.5)
