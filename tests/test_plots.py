"""The words draw what they were given: their artists hold the numbers; files stay small."""

import io
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from toysup import plots, stats
from toysup.checks import InputError
from toysup.plots import saving
from toysup.shapes import Shape
from toysup.stats import Interval

OPEN = Interval(2.0, -np.inf, np.inf)


def panel():
    return plots.figure()[1][0, 0]


def segments(ax):
    return [part.tolist() for held in ax.collections for part in held.get_segments()]


def table():
    rng = np.random.default_rng(0)
    cells = [(x, y, s) for x in (0.01, 0.1, 1.0) for y in (0.5, 2.0) for s in range(3)]
    frame = pd.DataFrame(cells, columns=["x", "y", "seed"])
    frame["z"] = rng.normal(size=len(frame))
    frame["kind"] = np.where(frame["x"] + 0.1 * frame["seed"] < 0.15, "sparse", "dense")
    return frame


def test_plots_change_neither_their_table_nor_global_state():
    frame, before, parameters = table(), table(), dict(mpl.rcParams)
    colours = plots.category_colours(frame["kind"])
    with plots.style():
        figure, axes = plots.figure(2, 2)
        plots.band(axes[0, 0], frame, "x", "z", "kind", log=True)
        plots.phase_map(axes[0, 1], frame, "x", "y", "z")
        plots.phase_map(axes[1, 0], frame, "x", "y", "kind", colours=colours)
        plots.null(axes[1, 1], [1, 2], [3, 4], "chance")
        plots.legend(axes[1, 0], colours, below=True)
        figure.canvas.draw()
    pd.testing.assert_frame_equal(frame, before)
    assert dict(mpl.rcParams) == parameters
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in axes.flat] == [("x", "z"), ("x", "y"), ("x", "y"), ("", "")]
    assert [text.get_text() for text in axes[1, 0].get_legend().texts] == ["sparse", "dense"]
    assert [text.get_text() for text in axes[1, 1].texts] == ["chance"]
    assert axes[1, 1].lines[0].get_linestyle() == ":"
    assert "matplotlib.pyplot" not in sys.modules or not mpl.pyplot.get_fignums()  # no window was made


def test_band_draws_the_mean_and_its_t_interval():
    _, axes = plots.figure()
    frame = table()
    plots.band(axes[0, 0], frame, "x", "z")
    rows = frame[frame["x"] == 0.1]["z"]
    expected = stats.mean(rows)
    assert axes[0, 0].lines[0].get_ydata()[1] == expected.value
    vertices = axes[0, 0].collections[0].get_paths()[0].vertices
    at = vertices[np.isclose(vertices[:, 0], 0.1), 1]
    np.testing.assert_allclose([at.min(), at.max()], [expected.low, expected.high])
    with pytest.raises(InputError, match="no column 'w'"):
        plots.band(axes[0, 0], frame, "x", "w")


