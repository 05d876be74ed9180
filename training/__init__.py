"""The demo checkpoint's recipe: data, VAE, DiT, export and measurement."""

from ditas_core.heap import keep_freed_memory
from ditas_core.threads import share_cores

share_cores()  # before torch is loaded: this package is a program, not a library
keep_freed_memory()
