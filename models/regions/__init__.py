"""Phrases to boxes: one interface (`proposals`) and what answers it, with weights or without."""
