"""Reports of measurements as tables in README and docs, between ``<!-- results: NAME -->`` and
``<!-- end -->``; and the name of the shipped checkpoint where commands and examples use it."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..bench import conventions, ranking, stock, tokens
from ..writing import write_text
from .steps import MEASUREMENTS

Json = dict[str, Any]
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
NAMED = re.compile(r"(?<![\w/])assets/([a-z0-9][\w-]*)(?![\w./-]*\.\w)")
"""A folder of assets; a file's name has a dot."""


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def spread(found: Json | None, digits: int = 2) -> str:
    """``20.53 ± 2.33``; "" for none."""
    if found is None:
        return ""
    around = "" if found["ci95"] is None else f" ± {found['ci95']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{around}"


def machine(report: Json) -> str:
    known = report["machine"]
    return f"{known['cpu']}, {known['cores']} cores, {known['date']}"


def settings(report: Json) -> str:
    """Of a comparison."""
    return (
        f"{report['samples']} samples of {report['steps']} steps, guidance "
        f"{report['guidance_scale']:g}, `{report['convention']}` convention; {machine(report)}."
    )


def methods(report: Json) -> list[str]:
    rows = [
        (row["label"], f"{row['effective_bits']:.2f}", spread(row["latent_sqnr_db"]),
         spread(row["psnr_db"]), spread(row.get("gain_over_plain_db")))
        for row in report["results"]
    ]  # fmt: skip
    header = ("", "bits per weight", "latent SQNR, dB", "PSNR, dB", "gain over plain, dB")
    return [settings(report), "", *grid(header, rows)]


def crossed(report: Json, by: str) -> list[str]:
    """A row for each bits, a column for each backend or modulation."""
    cells: dict[str, dict[str, str]] = {}
    for row in report["results"]:
        text = spread(row["latent_sqnr_db"])
        text += f" ({row['whole_model_bits']:.1f})" if by == "modulation" else ""
        cells.setdefault(row["label"].split()[0], {})[row[by]] = text
    columns = list(next(iter(cells.values())))
    rows = [(bits, *(found[name] for name in columns)) for bits, found in cells.items()]
    return [settings(report), "", *grid(("", *columns), rows)]


def exports(report: Json) -> list[str]:
    rows = [
        (f"{row['form']} {row['bits_of_recipe']}", ", ".join(row["left_out"]),
         f"{row['bits']:.1f}", spread(row["as_exported_db"], 1), spread(row["as_given_db"], 1))
        for row in report["rows"]
    ]  # fmt: skip
    header = ("export", "left out", "bits", "as exported, dB", "the recipe itself, dB")
    samples = report["rows"][0]["samples"]
    said = f"{samples} samples of {report['steps']} steps; {machine(report)}."
    return [said, "", *grid(header, rows)]


def formats(report: Json) -> list[str]:
    rows = [
        (f"`{row['widths']}`", row["convention"], f"{row['bits']:.2f}", f"{row['error_db']:.1f}")
        for row in report["rows"]
    ]
    said = f"{report['samples']} samples of {report['steps']} steps, mean over {report['layers']} "
    said += f"layers; {machine(report)}."
    return [said, "", *grid(("", "convention", "bits per weight", "error, dB"), rows)]


def contest(report: Json) -> list[str]:
    """A table for each setting."""
    made = [
        f"{report['samples']} samples of {report['steps']} steps; {machine(report)}. Bold: on the "
        "front. *: not told apart from the closest."
    ]
    header = ("", "bits per weight", "latent SQNR, dB", "PSNR, dB", "features", "to convert, s",
              "more operations")  # fmt: skip
    for one in report["contests"]:
        rows = []
        for row in one["rows"]:
            name = f"**{row['label']}**" if row["on_front"] else row["label"]
            rows.append((
                name + (" *" if row["tied_with_best"] else ""), f"{row['effective_bits']:.2f}",
                f"{row['latent_sqnr_db']:.2f} ± {row['latent_sqnr_db_ci95']:.2f}",
                f"{row['psnr_db']:.2f}", f"{row['feature_distance']:.3f}",
                f"{row['search_s'] + row['convert_s']:.0f}",
                f"{100 * row['extra_operations']:.1f} %",
            ))  # fmt: skip
        made += ["", f"**{one['bits']}, at most {one['budget']:g} bits**", "", *grid(header, rows)]
    return made


