"""MRA, the retrieval model: Swin image encoder, BERT text and fusion encoder, objectives.

`MRA` is the model, `MRAConfig` its sizes and its reading, `models.mra.objectives` what trains it.
"""

from models.mra.config import PAPER, READINGS, RELEASED, MRAConfig, Reading, reading_of
from models.mra.model import MRA

__all__ = ["MRA", "PAPER", "READINGS", "RELEASED", "MRAConfig", "Reading", "reading_of"]
