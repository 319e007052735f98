"""What flows.repro reads from DVC's output and says at the end."""

from pathlib import Path

import pytest

from flows.repro import Said, changed_datasets, what_stopped
from tasks.ingest import fingerprint

OUTPUT = """\
Stage 'ingest@source' is cached - skipping run, checking out outputs

Stage 'ingest@target' didn't change, skipping
Running stage 'adapt':
> python -m flows.adapt
Stage 'screen' didn't change, skipping
Use `dvc push` to send your updates to remote storage.
Ran experiment(s): calm-jest
"""


def test_stages_come_in_the_order_of_dvc_with_their_reasons(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = Said()
    said.listen(OUTPUT.splitlines(keepends=True))
    assert said.skipped == [
        {"stage": "ingest@source", "why": "DVC has this result already"},
        {"stage": "ingest@target", "why": "nothing it depends on has changed"},
        {"stage": "screen", "why": "nothing it depends on has changed"},
    ]
    assert said.ran == ["adapt"]
    assert said.experiments == "calm-jest"
    assert capsys.readouterr().out == OUTPUT


def test_a_killed_dvc_is_named_with_the_stage_that_it_ran() -> None:
    text = what_stopped(-9, ["ingest@source", "restyle"])
    assert text.startswith("dvc was killed (SIGKILL) during restyle")
    assert "goes on from what was finished" in text


def test_a_failed_stage_is_named() -> None:
    assert "during screen;" in what_stopped(255, ["restyle", "screen"])
    assert "during" not in what_stopped(255, [])


def test_a_raw_dataset_that_changed_behind_its_fingerprint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    (raw / "imgs").mkdir(parents=True)
    (raw / "imgs" / "1.jpg").write_bytes(b"one")
    fingerprint(raw)
    (tmp_path / "params.yaml").write_text(
        "ingest:\n  datasets:\n    ours: {root: raw, fingerprint: raw/fingerprint.json}\n"
        "    world: {root: data/raw/source, fingerprint: data/nothing}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert changed_datasets() == []
    (raw / "imgs" / "2.jpg").write_bytes(b"two")
    [said] = changed_datasets()
    assert "1 files then, 2 now" in said
    assert "pedalign fingerprint raw" in said