def test_bars_stand_beside_each_other_with_their_intervals():
    _, axes = plots.figure()
    found = {"a": [Interval(1, 0.5, 2), Interval(3, 3, 3)], "b": [Interval(2, -np.inf, np.inf), Interval(4, 3, 5)]}
    ax = plots.bars(axes[0, 0], ["left", "right"], found, {"a": "red", "b": "blue"})
    assert [patch.get_height() for patch in ax.patches] == [1, 3, 2, 4]
    edges = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches)
    np.testing.assert_allclose(edges, [(-0.4, 0), (0, 0.4), (0.6, 1), (1, 1.4)], atol=1e-12)
    reach = [segment[:, 1].tolist() for held in ax.collections for segment in held.get_segments()]
    assert reach == [[0.5, 2], [3, 3], [2, 2], [3, 5]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["left", "right"]
    with pytest.raises(InputError, match="'a' has 2 intervals, expected one for each of 1 groups"):
        plots.bars(axes[0, 0], ["left"], found, {"a": "red", "b": "blue"})


def test_neuron_stacks_pile_up_absolute_weights_and_put_the_dead_last():
    _, axes = plots.figure()
    weights = np.array([[0.0, -2.0, 1.0], [4.0, 1.0, 0.5], [1.0, 0.0, -0.5]])
    plots.neuron_stacks(axes[0, 0], weights, np.array([True, True, False]))
    largest, others = axes[0, 0].collections
    boxes = [np.array([path.vertices[:4] for path in part.get_paths()]) for part in (largest, others)]
    assert boxes[0][:, :, 1].max(1) == pytest.approx([1, 1, 1])  # scaled
    tops = boxes[1][:, :, 1].max(1).reshape(2, 3)[-1]
    assert tops == pytest.approx([1.5, 1.25, 2.0])  # neuron 1 (feature 0), neuron 0 (feature 1), then the dead one
    colours = largest.get_facecolor()
    assert np.array_equal(colours[0], colours[1]) and not np.array_equal(colours[0], colours[2])


def test_cylinders_are_as_wide_and_high_as_networks_and_the_first_is_on_top():
    ax = plots.cylinders(panel(), [Shape(2, 4), Shape(4, 1)], stretch=3)
    boxes = [patch for patch in ax.patches if patch.__class__.__name__ == "Rectangle"]
    assert [(box.get_width(), box.get_height()) for box in boxes] == [(4, 12), (8, 3)]
    assert boxes[0].get_y() > boxes[1].get_y() + 3
    assert [text.get_text() for text in ax.texts] == ["2 wide, 4 deep\n8 neurons", "4 wide, 1 deep\n4 neurons"]


def test_phase_map_puts_every_cell_around_its_centre():
    _, axes = plots.figure(1, 2)
    frame = table()
    plots.phase_map(axes[0, 0], frame, "x", "y", "z")
    mesh = axes[0, 0].collections[0]
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], 10.0 ** np.array([-2.5, -1.5, -0.5, 0.5]))  # half-way in the logarithm
    np.testing.assert_allclose(corners[:, 0, 1], [0.25, 1, 4])
    expected = frame.pivot_table(index="y", columns="x", values="z").to_numpy()
    np.testing.assert_allclose(mesh.get_array().reshape(2, 3), expected)

    colours = plots.category_colours(["sparse", "dense"])
    plots.phase_map(axes[0, 1], frame, "x", "y", "kind", colours=colours)
    mesh = axes[0, 1].collections[0]
    shown = mesh.cmap(mesh.norm(mesh.get_array().reshape(2, 3)))[0, :, :3]
    # seeds 0, 1, 2: x = .01 gives two of three sparse, .1 one, 1 none
    np.testing.assert_allclose(shown, [colours["sparse"], colours["dense"], colours["dense"]])


def test_directions_turns_one_feature_up_and_keeps_the_rest_as_they_lie_to_it():
    _, axes = plots.figure()
    W = np.array([[0.3, -0.4], [1.0, 0.2], [0.0, 0.0]])
    plots.directions(axes[0, 0], W, ["red", "blue", "green"], numbers=True)
    tips = {line.get_color(): line.get_xydata()[1] for line in axes[0, 0].lines}
    drawn = np.array([tips[colour] for colour in ("red", "blue", "green")])
    assert drawn[0] == pytest.approx([0, 0.5])
    assert drawn @ drawn.T == pytest.approx(W @ W.T)
    assert np.linalg.det(drawn[:2]) == pytest.approx(np.linalg.det(W[:2]))  # turned, not mirrored
    assert axes[0, 0].lines[-1].get_color() == "red"
    assert [text.get_text() for text in axes[0, 0].texts] == ["2"]  # the only one longer than 1/2


