"""Repositories of the hub: asked, downloaded, compared with their hashes, kept."""
