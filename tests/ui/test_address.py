"""Addresses: what is written is read back; whatever else comes does no harm."""

from __future__ import annotations

import html
from urllib.parse import parse_qs, parse_qsl

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditas_core.specs import BitWidths
from ditas_core.ui.page.address import LONGEST, Address, Asked, as_text, warning_of
from ditas_core.ui.tabs import TABS
from ditas_core.ui.visitors.backend import Model

from .conftest import HUB

TAB_KEYS = tuple(tab.key for tab in TABS)


@pytest.fixture(scope="module")
def address(backend) -> Address:
    with gr.Blocks():
        fields = {
            "layer": gr.Dropdown(["0.qkv", "0.fc2"], value="0.qkv"),
            "channel": gr.Dropdown(["7", "9"], value="7", allow_custom_value=True),
            "alpha": gr.Slider(0, 1, 0.5, step=0.01),
            "seed": gr.Number(7, precision=0, minimum=0, maximum=1000),
            "measure": gr.Radio([("times", "ratio"), ("tail", "kurtosis")], value="ratio"),
            "steps": gr.Slider(4, 100, 50, step=1),
            "after": gr.Checkbox(True),
            "variants": gr.CheckboxGroup(["a, b", "c", "d"], value=["c"]),
            "words": gr.Textbox("", max_lines=1),
            "odd": gr.HTML(""),
        }
    return Address(backend, fields, TAB_KEYS)


def read(address: Address, query: str) -> Asked:
    return address.from_query(dict(parse_qsl(query.lstrip("?"), keep_blank_values=True)))


def test_the_page_as_it_opens_has_an_empty_address(address):
    values = {name: value for name, value in address.usual().items() if value}
    assert address.to_query(**values) == ""
    assert address.from_query({}).empty


def test_what_is_written_is_read_back(address):
    query = address.to_query(
        bits="W3A7", convention="paper", recipe="my α = 0.3 & more", inject=60.0, tab="search",
        checkpoint=HUB, layer="0.fc2", alpha=0.25, seed=3, measure="kurtosis", steps=12.0,
        after=False, variants=["a, b", "d"], channel="123",
    )  # fmt: skip
    asked = read(address, query)
    assert asked.ignored == ("layer",), "that checkpoint has not been measured"
    assert asked.bits == BitWidths(3, 7) and asked.convention == "paper"
    assert (asked.recipe, asked.inject, asked.tab) == ("my α = 0.3 & more", 60, "search")
    assert asked.checkpoint == HUB
    assert asked.fields == {
        "alpha": 0.25, "seed": 3, "measure": "kurtosis", "steps": 12, "after": False,
        "variants": ["a, b", "d"], "channel": "123",
    }  # fmt: skip
    choice = address.choice(asked)
    assert choice.model == Model(HUB, 60) and str(choice.bits) == "W3A7"


@given(
    weight=st.integers(2, 8), activation=st.integers(4, 16), alpha=st.floats(0, 1),
    seed=st.integers(0, 1000), strength=st.integers(1, 200), tab=st.sampled_from(TAB_KEYS),
)  # fmt: skip
def test_round_trip(address, weight, activation, alpha, seed, strength, tab):
    bits = f"W{weight}A{activation}"
    query = address.to_query(bits=bits, alpha=alpha, seed=seed, inject=strength, tab=tab)
    asked = read(address, query)
    assert asked.ignored == ()
    assert str(asked.bits or address.usual()["bits"]) == bits and (asked.tab or TAB_KEYS[0]) == tab
    assert asked.fields.get("alpha", 0.5) == alpha and asked.fields.get("seed", 7) == seed
    assert asked.inject == strength


NAMES = st.sampled_from([*Asked.__dataclass_fields__, "layer", "alpha", "seed"])
SKIPPED = {"view", "deep_link", "logs"}


@given(st.dictionaries(NAMES | st.text(max_size=30), st.text(max_size=300), max_size=8))
def test_nothing_makes_it_fail(address, params):
    ignored = set(address.from_query(params).ignored)
    assert ignored <= set(params)
    unknown = set(params) - set(address.usual()) - ignored - SKIPPED
    assert all(name.startswith("__") for name in unknown)


@pytest.mark.parametrize(
    "query",
    [
        "bits=W1A8", "bits=W4A17", "bits=W4A8%00", "bits=../../etc/passwd", "bits=W4A%D9%A8",
        "convention=<script>alert(1)</script>", "checkpoint=/etc/passwd", "checkpoint=../x",
        "inject=NaN", "inject=inf", "inject=1e9", "inject=-1", "inject=0x10", "inject=",
        "tab=nowhere", "tab=__class__", "recipe=", f"recipe={'x' * 81}", "recipe=a%0Ab",
        "layer=9.qkv", "alpha=NaN", "alpha=1.01", "alpha=1e400", "seed=1.5", "seed=-1", "seed=1e9",
        "steps=12.5", "measure=times", "after=1", "after=yes", "variants=a", "variants=c|x",
        f"words={'y' * (LONGEST + 1)}", "odd=1", "channel=%3Cb%3E", "unknown=1", "ignored=x",
        "fields=x", "usual=x", f"{'k' * 10_000}=1", "bits=W4A8&bits=W9A9",
        "<img onerror>=1",
    ],
)  # fmt: skip
def test_wrong_values_are_left_out_and_named(address, query):
    asked = read(address, query)
    assert asked.empty, asked
    name = query.split("=")[0]
    assert asked.ignored == (name,)
    warning = warning_of(asked.ignored)
    assert html.escape(name[:24]) in warning and len(warning) < 200


def test_one_wrong_value_spoils_no_other(address):
    asked = read(address, "alpha=7&bits=W8A8&tab=x&seed=9")
    assert asked.bits == BitWidths(8, 8) and asked.fields == {"seed": 9}
    assert asked.ignored == ("alpha", "tab")


def test_many_and_foreign_parameters(address):
    params = {f"p{i}": "1" for i in range(10_000)}
    asked = address.from_query(params)
    assert len(asked.ignored) == 60 and "more" in warning_of(asked.ignored)
    assert address.from_query({"__theme": "dark", "view": "api", "deep_link": "x"}).ignored == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (False, "false"), (60.0, "60"), (0.5, "0.5"), (7, "7"),
     (["a", "b"], "a|b"), ("x", "x")],
)  # fmt: skip
def test_texts_are_those_of_the_browser(value, text):
    assert as_text(value) == text


def test_long_texts_do_not_go_into_the_address(address):
    assert address.to_query(words="z" * (LONGEST + 1)) == ""
    query = address.to_query(words="a&b=c#d e")
    assert parse_qs(query[1:]) == {"words": ["a&b=c#d e"]}


@pytest.mark.parametrize("bits", ["W:nvfp4 A:fp8", "W4 A:mxfp8", "W:nf4 A16"])
def test_number_formats_stand_in_the_address(address, bits):
    query = address.to_query(bits=bits)
    asked = address.from_query(dict(parse_qsl(query.removeprefix("?"))))
    assert str(asked.bits) == bits and asked.ignored == ()
    for wrong in (bits.lower(), bits.replace(" ", "  "), "W:fp9 A8", "W8 A:nf4", "W16 A:fp8"):
        assert address.from_query({"bits": wrong}).ignored == ("bits",)
