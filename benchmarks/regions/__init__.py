"""Regions against the truth: the built-in world, real photos, the rebuild's own, speed."""
