"""What a visitor reads about an error, and what not: where files lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import gradio as gr
import pytest

from ditas_core.bench.machine import DEMO
from ditas_core.checkpoints import CheckpointError, load_checkpoint
from ditas_core.ui.serving.errors import reported, without_folders

UNTOUCHED = (
    "download https://example.org/a/b.json again",
    "facebook/DiT-XL-2-256: 3 of 8 / 2 MB",
    "weights in transformer/config.json and/or vae",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("found none in /srv/models/dit/transformer, try", "found none in transformer, try"),
        ("/srv/models/dit: expected a folder", "dit: expected a folder"),
        ("got '/srv/my models/dit', none", "got 'dit', none"),
        ("in /srv/my models/a.safetensors found none", "in a.safetensors found none"),
        ("(/srv/x/y.json)", "(y.json)"),
        ("No such file: '/srv/a b/c d/config.json'", "No such file: 'config.json'"),
        *((text, text) for text in UNTOUCHED),
    ],
)
def test_places_are_named_by_their_last_part(text: str, expected: str) -> None:
    assert without_folders(text) == expected


@pytest.mark.parametrize(
    "gone", ["transformer/config.json", "vae/config.json", "model_index.json", ""]
)
def test_a_visitor_is_not_told_where_a_folder_lies(tmp_path: Path, gone: str) -> None:
    folder = tmp_path / "my models" / "dit"
    shutil.copytree(DEMO, folder)
    (folder / gone).unlink() if gone else shutil.rmtree(folder)
    with pytest.raises(gr.Error) as caught, reported():
        load_checkpoint(folder)
    assert str(tmp_path) not in str(caught.value) and "my models" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_the_librarys_own_message_names_the_whole_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_checkpoint(tmp_path / "none")
