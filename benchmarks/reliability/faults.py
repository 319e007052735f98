"""Faults other than kills: full disks, changed and missing files, two rebuilds at once.

Each function takes the bench, makes its fault in a fresh copy of the reference, looks at what a
user would see, does what the message (or common sense) tells the user to do, and compares the end
with the reference. A run that meets a fault has to end with a non-zero exit code and a paragraph,
not a traceback, unless it can mend the matter by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.reliability.bench import Bench
from benchmarks.reliability.collisions import two_rebuilds_at_once, two_stages_at_once
from benchmarks.reliability.damage import (
    deleted_shard,
    deleted_shard_and_entry,
    flipped_bit_in_a_finished_training,
    flipped_bit_in_a_published_shard,
    flipped_bit_in_the_store,
    silently_flipped_bit,
    torn_lock,
)
from benchmarks.reliability.disks import full_project, full_store, full_store_in_training
from benchmarks.reliability.results import FaultOutcome

FAULTS: tuple[Callable[[Bench], FaultOutcome], ...] = (
    full_store,
    full_store_in_training,
    full_project,
    flipped_bit_in_the_store,
    flipped_bit_in_a_finished_training,
    flipped_bit_in_a_published_shard,
    silently_flipped_bit,
    deleted_shard,
    deleted_shard_and_entry,
    torn_lock,
    two_rebuilds_at_once,
    two_stages_at_once,
)
