"""The fixtures of indexes and of searches in them."""

from index_models import curate, export_model, pair_tokenizer, store

__all__ = ["curate", "export_model", "pair_tokenizer", "store"]