def test_plots_refuse_what_they_cannot_draw():
    _, axes = plots.figure()
    with pytest.raises(InputError, match="no colour for \\['sparse'\\]"):
        plots.phase_map(axes[0, 0], table(), "x", "y", "kind", colours={"dense": "k"})
    with pytest.raises(InputError, match=r"x must lie in \(0, inf\], got 0"):
        plots.phase_map(axes[0, 0], table().assign(x=0.0), "x", "y", "z")
    with pytest.raises(InputError, match="no finite point"):
        plots.reference(axes[0, 0], [1.0], [np.nan], "nothing")
    with pytest.raises(InputError, match="at most 10 names, got 11"):
        plots.category_colours(range(11))
    with pytest.raises(InputError, match="directions: expected weights"):
        plots.directions(axes[0, 0], np.eye(3), "rgb")


def test_points_carry_their_intervals_along_the_axis_they_lie_on():
    found = [Interval(1, 0.5, 2), Interval(3, -np.inf, 4), Interval(np.nan, -np.inf, np.inf), OPEN]
    ax = plots.interval(panel(), [1, 2, 3, 4], found, label="_x")
    assert ax.containers[0].lines[0].get_xydata().tolist() == [[1, 1], [2, 3], [4, 2]]  # NaN is left out
    drawn = [part for part in segments(ax) if part and np.isfinite(part).all()]
    assert drawn == [[[1, 0.5], [1, 2]], [[2, 3], [2, 4]]]  # an infinite end is not drawn, the other one is
    arrows = {line.get_marker(): line.get_xdata().tolist() for line in ax.lines if "arrow" in str(line.get_marker())}
    assert arrows == {r"$\downarrow$": [2, 4], r"$\uparrow$": [4]}
    level = plots.interval(panel(), Interval(1, 0, 2), 7)
    assert segments(level) == [[[0, 7], [2, 7]]]
    cross = plots.interval(panel(), Interval(1, 0, 2), Interval(7, 6, 8))
    assert sorted(segments(cross)) == [[[0, 7], [2, 7]], [[1, 6], [1, 8]]]
    assert plots.interval(panel(), {1: 2.0, 2: 3.0}).collections[:] == []  # numbers have no interval


def test_a_curve_is_a_line_by_rising_x_in_its_band():
    table = pd.DataFrame({"value": [4.0, 1.0, 9.0], "low": [3.0, 0.5, -np.inf], "high": [5.0, 2.0, np.inf]}, [2, 1, 3])
    ax = plots.curve(panel(), table, color="red")
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [2, 4], [3, 9]]
    corners = {tuple(v) for path in ax.collections[0].get_paths() for v in path.vertices}
    assert {(1, 0.5), (1, 2), (2, 3), (2, 5)} == corners  # no band at 3
    ax = plots.curves(panel(), {"a": {1: OPEN, 2: OPEN}, "b": {1: 3.0}})
    assert [line.get_label() for line in ax.lines] == ["a", "b"] and not ax.collections
    assert ax.lines[0].get_color() != ax.lines[1].get_color()


def test_a_second_column_is_told_by_line_style():
    frame = table().assign(start=lambda t: np.where(t["seed"] == 0, "open", "closed"))
    ax = plots.band(panel(), frame, "x", "z", "y", line="start", level=None)
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"] * 3
    assert ax.get_legend_handles_labels()[1] == ["0.5", "2.0", "open", "closed"] and not ax.collections


