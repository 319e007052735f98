"""The rules that hold the project together, read off its own text."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.deps import code_of, declared, stages
from tasks.provenance import EXEMPT, ROOT, imports, module_path

ALLOWED = {
    "models": {"models"},
    "tasks": {"tasks", "models"},
    "flows": {"flows", "tasks", "models"},
}
# Who may open the world's truth: what measures, and what writes it.
MAY_READ_TRUTH = {
    "tasks/evaluate/run.py",
    "tasks/ingest/dataset.py",
    "tasks/ingest/photos.py",
    "tasks/world/dataset.py",
}


def sources() -> Iterator[Path]:
    for package in ALLOWED:
        yield from sorted((ROOT / package).rglob("*.py"))


def load(path: Path) -> dict[str, object]:
    loaded = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", list(sources()), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_layers_import_downwards_only(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    reached = {name.split(".")[0] for name in imports(module_of(path))}
    assert reached <= ALLOWED[layer]


def test_models_know_neither_prefect_nor_parquet() -> None:
    for path in (ROOT / "models").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"prefect", "pyarrow", "dvc", "pandas"}, path


def test_tasks_do_not_know_prefect() -> None:
    for path in (ROOT / "tasks").rglob("*.py"):
        assert "import prefect" not in path.read_text(encoding="utf-8"), path
        assert "from prefect" not in path.read_text(encoding="utf-8"), path


def test_every_stage_names_the_code_it_runs() -> None:
    dvc = load(ROOT / "dvc.yaml")
    differing = {
        name: (sorted(set(code_of(name)) ^ set(declared(body))))
        for name, body in stages(dvc)
        if code_of(name) != declared(body)
    }
    assert differing == {}, "python -m flows.deps --write mends this"


def test_exempt_modules_compute_nothing() -> None:
    # An exempt module may hold no torch layer, schema or seed: what it does must not reach bytes.
    for name in EXEMPT - {"flows", "tasks", "models"}:
        path = module_path(name)
        assert path is not None
        assert "item_seed" not in path.read_text(encoding="utf-8"), name


def test_one_word_names_a_stage_everywhere() -> None:
    sections = set(load(ROOT / "params.yaml")) - {"machine", "inputs", "diffusion"}
    names = [name for name, _ in stages(load(ROOT / "dvc.yaml"))]
    assert set(names) == sections
    for name in names:
        assert (ROOT / "flows" / f"{name}.py").exists()
        assert module_path(f"tasks.{name}") is not None


def test_the_committed_params_are_the_tiny_profile() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles" / "tiny.yaml").read_bytes()


@pytest.mark.parametrize("path", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_profiles_have_the_same_sections(path: Path) -> None:
    assert list(load(path)) == list(load(ROOT / "params.yaml"))


def test_truth_is_opened_only_where_it_may_be() -> None:
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if "truth.parquet" in path.read_text(encoding="utf-8")
        or "TRUTH" in path.read_text(encoding="utf-8")
    }
    reports = {name for name in readers if name.startswith("tasks/report/")}
    assert readers - reports <= MAY_READ_TRUTH


def test_no_junk_drawers() -> None:
    names = {path.stem for path in sources()} | {path.parent.name for path in sources()}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_no_file_outgrows_a_reader() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 450
    }
    assert long == {}
