"""The command ``pedalign``: output that other programs read, and errors that people read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.errors import PedAlignError

runner = CliRunner()


def test_phrases_are_json_with_spans_that_reproduce_the_text(tmp_path: Path) -> None:
    captions = ["a man in a red shirt", "she carries a black backpack"]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    done = runner.invoke(app, ["phrases", "--file", str(tmp_path / "captions.txt")])
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [p["text"] for p in found[0]] == ["a man", "a red shirt"]
    assert [p["text"] for p in found[1]] == ["a black backpack"]
    for caption, listed in zip(captions, found, strict=True):
        for phrase in listed:
            assert caption[phrase["start"] : phrase["end"]] == phrase["text"]
            assert phrase["group"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["phrases"], "both or none"),
        (["phrases", "--file", "absent.txt"], "absent.txt"),
        (["export", "--to", "coco", "--out", "x"], "cuhk"),
        (["search", "a man", "--index", "absent"], "pedalign index"),
        (["index", "absent", "--model", "absent"], "absent"),
        (["annotate", "absent.jpg", "a man"], "absent.jpg"),
    ],
)
def test_a_mistake_says_what_to_do(arguments: list[str], named: str) -> None:
    done = runner.invoke(app, arguments)
    assert isinstance(done.exception, PedAlignError)
    assert named in str(done.exception)
    assert done.exception.remedy


def test_from_the_shell_a_mistake_is_a_paragraph_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "export", "--to", "coco", "--out", "x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "remedy:" in done.stderr