def test_a_forest_has_its_rows_from_the_top_and_names_levels_above_them():
    rows = {"first": {"a": Interval(1, 0.5, 2), "b": Interval(2, 1, 3)}, "second": {"b": 4.0}, "third": {"a": np.nan}}
    ax = plots.forest(panel(), rows, levels={"none": 1.0}, zones={"within": (2, 3)}, form="{:.1f}")
    points = {label: [] for label in "ab"}
    for held in ax.containers:
        colour = to_rgba(held.lines[0].get_color())
        points["ab"[[to_rgba(c) for c in plots.category_colours("ab").values()].index(colour)]] += (
            held.lines[0].get_xydata().tolist()
        )
    (a,), (b, c) = points["a"], points["b"]
    assert (a[0], b[0], c[0]) == (1, 2, 4) and a[1] < 0 < b[1] and c[1] == 1 + b[1]  # dodged about their rows
    assert ax.get_legend_handles_labels()[1] == ["a", "b"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["first", "second", "third"]
    low, high = ax.get_ylim()
    assert low == 2.5 and high < -0.5
    assert {"1.0", "2.0", "4.0", "undefined", "none", "within"} <= {text.get_text() for text in ax.texts}
    bars = plots.forest(panel(), {"x": 0.3, "y": 0.5}, bars=True, colours={"x": "red", "y": "blue"})
    assert [(bar.get_width(), bar.get_facecolor()) for bar in bars.patches] == [
        (0.3, to_rgba("red")), (0.5, to_rgba("blue"))]  # fmt: skip


@pytest.mark.parametrize("styled", [False, True])
def test_ticks_are_those_given_and_in_view_wherever_the_view_goes(styled):
    with plots.style() if styled else mpl.rc_context():
        ax = panel()
        plots.ticks(ax, x=[0.001, 1, 2000], y={1: "1/1", 2: "two"}, log="x")
        ax.plot([0.5, 3000], [1.2, 3])
        ax.figure.draw_without_rendering()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert [tick.label1.get_text() for tick in ax.xaxis.get_major_ticks()] == ["0.001", "1", "2000"]
    assert [tick.label1.get_text() for tick in ax.yaxis.get_major_ticks()] == ["1/1", "two"]
    assert len(ax.xaxis.get_minorticklocs()) == 0 and ax.get_xlim()[0] > 0.001 and ax.get_ylim()[0] > 1
    plots.ticks(ax, x=["a", "b"])
    assert list(ax.get_xticks()) == [0, 1]


def test_a_legend_gathers_each_label_once_and_fits():
    figure, axes = plots.figure(1, 3)
    for ax in axes.flat:
        ax.plot([1], [1], label="in all")
    axes[0, 1].plot([1], [1], label="in one, " + 60 * "x")
    axes[0, 2].plot([1], [1], label="own")
    plots.legend(axes[0, 2])
    plots.legend(figure, {"patch": "red", "line": {"linestyle": ":"}})
    texts = [text.get_text() for text in figure.legends[0].texts]
    assert texts == ["in all", "in one, " + 60 * "x", "patch", "line"]
    figure.draw_without_rendering()
    for legend in (figure.legends[0], axes[0, 2].get_legend()):
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    plots.legend(axes[0, 0], {"cell": "blue"}, below=True, only=True)
    figure.draw_without_rendering()
    assert axes[0, 0].get_legend().get_window_extent().y1 < axes[0, 0].get_window_extent().y0


@pytest.mark.parametrize("sentence", [
    "One short sentence", "Many words that make a sentence " * 8, "x" * 200, "kept\nbreaks",
    "$a - 2 b$ and $\\ln F$ " * 6, "costs \\$5 or $6 " * 10,
])  # fmt: skip
def test_a_title_keeps_its_words_and_fits_its_figure(sentence):
    figure, axes = plots.figure(width=6)
    plots.title(figure, sentence)
    plots.title(axes[0, 0], sentence)
    text = figure._suptitle.get_text()
    assert text.split() == sentence.split() and ("kept" not in sentence or "\n" in text)
    assert all(line.count("$") % 2 == 0 for line in text.split("\n") if "\\$" not in line)  # math stays in one line
    figure.draw_without_rendering()
    assert figure._suptitle.get_window_extent().width <= figure.bbox.width


def test_a_board_shows_each_verdict_and_nothing_where_nothing_was_asked():
    ax = plots.board(panel(), {"a": {"one": "supported", "two": "rejected"}, "b": {"two": "undecided"}})
    assert [text.get_text() for text in ax.texts] == ["yes", "no", "?", "a", "b"]
    assert [patch.get_xy() for patch in ax.patches] == [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5)]
    assert len({patch.get_facecolor() for patch in ax.patches}) == 3
    sentence = "A long sentence about many things that must be broken into lines, twice or more often " * 2
    ax = plots.claims(panel(), {sentence: "supported", "Short": "rejected"})
    texts = [text.get_text() for text in ax.texts]
    assert [" ".join(text.split()) for text in texts] == [sentence.strip(), "supported", "Short", "rejected"]
    assert "\n" in texts[0] and ax.texts[0].get_position()[1] > ax.texts[2].get_position()[1]