def recommended(report: Json) -> list[str]:
    """A table for each setting; gains over DiTAS, or over the search where it does not fit."""
    made = [f"{report['steps']} steps; {machine(report)}. *: not told apart from it."]
    for one in report["settings"]:
        header = ("", "bits per weight", "latent SQNR, dB", f"gain over {one['rival']}, dB",
                  "to convert, s", "more operations", "by layers, dB",
                  "by reach, dB")  # fmt: skip
        rows = [
            (row["label"], f"{row['effective_bits']:.2f}", spread(row["latent_sqnr_db"]),
             spread(row.get("gain_db")) + (" *" if row.get("tie") else ""),
             f"{row['conversion_s']:.0f}", f"{100 * row['extra_operations']:.1f} %",
             f"{row['layers_db']:.1f}", f"{row['reach_db']:.1f}")
            for row in one["rows"]
        ]  # fmt: skip
        said = f"**{one['bits']}, at most {one['budget']:g} bits, {one['samples']} samples**"
        made += ["", said, "", *grid(header, rows)]
    return made


def search(report: Json) -> list[str]:
    rows = [
        (one["model"], f"{one['forwards']['reference']} / {one['forwards']['engine']}",
         f"{one['median_seconds']['reference']} / {one['median_seconds']['engine']}",
         f"{one['ratio']:.0f}", "{within_1_percent} of {of}".format(**one["agreement"]))
        for one in report["results"]
    ]  # fmt: skip
    header = ("model", "transformer forwards", "seconds", "ratio", "layers within 1 % of the best")
    return [f"{machine(report)}.", "", *grid(header, rows)]


def forward(report: Json) -> list[str]:
    """A row for each way, a column for each model."""
    models = list(report["models"].values())
    names = list(dict.fromkeys(row["name"] for found in models for row in found["rows"]))
    rows = []
    for name in names:
        cells = []
        for found in models:
            row = next((each for each in found["rows"] if each["name"] == name), None)
            if row is None:
                cells.append("")
            elif row["sqnr_db"] is None:
                cells.append(f"1, {row['ms']:.0f} ms")
            else:
                cells.append(f"{row['times_faster']:.2f}, {row['sqnr_db']} dB")
        rows.append((name, *cells))
    header = ("", *(f"{found['model']}, {found['latents']} latents" for found in models))
    return [f"{machine(report)}; {report['rounds']} rounds, medians.", "", *grid(header, rows)]


def study(report: Json) -> list[str]:
    said = f"{report['steps']} steps, {report['samples']} samples, {report['tokens_of_a_step']} "
    said += f"tokens per step in all, draws: {report['draws']}; {machine(report)}."
    return [said, "", *tokens.table(report)]


def tabled(bench: Any) -> Callable[[Json], list[str]]:
    """What a benchmark's own lines are: a table."""

    def lines(report: Json) -> list[str]:
        said = f"{report['samples']} samples of {report['steps']} steps; {machine(report)}."
        return [said, "", *bench.lines(report)]

    return lines


def site(report: Json) -> list[str]:
    sizes, values = report["sizes"], report["values"]
    rows = [
        ("code and runtime", f"{sizes['code_compressed'] / 1e6:.1f} MB "
         f"({sizes['code'] / 1e6:.1f} MB before compression)"),
        ("decoder, 8 bits a weight", f"{sizes['decoder'] / 1e6:.2f} MB, "
         f"{sizes['decoder_psnr']:.0f} dB PSNR from single precision"),
        *((key, f"{size / 1e6:.2f} MB") for key, size in sizes["models"].items()),
    ]  # fmt: skip
    times = grid(
        ("", "measured", "at most"),
        [
            ("first picture, loading included", f"{values['first_s']:.1f} s",
             f"{report['targets']['first_s']:g} s"),
            ("every further one", f"{values['next_s']:.1f} s",
             f"{report['targets']['next_s']:g} s"),
            *((name, f"{db:.0f} dB", "") for name, db in report["apart_db"].items()),
        ],
    )  # fmt: skip
    said = f"One thread of Chromium; {machine(report)}; {report['model']}, 20 steps."
    return [*grid(("", "to download"), rows), "", said, "", *times]


