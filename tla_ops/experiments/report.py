"""All results below a folder as one HTML page that needs no other file, no network, no script."""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from collections import Counter
from html import escape
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from tla_ops import __version__
from tla_ops.experiments.page import described, facts, labels, learning, run_facts, run_name
from tla_ops.experiments.results import PAPERS, Found, Result
from tla_ops.experiments.tables import html
from tla_ops.training.files import write_atomically

TITLE = "Reproduced tables and figures"
# Whatever a result holds, a browser runs no script of it and fetches nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write(found: Found, path: Path) -> list[Path]:
    """Write the page of ``found.results``; returns the figures that were not there."""
    text, missing = render(found)
    write_atomically(path, lambda file: file.write(text.encode()))
    return missing


def render(found: Found) -> tuple[str, list[Path]]:
    """The page, and the figures that were not there; the same results give the same page."""
    missing: list[Path] = []
    names = _identifiers(found.results)
    articles = [
        _article(result, name, found.folder, missing)
        for result, name in zip(found.results, names, strict=True)
    ]
    warnings = [f"{_place(path, found.folder)}: {text}" for path, text in found.broken.items()]
    warnings += [f"{_place(path, found.folder)}: no such figure" for path in missing]
    style = resources.files("tla_ops.experiments").joinpath("report.css").read_text("utf-8")
    blocks = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{TITLE}</title>",
        f"<style>\n{style}</style>",
        "</head>",
        "<body>",
        _head(found),
        _warnings(warnings),
        _contents(found.results, names),
        "<main>",
        *articles,
        "</main>",
        f"<footer>Written by tla-ops {escape(__version__)}.</footer>",
        "</body>",
        "</html>",
    ]
    return "\n".join(block for block in blocks if block) + "\n", missing


def _head(found: Found) -> str:
    budgets = Counter(result.metrics["budget"] for result in found.results)
    count = len(found.results)
    counts = ", ".join(f"{number} {budget}" for budget, number in sorted(budgets.items()))
    dates = sorted(filter(None, map(_day, found.results)))
    when = f", of {dates[0]}" if dates else ""
    when += f" to {dates[-1]}" if dates and dates[-1] != dates[0] else ""
    others = (
        f" {found.others} results of other commands, such as training runs, are left out."
        if found.others
        else ""
    )
    return (
        f"<header>\n<h1>{TITLE}</h1>\n"
        "<p>Tables and figures of papers on adversarial training with a triplet loss, computed "
        "again by <code>tla-ops reproduce</code>. Our numbers stand with the papers’.</p>\n"
        f"<p>{count} {'result' if count == 1 else 'results'} ({escape(counts)}){escape(when)}."
        f"{escape(others)}</p>\n</header>"
    )


def _day(result: Result) -> str:
    return str((result.metrics.get("environment") or {}).get("date") or "")[:10]


def _warnings(texts: list[str]) -> str:
    if not texts:
        return ""
    return (
        '<aside class="status bad" aria-label="Warnings">\n<strong>Not everything could be shown'
        f"</strong>\n{_list(texts)}\n</aside>"
    )


def _contents(results: list[Result], names: list[str]) -> str:
    blocks = []
    pairs = zip(results, names, strict=True)
    for paper, group in groupby(pairs, lambda pair: _paper(pair[0].metrics)):
        lines = [
            f'<li><a href="#{name}">{escape(result.metrics["title"])}</a> '
            f'<span class="source">{escape(result.metrics.get("source") or "")}</span> '
            f'<span class="badges">{_badges(result.metrics)}</span></li>'
            for result, name in group
        ]
        blocks.append(f"<h3>{escape(paper)}</h3>\n<ul>\n" + "\n".join(lines) + "\n</ul>")
    body = "\n".join(blocks)
    return f'<nav aria-labelledby="contents">\n<h2 id="contents">Contents</h2>\n{body}\n</nav>'


def _paper(metrics: dict[str, Any]) -> str:
    name = metrics["experiment"].partition("/")[0]
    return PAPERS.get(name, name)


def _badges(metrics: dict[str, Any]) -> str:
    budget = metrics["budget"]
    badges = f'<span class="badge {_tone(budget)}">{escape(budget)}</span>'
    return badges + ("" if metrics["complete"] else ' <span class="badge bad">incomplete</span>')


def _tone(budget: str) -> str:
    return budget if budget in ("full", "short") else "smoke"


