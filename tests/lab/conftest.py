"""What all tests of studies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from forked import server


@pytest.fixture(scope="session", autouse=True)
def _forked_pools() -> Iterator[None]:
    """Pools fork their processes from a server that has imported what takes each fresh one seconds to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebt.lab.studies.pool.get_context", lambda method: server())
        yield
