"""What a kill of DVC itself can leave broken, kept whole or put back.

DVC streams dvc.lock into the open file after every stage, so a kill in that moment (about 0.2 s a
stage) leaves a file that is no YAML, and DVC's next command stops at it. A kill while it writes its
run cache can leave an empty folder there, at which a later ``dvc repro`` stops. A stage keeps a
copy of dvc.lock when it starts; ``python -m flows.repro`` mends both before it starts DVC, and
``python -m flows.mending`` alone for those who call ``dvc`` themselves. What the older dvc.lock
lacks comes back from DVC's run cache: nothing is computed again.

``python -m flows.mending`` also looks for bytes that have changed on disk. DVC takes the objects of
its cache on trust, and an output is a hard link to its object: a bit that flips flips in both, and
DVC would put the same bytes back.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
from pathlib import Path

from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.shards import atomic_write

LOCK = Path("dvc.lock")
WHOLE = Path(".dvc/tmp/dvc.lock.whole")
"""The copy: in each workspace's own scratch folder, so that experiments keep theirs apart."""
PROJECT_LOCK = Path(".dvc/tmp/lock")
"""What DVC holds (by flock) where it reads or writes dvc.lock, and not while a stage runs."""
RUNS = Path(".dvc/cache/runs")
OBJECTS = Path(".dvc/cache/files/md5")
DATA = Path("data")


def keep_lock() -> None:
    """Copy dvc.lock. For a stage that DVC started: DVC has just read the file, so it is whole.

    Unless another DVC writes it just now, for a stage that runs beside this one; it holds the
    project's lock then, and the older copy stays.
    """
    if not (LOCK.exists() and WHOLE.parent.exists()):
        return
    with PROJECT_LOCK.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return
        atomic_write(WHOLE, LOCK.read_bytes())


def mend() -> list[str]:
    """Put a broken dvc.lock back and drop empty folders of the run cache.

    Returns:
        What was mended, a sentence each.

    Raises:
        PedAlignError: dvc.lock is broken and there is no copy.
    """
    done = []
    if LOCK.exists() and not _is_whole(LOCK):
        if not (WHOLE.exists() and _is_whole(WHOLE)):
            raise PedAlignError(
                "dvc.lock is cut off, and there is no copy of it",
                "a kill while DVC writes it leaves part of it",
                "git checkout dvc.lock; the next rebuild takes the rest from DVC's run cache",
            )
        atomic_write(LOCK, WHOLE.read_bytes())
        done.append("dvc.lock was cut off by a kill; the copy of the last stage's start is back")
    for folder in sorted(RUNS.glob("*/*")):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            done.append(f"an empty entry of DVC's run cache is gone: {folder.name[:12]}…")
    return done


def drop_changed() -> list[str]:
    """Remove DVC's objects whose bytes are not what their names say, and outputs linked to them.

    The next rebuild has DVC run their stages, which take what they made from the store.

    Returns:
        What was removed, a sentence each.
    """
    changed, done = set[int](), []
    for path in tqdm(sorted(OBJECTS.glob("??/*")), desc="DVC's objects", unit="file"):
        with path.open("rb") as source:
            found = hashlib.file_digest(source, "md5").hexdigest()
        name = path.parent.name + path.name.removesuffix(".dir")
        if found != name:
            changed.add(path.stat().st_ino)
            path.unlink()
            done.append(f"an object of DVC's cache had changed and is gone: {name[:12]}…")
    for path in sorted(DATA.rglob("*")) if changed else ():
        if path.is_file() and path.stat().st_ino in changed:
            path.unlink()
            done.append(f"{path} had the same bytes and is gone too; dvc repro brings it back")
    return done


def _is_whole(path: Path) -> bool:
    """Whether DVC can read it. Cut between two stages it lacks some, which DVC gets back itself."""
    # Stages import this module for its other half, and wait for DVC's import in vain.
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(path))
    except (YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True


if __name__ == "__main__":
    try:
        print("\n".join([*mend(), *drop_changed()]) or "nothing to mend")
    except PedAlignError as error:
        sys.exit(str(error))
