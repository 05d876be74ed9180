"""Images drawn by the thousand: in shards that are kept, over processes, into one file."""

from .draw import BatchDone, StepDone, decoded_at_once, draw_shards, own_shards
from .labels import labels_for
from .shards import DrawSpec, ShardJournal
from .target import check_disk, write_images_npz, write_images_png

__all__ = [
    "BatchDone",
    "DrawSpec",
    "ShardJournal",
    "StepDone",
    "check_disk",
    "decoded_at_once",
    "draw_shards",
    "labels_for",
    "own_shards",
    "write_images_npz",
    "write_images_png",
]
