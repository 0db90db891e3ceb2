from __future__ import annotations

import pytest
from contex_demo import corpus


@pytest.fixture(scope="session")
def this_machine() -> corpus.Corpus:
    """The built-in corpus; it takes a second or two."""
    return corpus.of_this_machine()
