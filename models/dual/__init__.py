"""The dual encoder: an image and a text encoder whose features are compared, nothing more.

UniPT's road (ICCV 2023). `DualEncoder` is the model, `DualConfig` its sizes, `dual_config` reads
them off starting weights; `pretraining` and `finetuning` hold what trains it.
"""

from models.dual.config import DualConfig
from models.dual.model import DualEncoder
from models.dual.starting import dual_config

__all__ = ["DualConfig", "DualEncoder", "dual_config"]