def test_a_map_takes_a_scale_for_each_axis():
    for log, scales in ((True, ("log", "log")), ("x", ("log", "linear")), (("y",), ("linear", "log"))):
        ax = plots.phase_map(panel(), table(), "x", "y", "z", log=log, bar=False)
        assert (ax.get_xscale(), ax.get_yscale()) == scales and len(ax.figure.axes) == 1
    ax = plots.phase_map(panel(), table(), "x", "y", "z", log="x")
    corners = ax.collections[0].get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], 10.0 ** np.array([-2.5, -1.5, -0.5, 0.5]))
    np.testing.assert_allclose(corners[:, 0, 1], [-0.25, 1.25, 2.75])
    cells = table().pivot_table(index="y", columns="x", values="seed").assign(**{}) * 0
    cells.iloc[1, 2] = 1
    lines = plots.boundaries(panel(), cells, log="x").collections[0].get_segments()
    np.testing.assert_allclose(lines, [[(10**-0.5, 1.25), (10**-0.5, 2.75)], [(10**-0.5, 1.25), (10**0.5, 1.25)]])


def test_directions_in_space_keep_their_angles():
    _, axes = plots.figure(subplot_kw={"projection": "3d"})
    W = np.array([[0.3, -0.4, 0.2], [1.0, 0.2, 0.0], [0.0, -0.9, 0.1]])
    ax = plots.directions(axes[0, 0], W, ["red", "blue", "green"])
    tips = {line.get_color(): np.array(line.get_data_3d())[:, 1] for line in ax.lines}
    drawn = np.stack([tips[colour] for colour in ("red", "blue", "green")])
    assert drawn[0] == pytest.approx([0, 0, np.linalg.norm(W[0])]) and drawn @ drawn.T == pytest.approx(W @ W.T)
    assert np.linalg.det(drawn) == pytest.approx(np.linalg.det(W))
    many = plots.directions(panel(), np.ones((500, 2)), "red", up=None, reach=None)
    assert many.collections[1].get_offsets().tolist() == [[1, 1]] * 500 and many.get_xlim()[1] > np.sqrt(2)


def test_matrices_and_norms_are_drawn_in_the_colours_of_their_bar():
    figure, axes = plots.figure(1, 2)
    W = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -2.0]])
    ax = plots.gram(axes[0, 0], W, groups=[1])
    np.testing.assert_allclose(ax.images[0].get_array(), W @ W.T)
    assert ax.images[0].get_clim() == (-1, 1)
    plots.feature_bars(axes[0, 1], [1, 1, 2], [0.1, 0.2, 0.9])
    bars = axes[0, 1].collections[0]
    assert [path.vertices[:, 0].max() for path in bars.get_paths()] == [1, 1, 2]
    assert bars.get_array().tolist() == [0.1, 0.2, 0.9] and axes[0, 1].get_ylim()[0] > axes[0, 1].get_ylim()[1]
    plots.colour_bar(axes[0, 1], "interference")
    assert figure.axes[-1].get_ylim() == (0, 1)


def test_dots_and_means_of_a_table():
    frame = table()
    ax = plots.scatter(panel(), frame, "z", "seed", "kind", "y", means=True)
    expected = {(kind, y): (rows["z"].mean(), rows["seed"].mean()) for (kind, y), rows in frame.groupby(["kind", "y"])}
    drawn = [tuple(held.lines[0].get_xydata()[0]) for held in ax.containers]
    np.testing.assert_allclose(sorted(drawn), sorted(expected.values()))
    assert sum(len(line.get_xdata()) for line in ax.lines if line.get_alpha()) == len(frame)
    assert ax.get_legend_handles_labels()[1] == ["sparse", "dense", "0.5", "2.0"]


