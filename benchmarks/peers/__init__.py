"""Peers in one table: what this project trains beside word counting and the embedding models that come in a package."""
