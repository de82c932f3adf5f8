"""Tables of experiments: values, marks, and what Markdown and HTML say of them."""

import json
import math
import shlex
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_results import IN_ROUNDS, LINE, accuracies, metrics, run_of

from tla_ops.cli import _parser
from tla_ops.experiments.page import duration, in_rounds, page
from tla_ops.experiments.tables import Cell, Column, Table, html, markdown


def one(cell, kind="percent"):
    """The only cell of a table, as Markdown and as plain data."""
    table = Table("t", "Method", [Column("PGD", kind=kind)], {"TLA": [cell]}).as_dict()
    return markdown(table).splitlines()[4].split("|")[2].strip(), table["rows"]["TLA"][0]


@pytest.mark.parametrize(
    ("cell", "kind", "text"),
    [
        (Cell(0.9732, 0.9696), "percent", "97.32% (paper 96.96%, +0.36)"),
        (Cell(0.9, 0.95, 0.0025), "percent", "90.00% ±0.25 (paper 95.00%, -5.00)"),
        (Cell(0.9696, 0.9696), "percent", "96.96% (paper 96.96%, 0.00)"),
        (Cell(0.969599, 0.9696), "percent", "96.96% (paper 96.96%, 0.00)"),
        (Cell(0.5), "percent", "50.00%"),
        (Cell(0.5, note="20 restarts"), "percent", "50.00% (20 restarts)"),
        (Cell(None, 0.5, 0.1, "no GPU"), "percent", "– (paper 50.00%; no GPU)"),
        (Cell(None), "percent", "–"),
        (Cell(math.nan, math.inf), "percent", "–"),
        (Cell(0.0321, 0.035, 0.01), "error", "3.21% ±1.00 (paper 3.50%, -0.29)"),
        (Cell(1.288, 1.39), "ratio", "1.288 (paper 1.390, -0.102)"),
        (Cell(0.99490, 0.9656, 0.01), "ratio", "0.9949 ±0.0100 (paper 0.9656, +0.0293)"),
        (Cell(0.0021, 1.802), "seconds", "0.002100 s (paper 1.802 s, -1.800)"),
        (Cell(12345.6), "seconds", "12346 s"),
        (Cell(500, 400), "number", "500 (paper 400, +100)"),
        (Cell(0.0, 0.25), "number", "0 (paper 0.2500, -0.2500)"),
    ],
)
def test_a_cell(cell, kind, text):
    assert one(cell, kind)[0] == text


def test_plain_data():
    assert one(Cell(0.75, 0.5, 0.1, "n"))[1] == {
        **{"value": 0.75, "paper": 0.5, "error": 0.1, "note": "n", "difference": 0.25},
        **{"best": False, "worst": False},
    }
    assert one(Cell(0.75))[1]["difference"] is None
    assert one(Cell(None, 0.5))[1]["difference"] is None


COLUMNS = [Column("Clean"), Column("PGD"), Column("s", kind="seconds", best="min"), Column("r")]
COLUMNS[3] = Column("pool", kind="number", best="")


def test_markdown_in_full():
    rows = {
        "AT": [Cell(0.99), Cell(0.9, 0.95), Cell(2.5), Cell(7)],
        "TLA": [Cell(0.98), Cell(0.98), Cell(1.5), Cell(9)],
    }
    table = Table("Accuracy", "Method", COLUMNS, rows, mark_worst=True, notes=["one seed"])
    assert markdown(table.as_dict()) == (
        "**Accuracy**\n"
        "\n"
        "| Method | Clean | PGD | s | pool |\n"
        "| :--- | ---: | ---: | ---: | ---: |\n"
        "| AT | **99.00%** | <u>90.00%</u> (paper 95.00%, -5.00) | 2.500 s | 7 |\n"
        "| TLA | <u>98.00%</u> | **<u>98.00%</u>** | **1.500 s** | 9 |\n"
        "\n"
        "- Bold: our best of the column. Underlined: our lowest of the row. In brackets: the "
        "paper's number, and ours minus the paper's, of percentages in points.\n"
        "- one seed\n"
    )


def test_an_errors_best_is_its_least_and_its_difference_in_points():
    rows = {"a": [Cell(0.25, 0.2)], "b": [Cell(0.5, 0.6)]}
    text = markdown(Table("t", "M", [Column("x", kind="error", best="min")], rows).as_dict())
    assert "| a | **25.00%** (paper 20.00%, +5.00) |" in text
    assert "| b | 50.00% (paper 60.00%, -10.00) |" in text
    assert "of percentages in points." in text


shares = st.one_of(st.none(), st.sampled_from([0.1, 0.10001, 0.102, 0.5, 0.9, 0.90004, 1.0, 0.0]))


