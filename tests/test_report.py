"""`tla-ops report`: what it finds, what it writes, and the page in a real browser."""

import json
import os
import re
import shutil

import browser
import pytest
from sample_results import IN_ROUNDS, LINE, draw, metrics, put, run_of, sample

from tla_ops import cli
from tla_ops.experiments.tables import Cell, Column, Table

# What is wrong with a page that ought to fit into WIDTH pixels, a line each: it scrolls sideways,
# an image is not shown, a text has less contrast with its background than WCAG's level AA asks for.
FAULTS = """(async () => {
  const faults = [], root = document.documentElement;
  if (root.scrollWidth > WIDTH) faults.push(`scrolls sideways to ${root.scrollWidth}`);
  for (const image of document.images) {
    await image.decode().catch(() => {});
    if (!image.complete || image.naturalWidth === 0) faults.push(`no image: ${image.alt}`);
  }
  const numbers = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    return parts.length < 4 ? [...parts, 1] : parts;
  };
  const luminance = ([r, g, b]) => [r, g, b]
    .map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, place) => sum + c * [.2126, .7152, .0722][place], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = numbers(getComputedStyle(element).backgroundColor);
      if (colour[3] === 1) return colour;
      if (colour[3] !== 0) faults.push(`half transparent: ${element.tagName}`);
    }
    return [255, 255, 255, 1];
  };
  const check = (element, style, text) => {
    const ink = numbers(style.color), page = behind(element);
    const [low, high] = [luminance(ink), luminance(page)].sort((a, b) => a - b);
    const ratio = (high + .05) / (low + .05);
    if (ink[3] !== 1 || ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${text}`);
  };
  for (const element of document.body.querySelectorAll('*')) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('');
    if (text.trim()) check(element, getComputedStyle(element), text.trim());
    for (const pseudo of ['::before', '::after']) {
      const style = getComputedStyle(element, pseudo);
      if (!['none', 'normal'].includes(style.content)) check(element, style, style.content);
    }
  }
  return faults;
})()"""


