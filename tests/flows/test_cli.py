"""The command ``pedalign``: output that other programs read, and errors that people read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.gallery import default_model
from tasks.errors import PedAlignError
from tasks.sda import KEYS
from tests.golden import write_golden
from tests.sda import write
from tests.second_model import VOCAB, Size, new_weights

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


def test_a_gallery_is_searched_by_the_last_model_of_the_profile() -> None:
    profiles = Path(__file__).parents[2] / "profiles"
    models = {name: default_model(profiles / f"{name}.yaml") for name in ("tiny", "unlabelled")}
    assert models == {
        "tiny": Path("data/checkpoints/finetune/target"),
        "unlabelled": Path("data/checkpoints/pretrain"),
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["phrases"], "both or none"),
        (["phrases", "--file", "absent.txt"], "absent.txt"),
        (["export", "--to", "coco", "--out", "x"], "cuhk"),
        (["export-sda", "x", "--data", "absent"], "dvc repro annotate"),
        (["search", "a man", "--index", "absent"], "pedalign index"),
        (["index", "absent", "--model", "absent"], "absent"),
        (["annotate", "absent.jpg", "a man"], "absent.jpg"),
        (["parity", "absent"], "absent"),
        (["import-released", "absent.pth", "out"], "absent.pth"),
        (["export-released", "absent", "out.pth"], "absent"),
    ],
)
def test_a_mistake_says_what_to_do(arguments: list[str], named: str) -> None:
    done = runner.invoke(app, arguments)
    assert isinstance(done.exception, PedAlignError)
    assert named in str(done.exception)
    assert done.exception.remedy


def test_a_set_is_handed_on_as_released(tmp_path: Path) -> None:
    write(tmp_path / "data", 12)
    out = tmp_path / "out"
    arguments = ["export-sda", str(out), "--data", str(tmp_path / "data")]
    done = runner.invoke(app, [*arguments, "--entries-per-file", "7"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("10 pairs")
    assert "left out, truncated: 1" in done.stdout
    files = [json.loads((out / f"sda_{n}.json").read_text(encoding="utf-8")) for n in range(2)]
    assert [len(entries) for entries in files] == [7, 3]
    assert all(tuple(entry) == KEYS for entries in files for entry in entries)
    assert all((out / entry["image"]).is_file() for entries in files for entry in entries)
    again = runner.invoke(app, arguments)
    assert "exists already" in str(again.exception)
    assert runner.invoke(app, [*arguments, "--entries-per-file", "0"]).exit_code == 2


def test_parity_prints_a_line_a_quantity_and_exits_by_the_result(tmp_path: Path) -> None:
    size = Size(image=(32, 32), depths=(1, 1), heads=(1, 2))
    vectors = write_golden(tmp_path / "small", size) / "vectors.safetensors"
    done = runner.invoke(app, ["parity", str(tmp_path / "small")])
    assert done.exit_code == 0, done.output
    tensors = load_file(vectors)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"enc.loss_itc", "obj.total", "grad_norm.temp", "eval_flip.rerank.R1"} <= lines.keys()
    assert all(line.split()[-1] != "FAIL" for line in lines.values())

    tensors["obj.loss_mlm"] *= 1.01
    save_file(tensors, vectors)
    done = runner.invoke(app, ["parity", str(tmp_path)])
    assert done.exit_code == 1
    (line,) = [line for line in done.stdout.splitlines() if "FAIL" in line]
    assert line.split()[0] == "obj.loss_mlm"
    assert float(line.split()[2]) == pytest.approx(0.01, rel=0.05)


def test_a_released_checkpoint_goes_in_and_out(tmp_path: Path) -> None:
    size = Size(image=(32, 32), window=2, depths=(2, 1), heads=(1, 2))
    state = {**new_weights(size), "queue": torch.zeros(2)}
    torch.save({"model": state, "config": {"vocab": VOCAB}}, tmp_path / "a.pth")
    out, again = str(tmp_path / "out"), str(tmp_path / "again.pth")
    arguments = ["import-released", str(tmp_path / "a.pth"), out, "--text-heads", "3"]
    done = runner.invoke(app, [*arguments, "--verbose"])
    assert done.exit_code == 0, done.output
    assert "left: no place in this model: queue" in done.stdout
    assert "mapped: temp -> temp" in done.stdout
    assert "32 x 32" in done.stdout
    done = runner.invoke(app, ["export-released", out, again])
    assert done.exit_code == 0, done.output
    back = torch.load(again, weights_only=True)["model"]
    del state["queue"]
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    done = runner.invoke(
        app, ["import-released", again, f"{out}-64", "--image-size", "64", "32", "--window", "4"]
    )
    assert isinstance(done.exception, PedAlignError)  # a window of 2 is too small to be resized
    assert "window of at least 3" in str(done.exception)


def test_from_the_shell_a_mistake_is_a_paragraph_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "export", "--to", "coco", "--out", "x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "remedy:" in done.stderr
