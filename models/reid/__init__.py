"""Image-to-image re-identification: an image encoder with a batch-normalised neck.

The encoder is one that this project trained (an MRA's or a dual encoder's), or plain starting
weights, so that what pretraining is worth can be measured without any text.
"""

from models.reid.config import ReidConfig
from models.reid.model import PersonEncoder
from models.reid.objective import ReidObjective

__all__ = ["PersonEncoder", "ReidConfig", "ReidObjective"]
