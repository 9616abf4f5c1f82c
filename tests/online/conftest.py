"""What holds for all tests of the online loop."""

import pytest

from tspace_core.online import cruncher


@pytest.fixture(autouse=True)
def _begin_waits_for_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode's begin waits for a release or weights that are being read, however long that takes.

    Real episodes begin without them after a second, which a busy machine may need to read any. What that
    second is shared by is shown with a clock of the test's own.
    """
    monkeypatch.setattr(cruncher, "BEGIN_S", 60.0)
