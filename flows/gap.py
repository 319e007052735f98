"""Stage `gap`: how near restyling comes to the target and what content it keeps, arm by arm.

In: source shards, the target's shards (and what `describe` said about it), base, DaD and poser.
Out: ``data/checkpoints/judge``, the judge of content, trained on the target's train split alone,
and ``data/reports/gap``: figures of every arm (docs/gap.md). Judge and arms are entries of the
store: another arm renders that arm only, a killed run goes on with what is missing. Alone:
``python -m flows.gap``.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from flows import windows
from flows.shards import (
    ShardJob,
    ShardWork,
    have_shard,
    have_training,
    once_a_worker,
    shard_store,
)
from flows.stage import run
from flows.workers import Workplace, surroundings
from models.judge import Judge, load_judge
from models.poser import Poser, VitPosePoser
from tasks.diffusion import DiffusionParams, base_revision
from tasks.errors import PedAlignError
from tasks.gap.arms import (
    GapParams,
    arm_sections,
    changed,
    curve_arms,
    essence,
    main_arm,
    start_arm,
)
from tasks.gap.comparing import EXAMPLES, compare, write_examples
from tasks.gap.measuring import Findings
from tasks.gap.picking import pick_prompts, pick_source, pick_target
from tasks.gap.rendering import PLAIN, open_for, render_arm
from tasks.gap.results import DETAILS, write_results
from tasks.inputs import Inputs, adapter, optional
from tasks.judge.train import JudgeParams, train_judge
from tasks.params import read_section
from tasks.phrases import EMBEDDED, load_parser
from tasks.provenance import computation_key, folder_digest, imported_libraries, model_revision
from tasks.restyle.renderer import Renderer
from tasks.restyle.shard import RestyleParams
from tasks.runtime import device, runtime
from tasks.shards import (
    Manifest,
    ShardRecord,
    atomic_write,
    location,
    read_manifest,
    write_manifest,
)
from tasks.target import digests, has_captions, told_tables

log = logging.getLogger(__name__)

OUT = Path("data/reports/gap")
JUDGE = Path("data/checkpoints/judge")

_arm = task(name="arm", task_run_name="arm {job.name}", cache_policy=NO_CACHE)(have_shard)


# ------------------------------------------------------------------ the judge


def _train(run_folder: Path, target: Path, captions: Path | None, section: JudgeParams) -> Path:
    steps = windows.Steps("judge")
    result = train_judge(
        told_tables(target, captions),
        section,
        run_folder,
        device(),
        progress=lambda step, of, loss: steps.show(step, of, {"loss": loss}),
    )
    return result.folder


def judge_revisions(section: JudgeParams) -> dict[str, str]:
    """Say which models the judge is made with, beside what is built in and counts by its code.

    A folder counts by its files, an installed parser by its version.
    """
    found = {}
    if section.features != "trained":
        found["features"] = model_revision(section.features)
    if Path(section.parser).is_dir():
        found["parser"] = model_revision(section.parser)
    elif section.parser != EMBEDDED:
        found["parser"] = f"{section.parser} {load_parser(section.parser).meta['version']}"
    return found


def have_judge(section: JudgeParams, target: Path, captions: Path | None) -> Judge | None:
    """Train the judge unless the store has it; None where no caption of the target can teach it."""
    if not has_captions(target, captions):
        shutil.rmtree(JUDGE, ignore_errors=True)
        JUDGE.mkdir(parents=True)
        why = (
            "no caption in the target's train split (the stage describe can give it some); "
            "distances are of picture statistics"
        )
        log.warning("no judge: %s", why)
        atomic_write(JUDGE / "none.json", json.dumps({"reason": why}).encode())
        return None
    key = computation_key(
        "judge",
        inputs=digests(target, captions),
        params=section,
        code=["tasks.judge.train"],
        revisions=judge_revisions(section),
        device=device().type,
    )
    call = partial(_train, target=target, captions=captions, section=section)
    have_training(key, JUDGE, call)
    return load_judge(JUDGE, device())


# ------------------------------------------------------------------ the arms


@once_a_worker
def _renderer(diffusion: DiffusionParams, dad: Path | None, *, model: bool) -> Renderer:
    return open_for(diffusion, dad, device(), model=model)


def draw(
    name: str,
    sections: Mapping[str, RestyleParams],
    rows: Mapping[bool, Path],
    diffusion: DiffusionParams,
    dad: Path | None,
) -> pa.Table:
    """Render one arm.

    Args:
        name: The arm.
        sections: Every arm's section.
        rows: Whether an arm generates to the file of the rows that it takes.
        diffusion: The base.
        dad: Folder of the adapter.
    """
    section = sections[name]
    return render_arm(
        pq.read_table(rows[section.mode == "generate"]),
        _renderer(diffusion, dad, model=any(s.mode not in PLAIN for s in sections.values())),
        section,
        diffusion.size,
        batch=runtime().batch_size,
    )


def pick(
    section: GapParams, source: Path, target: Path, captions: Path | None
) -> dict[bool, tuple[str, ShardRecord]]:
    """Put the rows that arms take into the store: source pictures, and captions to generate of.

    Args:
        section: Section ``gap``.
        source: The source's shards.
        target: The target's.
        captions: Side table of the target's captions; None where those of its shards count.

    Returns:
        Whether an arm generates to the entry; what there is nothing of is absent.
    """
    store, found = shard_store(), {}
    folders = {True: target}
    if read_manifest(source).digest != read_manifest(target).digest:
        folders[False] = source
    for generates, folder in folders.items():
        key = computation_key(
            "gap pictures",
            inputs=digests(folder, captions if generates else None),
            params=[generates, section.pictures, section.seed],
            code=["tasks.gap.picking"],
        )
        record = store.find(key)
        if record is None:
            choose = partial(pick_prompts, captions=captions) if generates else pick_source
            table = choose(folder, section.pictures, section.seed)
            if not table.num_rows:
                continue
            record = store.save(key, "pictures.parquet", table, "images")
        found[generates] = key, record
    return found


class Rendering:
    """The arms on their way: handed out at the start, asked for when they are needed.

    Args:
        arms: Every arm's section.
        picked: From `pick`.
        diffusion: The base.
        dad: Folder of the adapter; None for the base alone.
    """

    def __init__(
        self,
        arms: Mapping[str, RestyleParams],
        picked: Mapping[bool, tuple[str, ShardRecord]],
        diffusion: DiffusionParams,
        dad: Path | None,
    ) -> None:
        revisions = {}
        if any(arm.mode not in PLAIN for arm in arms.values()):
            revisions["base"] = base_revision(diffusion)
        if dad is not None:
            revisions["dad"] = folder_digest(dad)
        store = shard_store()
        place = Workplace(surroundings=surroundings(imported_libraries("flows.gap")))
        rows = {generates: store.path(key) for generates, (key, _) in picked.items()}
        compute = partial(draw, sections=dict(arms), rows=rows, diffusion=diffusion, dad=dad)
        work = ShardWork("gap", "restyled", compute)
        self.failed: dict[str, str] = {}
        """Arm to the reason why there are no pictures."""
        self._futures: dict[str, PrefectFuture[tuple[ShardRecord, bool]]] = {}
        self._keys: dict[str, str] = {}
        for name, arm in arms.items():
            entry = picked.get(arm.mode == "generate")
            if entry is None:
                self.failed[name] = _nothing_to_take(arm)
                continue
            self._keys[name] = computation_key(
                "gap arm",
                inputs=[entry[1].digest],
                params=[essence(arm), diffusion],
                code=["tasks.gap.rendering"],
                revisions={} if arm.mode == "none" else revisions,
                device=device().type,
            )
            self._futures[name] = _arm.submit(ShardJob(name, self._keys[name]), work, store, place)

    def made(self, main: str | None) -> dict[str, tuple[str, ShardRecord]]:
        """Wait for every arm; see `failed` for those that are not among them.

        Returns:
            Arm to its entry in the store.

        Raises:
            PedAlignError: What this run itself makes cannot be made.
        """
        found: dict[str, tuple[str, ShardRecord]] = {}
        progress = windows.Progress(f"gap: {len(self._futures)} arms", len(self._futures))
        for name, future in self._futures.items():
            try:
                found[name] = self._keys[name], future.result()[0]
            except PedAlignError as error:
                if name == main:
                    raise
                log.warning("arm %s: %s", name, error.found)
                self.failed[name] = " ".join(error.found.split())
            progress.advance()
        return found


def _nothing_to_take(arm: RestyleParams) -> str:
    if arm.mode == "generate":
        return "no caption in the target's train split to generate from"
    return "no source pictures: inputs.restyle is the target itself, or has no usable row"


# ------------------------------------------------------------------ the stage


def load_poser(name: str) -> Poser | None:
    """Load the pose model, or None for ``none``.

    Raises:
        PedAlignError: There is no such model.
    """
    if name == "none":
        return None
    try:
        return VitPosePoser.from_pretrained(name, device())
    except ValueError as error:
        raise PedAlignError(
            f"gap.poser: {error}",
            "a ViTPose model of transformers by hub name or folder, or none",
            "set gap.poser to models/tiny/poser, usyd-community/vitpose-base-simple or none",
        ) from error


@flow
def gap() -> None:
    """Have the judge and the arms, measure, and write the figures."""
    section = read_section(GapParams, "gap")
    restyle = read_section(RestyleParams, "restyle")
    diffusion = read_section(DiffusionParams, "diffusion")
    inputs = read_section(Inputs, "inputs")
    arms = arm_sections(section, restyle)
    main = main_arm(arms, restyle)
    source, target = location(inputs.restyle), location(inputs.adapt)
    captions = optional(inputs.adapt_captions)
    picked = pick(section, source, target, captions)
    rendering = Rendering(arms, picked, diffusion, adapter(inputs))
    judge = have_judge(section.judge, target, captions)  # meanwhile
    made, store = rendering.made(main), shard_store()
    tables = {name: store.read(key) for name, (key, _) in made.items()}
    halves = pick_target(target, section.pictures, section.seed, section.held_out)
    start = start_arm({name: arm for name, arm in arms.items() if name in made}, main)
    found = compare(
        tables, rendering.failed, halves, diffusion.size, section, start=start, main=main,
        judge=judge, poser=load_poser(section.poser), workers=runtime().workers,
    )  # fmt: skip
    shutil.rmtree(OUT, ignore_errors=True)
    findings, reason = (found, "") if isinstance(found, Findings) else (None, found)
    changes = {name: changed(arm, restyle) for name, arm in arms.items()}
    write_results(OUT, findings, arms, changes, curve_arms(arms, main), reason)
    write_examples(OUT / DETAILS / EXAMPLES, tables, halves[0], section)
    # What the arms are in the store, so that `pedalign gc` keeps it.
    needed = sorted({record.digest for _, record in [*made.values(), *picked.values()]})
    write_manifest(OUT / DETAILS, Manifest("restyled", (), {"entries": needed}))
    windows.gap(OUT)


if __name__ == "__main__":
    run(gap, OUT, JUDGE)
