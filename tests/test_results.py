"""`make results` and `make contests`: what is skipped, what is run again, what a failure leaves,
tables in pages."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from ditas_core.bench.machine import ROOT
from ditas_core.calibration import calibrate, measure_reach
from ditas_core.checkpoints import Checkpoint, shipped_folders
from ditas_core.figures import ablation_drawing
from ditas_core.results import pages, recommended
from ditas_core.results.__main__ import main
from ditas_core.results.running import Ledger, chosen, identity, longest_first, run_all
from ditas_core.results.steps import MEASUREMENTS, PARTS, Step, steps
from ditas_core.search import predicted_errors
from ditas_core.specs import RECOMMENDED, CalibrationSpec, Recipe, SamplingSpec

MACHINE: dict[str, object] = {"cpu": "some", "cores": 2, "date": "2000-01-01"}


def step(name: str, code: str, *after: str, alone: bool = False, report: bool = False) -> Step:
    """A command that appends its name to ``order`` first."""
    said = f"import pathlib; open('order', 'a').write('{name}\\n'); {code}"
    words = (sys.executable, "-c", said)
    return Step(name, "", words, (Path(name),), report, after, alone)


def made(name: str) -> str:
    return f"pathlib.Path('{name}').touch()"


def test_done_steps_are_skipped_until_model_command_or_output_change(tmp_path: Path) -> None:
    every = [step("a", made("a")), step("b", made("b"), "a")]
    ledger = Ledger.read(tmp_path, "one")
    assert run_all(every, ledger, MACHINE, lambda _: None) == []
    again = Ledger.read(tmp_path, "one")
    assert chosen(every, again, [], False) == ([], every)
    assert again.seconds(every[0]) is not None
    assert chosen(every, Ledger.read(tmp_path, "other"), [], False)[0] == every
    assert chosen(every, again, ["b"], True) == ([every[1]], [])
    (tmp_path / "a").unlink()
    assert chosen(every, again, [], False)[0] == every, "what follows from it is made again"
    with pytest.raises(ValueError, match="expected some of a, b; got c"):
        chosen(every, again, ["c"], False)


def test_a_failure_is_told_and_keeps_back_what_needs_it(tmp_path: Path) -> None:
    every = [
        step("bad", "raise SystemExit('no disk')"),
        step("after", made("after"), "bad"),
        step("silent", "print('x')"),
        step("wordless", "print('no json')", report=True),
        step("last", made("last"), alone=True),
        step("good", made("good")),
    ]
    ledger = Ledger.read(tmp_path, "one")
    failed = run_all(every, ledger, MACHINE, lambda _: None)
    told = "\n".join(failed)
    assert "no disk" in told and "not begun, it needs bad" in told
    assert "silent: expected silent, found none" in told
    assert "wordless: expected a report as JSON" in told and not (tmp_path / "wordless").exists()
    order = (tmp_path / "order").read_text().split()
    assert order[-1] == "last" and "after" not in order, "alone when all others are done"
    assert set(Ledger.read(tmp_path, "one").entries) == {"last", "good"}


def test_the_longest_chain_begins_first(tmp_path: Path) -> None:
    took = {"short": 5, "long": 60, "first": 10, "second": 90, "alone": 500}
    every = [
        step("short", ""),
        step("alone", "", "second", alone=True),
        step("long", ""),
        step("first", ""),
        step("second", "", "first"),
        step("new", ""),
    ]
    entries = {name: {"seconds": seconds} for name, seconds in took.items()}
    order = [each.name for each in longest_first(every, Ledger(tmp_path, "m", entries))]
    assert order == ["new", "first", "second", "long", "short", "alone"]


def test_a_report_is_kept_with_its_machine_and_command(tmp_path: Path) -> None:
    one = step("a", "print('talk'); print('{\"x\": 1}')", report=True)
    assert run_all([one], Ledger.read(tmp_path, "m"), MACHINE, lambda _: None) == []
    report = json.loads((tmp_path / "a").read_text())
    assert report["x"] == 1 and report["machine"] == MACHINE
    assert report["command"].startswith("python -c")


def test_the_model_is_its_weights_and_settings_not_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "transformer" / "weights").write_bytes(b"1")
    first = identity([folder])
    (folder / "README.md").write_text("a card")
    assert identity([folder]) == first
    (folder / "transformer" / "weights").write_bytes(b"2")
    assert identity([folder]) != first


def test_what_is_recorded_was_made_for_what_is_shipped() -> None:
    shipped = shipped_folders()
    ledger = Ledger.read(ROOT, identity(shipped))
    every = steps([folder.relative_to(ROOT) for folder in shipped])
    assert len({each.name for each in every}) == len(every)
    assert {name for each in every for name in each.after} <= {each.name for each in every}
    recorded = [each for each in every if each.name in ledger.entries and each.name != "site"]
    stale = [each.name for each in recorded if not ledger.done(each)]
    assert not stale, "run make results or make contests"
    assert set(ledger.entries) <= {each.name for each in every}


def test_a_part_is_whole_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = [folder.relative_to(ROOT) for folder in shipped_folders()]
    every = {each.name: each for each in steps(shipped)}
    assert {each.part for each in every.values()} == set(PARTS)
    for each in every.values():
        assert all(every[name].part == each.part for name in each.after), each.name
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in listed] == list(every)
    assert main(["exhibits"]) == 2
    assert "expected some of model, contests; got exhibits" in capsys.readouterr().err


def test_pages_say_what_the_reports_say_and_name_what_is_shipped() -> None:
    shipped = [folder.name for folder in shipped_folders()]
    for path in pages.pages(ROOT):
        text = path.read_text(encoding="utf-8")
        assert pages.rendered(text, ROOT, shipped) == text, (
            f"{path.name}: run make results or make contests"
        )
    docs = "".join(path.read_text("utf-8") for path in pages.pages(ROOT) if path.suffix == ".md")
    assert {name for _, name, _ in pages.BLOCK.findall(docs)} == set(pages.TABLES)


def test_a_table_is_filled_and_a_name_that_is_gone_is_replaced(tmp_path: Path) -> None:
    text = (
        "before\n<!-- results: injected -->\nold\n<!-- end -->\n"
        "<!-- results: search -->\nstays\n<!-- end -->\n"
        "`assets/old-model` assets/new-model assets/NAME assets/icon.svg ../assets/old-model/a.md\n"
    )
    spread = {"mean": 24.218, "ci95": 1.946, "n": 16}
    row = {"label": "W8A8 plain", "effective_bits": 8.14, "latent_sqnr_db": spread}
    report = {
        "command": "python -m x", "machine": MACHINE, "samples": 16, "steps": 20,
        "guidance_scale": 1.5, "convention": "paper", "results": [{**row, "psnr_db": spread}],
    }  # fmt: skip
    (tmp_path / MEASUREMENTS).mkdir(parents=True)
    (tmp_path / MEASUREMENTS / "injected.json").write_text(json.dumps(report))
    found = pages.rendered(text, tmp_path, ["new-model"])
    assert "old\n" not in found and "\nstays\n" in found and "```\npython -m x\n```" in found
    assert "| W8A8 plain | 8.14 | 24.22 ± 1.95 | 24.22 ± 1.95 |  |" in found
    assert "`assets/new-model` assets/new-model assets/NAME assets/icon.svg" in found
    assert pages.rendered(found, tmp_path, ["new-model"]) == found
    with pytest.raises(KeyError):
        pages.rendered("<!-- results: none -->\n<!-- end -->", tmp_path, ["new-model"])


def test_the_recommended_method_is_held_against_ditas(
    random_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """One of each method; gains are paired; what was finished is not run again."""
    sampling = SamplingSpec(steps=recommended.STEPS)
    calibration = calibrate(random_checkpoint, CalibrationSpec(sampling, samples=1, tokens=4))
    setting = recommended.Setting("W4A8", 16.0, 2, ("plain", "ditas", RECOMMENDED))
    said: list[str] = []
    journal = tmp_path / "journal.partial"
    contest = recommended.held(random_checkpoint, calibration, setting, journal, said.append)
    assert [row.method for row in contest.rows] == ["plain", "ditas", RECOMMENDED]
    assert len(said) == 3 and not journal.exists()
    assert max(row.effective_bits for row in contest.rows) <= 16.0
    reach = measure_reach(random_checkpoint, sampling, 1)
    report = recommended.told(random_checkpoint, calibration, setting, contest, reach)
    assert report["rival"] == contest.rows[1].label
    rows = {row["label"]: row for row in report["rows"]}
    ours, theirs = (
        torch.tensor(contest.row(name).samples["latent_sqnr_db"])
        for name in (RECOMMENDED, report["rival"])
    )
    assert rows[RECOMMENDED]["gain_db"]["mean"] == pytest.approx(
        float((ours - theirs).mean()), abs=1e-3
    )
    assert "gain_db" not in rows[report["rival"]]
    recipe = Recipe.from_json(contest.row(RECOMMENDED).recipe)
    errors = {e.group: e.error for e in predicted_errors(random_checkpoint, calibration, recipe)}
    total = sum(reach[name] * error for name, error in errors.items())
    assert rows[RECOMMENDED]["reach_db"] == pytest.approx(-10 * math.log10(total), abs=0.01)
    lines = pages.recommended({"settings": [report], "steps": 20, "machine": {**MACHINE}})
    assert sum(line.startswith("| ") for line in lines) == 4
    drawn = ablation_drawing(contest.standings(), "these & those")
    assert drawn.count("<circle") == 3 and "these &amp; those" in drawn
    assert all(row.label in drawn for row in contest.rows)
