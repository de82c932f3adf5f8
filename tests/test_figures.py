"""Figures are whole PNGs of a page's width whose texts are there, inside and apart; what is empty
draws nothing and fails nothing.
"""

import itertools
import math
from fractions import Fraction
from unittest import mock

import pytest
import torch
from helpers import randn

pytest.importorskip("matplotlib")

from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text

from tla_ops.experiments import figures, style
from tla_ops.experiments.detection import Curve
from tla_ops.experiments.figures import Cloud, Panel, Series
from tla_ops.experiments.retrieval_figure import Retrieval, retrieval_figure

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ["UM", "AT", "ALP", "TLA"]
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FOOTNOTE = (
    "CIFAR-10, 1000 test images under PGD, ε = 8/255, 20 steps of 2/255, one run, seed 0. " * 2
)


def check(figure, folder, width=1200):
    """It is a PNG of this width, and no text leaves it or runs into another; returns the texts."""
    path, drawn, draw = folder / "new" / "figure.png", set(), Text.draw

    # Ticks beyond an axis have texts that are never drawn.
    def recorded(text, renderer):
        if text.get_visible() and text.get_text():
            drawn.add(text)
        draw(text, renderer)

    with mock.patch.object(Text, "draw", recorded):
        style.save(figure, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content[-8:-4] == b"IEND"
    assert [file.name for file in path.parent.iterdir()] == ["figure.png"]
    found, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    assert found == pytest.approx(width, abs=2)
    assert 50 < height < 3000
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn]
    for text, box in boxes:
        assert box.x0 > -3, text
        assert box.x1 < found + 3, text
        assert box.y0 > -3, text
        assert box.y1 < height + 3, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) < 3, (one, other)
    return {text for text, _ in boxes}


def points(figure):
    """The number of points of each colour, marker aside, in each panel."""
    counts = []
    for axis in figure.axes:
        clouds = [part for part in axis.collections if isinstance(part, PathCollection)]
        counts.append({to_hex(c.get_facecolor()[0]): len(c.get_offsets()) for c in clouds})
    return counts


def false_class_rows(true_classes):
    rows = {}
    for true_class in true_classes:
        taken = torch.arange(60) % 10
        row = {
            method: figures.false_class_panel(
                randn(50, 2), randn(60, 2, seed=1), taken, NAMES, true_class, "silhouette −0.12"
            )
            for method in METHODS
        }
        rows[NAMES[true_class]] = row
    return rows


@pytest.mark.parametrize("true_classes", [[4], [0, 1, 9]])
def test_false_classes(tmp_path, true_classes):
    figure = figures.scatter_figure(false_class_rows(true_classes), "False classes", FOOTNOTE)
    there = check(figure, tmp_path)
    assert {*METHODS, *(NAMES[c] for c in true_classes), "silhouette −0.12"} <= there
    (legend,) = figure.legends
    entries = [text.get_text() for text in legend.get_texts()]
    # With several rows every class is a false one somewhere.
    taken = [f"taken for {n}" for i, n in enumerate(NAMES) if [i] != true_classes]
    assert entries == ["natural images of the true class", *taken, "adversarial, still right"]
    colours = style.palette(10)
    for panel, true_class in zip(points(figure)[::4], true_classes, strict=True):
        expected = {style.CLEAN.lower(): 50, to_hex(style.INK): 6}
        expected |= {colours[c].lower(): 6 for c in range(10) if c != true_class}
        assert panel == expected


def test_pairs(tmp_path):
    rows = {
        f"{true} → {false}": {
            method: figures.pair_panel(
                randn(40, 2), randn(30, 2) + 3, randn(count, 2), note="12 of 200"
            )
            for method, count in (("AT", 7), ("TLA", 0))
        }
        for true, false in (("truck", "bird"), ("frog", "horse"))
    }
    figure = figures.scatter_figure(rows, footnote=FOOTNOTE)
    there = check(figure, tmp_path)
    assert {"AT", "TLA", "truck → bird", "frog → horse", "12 of 200"} <= there
    assert {"natural true class", "natural false class", "true class taken for false class"} < there
    first, second, *_ = points(figure)
    assert sorted(first.values()) == [7, 30, 40]
    assert sorted(second.values()) == [30, 40]
    red = [c for c in figure.axes[0].collections if len(c.get_offsets()) == 7]
    assert to_hex(red[0].get_facecolor()[0]) == "#cc3311"


