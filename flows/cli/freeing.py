"""The store of finished work: free what nothing needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.console import console
from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from tasks.collecting import Leftover


def gc(
    branches: Annotated[
        bool, typer.Option("--branches", help="Keep what the heads of all branches need, too")
    ] = False,
    all_commits: Annotated[
        bool, typer.Option("--all-commits", help="Keep what any commit needs")
    ] = False,
    keep_days: Annotated[
        float, typer.Option(help="Keep finished work younger than this", min=0)
    ] = 1,
    keep_running_days: Annotated[
        float, typer.Option(help="Keep the checkpoints of unfinished trainings so long", min=0)
    ] = 14,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Free the shared store (`store` in runtime.yaml) as well: also what only other "
            "people's projects need",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Free what no kept state of the project needs from .cache, the store of finished work.

    Kept: shards and trainings that the workspace needs or a tagged commit, by the manifests and
    checkpoints below data; commits are read from DVC's cache or remote. Where neither holds a
    commit's outputs, its needs are unknown and keep nothing: `gc` names such outputs, and `dvc
    fetch --all-tags` brings them. Experiments of `dvc exp` count once they are applied or have a
    branch. Freed work is lost time, never a lost result: the next `dvc repro` computes it again.

    A file in the store, its published copy and DVC's are one file with several names where the
    disk allows that, so most of what a kept commit needs costs nothing. DVC's own cache is not
    touched: `dvc gc --workspace --all-tags` frees that, and then more comes free here.

    Runs while no stage does; stages that start meanwhile wait.
    """
    from tasks.collecting import Needs, collect, freed, leftovers, revisions
    from tasks.disk import size_text
    from tasks.locks import nobody_writes
    from tasks.runtime import cache_root, project_root, runtime
    from tasks.shards import location

    project, places = project_root(), [cache_root()]
    if shared and not runtime().store:
        raise PedAlignError(
            "--shared, and runtime.yaml names no `store`",
            "it frees the shared store behind .cache",
            "leave the option out, or name the store",
        )
    if shared:
        places.append(location(runtime().store))
    with nobody_writes(cache_root()):
        names = revisions(project, branches=branches, all_commits=all_commits)
        needs = Needs.of_workspace(project) | Needs.of_revisions(project, [None, *names])
        items = [
            item
            for place in places
            for item in leftovers(
                place, needs, keep_days=keep_days, keep_running_days=keep_running_days
            )
        ]
        for unread in needs.unread:
            console.print(f"[yellow]Unknown, and nothing kept for it:[/yellow] {unread}")
        if not items:
            console.print("Nothing to free.")
            return
        console.print(_leftover_table(items))
        console.print(
            f"{size_text(freed(items))} come free; files that a published folder or DVC's cache "
            "holds as well stay on the disk until they go there."
        )
        if dry_run or not (yes or typer.confirm("Remove it?")):
            return
        collect(items)
    console.print(f"{len(items)} removed")


def _leftover_table(items: Sequence[Leftover]) -> Table:
    """Count what goes, by kind: the name of a table's schema, or what else it is."""
    from tasks.disk import size_text

    sizes: dict[str, list[int]] = {}
    for item in items:
        sizes.setdefault(item.kind, []).append(item.size)
    table = Table(title="What nothing needs")
    for column in ("what", "count", "size"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for kind, found in sorted(sizes.items()):
        table.add_row(kind, f"{len(found):,}", size_text(sum(found)))
    table.add_section()
    table.add_row("together", f"{len(items):,}", size_text(sum(map(sum, sizes.values()))))
    return table
