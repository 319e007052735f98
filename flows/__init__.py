"""What DVC runs and Prefect watches: a flow for every stage.

    ingest@source ────────────────────► restyle ──► screen ──► caption ──► annotate ──► pretrain
    ingest@target ──► [describe] ► adapt ──┘                                                │
          │                          └──► gap ◄── ingest@source                             │
          ├────────────────────────────────────────────► finetune@target ◄──────────────────┤
          ├────────────────────────────────► evaluate@… ◄──────┴────────────────────────────┤
          └────────────────────────────────► [reid@…] ◄─────────────────────────────────────┘
                                    everything ──► report

Stages in brackets run in some profiles only. A stage has the same name in ``dvc.yaml``, in
``params.yaml``, here and in `tasks`. Each flow says from top to bottom which shards there are,
which of them must be computed, and what is published and shown; the computing itself is in `tasks`,
and below that in `models`, neither of which knows this package.
"""

import gc
import os

# Without torchvision transformers reads images by Pillow, which is what is wanted here; it warns of
# it at every import.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Imports make millions of objects that live on; looking through them for garbage again is a
# fifth of a stage's start. `flows.stage.run` goes back to Python's own pace.
gc.set_threshold(50_000, 10, 10)
