"""Finding, checking and loading DiT and PixArt checkpoints."""

from ..models import CheckpointError
from .captions import Captions, captions_for, check_captions
from .checkpoint import (
    Checkpoint,
    fingerprint,
    injected_note,
    injected_strength,
    load_folder,
)
from .files.weights import read_headers
from .hub.fetching import Progress, fetch_steps
from .hub.sources import (
    HUB_SOURCES,
    HubSource,
    converted_folder,
    find_source,
    known_need,
    own_cache,
)
from .loading import build_empty, compute_positions_, load_whole
from .machine import Machine, figure, processor_name, this_machine
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
from .preflight import (
    WORKING,
    Need,
    check_fits,
    check_machine,
    diffusers_parameters,
    need_of,
    preflight,
)
from .schedule import read_schedule
from .shipped import ASSETS, shipped_folders
from .sources import find_parts, is_file, load_checkpoint, loading_need
from .state_files import compact_state, half_is_exact, read_state, write_state
from .views import view_of

__all__ = [
    "ASSETS",
    "HUB_SOURCES",
    "NOWHERE",
    "WORKING",
    "Architecture",
    "Captions",
    "Checkpoint",
    "CheckpointError",
    "HubSource",
    "Machine",
    "Need",
    "Progress",
    "Prompts",
    "build_empty",
    "captions_for",
    "check_captions",
    "check_fits",
    "check_machine",
    "check_parts",
    "check_pipeline",
    "choose_parts",
    "compact_state",
    "compute_positions_",
    "converted_folder",
    "diffusers_parameters",
    "fetch_steps",
    "figure",
    "find_origin",
    "find_parts",
    "find_source",
    "fingerprint",
    "from_original",
    "half_is_exact",
    "injected_note",
    "injected_strength",
    "is_file",
    "is_pipeline",
    "known_need",
    "load_checkpoint",
    "load_folder",
    "load_original",
    "load_whole",
    "loading_need",
    "need_of",
    "need_of_original",
    "origin_of",
    "own_cache",
    "preflight",
    "processor_name",
    "read_headers",
    "read_schedule",
    "read_state",
    "recognise",
    "recognise_file",
    "recognise_with",
    "remember_",
    "settle_patches_",
    "shipped_folders",
    "this_machine",
    "to_original",
    "view_of",
    "write_state",
]
