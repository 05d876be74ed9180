"""The demo checkpoint's recipe: data, VAE, DiT, export and measurement."""
