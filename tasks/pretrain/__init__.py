"""Stage ``pretrain``: a retrieval model from starting weights, or from another pretraining.

Two roads through the same code and the same loop (`tasks.training`): MRA on pairs with regions, and
UniPT's dual encoder on captions alone. `parameters` is the section, `starting` makes the model,
`run` trains it. Out comes a checkpoint folder (`tasks.checkpoints`), which is what fine-tuning,
evaluation, search and another pretraining start from.
"""

from tasks.pretrain.parameters import PretrainParams
from tasks.pretrain.run import pretrain
from tasks.pretrain.starting import new_model

__all__ = ["PretrainParams", "new_model", "pretrain"]
