"""A run: pretrain, fine-tune and evaluate one arm with one seed, by the stages' own functions.

``python -m tasks.ablate.runs ORDER.json`` does one, in a process of its own whose folder is the
project with the run's data; `flows.ablate` starts it. Each training is kept by what it is made of
(the data's digests, the parameters, the starting weights, the device; not the code, whose commit is
recorded instead), so an equal one of another arm is taken, and an interrupted one goes on.

What is unusual: the time that counts is the CPU time of the process, so that a run costs the same
on a busy machine; what an interrupted process had used by its last note is added.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tasks.ablate.workspaces import RESULT
from tasks.checkpoints import TRAINING_FILE
from tasks.errors import PedAlignError
from tasks.evaluate.run import EvaluationRun, evaluate
from tasks.finetune import FinetuneParams, finetune
from tasks.inputs import Inputs, optional
from tasks.locks import training
from tasks.params import PARAMS_FILE, check_section
from tasks.pretrain import PretrainParams, pretrain
from tasks.provenance import computation_key, model_revision
from tasks.running import RUNNING
from tasks.runtime import device, runtime, use_machine
from tasks.selection import BY_TEST
from tasks.shards import atomic_write, location, read_manifest
from tasks.training import Row

log = logging.getLogger(__name__)

METRICS = ("R1", "R5", "R10", "mAP", "mINP")
SEEN = ("pairs", "people", "regions", "skipped", "steps", "epochs")
"""What a training's record counts."""
SPENT, MADE = "spent.json", "made.json"
_EVERY = 10.0
"""Seconds between notes of the time used."""


@dataclass(frozen=True)
class Order:
    """What to run."""

    params: Mapping[str, Any]
    """The whole of params.yaml, with the run's seed."""
    finetune: str | None
    """Entry of ``finetune.datasets``."""
    direct: str
    """Entry of ``evaluate.runs`` for the pretrained model."""
    tuned: str | None
    """The same for the fine-tuned one."""
    root: str
    """``.cache/ablate``, absolute."""
    commit: str
    """Of the code."""


