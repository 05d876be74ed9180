"""The Gradio interface; thin, every number comes from the rooms below."""

from .app import build_app, launch_options
from .bench import Bench
from .catalogue import read_options

__all__ = ["Bench", "build_app", "launch_options", "read_options"]
