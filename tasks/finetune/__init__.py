"""Stage ``finetune@DATASET``: a pretrained model on the pairs of a dataset whose people are known.

As in pretraining there are two roads through the same code: ITC + ITM + MLM with EDA twins for an
MRA, identities and ranking for a dual encoder. `parameters` is the section, `starting` makes the
model, `run` trains it. Which epoch's weights are kept is `tasks.selection`'s matter.
"""

from tasks.finetune.parameters import FinetuneParams
from tasks.finetune.run import finetune
from tasks.finetune.starting import starting_model

__all__ = ["FinetuneParams", "finetune", "starting_model"]