def test_shares_stand_on_each_other():
    shares = pd.DataFrame({"a": [0.25, 0.5], "b": [0.75, 0.5]}, index=[2.0, 1.0])
    bars = plots.stack(panel(), shares, bars=True).patches
    assert [(bar.get_y(), bar.get_height()) for bar in bars] == [(0, 0.25), (0, 0.5), (0.25, 0.75), (0.5, 0.5)]
    tops = plots.stack(panel(), shares).collections[0].get_paths()[0].vertices
    assert {(1.0, 0.5), (2.0, 0.25)} <= {tuple(corner) for corner in tops}


def test_levels_zones_and_notes_stand_where_they_are_put():
    ax = plots.level(panel(), 3.0, "three")
    plots.level(ax, 2.0, "two", upright=True)
    plots.zone(ax, 1, 2, "between", legend=True)
    plots.note(ax, "remark", "lower right")
    assert (list(ax.lines[0].get_ydata()), list(ax.lines[1].get_xdata())) == ([3, 3], [2, 2])
    assert (ax.patches[0].get_y(), ax.patches[0].get_height()) == (1, 1)
    assert ax.get_legend_handles_labels()[1] == ["between"]
    assert [text.get_text() for text in ax.texts] == ["three", "two", "remark"]
    _, axes = plots.figure(2, 2)
    plots.labels(axes, x="density", y="loss")
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in axes.flat] == [
        ("", "loss"), ("", ""), ("density", "loss"), ("density", "")]  # fmt: skip


@pytest.mark.parametrize(("draw", "said"), [
    (lambda ax: plots.interval(ax, [1, 2], [Interval(1, 0, 2)]), "interval: expected as many places as intervals"),
    (lambda ax: plots.interval(ax, [1], ["a"]), "interval: expected stats.Intervals or numbers, got str"),
    (lambda ax: plots.curve(ax, [1, 2]), "curve: expected places and intervals"),
    (lambda ax: plots.curve(ax, ["a"], [1.0]), "curve: places must be numbers"),
    (lambda ax: plots.curves(ax, {"a": {}}, colours={"b": "red"}), "curves: no look for 'a'"),
    (lambda ax: plots.forest(ax, {}), "forest: expected at least one row"),
    (lambda ax: plots.forest(ax, {"a": [1.0, 2.0]}), "forest: 'a' needs one interval"),
    (lambda ax: plots.ticks(ax, x="abc"), "ticks: x must be a list"),
    (lambda ax: plots.ticks(ax, y=[1, np.inf]), "ticks: y must be finite"),
    (lambda ax: plots.ticks(ax, x=[1], log="z"), "ticks: log must be"),
    (lambda ax: plots.legend(ax), "legend: nothing carries a label"),
    (lambda ax: plots.legend(ax, {"a": "no colour"}), "legend: 'a' needs a colour"),
    (lambda ax: plots.colour_bar(ax, "x"), "colour_bar: these panels hold no map"),
    (lambda ax: plots.board(ax, {"a": {"b": "yes"}}), "board: expected supported, rejected, undecided, got 'yes'"),
    (lambda ax: plots.board(ax, pd.DataFrame()), "board: expected at least one row"),
    (lambda ax: plots.claims(ax, {}), "claims: expected at least one sentence"),
    (lambda ax: plots.claims(ax, {"a": None}), "claims: expected supported"),
    (lambda ax: plots.cylinders(ax, []), "cylinders: expected at least one shape"),
    (lambda ax: plots.gram(ax, [1.0, 2.0]), "gram: expected weights"),
    (lambda ax: plots.feature_bars(ax, [1.0, 2.0], [1.0]), "feature_bars: expected norms and interference"),
    (lambda ax: plots.scatter(ax, table(), "x", "w"), "scatter: .*no column 'w'"),
    (lambda ax: plots.stack(ax, pd.DataFrame({"a": []})), "stack: expected at least one row"),
    (lambda ax: plots.note(ax, "x", "left of it"), "note: where must be one of"),
    (lambda ax: plots.level(ax, np.nan, "x"), "level: expected a finite value"),
    (lambda ax: plots.zone(ax, 2, 1), "zone: expected finite ends in order"),
])  # fmt: skip
def test_wrong_arguments_are_told_in_one_line(draw, said):
    with pytest.raises(InputError, match=said) as error:
        draw(panel())
    assert "\n" not in str(error.value)