def test_scatter_of_nothing(tmp_path):
    none = randn(0, 2)
    panel = figures.false_class_panel(none, none, torch.zeros(0, dtype=torch.int64), NAMES, 0)
    figure = figures.scatter_figure({"airplane": {"AT": panel, "TLA": Panel([])}})
    check(figure, tmp_path)
    assert figure.legends == []
    figure = figures.scatter_figure({"": {"AT": Panel([Cloud("one", randn(1, 2), "red")])}})
    check(figure, tmp_path)
    figures.scatter_figure({})


def test_scatter_of_many_classes(tmp_path):
    names = [f"n{k:03}" for k in range(40)]
    panel = figures.false_class_panel(randn(5, 2), randn(40, 2), torch.arange(40), names, 3)
    figure = figures.scatter_figure({"n003": dict.fromkeys(METHODS, panel)}, footnote=FOOTNOTE)
    check(figure, tmp_path)
    assert len(figure.legends[0].get_texts()) == 41


@pytest.mark.parametrize(("count", "width"), [(1, 600), (3, 1200)])
def test_roc(tmp_path, count, width):
    curve, none = Curve([0, 0.2, 1], [0, 0.7, 1], 0.75), Curve([], [], math.nan)
    panels = {
        name: {"AT": curve, "ALP": none, "TLA": curve}
        for name in ["MNIST", "CIFAR-10", "Tiny ImageNet"][:count]
    }
    figure = figures.roc_figure(panels, footnote=FOOTNOTE)
    there = check(figure, tmp_path, width)
    assert {*panels, "AT  AUC 0.750", "ALP  AUC undefined"} <= there
    for axis in figure.axes:
        diagonal, at, *_ = axis.lines
        assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
        assert at.get_xydata().tolist() == [[0, 0], [0.2, 0.7], [1, 1]]
        assert at.get_color() == style.METHOD_COLOURS["AT"]
    figures.roc_figure({})
    figures.roc_figure({"MNIST": {}})


@pytest.mark.parametrize("radius", [Fraction(8, 255), 0.031372])
def test_heatmaps_share_a_scale_by_column(tmp_path, radius):
    images = ["image 1", "image 2", "image 3"]
    surfaces = {m: {i: randn(9, 9, seed=3 * r + c).abs() for c, i in enumerate(images)}
                for r, m in enumerate(METHODS[1:])}  # fmt: skip
    surfaces["TLA"]["image 2"][0, 0] = torch.nan
    notes = {m: dict.fromkeys(images, "roughness 0.012") for m in METHODS[1:]}
    figure = figures.heatmap_figure(surfaces, radius, notes, "Loss", FOOTNOTE)
    there = check(figure, tmp_path)
    assert {"AT", "ALP", "TLA", "roughness 0.012", "image 3\nroughness 0.012"} <= there
    assert {"8/255" if isinstance(radius, Fraction) else "0.03137", "cross entropy"} <= there
    drawn = [axis.images[0] for axis in figure.axes if axis.images]
    for column, image in enumerate(images):
        values = torch.stack([row[image] for row in surfaces.values()]).nan_to_num(0.5)
        for picture in drawn[column::3]:
            low, high = values.min().item(), values.max().item()
            assert picture.get_clim() == pytest.approx((low, high))
    for axis in (axis for axis in figure.axes if axis.images):
        reach = axis.get_window_extent()
        for label in axis.get_xticklabels():
            assert reach.x0 - 2 < label.get_window_extent().x0
            assert label.get_window_extent().x1 < reach.x1 + 2
    # The first direction is up.
    shown = torch.tensor(drawn[0].get_array().tolist())
    assert torch.equal(shown, surfaces["AT"]["image 1"])
    assert drawn[0].origin == "lower"


def test_heatmaps_of_nothing(tmp_path):
    figures.heatmap_figure({}, 0.1)
    broken = torch.full((3, 3), torch.nan)
    check(figures.heatmap_figure({"AT": {"image 1": broken}}, 0.1), tmp_path, 472)


