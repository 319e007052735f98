"""What is lost when a rebuild is killed: shown by killing rebuilds, on a copy of the project.

    python -m benchmarks.reliability --profile micro --kills 20 --out FOLDER --write-docs

One undisturbed ``dvc repro`` is the reference: the SHA-256 of every file under ``data``. Each trial
starts from a copy of it, makes the project forget one stage (its output, its entry in dvc.lock,
DVC's run cache and objects, its entries in the store), starts ``dvc repro``, waits for a moment of
that stage and kills: the process group, or ``dvc`` alone. The rerun starts at once, while orphans
may still live. In the end every file has to be as in the reference, and no shard that was finished
at the kill may have been computed again. `faults` does the same with full disks, flipped bits,
deleted shards and two rebuilds at once.

Reading order: `plan` (which kills), `moments` (when), `trial` (one kill), `project`, `bench` and
`forgetting` (the copies), `processes` (who has to end), `faults`, `results` (the table of
docs/reliability.md).
What is done stays done: every trial is a line of FOLDER/PROFILE/results.jsonl, and the same command
goes on where it was stopped. Linux only; a full disk needs the right to mount a tmpfs.
"""