@given(st.lists(st.tuples(shares, shares, shares), min_size=1, max_size=4))
def test_marks_against_brute_force(values):
    columns = [Column("a"), Column("b", best="min"), Column("c")]
    rows = {str(i): [Cell(value) for value in row] for i, row in enumerate(values)}
    found = Table("t", "M", columns, rows, mark_worst=True).as_dict()["rows"]

    def marked(numbers, choose):
        shown = [None if number is None else round(100 * number, 2) for number in numbers]
        there = [number for number in shown if number is not None]
        extreme = choose(there) if len(there) > 1 else math.nan
        return [number == extreme for number in shown]

    for place, choose in enumerate((max, min, max)):
        best = marked([row[place] for row in values], choose)
        assert [cells[place]["best"] for cells in found.values()] == best
    for row, cells in zip(values, found.values(), strict=True):
        assert [cells[0]["worst"], cells[2]["worst"]] == marked([row[0], row[2]], min)
        assert not cells[1]["worst"]


def test_no_marks_where_none_are_asked_for():
    rows = {"a": [Cell(0.1), Cell(0.2)], "b": [Cell(0.3), Cell(0.4)]}
    table = Table("t", "M", [Column("x", best=""), Column("y", best="")], rows, mark_worst=True)
    text = markdown(table.as_dict())
    assert "**" not in text.replace("**t**", "")
    assert "<u>" not in text
    assert text.endswith("| b | 30.00% | 40.00% |\n")  # and no legend


def test_a_legend_explains_only_what_is_there():
    def below(*cells, **options):
        columns = [Column(str(place)) for place in range(len(cells))]
        table = Table("t", "M", columns, {"TLA": cells}, **options).as_dict()
        return markdown(table).partition("\n\n- ")[2]

    assert below(Cell(0.5)) == ""
    assert below(Cell(None)) == "–: not measured.\n"
    assert below(Cell(None, error=0.1)) == "–: not measured.\n"
    assert below(Cell(0.5, error=0.1)) == "±: one standard error.\n"
    assert below(Cell(None, 0.5)) == "In brackets: the paper's number. –: not measured.\n"
    assert below(Cell(0.5), Cell(0.6), mark_worst=True) == "Underlined: our lowest of the row.\n"


def test_markup_in_texts_is_text():
    table = Table(
        "<b>a</b> | *b*",
        "M|",
        [Column("x*", "g|", "n<")],
        {"r|\n1": [Cell(0.5, note="p|q \\")]},
        notes=["a <script>"],
    ).as_dict()
    assert markdown(table) == (
        "**\\<b>a\\</b> \\| \\*b\\***\n\n| M\\| | g\\|: x\\*<br>n\\< |\n| :--- | ---: |\n"
        "| r\\| 1 | 50.00% (p\\|q \\\\) |\n\n- a \\<script>\n"
    )
    page = html(table)
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match=r"row 'TLA' must have 2 cells .* got 1"):
        Table("t", "M", [Column("a"), Column("b")], {"TLA": [Cell(1)]})
    with pytest.raises(ValueError, match=r"kind of column 'a' must be among .* got 'share'"):
        Table("t", "M", [Column("a", kind="share")], {})
    with pytest.raises(ValueError, match=r"best of column 'a' must be among .* got 'most'"):
        Table("t", "M", [Column("a", best="most")], {})


def test_json_and_back():
    table = accuracies().as_dict()
    again = json.loads(json.dumps(table, allow_nan=False))
    assert again == table
    assert list(again["rows"]) == ["UM", "AT", "ALP", "TLA-RN", "TLA-SA", "TLA"]
    assert markdown(again) == markdown(table)
    assert html(again) == html(table)