class Worker:
    """Does one run; its working directory is the project with the data."""

    def __init__(self, order: Order) -> None:
        """Check the sections that the order has."""
        self.order = order
        self.root = Path(order.root)
        self.inputs = self._section(Inputs, "inputs")
        self.pretraining = self._section(PretrainParams, "pretrain")
        self.tuning = (
            self._section(FinetuneParams, f"finetune.datasets.{order.finetune}")
            if order.finetune is not None
            else None
        )
        self.direct = self._section(EvaluationRun, f"evaluate.runs.{order.direct}")
        self.tuned = (
            self._section(EvaluationRun, f"evaluate.runs.{order.tuned}") if order.tuned else None
        )

    def _section(self, cls: type[Any], key: str) -> Any:
        value: Any = self.order.params
        for part in key.split("."):
            value = value[part]
        return check_section(cls, value, key)

    # -------------------------------------------------------------- what things are made of

    def pretrain_key(self) -> str:
        """Name the pretraining by what it is made of."""
        section = self.pretraining
        if section.init in {"start", "none"}:
            starts = {part: model_revision(getattr(section, part)) for part in ("vision", "text")}
        else:
            starts = {"init": model_revision(section.init)}
        params: dict[str, Any] = asdict(section) | {"vision": "", "text": ""}
        if section.init == "none":  # nothing matters but the starting weights and new parts
            params = {name: params[name] for name in ("init", "model")}
            params["seed"] = section.training.seed
        return self._key("pretrain", self._read(), params, starts)

    def _read(self) -> list[Path]:
        if self.pretraining.init == "none":
            return []
        annotations = optional(self.inputs.pretrain_annotations)
        return [location(self.inputs.pretrain_images), *([annotations] if annotations else [])]

    def finetune_key(self) -> str:
        """Name the fine-tuning by what it is made of."""
        assert self.tuning is not None
        params = asdict(replace(self.tuning, images=""))
        starts = {"start": self.pretrain_key()}
        return self._key("finetune", [location(self.tuning.images)], params, starts)

    def result_key(self) -> str:
        """Name what is measured by what it is made of."""
        runs = [self.direct, *([self.tuned] if self.tuned else [])]
        params = [asdict(replace(run, images="", checkpoint="")) for run in runs]
        start = self.finetune_key() if self.tuning else self.pretrain_key()
        return self._key("result", [location(r.images) for r in runs], params, {"start": start})

    @staticmethod
    def _key(part: str, folders: list[Path], params: object, starts: dict[str, str]) -> str:
        return computation_key(
            f"ablate {part}",  # no flow's name: the code does not count
            inputs=[read_manifest(folder).digest for folder in folders],
            params=json.loads(json.dumps(params, default=str)),
            revisions=starts,
            device=device().type,
        )

    def folder(self, key: str) -> Path:
        """Where something of that key is kept."""
        return self.root / "runs" / key

    # -------------------------------------------------------------- making them

    def pretrained(self) -> Path:
        """The pretrained model, trained unless it has been."""
        images, *told = self._read() or [Path()]
        section = self.pretraining

        def make(folder: Path, progress: Callable[[int, int, Row], None]) -> None:
            pretrain(
                images,
                told[0] if told else None,
                section,
                folder,
                device(),
                checkpoint_seconds=runtime().checkpoint_seconds,
                progress=progress,
            )

        return self._trained(self.pretrain_key(), make)

    def finetuned(self, start: Path) -> Path:
        """The fine-tuned model, trained unless it has been."""
        section = self.tuning
        assert section is not None

        def make(folder: Path, progress: Callable[[int, int, Row], None]) -> None:
            finetune(
                start,
                section,
                folder,
                device(),
                checkpoint_seconds=runtime().checkpoint_seconds,
                progress=progress,
            )

        # The test's choice is written after the honest one; a kill may come in between.
        last = f"{BY_TEST}/{TRAINING_FILE}" if section.keep_test_choice else TRAINING_FILE
        return self._trained(self.finetune_key(), make, last)

    def _trained(
        self,
        key: str,
        make: Callable[[Path, Callable[[int, int, Row], None]], None],
        last: str = TRAINING_FILE,
    ) -> Path:
        """Have a training made unless its last file is there."""
        folder = self.folder(key)
        with training(self.root, key):
            if not (folder / "finished" / last).exists():
                folder.mkdir(parents=True, exist_ok=True)
                with _Clock(folder / SPENT) as clock:
                    make(folder, clock.note)
                made = {"commit": self.order.commit, "torch": torch.__version__}
                atomic_write(folder / MADE, json.dumps(made).encode())
                (folder / RUNNING).unlink(missing_ok=True)
        return folder / "finished"

    def measured(self) -> Path:
        """Folder with everything that the run measures, made unless it has been."""
        folder = self.folder(self.result_key())
        if (folder / RESULT).exists():
            return folder
        start = self.pretrained()
        tuned = self.finetuned(start) if self.tuning else None
        folder.mkdir(parents=True, exist_ok=True)
        with _Clock(folder / SPENT):
            found: dict[str, Any] = {
                "direct": self._measure(self.direct, start, folder / "direct.parquet"),
                "tuned": None,
                "tuned_by_test": None,
            }
            if tuned is not None and self.tuned is not None:
                found |= self._measure_tuned(self.tuned, tuned, folder)
        seconds = {
            "pretrain": _spent(start.parent),
            "finetune": _spent(tuned.parent) if tuned else 0.0,
            "evaluate": _spent(folder),
        }
        told = {
            "commit": self.order.commit,
            "made_by": [_maker(path.parent) for path in (start, tuned) if path is not None],
            "device": device().type,
            "key": folder.name,
            "trainings": {
                "pretrain": start.parent.name,
                "finetune": tuned.parent.name if tuned else "",
            },
            "core_seconds": seconds,
            "pretraining": learned(start),
            "fine_tuning": learned(tuned) if tuned else None,
            "torch": torch.__version__,
            **found,
            "curve": curve(tuned) if tuned else [],
        }
        atomic_write(folder / RESULT, (json.dumps(told, indent=1) + "\n").encode())
        return folder

    def _measure(self, run: EvaluationRun, checkpoint: Path, table: Path) -> dict[str, float]:
        found = evaluate(
            location(run.images),
            checkpoint,
            run.protocol,
            device(),
            cleaning=run.cleaning,
            batch=runtime().batch_size,
            memory=runtime().memory_mb << 20,
        )
        pq.write_table(query_rows(found.queries), table)
        by_features = found.metrics["itc"]
        return {name: float(found.metrics[name]) for name in METRICS} | {
            f"features {name}": float(by_features[name]) for name in METRICS
        }

    def _measure_tuned(self, run: EvaluationRun, tuned: Path, folder: Path) -> dict[str, Any]:
        honest = self._measure(run, tuned, folder / "tuned.parquet")
        by_test, table = None, folder / "tuned_by_test.parquet"
        if (tuned / BY_TEST).exists():
            if kept_epoch(tuned) == kept_epoch(tuned / BY_TEST):  # the same weights
                by_test = honest
                shutil.copyfile(folder / "tuned.parquet", table)
            else:
                by_test = self._measure(run, tuned / BY_TEST, table)
        return {"tuned": honest, "tuned_by_test": by_test, "kept_epoch": kept_epoch(tuned)}


