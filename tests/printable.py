"""Names of any printable text, at random."""

from __future__ import annotations

from contex_server.kernel.names import PrintableName
from hypothesis import strategies as st

_PRINTABLE = PrintableName("name", 1, 4_096, part=True)
_EDGES = "\u200c\u200d"


def printable_names(most: int) -> st.SearchStrategy[str]:
    """Names of 1 to `most` characters, half of them of those that mean something somewhere."""
    special = st.sampled_from("*?[]\\ \u3000:;,|/%&<>'\"`{}()$#~=+@!^-_.\u00e9\u0301東あ😀\u200d")
    anything = st.characters(exclude_categories=["Cs", "Cc"]).filter(_PRINTABLE.fits)
    text = st.text(special | anything, min_size=1, max_size=most)
    return text.map(_trimmed).filter(bool)


def _trimmed(name: str) -> str:
    while name and (name[0].isspace() or name[0] in _EDGES):
        name = name[1:]
    while name and (name[-1].isspace() or name[-1] in _EDGES):
        name = name[:-1]
    return name