def _article(result: Result, name: str, folder: Path, missing: list[Path]) -> str:
    metrics = result.metrics
    source = [part for part in (metrics.get("source"), metrics["experiment"]) if part]
    tone = _tone(metrics["budget"]) if metrics["complete"] else "bad"
    blocks = [
        f'<article id="{name}" class="of-{_tone(metrics["budget"])}" '
        f'aria-labelledby="{name}-title">',
        f'<p class="source">{escape(", ".join(source))} {_badges(metrics)}</p>',
        f'<h2 id="{name}-title">{escape(metrics["title"])}</h2>',
        f'<div class="status {tone}">',
        *(f"<strong>{escape(text)}</strong>" for text in labels(metrics)),
        _list(metrics.get("notes")),
        "</div>",
        *(html(table).rstrip() for table in metrics["tables"]),
        *(_figure(figure, result.path.parent, missing) for figure in metrics.get("figures") or ()),
        _configuration(metrics),
        _made(result, folder),
        "</article>",
    ]
    return "\n".join(block for block in blocks if block)


def _figure(figure: dict[str, Any], folder: Path, missing: list[Path]) -> str:
    path = folder / figure["file"]
    kind = mimetypes.guess_type(path.name)[0] or ""
    content = _image(path, folder) if kind.startswith("image/") else None
    alt, caption = escape(figure.get("alt") or ""), escape(figure.get("caption") or "")
    below = f"<figcaption>{caption}</figcaption>\n" if caption else ""
    if content is None:
        missing.append(path)
        text = f"{escape(figure['file'])} is not there. {alt}"
        return f'<figure>\n<p class="status bad">{text}</p>\n{below}</figure>'
    data = base64.b64encode(content).decode()
    width, height = _png_size(content)
    size = f' width="{width}" height="{height}"' if width else ""
    wide = ' wide" role="region" tabindex="0" aria-label="Figure' if width > 1.6 * height else ""
    image = f'<img src="data:{kind};base64,{data}" alt="{alt}"{size}>'
    return f'<figure>\n<div class="plate{wide}">{image}</div>\n{below}</figure>'


def _image(path: Path, folder: Path) -> bytes | None:
    """What a figure's file holds, None where it cannot be read or lies elsewhere: no result makes
    the page carry another file.
    """
    try:
        beside = path.resolve().is_relative_to(folder.resolve())
        return path.read_bytes() if beside else None
    except (OSError, ValueError):  # a name with a zero in it is a ValueError
        return None


def _png_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels, 0 for what is no PNG."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return 0, 0
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _configuration(metrics: dict[str, Any]) -> str:
    parts = metrics.get("parts") or []
    if not parts:
        return ""
    count = sum(len(part.get("runs") or ()) for part in parts)
    data = ", ".join(dict.fromkeys(part["dataset"] for part in parts))
    runs = f"{count} {'run' if count == 1 else 'runs'} on " if count else ""
    summary = f"Configuration: {runs}{escape(data)}"
    body = "\n".join(
        f"<h3>{escape(described(part))}</h3>\n{_list(part.get('notes'))}\n"
        + "\n".join(map(_run, part.get("runs") or ()))
        for part in parts
    )
    return f"<details>\n<summary>{summary}</summary>\n{body}\n</details>"


def _run(run: dict[str, Any]) -> str:
    recipe = run.get("recipe") or {}
    values = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(_value(value))}</dd></div>"
        for key, value in recipe.items()
    )
    title = escape(run_name(run))
    return (
        f'<section class="run">\n<h4>{title}</h4>\n<p>{escape(", ".join(run_facts(run)))}</p>\n'
        + _list([*learning(run), *(f"changed: {text}" for text in run.get("changed") or ())])
        + (
            f"<details><summary>Recipe of {title}, {len(recipe)} values</summary>\n"
            f'<dl class="recipe">{values}</dl></details>\n'
            if recipe
            else ""
        )
        + "</section>"
    )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _made(result: Result, folder: Path) -> str:
    pairs = [*facts(result.metrics), ("file", _place(result.path, folder))]
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="made">{items}</dl>'


def _list(texts: list[str] | None) -> str:
    if not texts:
        return ""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _identifiers(results: list[Result]) -> list[str]:
    """For each result a name to link to, letters, digits and hyphens alone, all different."""
    seen: Counter[str] = Counter()
    names = []
    for result in results:
        text = f"{result.metrics['experiment']}-{result.metrics['budget']}"
        name = "r-" + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}--{seen[name]}")
    return names
