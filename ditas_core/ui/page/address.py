"""What is on view as the page's address: copying or reloading it gives the same view.

    ?bits=W3A7&convention=paper&inject=60&tab=search&layer=0.qkv

Only what differs from the page as it opens is written. Whatever comes in is checked;
what is unknown or out of range is left out, with a warning that names it.
"""

from __future__ import annotations

import html
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from ...specs import BIT_PRESETS, CONVENTIONS, WEIGHT_BITS, BitWidths
from ..stored.results import DITAS
from ..visitors.backend import Backend, Choice, Model
from ..visitors.session import Session
from .bar import (
    CUSTOM,
    MAX_STRENGTH,
    Page,
    first_choice,
    fold_label,
    recipe_names,
    setup_notice,
)

LONGEST, MOST, LARGEST = 200, 60, 2**31 - 1
BETWEEN = "|"
FOREIGN = ("view", "deep_link", "logs")
"""Parameters of Gradio and of the host; so are those that begin with two underscores."""
WORD = re.compile(r"[\w.-]{1,40}")
BITS = re.compile(r"W([2-8])A([0-9]{1,2})")
FOLLOW = """(preset, weight, activation, inject, strength, ...rest) => {
  const names = NAMES, usual = USUAL;
  const named = [weight, activation].some(isNaN);
  const part = width => isNaN(width) ? `:${width}` : width;
  const custom = named ? `W${part(weight)} A${part(activation)}` : `W${weight}A${activation}`;
  const bits = preset === "custom" ? custom : preset;
  const found = {bits, inject: inject ? strength : null};
  names.forEach((name, i) => { found[name] = rest[i]; });
  const kept = [...new URLSearchParams(location.search)].filter(([n]) => n.startsWith("__"));
  const query = new URLSearchParams(kept);
  for (const [name, value] of Object.entries(found)) {
    const text = Array.isArray(value) ? value.join("BETWEEN") : String(value ?? "");
    if (text && text.length <= LONGEST && text !== usual[name]) query.set(name, text);
  }
  const search = String(query) ? `?${query}` : "";
  const link = location.origin + location.pathname + search;
  if (window.ditasRestored) {
    clearTimeout(window.ditasFollow);
    window.ditasFollow = setTimeout(() => {
      try { history.replaceState(history.state, "", link); } catch { /* not in this frame */ }
    }, 250);
  }
  return link;
}"""
OWN_RECIPE = (
    "address: expected a recipe that this page has, got another; your own recipes last as long "
    "as your visit"
)
RESTORED = "() => { window.ditasRestored = true; return Date.now(); }"