def retrieval(name, found, channels=3):
    images = torch.rand(len(found) + 1, channels, 8, 8)
    return Retrieval(images[0], name, images[1:], found)


def test_retrieval(tmp_path):
    right, wrong = ["automobile"] * 5, ["automobile", "truck", "truck", "truck", "truck"]
    rows = {
        "AT": [retrieval("automobile", right), retrieval("automobile", wrong)],
        "TLA": [retrieval("automobile", right), retrieval("automobile", right)],
    }
    figure = retrieval_figure(rows, title="Neighbours of an automobile", footnote=FOOTNOTE)
    there = check(figure, tmp_path)
    assert {"AT", "TLA", "clean query", "adversarial query", "automobile"} <= there
    framed = [to_hex(axis.spines["left"].get_edgecolor()) for axis in figure.axes]
    ink, red, green = to_hex(style.INK), style.WRONG.lower(), style.RIGHT.lower()
    expected = [ink] + [green] * 5, [ink, green] + [red] * 4
    assert framed == [*expected[0], *expected[0], *expected[1], *expected[0]]
    names = [axis.get_title() for axis in figure.axes]
    assert names[12:18] == ["automobile", *wrong]
    left, below = (figure.axes[k].get_position() for k in (0, 6))
    (footnote,) = (text for text in figure.texts if text.get_text().startswith("CIFAR"))
    assert footnote.get_window_extent().y1 < figure.axes[-1].get_window_extent().y0
    assert left.y0 > below.y1
    assert left.x0 == below.x0


def test_retrieval_of_one_channel_and_long_names(tmp_path):
    names = ["7", "goldfish, Carassius auratus"]
    figure = retrieval_figure({"TLA": [retrieval("7", names, 1)]}, ["query"])
    there = check(figure, tmp_path, 638)
    assert {"query", "7", "goldfish,…"} <= there
    pixels = torch.tensor(figure.axes[0].images[0].get_array())
    assert pixels.shape == (8, 8, 3)
    assert torch.equal(pixels[..., 0], pixels[..., 2])


def test_retrieval_of_nothing(tmp_path):
    retrieval_figure({})
    figure = retrieval_figure({"AT": [retrieval("7", [])], "TLA": []})
    assert len(figure.axes) == 1


def test_sweep(tmp_path):
    settings = [0, 0.025, 0.5, 1, 2, 4]
    ours = Series("ours", [0.93, 0.94, 0.95, None, 0.94, 0.93], [0.01, 0.02, None, None, 0.01, 0])
    paper = Series("paper", [0.9482, 0.9631, 0.9696, 0.9657, 0.9672, 0.9626], printed=True)
    figure = figures.sweep_figure(
        settings, [ours, paper], "weight λ1", "accuracy under PGD-100", "Weights", FOOTNOTE
    )
    there = check(figure, tmp_path, 1020)
    assert {"ours", "paper", "weight λ1", "accuracy under PGD-100", "0.025", "95%"} <= there
    ours_line, *_, paper_line = (c.lines[0] for c in figure.axes[0].containers)
    assert ours_line.get_ydata()[:3].tolist() == [0.93, 0.94, 0.95]
    assert math.isnan(ours_line.get_ydata()[3])
    assert paper_line.get_linestyle() == "--"
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    assert bars[1][:, 1].tolist() == pytest.approx([0.92, 0.96])
    layers = ["lower", "middle", "higher (ours)", "logit (ALP)"]
    figure = figures.sweep_figure(layers, [Series("paper", [0.96] * 4, printed=True)], "layer")
    there = check(figure, tmp_path, 780)
    assert set(layers) <= there
    figures.sweep_figure([], [], "")


def test_palette():
    assert style.palette(3) == style.CLASS_COLOURS[:3]
    assert style.palette(10) == style.CLASS_COLOURS
    many = style.palette(200)
    assert len(set(many)) > 120
    assert style.CLEAN not in many[:10] + style.palette(10)
    assert all(many[k] != many[k + 1] for k in range(199))


def test_colours_of_methods():
    assert style.method_colour("tla") == style.method_colour("TLA") == style.METHOD_COLOURS["TLA"]
    assert style.method_colour("another") == "0.4"


def test_a_figure_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = style.new_figure(2, 1)
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        style.save(figure, path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
