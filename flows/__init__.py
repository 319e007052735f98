"""Prefect and DVC wiring: one thin flow a stage.

    ingest@source ──┬────────────────► restyle ──► screen ──► caption ──► annotate ──► pretrain
    ingest@target ──┼──► adapt ──────────┘                                                │
                    ├───────────────────────────────────────────► finetune@target ◄───────┤
                    └───────────────────────────────► evaluate@… ◄──────┴─────────────────┘
                                                          └──► report

One word names a stage everywhere: ``dvc.yaml``, ``params.yaml``, ``flows/WORD.py``,
``tasks/WORD.py``. A flow reads top-down: plan, map, gather, publish, report. Nothing here computes;
the work is in `tasks`, which may import `models`, and neither imports this package.
"""

import gc
import os

# Without torchvision transformers reads images by Pillow, which is what is wanted here; it warns of
# it at every import.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Imports make millions of objects that live on; looking through them for garbage again is a
# fifth of a stage's start. `flows.stage.run` goes back to Python's own pace.
gc.set_threshold(50_000, 10, 10)
