"""Everything between an ingested target and the weights that are kept, as the stages compute it.

A `Road` has the sections of a profile and computes in this process what `adapt`, the judge of
`gap`, `restyle`, `annotate`, `pretrain`, `finetune` and `reid` compute, each into files. Who wants
to know what a result depends on changes the target and compares the files.

The parameters are the profile's own, but for the number of epochs: one of pretraining, and of
fine-tuning and `reid` two, so that there is something to choose.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from tasks.adapt.train import NONE, AdaptParams, train_dad
from tasks.annotate.shard import AnnotateParams, annotate_table, load_proposer
from tasks.annotate.words import as_meta, frequent_words
from tasks.diffusion import DiffusionParams, open_base
from tasks.finetune import FinetuneParams, finetune
from tasks.gap.arms import GapParams
from tasks.gap.picking import pick_prompts
from tasks.ingest import IngestDatasetParams, ingest_dataset
from tasks.judge.train import train_judge
from tasks.pairs import prepare_pairs
from tasks.params import read_section
from tasks.phrases import load_parser
from tasks.pretrain import PretrainParams, pretrain
from tasks.provenance import ROOT
from tasks.reid.parameters import ReidParams
from tasks.reid.run import train_reid
from tasks.restyle.prompts import plan_rows
from tasks.restyle.renderer import needs_model, open_renderer
from tasks.restyle.shard import RestyleParams, restyle_table
from tasks.shards import iter_tables, read_manifest, read_shard, write_folder
from tasks.target import told_tables

CPU = torch.device("cpu")
WORDS = 5
Files = dict[str, bytes]
Row = dict[str, Any]
Change = Callable[[Row], Row | None]
"""What becomes of a row of the target; None drops it."""


def ingest(folder: Path) -> None:
    """Draw and ingest the source and the target of profile ``micro``, with fewer people."""
    path = ROOT / "profiles" / "micro.yaml"
    for name, people in (("source", 16), ("target", {"train": 9, "val": 3, "test": 5})):
        section = read_section(IngestDatasetParams, f"ingest.datasets.{name}", path)
        assert section.world
        world = dataclasses.replace(section.world, people=people)
        section = dataclasses.replace(section, root=str(folder / "raw" / name), world=world)
        ingest_dataset(section, folder / name)


def put(plain: Path, target: Path, change: Change) -> None:
    """Write a target anew, shard by shard, each row changed.

    Args:
        plain: The target as it was ingested.
        target: Where to; replaced.
        change: See `Change`.
    """
    shutil.rmtree(target, ignore_errors=True)
    manifest = read_manifest(plain)
    tables = []
    for record in manifest.shards:
        table = read_shard(plain, record)
        rows = [change(row) for row in table.to_pylist()]
        tables.append(pa.Table.from_pylist([row for row in rows if row], table.schema))
    names = [record.name for record in manifest.shards]
    write_folder(target, tables, "images", manifest.meta, names=names)


class Road:
    """The stages of a profile, on a source and a target in one folder.

    Args:
        folder: Holds ``source`` and ``target``, shards of ``images``; results go beside them.
        profile: Whose sections.
    """

    def __init__(self, folder: Path, profile: str) -> None:
        self.out, self.source, self.target = folder / profile, folder / "source", folder / "target"
        path = ROOT / "profiles" / f"{profile}.yaml"
        read = partial(read_section, path=path)
        diffusion = read(DiffusionParams, "diffusion")
        self.diffusion = dataclasses.replace(diffusion, base=str(ROOT / diffusion.base))
        self.adapt, self.restyle = read(AdaptParams, "adapt"), read(RestyleParams, "restyle")
        self.judge = read(GapParams, "gap").judge
        self.annotate = read(AnnotateParams, "annotate")
        first = read(PretrainParams, "pretrain")
        self.pretrain = dataclasses.replace(
            first,
            vision=str(ROOT / first.vision),
            text=str(ROOT / first.text),
            training=dataclasses.replace(first.training, epochs=1, batch=8),
        )
        second = read(FinetuneParams, "finetune.datasets.target")
        self.finetune = dataclasses.replace(
            second,
            images=str(self.target),
            training=dataclasses.replace(second.training, epochs=2, batch=8),
        )
        third = read_section(ReidParams, "reid.datasets.start", ROOT / "profiles" / "reid.yaml")
        self.reid = dataclasses.replace(
            third,
            images=str(self.target),
            start=str(ROOT / third.start),
            select="val",
            training=dataclasses.replace(third.training, epochs=2, batch=8),
        )
        self.stages: Mapping[str, Callable[[], Files]] = {
            "pairs": self.run_pairs,
            "adapt": self.run_adapt,
            "judge": self.run_judge,
            "words": self.run_words,
            "generate": self.run_generate,
            "restyle": self.run_restyle,
            "annotate": self.run_annotate,
            "pretrain": self.run_pretrain,
            "finetune": self.run_finetune,
            "reid": self.run_reid,
        }

    def run(self, *names: str) -> Files:
        """Compute stages, or all; return their files by stage and path."""
        chosen = names or tuple(self.stages)
        return {
            f"{name}/{path}": content
            for name in chosen
            for path, content in self.stages[name]().items()
        }

    # ------------------------------------------------------------------ the stages

    def run_pairs(self) -> Files:
        """Encode what DaD is trained on, and measure the target's light and colours."""
        run, base = self._fresh("pairs"), open_base(self.diffusion, CPU)
        prepare_pairs(self.target, base, self.diffusion.size, run / "pairs")
        note = json.loads((run / "pairs" / "pairs.json").read_bytes())
        note.pop("skipped")  # counts the other rows
        return _files(run) | {"pairs/pairs.json": json.dumps(note).encode()}

    def run_adapt(self) -> Files:
        """Train DaD, if the profile does."""
        run = self._fresh("adapt")
        if self.adapt.method != NONE:
            train_dad(self.target, self.diffusion, self.adapt, run)
        return _files(run / "adapter")

    def run_judge(self) -> Files:
        """Train the judge of `gap`."""
        run = self._fresh("judge")
        return _files(train_judge(told_tables(self.target), self.judge, run).folder)

    def run_words(self) -> Files:
        """Count the words of ``annotate.phrases: words``."""
        words = frequent_words(self.target, load_parser("embedded"), WORDS)
        return {"words.json": json.dumps(as_meta(words)).encode()}

    def run_generate(self) -> Files:
        """List the prompts of ``restyle.mode: generate``, and those that `gap` picks."""
        section = dataclasses.replace(self.restyle, mode="generate")
        made = [
            (item.uid, item.prompt, item.captions)
            for table in told_tables(self.target)
            for item in plan_rows(table.to_pylist(), section)
            if item.refusal is None
        ]
        picked = pick_prompts(self.target, 8, 0).select(["uid", "captions"]).to_pylist()
        return {"prompts.json": json.dumps([sorted(made), picked]).encode()}

    def run_restyle(self) -> Files:
        """Make pictures of the source, by the adapter if there is one."""
        dad = self.out / "adapt" / "adapter"
        renderer = open_renderer(
            self.diffusion, dad if dad.exists() else None, CPU, model=needs_model(self.restyle)
        )
        arm = renderer.arm(self.restyle)
        tables = [restyle_table(table, arm, batch=8) for table in iter_tables(self.source)]
        return self._write("restyle", "restyled", tables)

    def run_annotate(self) -> Files:
        """Find regions in these pictures, by the source's own captions."""
        nlp, proposer = load_parser("embedded"), load_proposer(self.annotate, CPU)
        tables = [
            annotate_table(table, nlp, proposer, self.annotate)
            for table in iter_tables(self.out / "restyle")
        ]
        return self._write("annotate", "annotated", tables)

    def run_pretrain(self) -> Files:
        """Pretrain on them; two encoders take captions alone."""
        regions = self.pretrain.objective.kind == "mra"
        images, told = self.out / "restyle", self.out / "annotate" if regions else None
        return _files(pretrain(images, told, self.pretrain, self._fresh("pretrain"), CPU))

    def run_finetune(self, **changes: Any) -> Files:
        """Fine-tune on the target, and keep the epoch that is chosen."""
        section = dataclasses.replace(self.finetune, **changes)
        start = self.out / "pretrain" / "finished"
        return _files(finetune(start, section, self._fresh("finetune"), CPU))

    def run_reid(self) -> Files:
        """Train an image encoder on the target's people, and keep the epoch that is chosen."""
        return _files(train_reid(self.reid, self._fresh("reid"), CPU))

    def _fresh(self, name: str) -> Path:
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _write(self, name: str, schema: str, tables: Iterable[pa.Table]) -> Files:
        folder = self._fresh(name)
        write_folder(folder, tables, schema, shard_rows=16)
        return _files(folder)


def _files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
