"""Golden cases: what every node of a domain is given and answers, written down, read by a person, and compared.

``pytest tests/golden --rewrite-golden`` writes all of them anew; read what has changed before accepting it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from golden_cases import CASES
from golden_files import Case

from anchord.cli import main
from anchord.recording.values import dump

GOLDEN = Path(__file__).parent
EXAMPLE = GOLDEN.parents[1] / "examples" / "json_control_plane"
FOR_OTHERS = "P9-for-others"
STATES = "states.jsonl"


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite-golden"))


def settle(name: str, made: Path, rewrite: bool) -> Path:
    """The golden directory of a case, with what was made in its place if that is wanted."""
    golden = GOLDEN / name
    if rewrite:
        shutil.rmtree(golden, ignore_errors=True)
        shutil.copytree(made, golden)
    return golden


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize("name", CASES)
def test_every_node_answers_as_it_is_written(name: str, tmp_path: Path, rewrite: bool) -> None:
    case = Case(tmp_path)
    CASES[name](case)
    case.end()
    golden = settle(name, tmp_path, rewrite)
    for path in sorted(golden.glob("*.jsonl")):
        told = CliRunner().invoke(main, ["replay", str(path)])
        assert told.exit_code == 0 and "cut off" not in told.output, f"{path}\n{told.output}"
    # And the whole domain still comes to these inputs.
    assert contents(golden) == contents(tmp_path)


def test_what_others_declare_is_as_it_is_written(
    tmp_path: Path, rewrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: the table of a control plane without any PBU, and what its gateways declare of it."""
    monkeypatch.syspath_prepend(EXAMPLE)
    import table  # noqa: PLC0415

    given = json.loads((EXAMPLE / "table.json").read_text())
    with (tmp_path / STATES).open("w") as file:
        for at in ("gw1", "gw2", None):
            given["hosts"]["mn1"]["at"] = at
            (tmp_path / "given").write_text(json.dumps(given))
            read = table.load(tmp_path / "given")
            for gateway in given["gateways"]:
                state = dump(read.state("mn1", gateway, "acc0"))
                file.write(json.dumps({"host at": at, "gateway": gateway, "state": state}) + "\n")
    (tmp_path / "given").unlink()
    assert contents(settle(FOR_OTHERS, tmp_path, rewrite)) == contents(tmp_path)


def test_every_procedure_has_its_cases_and_every_case_its_line() -> None:
    cases = {path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert cases == {*CASES, FOR_OTHERS}
    assert {name.partition("-")[0] for name in cases} == {f"P{number}" for number in range(1, 10)} | {"peers"}
    page = (GOLDEN / "README.md").read_text().splitlines()
    described = [line.split("`")[1] for line in page if line.startswith("| `")]
    assert sorted(described) == sorted(cases)


def test_nothing_depends_on_the_version_of_the_software() -> None:
    for path in GOLDEN.glob("*/*.jsonl"):
        assert "software" not in json.loads(path.open().readline())