class Cells(HTMLParser):
    """The rows of a table: of each cell its tag, attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1][2] += text


def test_html_has_the_facts_of_the_markdown():
    table = accuracies().as_dict()
    groups, names, *body = Cells(html(table)).rows
    assert [cell[1:] for cell in groups] == [
        [{"scope": "col", "rowspan": "2"}, "Method"],
        [{"scope": "colgroup", "colspan": "9"}, "MNIST"],
    ]
    assert [cell[2] for cell in names][:3] == ["Clean", "FGSM1 step", "BIM40 steps"]
    lines = markdown(table).splitlines()[4:]
    assert len(body) == 6
    for row, line in zip(body, lines, strict=False):
        assert row[0][:2] == ["th", {"scope": "row"}]
        texts = [text.strip() for text in line.strip("|").split("|")]
        assert row[0][2] == texts[0]
        for (tag, _, text), expected in zip(row[1:], texts[1:], strict=True):
            assert tag == "td"
            plain = expected.replace("*", "").replace("<u>", "").replace("</u>", "")
            plain = plain.replace(" (", "").replace(")", "").replace("; ", "")
            assert text.replace("−", "-") == plain
    assert html(table).count("<strong>") == sum(line.count("**") // 2 for line in lines)
    assert html(table).count("<u>") == sum(line.count("<u>") for line in lines)


def test_a_column_without_a_group_takes_both_rows_of_the_head():
    columns = [Column("a"), Column("b", "G"), Column("c", "G"), Column("d"), Column("e", "H")]
    above, below = Cells(html(Table("t", "M", columns, {}).as_dict())).rows
    spans = [(text, data.get("rowspan"), data.get("colspan")) for _, data, text in above]
    assert spans == [
        *(("M", "2", None), ("a", "2", None), ("G", None, "2"), ("d", "2", None)),
        ("H", None, "1"),
    ]
    assert [text for _, _, text in below] == ["b", "c", "e"]
    (only,) = Cells(html(Table("t", "M", columns[:1], {}).as_dict())).rows
    assert [data for _, data, _ in only] == [{"scope": "col"}] * 2


def test_a_page():
    figures = [{"file": "figure 1.png", "caption": "Dots.", "alt": "a [b]"}]
    part = {"dataset": "digits", "stands_in_for": "mnist", "images": 100, "notes": ["the first"]}
    content = metrics(figures=figures, parts=[part | {"runs": [run_of("TLA")]}], complete=False)
    text = page(content)
    start, _, end = text.partition("**Accuracy on test images")
    assert start == (
        "# Accuracy under nine attacks\n\nMao et al. 2019, Table 1, tla/table1\n\n"
        "**Smoke run: not a result.**\n**Incomplete: not all of its parts finished.**\n\n"
        "- a smoke run: it shows that every part runs, and says nothing about the methods\n"
        "- digits stand in for MNIST\n\n"
    )
    assert markdown(content["tables"][0]) in text
    assert end.partition("![")[2] == (
        "a \\[b\\]](figure%201.png)\n\nDots.\n\n## What ran\n\n"
        "digits in place of mnist, 100 test images\n\n- the first\n"
        "- digits-tla, 24 steps, 3.14 s, seed 0, checkpoints/digits-tla-1a2b3c4d/best.pt\n"
        "  - epochs: 30 in the recipe, 1 here\n\n"
        "`tla-ops reproduce tla/table1 --budget smoke --datasets digits`\n\n"
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, AVX512, device cpu, torch 2.13.0+cpu, "
        "threads 2, commit 5e7ab09d1f, 2026-03-01 10:20:30 UTC, "
        "took, without what was found made, 31.4 s, trainings took 3.14 s\n"
    )


def test_a_run_in_rounds():
    part = {"dataset": "mnist", "runs": [run_of("AT2L", **IN_ROUNDS), run_of("UM", changed=[])]}
    lines = page(metrics(parts=[part])).partition("## What ran")[2].splitlines()
    place = lines.index("- digits-at2l, seed 0, checkpoints/digits-at2l-1a2b3c4d/best.pt")
    assert lines[place + 1 : place + 4] == [
        f"  - {LINE}", "  - epochs: 30 in the recipe, 1 here",
        "- digits-um, 24 steps, 3.14 s, seed 0, checkpoints/digits-um-1a2b3c4d/best.pt",
    ]  # fmt: skip
    two = {"f": {"fgsm": 99.96}, "b": {"ll": 100}}
    assert in_rounds({"rounds": 1}) == ["1 round"]
    assert in_rounds({"rounds": 2, "images_per_second": two}) == [
        "2 rounds; images/s: f fgsm 100.0; b ll 100"
    ]


def test_the_command_that_makes_it_again():
    content = metrics(
        budget="short", seed=2, attack_seconds=61,
        parts=[{"dataset": name, "runs": []} for name in ("mnist", "cifar10")],
        overrides=["max_steps=9", "model_options={units: 1}", "images=40", "slow_images=10",
                   "without=autoattack,mim"],
    )  # fmt: skip
    text = page(content)
    line = (
        "tla-ops reproduce tla/table1 --budget short --datasets mnist,cifar10 --seed 2 "
        "--set max_steps=9 --set 'model_options={units: 1}' --images 40 --slow-images 10 "
        "--without autoattack,mim"
    )
    assert f"`{line}`" in text
    assert text.endswith("31.4 s, attacks took 1 min 1 s\n")
    parsed = _parser().parse_args(shlex.split(line)[1:])
    assert (parsed.seed, parsed.images, parsed.slow_images) == (2, 40, 10)
    assert parsed.without == ["autoattack", "mim"]
    assert parsed.set == ["max_steps=9", "model_options={units: 1}"]


def test_how_a_runs_triplets_went():
    went = {
        "active": [0.534, 0.196], "positive_distance": [0.4601, 0.25],
        "negative_distance": [0.48, 0.4491],
    }  # fmt: skip
    part = {"dataset": "mnist", "runs": [run_of("TLA", triplets=went), run_of("AT", triplets={})]}
    text = page(metrics(parts=[part]))
    assert text.count(
        "  - in training, from first to last: 53% to 20% of anchors with an active triplet, mean "
        "distance to the positive 0.460 to 0.250, to the negative 0.480 to 0.449"
    ) == text.count("in training") == 1  # fmt: skip


def test_a_page_of_the_least_there_can_be():
    least = {"experiment": "tla/fig1", "title": "T", "budget": "own", "complete": True}
    assert page(least | {"tables": []}) == "# T\n\ntla/fig1\n\n**Own run.**\n\n## What ran\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01234, "0.0123 s"), (59.99, "60 s"), (61, "1 min 1 s"), (54321, "15 h 5 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
