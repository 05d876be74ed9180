"""DiTAS: data-free post-training quantization of Diffusion Transformers."""

__version__ = "0.1.0"
