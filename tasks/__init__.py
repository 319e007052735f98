"""The work on shards and files, stage by stage.

Reading order: `tasks.schemas` (what a column means), `tasks.shards` (tables on disk),
`tasks.store` (what is computed once), then the stage that you came for. A stage's module holds
its parameters (a class under ``@params``) and a plain function over one table or one dataset; the
Prefect wiring around it is in `flows`. This package may import `models` and never `flows`.
"""
