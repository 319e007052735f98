"""What reruns after a change: a table made by running DVC on a copy of the project.

Each case changes one thing, says ``dvc repro`` and reads which stages ran and how many shards they
computed. docs/reruns.md holds the table; ``PEDALIGN_WRITE_DOCS=1`` writes it anew. The copy runs
the ``micro`` profile, a few seconds a stage.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "reruns.md"
CODE = ("flows", "tasks", "models", "profiles", "data")
FILES = ("dvc.yaml", "params.yaml", "pyproject.toml", ".dvcignore")

AFTER_SOURCE = ["ingest@source", "restyle", "screen", "caption", "annotate", "pretrain"]
MODEL = ["finetune@target", "evaluate@direct", "evaluate@finetuned", "report"]

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(1500)]


class Project:
    """A copy of the project that runs real DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bin_folder = str(Path(sys.executable).parent)
        self.environment = os.environ | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site-cache"),
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(folder),
        }
        for name in CODE:
            shutil.copytree(
                ROOT / name,
                folder / name,
                ignore=shutil.ignore_patterns(
                    "__pycache__", "raw", "ingested", "restyled", "screened", "captioned",
                    "annotated", "checkpoints", "reports",
                ),
            )  # fmt: skip
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        shutil.copy(ROOT / "profiles" / "micro.yaml", folder / "params.yaml")
        self.call("git", "init", "-q")
        self.call("dvc", "init", "-q")
        shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        program = ["git"] if command[0] == "git" else [sys.executable, "-m", command[0]]
        done = subprocess.run(
            [*program, *command[1:]],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def repro(self) -> list[str]:
        """Run ``dvc repro`` and return the stages that ran, in order."""
        shutil.rmtree(self.folder / ".cache" / "reuse", ignore_errors=True)
        return re.findall(r"Running stage '([^']+)'", self.call("dvc", "repro").stdout)

    def computed(self, stage: str) -> tuple[int, int]:
        """Shards of a stage's last run: (computed, all)."""
        record = json.loads((self.folder / ".cache" / "reuse" / f"{stage}.json").read_bytes())
        return record["shards"] - record["reused"], record["shards"]

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.folder / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) >= 1, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def set(self, key: str, value: object) -> None:
        """Set one value of params.yaml."""
        from ruamel.yaml import YAML

        yaml = YAML()
        path = self.folder / "params.yaml"
        loaded = yaml.load(path.read_text(encoding="utf-8"))
        *parents, last = key.split(".")
        section = loaded
        for part in parents:
            section = section[part]
        assert last in section, key
        assert section[last] != value, key
        section[last] = value
        with path.open("w", encoding="utf-8") as sink:
            yaml.dump(loaded, sink)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("rebuild") / "project")
    port = "4299"
    server_environment = made.environment | {"PREFECT_SERVER_API_PORT": port}
    with subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"],
        cwd=made.folder, env=server_environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        (made.folder / "runtime.yaml").write_text(f"port: {port}\n")
        yield made
        server.terminate()


def test_what_reruns_after_a_change(project: Project) -> None:
    everything = project.repro()
    assert everything[0].startswith("ingest@")
    rows: list[tuple[str, list[str], str]] = []

    def case(change: str, expected: list[str], shards_of: str | None = None) -> None:
        ran = project.repro()
        assert sorted(ran) == sorted(expected), change
        note = ""
        if shards_of:
            computed, total = project.computed(shards_of)
            note = f"{computed} of {total} {shards_of} shards computed"
        rows.append((change, ran, note))

    started = time.monotonic()
    case("nothing", [])
    assert time.monotonic() - started < 60

    for key, value, expected in PARAMETERS:
        project.set(key, value)
        case(f"`{key}`", expected)

    project.set("ingest.datasets.source.images", 33)
    case("`ingest.datasets.source.images`: one more image", [*AFTER_SOURCE, *MODEL], "restyle")
    computed, total = project.computed("restyle")
    assert computed == 1 < total

    for label, path, old, new, expected, stage in EDITS:
        project.edit(path, old, new)
        case(label, expected, stage)

    table = "\n".join(
        f"| {change} | {', '.join(ran) or 'none'} | {note} |" for change, ran, note in rows
    )
    if os.environ.get("PEDALIGN_WRITE_DOCS"):
        head, _, _ = DOC.read_text(encoding="utf-8").partition("| changed |")
        DOC.write_text(f"{head}| changed | stages that ran | shards |\n|---|---|---|\n{table}\n")
    assert table in DOC.read_text(encoding="utf-8"), "PEDALIGN_WRITE_DOCS=1 writes the table anew"


# (key, another value, the stages that must rerun)
PARAMETERS: list[tuple[str, object, list[str]]] = []
# (what, file, old, new, the stages that must rerun, whose shards to count)
EDITS: list[tuple[str, str, str, str, list[str], str | None]] = []