def faults(page, address, width, scheme):
    page.open(address, width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = page.evaluate(FAULTS.replace("WIDTH", str(width)))
    sent = [e["params"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in sent]
    return found + [f"asks for {u}" for u in urls if u != address and not u.startswith("data:")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    program = browser.find()
    if program is None:
        message = "no browser on PATH: install chromium (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    opened = browser.Browser(program, tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def report(folder, *options):
    """Run the verb; returns its exit status and the page."""
    status = cli.main(["report", str(folder), *options])
    path = folder / "report.html"
    return status, path.read_text() if path.exists() else None


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A page of three experiments, with all that can be on it."""
    folder = sample(tmp_path_factory.mktemp("samples"))
    put(folder, metrics("at2l/table1", [{}], budget="full"))
    assert report(folder)[0] == 0
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1280])
def test_the_page_in_a_browser(samples, page, width, scheme):
    assert faults(page, samples.as_uri(), width, scheme) == []
    assert page.evaluate(f"innerWidth === {width}")
    assert page.evaluate("document.images.length") == 2
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    plates = page.evaluate(
        "[...document.images].map(i => getComputedStyle(i.parentElement).backgroundColor)"
    )
    assert plates == ["rgb(255, 255, 255)"] * 2


def test_a_wide_table_scrolls_in_its_box_beside_the_names_of_its_rows(samples, page):
    def places():
        return page.evaluate("""(() => {
            const box = document.querySelector('.scroll'), edge = box.getBoundingClientRect().left;
            const left = cell => box.querySelector(cell).getBoundingClientRect().left - edge;
            return [left('tbody th'), left('thead th'), left('tbody td:last-child')];
        })()""")

    page.open(samples.as_uri(), 360)
    box = "document.querySelector('.scroll')"
    assert page.evaluate(f"{box}.scrollWidth - {box}.clientWidth") > 300
    before = places()
    page.evaluate(f"{box}.scrollLeft = 300")
    after = places()
    assert after[:2] == before[:2]
    assert after[2] == before[2] - 300
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.open(samples.as_uri(), 1280)
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")


def test_long_words_do_not_widen_the_page(tmp_path, page):
    word = "checkpoints/" + "x" * 300
    table = Table(word, word, [Column(word, word)], {word: [Cell(0.5, note=word)]}, notes=[word])
    content = metrics(
        **{"experiment": f"tla/{word}", "title": word, "source": word, "notes": [word]},
        tables=[table.as_dict()],
        budget=word,
        environment={"machine": word},
        figures=[{"file": f"{word}.png", "caption": word, "alt": word}],
    )
    content["parts"][0]["runs"][0] |= {"name": word, "changed": [word], "recipe": {word: word}}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert report(tmp_path)[0] == 0
    assert faults(page, (tmp_path / "report.html").as_uri(), 320, "light") == []


HOSTILE = (
    '<script>document.title = "taken"</script><img src="file:///none.png" onerror="x()">"&amp;'
)


def test_markup_in_a_result_is_text(tmp_path, page):
    """Everything that a result can hold is that text again in the page, and nothing else."""

    def hostile(value):
        if isinstance(value, dict):
            keep = ("kind", "best", "budget", "file")
            return {k: v if k in keep else hostile(v) for k, v in value.items()}
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return HOSTILE if isinstance(value, str) else value

    content = hostile(metrics(figures=[{"file": "f.png", "caption": "c", "alt": "a"}]))
    content["tables"][0]["rows"] = {HOSTILE: content["tables"][0]["rows"]["AT"]}
    content["parts"][0]["runs"][0]["recipe"] = {HOSTILE: [HOSTILE]}
    put(tmp_path, content | {"experiment": "tla/table1"})
    draw(tmp_path / "smoke" / "tla-table1" / "f.png", 1)
    status, text = report(tmp_path)
    assert status == 0
    assert "<script" not in text
    assert faults(page, (tmp_path / "report.html").as_uri(), 360, "light") == []
    assert page.evaluate("document.title") == "Reproduced tables and figures"
    assert page.evaluate("[document.scripts.length, document.images.length]") == [0, 1]
    for part in ("article h2", "figcaption", "thead th", "tbody th", "nav a", ".run h4"):
        shown = page.evaluate(f"document.querySelector('{part}').textContent")
        assert shown == HOSTILE, part
    assert page.evaluate("document.images[0].alt") == HOSTILE
    assert page.evaluate("document.querySelector('.recipe dt').textContent") == HOSTILE


BAD_PAGE = """<!doctype html><meta name="viewport" content="width=device-width">
<style>.after::after { content: "faint after"; color: #999 }</style>
<body style="background: #fff"><p style="width: 900px">wide</p><p style="color: #888">faint</p>
<p class="after">dark</p><p style="color: #767676">just enough</p>
<img alt="broken" src="data:image/png;base64,AAAA"><img alt="far" src="http://127.0.0.1:9/x.png">
<p style="background: #333"><b>black on grey</b></p>"""


def test_what_the_browser_is_asked_for_can_fail(tmp_path, page):
    path = tmp_path / "bad.html"
    path.write_text(BAD_PAGE)
    assert faults(page, path.as_uri(), 360, "light") == [
        "scrolls sideways to 908",
        "no image: broken",
        "no image: far",
        "contrast 3.54: faint",
        'contrast 2.85: "faint after"',
        "contrast 1.66: black on grey",
        "asks for http://127.0.0.1:9/x.png",
    ]


def test_the_order_is_the_papers(tmp_path):
    names = ["at2l/table10", "at2l/table2", "tla/supp-fig1", "tla/supp-table3", "tla/fig10"]
    names += ["tla/fig2", "tla/table6", "other/x", "tla/table1", "at2l/app-table4", "at2l/fig1"]
    for name in names:
        put(tmp_path, metrics(name, []))
    put(tmp_path / "z", metrics("tla/table1", [], budget="full"))
    _, text = report(tmp_path)
    order = re.findall('<article id="(.*?)"', text)
    assert order == [
        *("r-tla-table1-full", "r-tla-table1-smoke", "r-tla-table6-smoke", "r-tla-fig2-smoke"),
        *("r-tla-fig10-smoke", "r-tla-supp-table3-smoke", "r-tla-supp-fig1-smoke"),
        *("r-at2l-table2-smoke", "r-at2l-table10-smoke", "r-at2l-fig1-smoke"),
        *("r-at2l-app-table4-smoke", "r-other-x-smoke"),
    ]
    assert re.findall('<a href="#(.*?)"', text) == order


def test_two_results_of_one_name_have_two_places(tmp_path):
    for part in "ab":
        put(tmp_path / part, metrics("tla/table1", []))
    assert re.findall('<article id="(.*?)"', report(tmp_path)[1]) == [
        "r-tla-table1-smoke", "r-tla-table1-smoke--2"
    ]  # fmt: skip


def test_what_is_said_of_budgets_and_unfinished_runs(tmp_path):
    put(tmp_path, metrics("tla/table1", [], complete=False))
    put(tmp_path, metrics("tla/table2", [], budget="full"))
    _, text = report(tmp_path)
    first, second = text.split("<article")[1:]
    assert "<strong>Smoke run: not a result</strong>" in first
    assert "<strong>Incomplete: not all of its parts finished</strong>" in first
    assert '<span class="badge bad">incomplete</span>' in first
    assert '<span class="badge smoke">smoke</span>' in first
    assert "<strong>Full run</strong>" in second
    assert "ncomplete" not in second
    assert "2 results (1 full, 1 smoke), of 2026-03-01." in text
    for fact in ("AVX512", "torch</dt><dd>2.13.0+cpu", "31.4 s", "2026-03-01 10:20:30 UTC"):
        assert fact in first
    for fact in ("epochs: 30 in the recipe, 1 here", "checkpoints/digits-tla-1a2b3c4d/best.pt"):
        assert fact in first
    assert "<dt>attack_step</dt><dd>3/160</dd>" in first


def test_what_is_said_of_a_run_in_rounds(tmp_path):
    part = {"dataset": "mnist", "runs": [run_of("AT2L", **IN_ROUNDS), run_of("UM")]}
    put(tmp_path, metrics("at2l/table1", [], parts=[part]))
    _, text = report(tmp_path)
    assert f"<ul><li>{LINE}</li><li>changed: epochs: 30 in the recipe, 1 here</li></ul>" in text
    assert text.count("images/s") == 1


def test_a_missing_figure_is_named(tmp_path, capsys):
    put(tmp_path, metrics("tla/fig1", [], figures=[{"file": "gone.png", "alt": "Dots"}]))
    status, text = report(tmp_path)
    assert status == 0
    assert "<li>smoke/tla-fig1/gone.png: no such figure</li>" in text
    assert "gone.png is not there. Dots" in text
    assert "<img" not in text
    assert "gone.png: no such figure" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../../secret.png", "notes.txt", "", "a\0.png"])
def test_only_images_beside_a_result_are_carried(name, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    path = put(tmp_path, metrics("tla/fig1", [], figures=[{"file": name}]))
    path.with_name("notes.txt").write_text("secret")
    assert "base64" not in report(tmp_path)[1]


def of_row(**changes):
    table = Table("t", "M", [Column("a")], {"TLA": [Cell(0.5)]}).as_dict()
    table["rows"]["TLA"][0] |= changes
    return {"tables": [table]}


BROKEN = {
    "tables must be a list, got 1": {"tables": 1},
    "tables[0] must have 'title'": {"tables": [{}]},
    "tables[0].rows.TLA[0].value must be an integer or a number or null, got 'x'": of_row(
        value="x"
    ),
    "tables[0].rows.TLA[0].error must be an integer or a number or null, got inf": of_row(
        error=float("inf")
    ),
    "tables[0].rows.TLA[0].paper must be an integer or a number or null, got True": of_row(
        paper=True
    ),
    "tables[0].rows.TLA[0].best must be true or false, got 1": of_row(best=1),
    "complete must be true or false, got 'yes'": {"complete": "yes"},
    "title must be text, got None": {"title": None},
    "figures[0] must have 'file'": {"figures": [{}]},
    "parts[0].runs[0] must have 'method'": {"parts": [{"dataset": "d", "runs": [{}]}]},
    "parts[0].runs[0].images_per_second.f.ll must be an integer or a number, got 'x'": {
        "parts": [
            {"dataset": "d", "runs": [{"method": "m", "images_per_second": {"f": {"ll": "x"}}}]}
        ]
    },
    "environment must be an object, got []": {"environment": []},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_result_is_named(reason, tmp_path, capsys):
    put(tmp_path, metrics("tla/table1", []))
    put(tmp_path, metrics("tla/table2", []) | BROKEN[reason])
    status, text = report(tmp_path)
    assert status == 0
    assert re.findall('<article id="(.*?)"', text) == ["r-tla-table1-smoke"]
    quoted = reason.replace("'", "&#x27;")
    assert f"<li>smoke/tla-table2/metrics.json: {quoted}</li>" in text
    assert f"tla-table2/metrics.json: {reason}\n" in capsys.readouterr().out


def test_tables_of_the_wrong_size_are_broken(tmp_path, capsys):
    content = of_row()
    content["tables"][0]["columns"] *= 2
    put(tmp_path, metrics() | content)
    assert report(tmp_path) == (1, None)
    assert "tables[0].rows.TLA must have 2 cells as there are columns, got 1" in (
        capsys.readouterr().err
    )
    content["tables"][0]["columns"][0]["kind"] = "share"
    put(tmp_path, metrics() | content)
    assert report(tmp_path) == (1, None)
    assert "columns[0].kind must be among" in capsys.readouterr().err


def test_what_a_result_may_leave_out(tmp_path):
    least = {"experiment": "tla/fig1", "title": "T", "budget": "own", "complete": True}
    path = put(tmp_path, least | {"tables": [], "source": None, "parts": [{"dataset": "d"}]})
    status, text = report(path.parent)
    assert status == 0
    assert "1 result (1 own)." in text
    assert "<strong>Own run</strong>" in text


def test_other_files_are_left_out(tmp_path, capsys):
    put(tmp_path, metrics("tla/table1", []))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "metrics.json").write_text('{"experiment": "demo", "complete": true}')
    (tmp_path / "demo" / "result.json").write_text("{}")
    (tmp_path / "demo" / "settings.json").write_text("{")
    status, text = report(tmp_path)
    assert status == 0
    assert "2 results of other commands" in text
    assert "skipped 2 results of other commands" in capsys.readouterr().out


def test_nothing_to_show(tmp_path, capsys):
    def error(*arguments):
        assert cli.main(["report", *map(str, arguments)]) == 1
        return capsys.readouterr().err

    hint = "`tla-ops reproduce --list` shows what makes some"
    assert error(tmp_path / "none") == f"tla-ops report: {tmp_path / 'none'}: is not there\n"
    assert error(tmp_path) == (
        f"tla-ops report: {tmp_path}: holds no results of experiments; {hint}\n"
    )
    file = tmp_path / "metrics.json"
    file.write_text("{")
    assert error(file) == f"tla-ops report: {file}: is a file\n"
    assert error(tmp_path).splitlines()[1].startswith(f"warning: {file}: cannot be read: ")
    file.write_text("[1]")
    assert "no results of experiments (1 of other commands)" in error(tmp_path)
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_json_and_where_the_page_goes(tmp_path, capsys):
    folder, output = tmp_path / "runs", tmp_path / "new" / "folder" / "page.html"
    path = put(folder, metrics("tla/table1", []))
    assert cli.main(["report", str(folder), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": str(output),
        "results": [
            {
                **{"experiment": "tla/table1", "title": "Accuracy under nine attacks"},
                **{"budget": "smoke", "complete": True, "file": str(path)},
            }
        ],
        **{"broken": {}, "missing_figures": [], "others": 0},
    }
    assert os.listdir(output.parent) == ["page.html"]
    assert not (folder / "report.html").exists()
    before = output.read_text()
    assert cli.main(["report", str(folder), "--output", str(output)]) == 0
    assert output.read_text() == before


def test_a_result_is_not_overwritten(tmp_path, capsys):
    path = put(tmp_path, metrics("tla/table1", []))
    before = path.read_text()
    assert cli.main(["report", str(tmp_path), "--output", str(path)]) == 2
    assert capsys.readouterr().err == f"tla-ops report: --output {path}: is a result to read\n"
    assert path.read_text() == before
    assert cli.main(["report", str(tmp_path), "--output", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_the_page_needs_no_file_of_the_results(samples, tmp_path, page):
    shutil.copy(samples, tmp_path / "alone.html")
    assert faults(page, (tmp_path / "alone.html").as_uri(), 1280, "light") == []
