"""The Gradio interface; thin, every number comes from the rooms below."""

from ..checkpoints import CheckpointError
from .app import build_app, launch_options
from .bench import Bench
from .catalogue import read_options
from .limits import LimitError

UNUSABLE = (LimitError, CheckpointError)
"""What the operator has to mend before the page can start."""

__all__ = ["UNUSABLE", "Bench", "build_app", "launch_options", "read_options"]
