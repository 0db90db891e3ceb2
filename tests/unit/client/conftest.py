from __future__ import annotations

from typing import Any, cast

import pytest
from contex import Client

from tests.unit.client.recording import RecordingChannel


@pytest.fixture
def recorded() -> RecordingChannel:
    return RecordingChannel()


@pytest.fixture
def recorder(recorded: RecordingChannel) -> Client:
    """A client whose requests are kept in `recorded`."""
    return Client(channel=cast(Any, recorded), publisher="me")
