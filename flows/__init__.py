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

import os

# Without torchvision transformers reads images by Pillow, which is what is wanted here; it warns of
# it at every import.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
