"""The Gradio interface; thin, every number comes from the rooms below."""

from .app import build_app, launch_options

__all__ = ["build_app", "launch_options"]
