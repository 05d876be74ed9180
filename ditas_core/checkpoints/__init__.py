"""Finding, checking and loading DiT and PixArt checkpoints; the map to their layers."""

from .captions import Captions, TextConditions
from .checkpoint import Checkpoint, fingerprint, load_folder
from .errors import CheckpointError
from .families import (
    DIT,
    FAMILIES,
    PIXART,
    Family,
    Transformer,
    check_config,
    family_of,
    family_of_config,
    smoothing_groups,
)
from .files.weights import read_headers
from .hub.fetching import Progress, fetch_steps
from .hub.sources import HUB_SOURCES, HubSource, converted, find_source, known_need, own_cache
from .layers import Absorber, SmoothingGroup, get_linear, group_fed_by
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
    "DIT",
    "FAMILIES",
    "HUB_SOURCES",
    "PIXART",
    "Absorber",
    "Architecture",
    "Captions",
    "Checkpoint",
    "CheckpointError",
    "Family",
    "HubSource",
    "Machine",
    "Need",
    "Progress",
    "SmoothingGroup",
    "TextConditions",
    "Transformer",
    "check_config",
    "check_fits",
    "check_machine",
    "check_parts",
    "choose_parts",
    "compact_state",
    "converted",
    "family_of",
    "family_of_config",
    "fetch_steps",
    "find_parts",
    "find_source",
    "fingerprint",
    "from_original",
    "get_linear",
    "group_fed_by",
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
    "smoothing_groups",
    "this_machine",
    "to_original",
    "weigh",
    "write_state",
]
