"""``pedalign phrases`` and ``pedalign annotate``: one item in, JSON out, and nothing else."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from tasks.errors import PedAlignError
from tasks.sda import KEYS

runner = CliRunner()
CAPTION = "a man in a red shirt and black pants"


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """A picture of someone in red and black on green."""
    pixels = np.full((96, 48, 3), (70, 150, 90), np.uint8)
    pixels[5:17, 20:28], pixels[17:48, 12:36] = (220, 170, 140), (200, 30, 30)
    pixels[48:90, 15:33] = (20, 20, 25)
    path = tmp_path_factory.mktemp("pictures") / "person.png"
    Image.fromarray(pixels).save(path)
    return path


def run(*arguments, given=None):
    done = runner.invoke(app, [str(a) for a in arguments], input=given)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments, given=None):
    done = runner.invoke(app, [str(a) for a in arguments], input=given)
    assert isinstance(done.exception, PedAlignError), done.output
    assert done.exception.rule
    assert done.exception.remedy
    assert done.stdout == ""
    return str(done.exception)


# ------------------------------------------------------------------ phrases


def test_one_caption_gives_one_list_with_everything_known_of_a_phrase():
    (line,) = run("phrases", "the woman's coat is dark blue with a striped hood").splitlines()
    found = json.loads(line)
    coat = next(p for p in found if p["head"] == "coat")
    assert {"text", "start", "end", "head", "group", "colours", "attributes"} == set(coat)
    assert (coat["group"], coat["colours"]) == ("upper", ["dark blue"])
    assert all({"kind", "value"} == set(a) for p in found for a in p["attributes"])


def test_a_line_out_for_a_line_in(tmp_path):
    # A line ends at a line feed, whatever else Unicode and other programs call a line end.
    lines = [
        "a red hat",
        "",
        "  ",
        "walking",
        "a bag\u2028a coat\x0ca belt\x85a scarf",
        "\ufeffa tie",
    ]
    data = b"\xef\xbb\xbf" + "\n".join(lines).encode()
    (tmp_path / "unix.txt").write_bytes(data)
    (tmp_path / "windows.txt").write_bytes(data.replace(b"\n", b"\r\n") + b"\r\n")
    out = run("phrases", "--file", tmp_path / "unix.txt")
    assert out == run("phrases", "--file", tmp_path / "windows.txt")
    assert out == run("phrases", "--file", "-", given=data) == run("phrases", "-", given=data)
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(lines)
    assert found[1] == found[2] == found[3] == []
    for line, phrases in zip(lines, found, strict=True):
        assert [line[p["start"] : p["end"]] for p in phrases] == [p["text"] for p in phrases]
    assert found[0][0]["start"] == 0  # the mark in front of the file is no character of its text


def test_an_empty_file_has_no_lists_and_an_empty_caption_one(tmp_path):
    (tmp_path / "none.txt").write_text("")
    assert run("phrases", "--file", tmp_path / "none.txt") == ""
    assert json.loads(run("phrases", "")) == []


def test_more_lines_than_are_read_at_once_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.cli.single._BATCH", 3)
    monkeypatch.setattr("flows.cli.single._ZONE", 2)
    captions = [f"a man with {n} bags" if n % 3 else "" for n in range(40)]
    (tmp_path / "many.txt").write_text("".join(f"{caption}\n" for caption in captions))
    lines = run("phrases", "--file", tmp_path / "many.txt").splitlines()
    assert [bool(json.loads(line)) for line in lines] == [bool(c) for c in captions]


def test_text_that_is_no_utf8_is_named_by_its_line(tmp_path):
    (tmp_path / "latin.txt").write_bytes("a hat\na café table\n".encode("latin1"))
    said = refused("phrases", "--file", tmp_path / "latin.txt")
    assert "latin.txt: line 2" in said
    assert "iconv" in said
    assert "standard input: line 1" in refused("phrases", "-", given=b"\xff\xfea\x00")
    assert "not UTF-8" in refused("phrases", "a \udcff hat")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["phrases", "a", "--file", "b"], "both or none"),
        (["phrases", "--file", "/"], "/: Is a directory"),
        (["phrases", "a hat", "--parser", "no_such_parser"], "no_such_parser"),
    ],
)
def test_what_cannot_be_parsed_is_explained(arguments, named):
    assert named in refused(*arguments)


def test_a_parser_can_be_a_folder(tmp_path):
    from tasks.phrases import embedded_parser

    embedded_parser().to_disk(tmp_path / "parser")
    assert run("phrases", CAPTION, "--parser", tmp_path / "parser") == run("phrases", CAPTION)


def test_json_is_utf8_whatever_the_terminal_is():
    done = CliRunner(charset="ascii").invoke(app, ["phrases", "a man in a rosé scarf"])
    assert done.exit_code == 0
    assert "a rosé scarf".encode() in done.stdout_bytes


def test_a_closed_pipe_is_no_fault():
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "phrases", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write((CAPTION + "\n").encode() * 20_000)
            process.stdin.close()
        assert b"Traceback" not in process.stderr.read()


# ------------------------------------------------------------------ annotate


def test_the_default_is_an_entry_as_released(person, monkeypatch):
    (line,) = run("annotate", person, CAPTION).splitlines()
    entry = json.loads(line)
    assert tuple(entry) == KEYS
    assert "a red shirt" in entry["phrases"]
    assert entry["image"] == "person.png"  # a set's paths are relative
    monkeypatch.chdir(person.parent.parent)
    relative = Path(person.parent.name) / person.name
    assert json.loads(run("annotate", relative, CAPTION))["image"] == relative.as_posix()


def test_full_is_the_whole_annotated_row(person, tmp_path):
    entry = json.loads(run("annotate", person, CAPTION))
    # A confidence that nothing reaches: every box is refused, and says why.
    strict = tmp_path / "strict.yaml"
    params = Path("profiles/tiny.yaml").read_text(encoding="utf-8")
    assert "  box_threshold: 0.35" in params
    strict.write_text(params.replace("  box_threshold: 0.35", "  box_threshold: 1.0"))
    row = json.loads(run("annotate", person, CAPTION, "--full", "--params", strict))
    assert list(row) == ["image", "caption", "phrases", "regions", "rejected"]
    assert [CAPTION[p["start"] : p["end"]] for p in row["phrases"]] == [
        p["text"] for p in row["phrases"]
    ]
    assert row["regions"] == []
    assert {r["reason"] for r in row["rejected"]} >= {"low-confidence"}
    assert row["rejected"][0].keys() == {"phrase", "box", "score", "reason"}
    full = json.loads(run("annotate", person, CAPTION, "--full"))
    assert [r["box"] for r in full["regions"]] == entry["boxes"]
    assert [r["score"] for r in full["regions"]] == entry["logits"]
    assert [full["phrases"][r["phrase"]]["text"] for r in full["regions"]] == entry["phrases"]


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")]
)
def test_the_suffix_of_a_drawing_is_its_format(person, tmp_path, name, kind):
    run("annotate", person, CAPTION, "--draw", tmp_path / name)
    with Image.open(tmp_path / name) as drawn:
        assert drawn.format == kind
        assert drawn.height > 96


def test_what_cannot_be_annotated_or_drawn_is_explained(person, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "other.yaml").write_text("annotate: {parser: embedded}\n")
    assert "gone.jpg: No such file" in refused("annotate", tmp_path / "gone.jpg", CAPTION)
    assert "text.jpg: not-an-image" in refused("annotate", tmp_path / "text.jpg", CAPTION)
    assert "empty.jpg: empty" in refused("annotate", tmp_path / "empty.jpg", CAPTION)
    assert "directory" in refused("annotate", tmp_path, CAPTION)
    assert "no-caption" in refused("annotate", person, " ")
    assert "not UTF-8" in refused("annotate", person, "a \udcff hat")
    assert "a.tga2" in refused("annotate", person, CAPTION, "--draw", tmp_path / "a.tga2")
    assert "suffix" in refused("annotate", person, CAPTION, "--draw", tmp_path / "a")
    assert "no folder" in refused("annotate", person, CAPTION, "--draw", tmp_path / "b" / "a.png")
    assert "annotate" in refused("annotate", person, CAPTION, "--params", tmp_path / "other.yaml")
    assert "gone" in refused("annotate", person, CAPTION, "--params", tmp_path / "gone.yaml")
    assert str(tmp_path) in refused("annotate", person, CAPTION, "--proposer", tmp_path)
    assert not list(tmp_path.glob("a*"))


def test_an_image_read_from_a_name_with_odd_bytes(person, tmp_path):
    odd = tmp_path / os.fsdecode(b"odd\xff.png")
    try:
        odd.write_bytes(person.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    assert json.loads(run("annotate", odd, CAPTION))["image"] == odd.name
