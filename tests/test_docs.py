"""README and docs: links lead somewhere, commands and options exist, Python compiles and runs."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote

import pytest

from ditas_core.cli.main import build_parser
from ditas_core.specs import FORMATS, Element

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"^(?:python -m ditas_core|ditas) (.+)$")


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page if not path else page.parent / path
        if not target.exists():
            yield f"{page.name}: no file {link}"
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"{page.name}: no heading {link}"


def commands(page: Path) -> Iterator[str]:
    """Every line of code blocks, and what stands between backticks."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language != "python":
            yield from (
                line.split(" #")[0].strip() for line in block.replace("\\\n", " ").split("\n")
            )
    yield from CODE.findall(FENCE.sub("", text))


def wrong_commands(page: Path) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    parser = build_parser()
    verbs = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    for command in commands(page):
        for target in re.findall(r"(?:^| )make ([a-z]+)", command):
            if target not in targets:
                yield f"{page.name}: no make {target}"
        found = COMMAND.match(command)
        if found is None:
            continue
        words = shlex.split(found[1])
        if words[0] not in verbs and words[0] not in ("VERB", "..."):
            yield f"{page.name}: no verb {words[0]}"
        elif words[0] in verbs:
            known = set(verbs[words[0]]._option_string_actions)
            # what bench runs has parsers of its own
            told = [] if words[0] == "bench" else [w.split("=")[0] for w in words]
            yield from (
                f"{page.name}: {words[0]} has no {word}"
                for word in told
                if word.startswith("--") and word not in known
            )


def wrong_python(page: Path) -> Iterator[str]:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ditas_core"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        yield f"{page.name}: {node.module} has no {alias.name}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ditas":
                import ditas_core

                if node.attr not in ditas_core.__all__:
                    yield f"{page.name}: ditas has no {node.attr}"


CHECKS = [broken_links, wrong_commands, wrong_python]


@pytest.mark.parametrize("check", CHECKS)
def test_pages_are_right(check: object) -> None:
    assert callable(check)
    assert not [wrong for page in PAGES for wrong in check(page)]


def test_the_readme_is_one_screen_and_leads_to_every_page() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    linked = set(LINK.findall(text))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n[a](none.md) [b](#nowhere) [c](#a-page) [d](https://x.invalid/none)\n"
        "`make nothing` and `ditas dream x`\n"
        "```\npython -m ditas_core search x --colour red\n```\n"
        "```python\nimport ditas_core as ditas\nfrom ditas_core.specs import Nothing\n"
        "ditas.dream()\n```\n",
        encoding="utf-8",
    )
    assert [len(list(check(page))) for check in CHECKS] == [2, 3, 2]


def level_count(element: Element) -> int:
    """From the largest one's bit pattern: as many below zero."""
    if element.table:
        return len(element.table)
    if not element.exponent:
        return round(2 * element.largest / element.step) + 1
    mantissa = (element.largest / 2**element.largest_exponent - 1) * 2**element.mantissa
    code = (element.largest_exponent + element.bias) * 2**element.mantissa + round(mantissa)
    return 2 * code + 1


def test_the_table_of_number_formats_is_right() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    table = {re.findall(r"`([a-z].+?)`", row[0])[0]: row for row in rows if "`W" not in row[0]}
    assert list(table) == list(FORMATS)
    for name, form in FORMATS.items():
        _, count, largest, shared, _, bits = (cell.strip() for cell in table[name])
        assert int(count) == level_count(form.element)
        assert Fraction(largest) == Fraction(form.element.largest)
        assert shared == (f"{form.block} inputs" if form.block else "the convention's")
        assert float(bits) == form.bits_with_scale


@pytest.mark.thorough
def test_the_readmes_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    block = next(b for kind, b in FENCE.findall(PAGES[0].read_text("utf-8")) if kind == "python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "bits per weight" in str(names["report"])
