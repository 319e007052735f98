"""Stage ``reid@NAME``: image-based re-identification with a pretrained image encoder.

The image encoder of a checkpoint, or plain starting weights, is trained on a dataset's people by
identity and batch-hard triplets, and ranks pictures for pictures. So two entries that differ in
``start`` alone say what pretraining is worth without any text (the paper's Market-1501 table).

`parameters` is the section, `people` reads who is seen by which camera, `batches` says what a step
sees, `run` trains, `evaluating` ranks. docs/reid.md is the protocol in words.
"""

from tasks.reid.evaluating import Identification, evaluate_reid, identify
from tasks.reid.parameters import ReidParams
from tasks.reid.run import train_reid

__all__ = ["Identification", "ReidParams", "evaluate_reid", "identify", "train_reid"]