def as_text(value: object) -> str:
    """As the browser writes it: ``true``, ``60``, ``0.5``, ``a|b``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return BETWEEN.join(as_text(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def number_from(text: str, low: float, high: float, whole: bool = False) -> float | int:
    """A finite number in range.

    Raises:
        ValueError: anything else.
    """
    value = float(text)
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(text)
    if value.is_integer():
        return int(value)
    if whole:
        raise ValueError(text)
    return value


def field_from(component: Any, text: str) -> Any:
    """The value of a tab's own component.

    Raises:
        ValueError: not one of its values.
    """
    if isinstance(component, gr.Checkbox):
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if isinstance(component, gr.Slider | gr.Number):
        low = -LARGEST if component.minimum is None else component.minimum
        high = LARGEST if component.maximum is None else component.maximum
        whole = getattr(component, "step", 0) == 1 or getattr(component, "precision", None) == 0
        return number_from(text, low, high, whole)
    if isinstance(component, gr.Dropdown | gr.Radio | gr.CheckboxGroup):
        known = {as_text(value): value for _, value in component.choices}
        many = isinstance(component, gr.CheckboxGroup) or getattr(component, "multiselect", False)
        parts = text.split(BETWEEN) if many else [text]
        if getattr(component, "allow_custom_value", False) and WORD.fullmatch(text):
            return known.get(text, text)
        if not all(part in known for part in parts):
            raise ValueError(text)
        found = [known[part] for part in dict.fromkeys(parts)]
        return found if many else found[0]
    if isinstance(component, gr.Textbox) and text.isprintable():
        return text
    raise ValueError(text)


@dataclass(frozen=True)
class Asked:
    """What an address asks for; None where it does not say. ``ignored`` has what was wrong."""

    checkpoint: str | None = None
    bits: BitWidths | None = None
    convention: str | None = None
    recipe: str | None = None
    inject: float | None = None
    tab: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        named = (self.checkpoint, self.bits, self.convention, self.recipe, self.inject, self.tab)
        return not self.fields and all(value is None for value in named)


@dataclass(frozen=True)
class Address:
    """Reads and writes addresses of one page."""

    backend: Backend
    fields: Mapping[str, Any]
    tabs: tuple[str, ...]

    def usual(self) -> dict[str, str]:
        """What every parameter is when the page opens."""
        first = first_choice(self.backend)
        return {
            "checkpoint": self.backend.default.key,
            "bits": str(first.bits),
            "convention": first.convention,
            "recipe": DITAS,
            "inject": "",
            "tab": self.tabs[0],
            **{name: as_text(each.value) for name, each in self.fields.items()},
        }

    def to_query(self, **values: Any) -> str:
        """``?name=value&...`` of what differs from the page as it opens; "" if nothing does."""
        usual = self.usual()
        texts = {name: as_text(value) for name, value in values.items()}
        kept = {n: t for n, t in texts.items() if t and len(t) <= LONGEST and t != usual[n]}
        return f"?{urlencode(kept)}" if kept else ""

    def from_query(self, params: Mapping[str, str]) -> Asked:
        """Every parameter checked by itself; never raises."""
        found: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        ignored: list[str] = []
        for name, text in list(params.items())[:MOST]:
            if name.startswith("__") or name in FOREIGN:
                continue
            try:
                if len(text) > LONGEST:
                    raise ValueError(name)
                if name in self.fields:
                    fields[name] = self.read_field(name, text, params.get("checkpoint", ""))
                else:
                    found[name] = self.read(name, text)
            except (ValueError, KeyError, OverflowError):
                ignored.append(name)
        return Asked(**found, fields=fields, ignored=tuple(ignored))

    def read(self, name: str, text: str) -> Any:
        """The value of a parameter that every tab shares.

        Raises:
            ValueError: not a value it can have, or no such parameter.
        """
        if name == "bits":
            match = BITS.fullmatch(text)
            if ":" in text:
                bits = BitWidths.parse(text)
                if str(bits) != text or bits.weight_bits > WEIGHT_BITS[-1]:
                    raise ValueError(text)
                return bits
            if match is None or not 2 <= int(match[2]) <= 16:
                raise ValueError(text)
            return BitWidths(int(match[1]), int(match[2]))
        if name == "inject":
            return float(round(number_from(text, 1, MAX_STRENGTH)))
        if name == "recipe":
            if not text.isprintable() or not 0 < len(text) <= 80:
                raise ValueError(text)
            return text
        known = {
            "checkpoint": list(self.backend.entries),
            "convention": list(CONVENTIONS),
            "tab": list(self.tabs),
        }
        if text not in known.get(name, []):
            raise ValueError(text)
        return text

    def read_field(self, name: str, text: str, checkpoint: str) -> Any:
        """The value of a tab's own component; layers may be another checkpoint's."""
        if name == "layer" and checkpoint in self.backend.entries:
            if text in self.backend.group_names(self.backend.model_of(checkpoint)):
                return text
            raise ValueError(text)
        return field_from(self.fields[name], text)

    def choice(self, asked: Asked) -> Choice:
        """What the bar shows after the view has been restored."""
        model = self.backend.model_of(asked.checkpoint or self.backend.default.key)
        if asked.inject:
            model = Model(model.key, asked.inject)
        first = first_choice(self.backend)
        bits, convention = asked.bits or first.bits, asked.convention or first.convention
        found = Choice(model, bits, convention, asked.recipe or DITAS)
        return replace(found, backend=asked.fields.get("backend", found.backend))


def warning_of(ignored: tuple[str, ...]) -> str:
    """Names what was left out, shortened and escaped."""
    names = [name[:24] + ("…" if len(name) > 24 else "") for name in ignored[:4]]
    more = "" if len(ignored) <= 4 else f" and {len(ignored) - 4} more"
    return html.escape(
        f"address: expected settings of this page, got something else in {', '.join(names)}{more}; "
        "left out"
    )


def restorer(address: Address, page: Page) -> Any:
    """A listener that sets the bar, the tab and the fields from the page's address."""
    backend, bar = address.backend, page.bar.inputs

    def update(value: Any) -> Any:
        return gr.skip() if value is None else gr.update(value=value)

    def restore(request: gr.Request) -> tuple[Any, ...]:
        params = {str(k): str(v) for k, v in dict(request.query_params).items()}
        asked = address.from_query(params)
        session: Session = backend.session(request)
        if asked.ignored:
            gr.Warning(warning_of(asked.ignored))
        names = recipe_names(backend, session, address.choice(asked))
        if asked.recipe is not None and asked.recipe not in names:
            asked = replace(asked, recipe=None)
            gr.Warning(OWN_RECIPE)
        skip = gr.skip()
        outputs = 12 + len(address.fields)
        if asked.empty:
            return (skip,) * outputs
        preset = weight = activation = None
        if asked.bits is not None:
            preset = str(asked.bits) if str(asked.bits) in BIT_PRESETS else CUSTOM
            weight, activation = asked.bits.weight, asked.bits.activation
        here = asked.tab in (None, address.tabs[0])
        return (
            update(asked.checkpoint),
            update(preset),
            update(weight),
            update(activation),
            update(asked.convention),
            gr.update(choices=names, value=asked.recipe or DITAS),
            skip if asked.inject is None else gr.update(value=True),
            update(asked.inject),
            skip if asked.tab is None else gr.Tabs(selected=asked.tab),
            setup_notice(backend, session, address.choice(asked)),
            gr.update(label=fold_label(address.choice(asked))),
            str(time.time()) if here else skip,
            *(field_update(address, name, asked) for name in address.fields),
        )

    return restore, [
        bar.checkpoint, bar.preset, bar.weight_bits, bar.activation_bits, bar.convention,
        bar.recipe, bar.inject, bar.strength, page.tabs, page.bar.notice, page.bar.fold,
    ]  # fmt: skip


