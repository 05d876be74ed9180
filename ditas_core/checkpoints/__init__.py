"""Finding, checking and loading DiT and PixArt checkpoints."""

from ..models import CheckpointError
from .captions import Captions
from .checkpoint import Checkpoint, fingerprint, load_folder
from .files.weights import read_headers
from .hub.fetching import Progress, fetch_steps
from .hub.sources import HUB_SOURCES, HubSource, converted, find_source, known_need, own_cache
from .machine import Machine, this_machine
from .origin import find_origin, origin_of, remember_
from .original import from_original, to_original
from .original_files import (
    check_parts,
    choose_parts,
    load_original,
    need_of_original,
    recognise_file,
    recognise_with,
)
from .original_layout import Architecture, recognise
from .patches import settle_patches_
from .pipelines import NOWHERE, Prompts, check_pipeline, is_pipeline
from .preflight import Need, check_fits, check_machine, preflight
from .sources import find_parts, load_checkpoint, weigh
from .state_files import compact_state, half_is_exact, read_state, write_state
from .views import view_of, working_place

__all__ = [
    "HUB_SOURCES",
    "NOWHERE",
    "Architecture",
    "Captions",
    "Checkpoint",
    "CheckpointError",
    "HubSource",
    "Machine",
    "Need",
    "Progress",
    "Prompts",
    "check_fits",
    "check_machine",
    "check_parts",
    "check_pipeline",
    "choose_parts",
    "compact_state",
    "converted",
    "fetch_steps",
    "find_origin",
    "find_parts",
    "find_source",
    "fingerprint",
    "from_original",
    "half_is_exact",
    "is_pipeline",
    "known_need",
    "load_checkpoint",
    "load_folder",
    "load_original",
    "need_of_original",
    "origin_of",
    "own_cache",
    "preflight",
    "read_headers",
    "read_state",
    "recognise",
    "recognise_file",
    "recognise_with",
    "remember_",
    "settle_patches_",
    "this_machine",
    "to_original",
    "view_of",
    "weigh",
    "working_place",
    "write_state",
]
