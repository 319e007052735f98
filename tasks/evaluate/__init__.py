"""Retrieval on a test split: features, re-ranking, findings for every query."""
