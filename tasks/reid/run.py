"""Train a person encoder on a dataset's people.

In: shards whose people are known, and an image encoder to start from. Out: a folder with the model
(`models.reid.PersonEncoder`), training.json and curve.csv. A killed training goes on to the same
result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from models.reid import PersonEncoder, ReidObjective
from models.reid.starting import start_kind, start_person_encoder
from models.team import number, processes
from tasks.checkpoints import save_checkpoint, summary
from tasks.errors import PedAlignError
from tasks.reid.batches import Looks, PeopleBatches, PeopleDataset, load
from tasks.reid.evaluating import identify
from tasks.reid.parameters import ReidParams
from tasks.reid.people import check_findable, read_people, roles
from tasks.shards import location, read_manifest
from tasks.training import Plan, Row, train


def train_reid(
    section: ReidParams,
    run_folder: Path,
    device: torch.device,
    *,
    workers: int = 0,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[int, int, Row], None] | None = None,
) -> Path:
    """Train, from the start or from the run folder's running checkpoint.

    Args:
        section: From what, on whom and how.
        run_folder: Belongs to this training alone.
        device: Where to compute. Called in several processes that accelerate has joined, each
            computes its part and the first one writes.
        workers: Processes that prepare batches; changes no result.
        checkpoint_seconds: Wall time between running checkpoints; changes no result.
        progress: Called with step, steps and the newest row of the curve.

    Returns:
        The finished folder, in ``run_folder``.

    Raises:
        PedAlignError: No such people, nobody to choose the epoch, weights that do not fit, or a
            loss that is not finite.
    """
    images, training = location(section.images), section.training
    model = starting_encoder(section)
    people, pictures = read_people(images, "train", known=True)
    form = str(read_manifest(images).meta.get("format"))
    if section.select == "val":
        watched = read_people(images, "val")
        check_findable(watched[0], roles(watched[0], form), "val")
    plan = Plan(len(people), training.batch, training.epochs)
    if not plan.steps:
        raise PedAlignError(
            f"{len(people)} training pictures for a batch of {training.batch}",
            "an epoch holds at least one whole batch",
            "lower training.batch, or train on more data",
        )
    looks = Looks(section.image_size, section.flip, section.erasing, section.shift, training.seed)
    dataset = PeopleDataset(people, pictures, looks)

    def batches(start: int) -> Iterator[dict[str, Tensor]]:
        order = PeopleBatches(
            people.person, section.people, section.pictures, plan.steps, training.seed, start,
            part=(number(), processes()),
        )  # fmt: skip
        return load(dataset, order, workers)

    def validate() -> dict[str, float]:
        found = identify(model, *watched, form, device, mirror=section.mirror)
        return {"val": float(found.metrics["mAP"])}

    torch.manual_seed(training.seed)  # of the classifier
    objective = ReidObjective(
        model,
        people=people.count,
        margin=section.margin,
        label_smoothing=section.label_smoothing,
        triplet_weight=section.triplet_weight,
        micro_batch=training.micro_batch,
    )
    trained = train(
        objective,
        model,
        batches,
        plan,
        training,
        run_folder,
        device,
        name="reid",
        validate=validate if section.select == "val" else None,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
    )
    epoch = plan.epochs
    if trained.best:  # the first of several processes judges and writes
        epoch = trained.best_epoch("val")
        model.load_state_dict(trained.best["val"])
    record = {
        "stage": "reid",
        "params": asdict(section),
        "start_kind": start_kind(section.start),
        "pictures": len(people),
        "people": people.count,
        "skipped": dict(people.skipped),
        "steps": plan.steps,
        "losses": summary(trained.rows),
        "scores": trained.scores,
        "chosen_on": section.select,
        "kept_epoch": epoch,
    }
    return save_checkpoint(run_folder / "finished", model, None, record, trained.rows)


def starting_encoder(section: ReidParams) -> PersonEncoder:
    """The model that a section starts with.

    Raises:
        PedAlignError: There is none, or it does not fit.
    """
    try:
        return start_person_encoder(
            section.start,
            image_size=section.image_size,
            window_size=section.window_size,
            vision_dropout=section.vision_dropout,
            drop_path=section.drop_path,
        )
    except (ValueError, OSError) as error:
        raise PedAlignError(
            f"reid: no image encoder from {section.start} ({error})",
            "`start` is a retrieval checkpoint's folder, or a Swin, ViT, DeiT or CLIP",
            "name data/checkpoints/pretrain, models/tiny/swin, or run the stage that writes it",
        ) from error
