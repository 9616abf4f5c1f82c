"""The Python of docs/agents.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) == TEXT.count("```python") == 2
    names: dict[str, Any] = {}
    for code in BLOCKS:
        exec(compile(code, "docs/agents.md", "exec"), names)
    assert names["actions"].shape == (2, 68)
    updates, _ = capsys.readouterr().out.split(" ", 1)
    assert int(updates) > 0
