"""Everything that is on view at one moment, collected from the backend and the session."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ....checkpoints import ASSETS
from ....evaluation import Half, Measure, OutlierAtlas
from ....search import LayerDone
from ....specs import CalibrationSpec, Recipe, SamplingSpec
from ...stored.results import DITAS, Result
from ...visitors.backend import INJECTED_CHANNELS, Backend, Choice, Model
from ...visitors.session import Session
from ..compare.draw import shown


@dataclass(frozen=True)
class Source:
    """The checkpoint as one names it elsewhere: a folder of the project, or a hub id."""

    name: str
    place: str
    licence: str = ""
    fingerprint: str = ""
    note: str = ""
    half: bool = False
    like: str = ""


@dataclass(frozen=True)
class Taken:
    """What is on view.

    recipe       the bar's; None where it has not been searched yet
    atlas        the outliers; None where they have not been measured
    alphas       of every layer, and ``alphas_of`` says where they come from
    curves       of the search behind the recipe, as far as known
    result       the visitor's last comparison if it is about the bar's choice, else the shipped
    calibration  the run that the recipes' statistics come from
    channels     how many channels of a layer the injection rescales
    """

    choice: Choice
    source: Source
    name: str
    recipe: Recipe | None = field(repr=False)
    atlas: OutlierAtlas | None = field(repr=False)
    alphas: dict[str, float | None] = field(repr=False)
    alphas_of: str
    curves: tuple[LayerDone, ...] = field(repr=False)
    result: Result | None = field(repr=False)
    calibration: CalibrationSpec
    layer: str
    measure: str
    half: str
    channels: int = INJECTED_CHANNELS

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Those of the comparison, and the bar's if it is not among them."""
        texts = {} if self.result is None else self.result.recipes
        found = {name: Recipe.from_json(text) for name, text in texts.items()}
        bar = self.recipe
        known = [(each.convention, each.layers) for each in found.values()]
        if bar is not None and (bar.convention, bar.layers) not in known:
            name = self.name if self.name not in found else f"{self.name} (bar)"
            found[name] = bar
        return found


def source_of(backend: Backend, choice: Choice) -> Source:
    """Never a path of this machine's."""
    entry = backend.entries[choice.model.key]
    place, note = entry.source, ""
    if entry.local:
        folder, project = Path(entry.source).resolve(), ASSETS.parent
        inside = folder.is_relative_to(project)
        place = folder.relative_to(project).as_posix() if inside else folder.name
        note = "" if inside else "where this folder lies on your machine"
    if not backend.is_loaded(choice.model) and not backend.is_measured(
        choice.model
    ):  # not here yet
        return Source(choice.model.key, place, half=entry.half)
    checkpoint = backend.checkpoint(Model(choice.model.key))
    like = Path(entry.like).name if Path(entry.like).exists() else entry.like
    return Source(
        choice.model.key,
        place,
        checkpoint.licence,
        backend.fingerprint(choice.model),
        note,
        entry.half,
        like,
    )


def flat(key: Hashable) -> Iterator[Hashable]:
    """Everything inside a key of nested tuples and settings."""
    if isinstance(key, tuple):
        for part in key:
            yield from flat(part)
    elif hasattr(key, "__dataclass_fields__"):
        yield key
        for name in key.__dataclass_fields__:
            yield from flat(getattr(key, name))
    else:
        yield key


def searched_layers(
    backend: Backend, session: Session, choice: Choice, recipe: Recipe | None
) -> tuple[LayerDone, ...]:
    """The curves of the search that found the recipe's alphas."""
    if recipe is None:
        return ()
    for key, layers in reversed(session.searches.items()):
        if (
            layers
            and {choice.model, choice.bits, choice.convention} <= set(flat(key))
            and all(
                name in recipe.layers and recipe.layers[name].alpha == layer.alpha
                for name, layer in layers.items()
            )
        ):
            return tuple(layers.values())
    preset = None if backend.shipped is None else backend.shipped.presets.get(str(choice.bits))
    if preset is not None and choice.recipe == DITAS and recipe == preset.recipe:
        return preset.layers
    return ()


def calibration_of(
    backend: Backend, session: Session, choice: Choice, recipes: list[Recipe], result: Result | None
) -> CalibrationSpec:
    """The run that the recipes were made from: by their hash where it is known here."""
    saved = {} if result is None else result.settings.get("calibration", {})
    if saved:
        return CalibrationSpec(**{**saved, "sampling": SamplingSpec(**saved["sampling"])})
    used = {recipe.calibration for recipe in recipes if recipe.needs_calibration}
    asked = backend.spec if session.spec is None else session.spec
    searched = [part for key in session.searches for part in flat(key)]
    specs = [part for part in searched if isinstance(part, CalibrationSpec)]
    known = dict.fromkeys([asked, backend.spec, *specs, CalibrationSpec()])
    for spec in known:
        calibration = backend.measured(choice.model, spec)
        if calibration is not None and calibration.sha256 in used:
            return spec
    if backend.shipped is not None and backend.shipped.calibration in used and result is not None:
        steps = result.settings.get("steps", SamplingSpec().steps)
        return CalibrationSpec(SamplingSpec(steps=steps))  # as ``ui.stored.precompute`` makes them
    return asked


def gather(
    backend: Backend,
    session: Session,
    choice: Choice,
    layer: object = None,
    measure: object = None,
    half: object = None,
) -> Taken:
    """What is on view; a layer, measure or half that is not known becomes the default."""
    source = source_of(backend, choice)
    name, recipe = backend.recipe(session, choice)
    alphas, alphas_of = backend.alphas(session, choice)
    atlas = backend.atlas(choice.model)
    by = Measure(str(measure)) if measure in list(Measure) else Measure.RATIO
    of = Half(str(half)) if half in list(Half) else Half.BOTH
    if atlas is not None and (not isinstance(layer, str) or layer not in atlas.groups):
        layer = atlas.ranking(alphas, by, of)[0].layer
    compared = shown(backend, session, choice)
    result = None if compared is None else compared.result
    texts = [] if result is None else list(result.recipes.values())
    recipes = [Recipe.from_json(text) for text in texts] + ([] if recipe is None else [recipe])
    return Taken(
        choice=choice,
        source=source,
        name=name,
        recipe=recipe,
        atlas=atlas,
        alphas=alphas,
        alphas_of=alphas_of,
        curves=searched_layers(backend, session, choice, recipe),
        result=result,
        calibration=calibration_of(backend, session, choice, recipes, result),
        layer=str(layer) if atlas is not None else "",
        measure=str(by),
        half=str(of),
    )
