"""Finding, checking and loading DiT and PixArt checkpoints."""

from ..models import CheckpointError
from .captions import Captions
from .checkpoint import Checkpoint, fingerprint, load_folder
from .files.weights import read_headers
from .hub.fetching import Progress, fetch_steps
from .hub.sources import HUB_SOURCES, HubSource, converted, find_source, known_need, own_cache
from .machine import Machine, this_machine
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
from .preflight import Need, check_fits, check_machine, preflight
from .sources import find_parts, load_checkpoint, weigh
from .state_files import compact_state, half_is_exact, read_state, write_state

__all__ = [
    "HUB_SOURCES",
    "Architecture",
    "Captions",
    "Checkpoint",
    "CheckpointError",
    "HubSource",
    "Machine",
    "Need",
    "Progress",
    "check_fits",
    "check_machine",
    "check_parts",
    "choose_parts",
    "compact_state",
    "converted",
    "fetch_steps",
    "find_parts",
    "find_source",
    "fingerprint",
    "from_original",
    "half_is_exact",
    "known_need",
    "load_checkpoint",
    "load_folder",
    "load_original",
    "need_of_original",
    "own_cache",
    "preflight",
    "read_headers",
    "read_state",
    "recognise",
    "recognise_file",
    "recognise_with",
    "settle_patches_",
    "this_machine",
    "to_original",
    "weigh",
    "write_state",
]