# --- files


def test_a_png_keeps_the_colours_of_what_is_plain():
    shades = np.array([[255, 255, 255], [1, 115, 178], [222, 143, 5], [230, 230, 230]], np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (20, 100, 3)).astype(np.uint8)
    picture = np.concatenate([shades[np.arange(80 * 100) // 2000].reshape(80, 100, 3), noise])
    small = saving._few(Image.fromarray(picture), 256)
    assert small.mode == "P" and np.array_equal(np.asarray(small.convert("RGB"))[:80], picture[:80])
    few = saving._few(Image.fromarray(picture[:80]), 256)
    assert np.array_equal(np.asarray(few.convert("RGB")), picture[:80])


def test_shades_of_a_map_stay_what_they_are_beside_other_colours():
    """A map's shades, each as common as the others, beside 6,000 of the edges of lines."""
    map = mpl.colormaps["cividis"](np.linspace(0, 1, 1500))[:, :3]
    lines = [(0.87, 0.56, 0.02), (0.0, 0.45, 0.7), (0.1, 0.6, 0.3), (0.0, 0.0, 0.0)]
    edges = [np.linspace(one, other, 300) for one in lines for other in [(1, 1, 1), *map[::200]]]
    rows = np.concatenate([np.tile(map, (30, 1)), *edges])
    picture = np.round(255 * rows[: 100 * (len(rows) // 100)]).astype(np.uint8).reshape(-1, 100, 3)
    small = saving._few(Image.fromarray(picture), 256)
    off = np.abs(np.asarray(small.convert("RGB")).astype(int) - picture).max(-1)
    assert off[:450].max() <= 12 and off[:450].mean() < 2.5
    palette = np.reshape(small.getpalette(), (-1, 3)).astype(int)
    gaps = np.square(picture.reshape(-1, 1, 3)[::97].astype(int) - palette).sum(-1)
    assert np.array_equal(gaps[np.arange(len(gaps)), np.asarray(small).reshape(-1)[::97]], gaps.min(1))


def test_dense_panels_of_an_svg_become_pixels_and_letters_do_not():
    figure, axes = plots.figure(1, 2, width=4, height=1.5)
    axes[0, 0].plot(np.random.default_rng(0).normal(size=2000), "o")
    axes[0, 1].plot([1, 2], "o")
    axes[0, 0].set_title("Letters")
    figure.draw_without_rendering()
    plain = saving._svg(figure, 10**7)
    small = saving._svg(figure, 100_000)
    assert len(small) <= 100_000 < len(plain)
    assert small.count(b"<image") == 1 and b"<!-- Letters -->" in small and small.count(b"<use") > 10
    assert (
        not axes[0, 0].lines[0].get_rasterized() and figure.get_layout_engine() is not None
    )  # the figure is as it was
    assert b"<image" not in plain


def test_a_picture_too_large_gets_fewer_colours_and_pixels():
    figure = plots.Figure(figsize=(2, 1))
    figure.figimage(np.random.default_rng(0).normal(size=(150, 300)))
    large = saving._png(figure, 10**6)
    small = saving._png(figure, len(large) // 2)
    assert len(small) <= len(large) // 2
    assert Image.open(io.BytesIO(large)).size == (300, 150) and Image.open(io.BytesIO(small)).size[0] < 300
