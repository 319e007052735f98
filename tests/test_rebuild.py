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
import urllib.request
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
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1):
                    break
            except OSError:
                assert time.monotonic() < deadline, "the Prefect server did not start"
                time.sleep(0.5)
        yield made
        server.terminate()


def below(project: Project, stage: str) -> set[str]:
    """A stage and every stage that depends on it, by what DVC itself says of its graph."""
    dot = project.call("dvc", "dag", "--dot").stdout
    edges = re.findall(r'"([^"]+)" -> "([^"]+)"', dot)
    found, waiting = {stage}, [stage]
    while waiting:
        at = waiting.pop()
        new = {child for parent, child in edges if parent == at} - found
        found |= new
        waiting += new
    return found


def test_what_reruns_after_a_change(project: Project) -> None:
    assert len(project.repro()) == 12
    rows: list[tuple[str, list[str], str]] = []

    def case(change: str, stage: str | None, must: set[str], shards_of: str | None = None) -> None:
        ran = project.repro()
        allowed = below(project, stage) if stage else set()
        assert must <= set(ran) <= allowed, change
        computed = "{} of {}".format(*project.computed(shards_of)) if shards_of else ""
        rows.append((change, ran, f"{shards_of}: {computed} computed" if shards_of else ""))

    case("nothing", None, set())
    for key, value, stage, must in PARAMETERS:
        project.set(key, value)
        case(f"`{key}`", stage, must)

    for label, path, old, new, stage, must, counted in EDITS:
        project.edit(path, old, new)
        case(label, stage, must, counted)
    # A docstring starts its stage, which finds every shard; the last two cases are such.
    assert rows[-2][2].startswith("screen: 0 of")

    project.set("ingest.datasets.source.world.people", 33)
    case("one more source image", "ingest@source", {"ingest@source", "restyle"}, "restyle")
    computed, total = project.computed("restyle")
    # A shard that grows beyond shard_rows splits in two; no other is touched.
    assert 1 <= computed <= 2 < total

    table = "\n".join(
        f"| {change} | {', '.join(ran) or 'none'} | {note} |" for change, ran, note in rows
    )
    if os.environ.get("PEDALIGN_WRITE_DOCS"):
        head, _, _ = DOC.read_text(encoding="utf-8").partition("| changed |")
        DOC.write_text(f"{head}| changed | stages that ran | shards |\n|---|---|---|\n{table}\n")
    # What the figures of a few images decide (whether a new caption differs, say) may vary with
    # the machine; the changes themselves may not.
    written = DOC.read_text(encoding="utf-8")
    assert [c for c, _, _ in rows if f"| {c} |" not in written] == []


LATE = {"finetune@target", "evaluate@finetuned", "report"}
# (key, another value, the stage that reads it, stages that must rerun)
PARAMETERS: list[tuple[str, object, str, set[str]]] = [
    ("report.seed", 1, "report", {"report"}),
    (
        "evaluate.runs.direct.protocol.similarity_weight",
        0.5,
        "evaluate@direct",
        {"evaluate@direct", "report"},
    ),
    ("finetune.datasets.target.training.seed", 1, "finetune@target", LATE),
    ("pretrain.training.seed", 1, "pretrain", {"pretrain", "evaluate@direct", *LATE}),
    ("annotate.box_threshold", 0.6, "annotate", {"annotate", "pretrain", *LATE}),
    ("caption.method", "prompt", "caption", {"caption", "annotate", "pretrain", *LATE}),
    ("screen.poser", "none", "screen", {"screen", "caption", "report"}),
    ("restyle.seed", 1, "restyle", {"restyle", "screen", "report"}),
    ("adapt.seed", 1, "adapt", {"adapt", "restyle", "report"}),
]
# (what, file, old, new, the stage, stages that must rerun, whose shards to count)
SCREEN = "tasks/screen.py"
EDITS: list[tuple[str, str, str, str, str, set[str], str | None]] = [
    (
        "a line of `tasks/screen.py`",
        SCREEN,
        "REASONS = (",
        "REASONS: tuple[str, ...] = (",
        "screen",
        {"screen"},
        "screen",
    ),
    (
        "a docstring of `tasks/screen.py`",
        SCREEN,
        '"""Stage `screen`: which',
        '"""The stage `screen`: which',
        "screen",
        {"screen"},
        "screen",
    ),
    (
        "`flows/windows.py`, which no result depends on",
        "flows/windows.py",
        '"""What a run shows',
        '"""All that a run shows',
        "report",
        set(),
        None,
    ),
]