class _Clock:
    """Adds up the CPU time of a piece of work over the processes that it takes; a context."""

    def __init__(self, path: Path) -> None:
        self._path, self._before = path, 0.0
        if path.exists():
            self._before = float(json.loads(path.read_bytes())["seconds"])
        self._began = self._noted = time.process_time()

    def note(self, *_: object) -> None:
        """Write the time down, if the last note is some time ago."""
        if time.process_time() - self._noted > _EVERY:
            self._write()

    def _write(self) -> None:
        self._noted = time.process_time()
        seconds = round(self._before + self._noted - self._began, 2)
        atomic_write(self._path, json.dumps({"seconds": seconds}).encode())

    def __enter__(self) -> _Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()


def _maker(folder: Path) -> str:
    """Commit of the code that made a training; empty where an earlier version did not say."""
    path = folder / MADE
    return str(json.loads(path.read_bytes())["commit"]) if path.exists() else ""


def _spent(folder: Path) -> float:
    return float(json.loads((folder / SPENT).read_bytes())["seconds"])


def query_rows(queries: pa.Table) -> pa.Table:
    """A row a query as records have it; the rank of a query without a match is null."""
    rank, before = queries["first_rank"], queries["itc_first_rank"]
    return pa.table(
        {
            "uid": queries["uid"],
            "caption": queries["caption"],
            "person_id": queries["person_id"],
            "rank_of_first": pc.if_else(pc.greater(rank, 0), rank, pa.scalar(None, rank.type)),
            "ap": queries["ap"],
            "inp": queries["inp"],
            "features_rank_of_first": pc.if_else(
                pc.greater(before, 0), before, pa.scalar(None, before.type)
            ),
            "features_ap": queries["itc_ap"],
            "top": queries["top10"],
        }
    )


def learned(checkpoint: Path) -> dict[str, Any]:
    """How much a training has seen: pairs, steps and whatever else it counts."""
    told = json.loads((checkpoint / TRAINING_FILE).read_bytes())
    return {name: told[name] for name in SEEN if name in told}


def kept_epoch(checkpoint: Path) -> int:
    """Epoch, from 1, whose weights a fine-tuning has kept."""
    return int(json.loads((checkpoint / TRAINING_FILE).read_bytes())["kept_epoch"])


def curve(checkpoint: Path) -> list[dict[str, Any]]:
    """What every epoch scored on validation and, where it was watched, on the test split.

    People who were held out of the train split stand for validation where there is none.
    """
    told = json.loads((checkpoint / TRAINING_FILE).read_bytes())["selection"].get("curve", [])
    return [
        {
            "epoch": row["epoch"],
            "val": row.get("val") or row.get("held-out"),
            "test": row.get("test"),
        }
        for row in told
    ]


def main(order_files: list[Path], *, check: bool) -> None:
    """Do runs and print the folder of what each measured, or only look at their parameters."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for file in order_files:
        try:
            worker = Worker(Order(**json.loads(file.read_bytes())))
            if not check:
                use_machine(PARAMS_FILE)
                sys.stdout.write(f"{worker.measured()}\n")
        except PedAlignError as error:
            sys.exit(f"{file.stem}: {error}")


if __name__ == "__main__":
    options = [each for each in sys.argv[1:] if each.startswith("--")]
    main([Path(each) for each in sys.argv[1 + len(options) :]], check="--check" in options)