def page(report: Json) -> list[str]:
    rows = []
    for name, values in report["values"].items():
        unit = "" if name.endswith("bytes") else " ms"
        middle, target = statistics.median(values), report["targets"][name]
        missed = "" if middle <= target else ", missed"
        rows.append((name, f"{middle:,.0f}{unit}", f"{target:,.0f}{unit}{missed}"))
    return [f"{machine(report)}; medians.", "", *grid(("what", "measured", "at most"), rows)]


TABLES: dict[str, tuple[Path, Callable[[Json], list[str]]]] = {
    "methods": (MEASUREMENTS / "methods.json", methods),
    "contests": (MEASUREMENTS / "contests.json", contest),
    "contests-injected": (MEASUREMENTS / "contests-injected.json", contest),
    "recommended": (MEASUREMENTS / "recommended.json", recommended),
    "recommended-injected": (MEASUREMENTS / "recommended-injected.json", recommended),
    "formats": (MEASUREMENTS / "formats.json", formats),
    "smoothing": (MEASUREMENTS / "smoothing.json", methods),
    "injected": (MEASUREMENTS / "injected.json", methods),
    "backends": (MEASUREMENTS / "backends.json", lambda found: crossed(found, "backend")),
    "modulation": (MEASUREMENTS / "modulation.json", lambda found: crossed(found, "modulation")),
    "conventions": (MEASUREMENTS / "conventions.json", tabled(conventions)),
    "ranking": (MEASUREMENTS / "ranking.json", tabled(ranking)),
    "stock": (MEASUREMENTS / "stock.json", tabled(stock)),
    "exports": (MEASUREMENTS / "exports.json", exports),
    "search": (MEASUREMENTS / "search.json", search),
    "forward": (MEASUREMENTS / "forward.json", forward),
    "tokens": (Path("assets/token-study/study.json"), study),
    "site": (MEASUREMENTS / "site-bench.json", site),
    "page": (MEASUREMENTS / "page.json", page),
}


def rendered(text: str, root: Path, shipped: Sequence[str]) -> str:
    """A page's text with its tables and names as they are now.

    shipped  names of the shipped checkpoints; a folder of assets that is not there means the first

    Raises:
        KeyError: a block that no report fills.
    """

    def block(found: re.Match[str]) -> str:
        path, lines = TABLES[found[2]]
        if not (root / path).is_file():
            return found[0]
        report = json.loads((root / path).read_text("utf-8"))
        command = ["```", report["command"], "```", ""] if "command" in report else []
        return "\n".join([found[1].rstrip(), *command, *lines(report), found[3]])

    def name(found: re.Match[str]) -> str:
        there = found[1] in shipped or (root / "assets" / found[1]).exists()
        return found[0] if there else f"assets/{shipped[0]}"

    return NAMED.sub(name, BLOCK.sub(block, text))


def pages(root: Path) -> Iterator[Path]:
    """All that names the shipped checkpoint to readers: README, docs, examples in the code."""
    yield root / "README.md"
    yield from sorted((root / "docs").glob("*.md"))
    yield from sorted((root / "ditas_core").rglob("*.py"))


def write_pages(root: Path, shipped: Sequence[str]) -> list[str]:
    """The pages that were changed."""
    changed = []
    for path in pages(root):
        text = path.read_text(encoding="utf-8")
        if (made := rendered(text, root, shipped)) != text:
            write_text(path, made)
            changed.append(str(path.relative_to(root)))
    return changed
