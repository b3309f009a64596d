"""The scripts of docs/parity.md run as they stand there, and print what stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from published_hallo import published
from repository import ROOT

PAGE = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def output_of(script: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    path = folder / "script.py"
    path.write_text(script, encoding="utf-8")
    capsys.readouterr()
    runpy.run_path(str(path))
    return capsys.readouterr().out.splitlines()


def test_every_stage_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = output_of(SCRIPTS[0], tmp_path, capsys)
    assert {line.split()[0] for line in lines} == set(published())
    assert not [line for line in lines if "TOO FAR" in line]
    listed = set(re.findall(r"^\| [^|]+ \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert listed == set(published())


def test_the_first_layer_that_differs_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = output_of(SCRIPTS[1], tmp_path, capsys)
    shown = PAGE.split("It prints")[1].split("```")[1].strip().splitlines()
    assert [line.split(":")[0] for line in told] == [line.split(":")[0] for line in shown]
    assert told[1] == shown[1] == "same network: None"
    assert told[2].split("', ")[0] == shown[2].split("', ")[0]