def field_update(address: Address, name: str, asked: Asked) -> Any:
    if name not in asked.fields:
        return gr.skip()
    value = asked.fields[name]
    if name == "layer" and asked.checkpoint is not None:
        return gr.update(
            choices=address.backend.group_names(address.backend.model_of(asked.checkpoint)),
            value=value,
        )
    return gr.update(value=value)


def wire_address(
    backend: Backend, page: Page, demo: gr.Blocks, open_tab: gr.Textbox, redraws: Mapping[str, Any]
) -> Any:
    """Restore the view when the page opens; afterwards the address follows what is changed.

    ``redraws`` has the field of every tab that makes it draw itself anew: an address
    for the tab that is open anyway must be drawn too. Returns the restoring: what reads the
    bar as the page opens comes after it.
    """
    address = Address(backend, dict(page.fields), tuple(redraws))
    bar = page.bar.inputs
    follow = gr.Textbox(visible="hidden", elem_id="address-restored", label="address restored")
    restore, outputs = restorer(address, page)
    shared = {"checkpoint": bar.checkpoint, "convention": bar.convention, "recipe": bar.recipe}
    named = {"tab": open_tab, **shared, **address.fields}
    inputs = [bar.preset, bar.weight_bits, bar.activation_bits, bar.inject, bar.strength]
    inputs += named.values()
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    restored = demo.load(
        restore, None, [*outputs, redraws[address.tabs[0]], *address.fields.values()], **private
    )
    restored.then(None, None, follow, js=RESTORED, **private)
    script = (
        FOLLOW.replace("NAMES", json.dumps(list(named)))
        .replace("USUAL", json.dumps(address.usual()))
        .replace("BETWEEN", BETWEEN)
        .replace("LONGEST", str(LONGEST))
    )
    gr.on(
        [follow.change, *(component.change for component in inputs)],
        None,
        inputs,
        page.link,
        js=script,
        trigger_mode="multiple",
        **private,
    )
    return restored
