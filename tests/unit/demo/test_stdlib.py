from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contex_demo import distributions, stdlib
from contex_demo.corpus import Corpus


@pytest.fixture(scope="module")
def documents(this_machine: Corpus) -> dict[str, dict[str, Any]]:
    """The payloads of the modules by name."""
    return {
        document.data_key.removeprefix("stdlib/"): document.data
        for document in this_machine.documents
        if document.data_key.startswith("stdlib/")
    }


def test_python_source_is_described_by_its_docstrings(
    documents: dict[str, dict[str, Any]],
) -> None:
    data = documents["textwrap"]
    assert data["module"] == "textwrap"
    assert data["doc"].startswith("Text wrapping and filling")
    assert data["functions"]["dedent"].startswith("Remove any common leading whitespace")
    assert not any(name.startswith("_") for name in data["functions"])


def test_modules_written_in_c_are_described_too(documents: dict[str, dict[str, Any]]) -> None:
    assert "sqrt" in documents["itertools"]["functions"] | documents["cmath"]["functions"]


def test_modules_that_do_something_are_left_out(documents: dict[str, dict[str, Any]]) -> None:
    assert documents.keys().isdisjoint({"antigravity", "this", "idlelib", "test", "site"})
    assert not any(name.startswith("_") or ".test" in name for name in documents)


def test_source_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "risky.py"
    path.write_text(
        '"""Does harm."""\nimport os\nos.abort()\n\n'
        'def run(): "Runs."\ndef _no(): ...\nclass C: ...'
    )
    module = stdlib.read_source("risky", path, tmp_path)
    assert (module.doc, module.functions, module.classes) == (
        "Does harm.",
        {"run": "Runs."},
        {"C": ""},
    )


def test_all_restricts_what_is_public(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text('__all__ = ["a"]\n\ndef a(): "A."\ndef b(): "B."\n')
    assert stdlib.read_source("m", path, tmp_path).functions == {"a": "A."}


def test_what_a_facade_takes_over_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "_x.py").write_text('"""Of x."""\ndef a(): "A."\ndef b(): "B."\nclass C: "C."\n')
    star, named = tmp_path / "star.py", tmp_path / "named.py"
    star.write_text("try:\n    from _x import *\nexcept ImportError:\n    pass\n")
    named.write_text("from ._x import b, C\n")
    taken = stdlib.read_source("star", star, tmp_path)
    assert (taken.doc, taken.functions, taken.classes) == (
        "Of x.",
        {"a": "A.", "b": "B."},
        {"C": "C."},
    )
    taken = stdlib.read_source("named", named, tmp_path)
    assert (taken.doc, taken.functions, taken.classes) == ("", {"b": "B."}, {"C": "C."})


def test_a_module_that_this_platform_lacks_is_left_out() -> None:
    assert stdlib.read_compiled("winreg_or_something") is None


def test_reading_it_all_is_silent_and_loads_nothing_risky() -> None:
    program = (
        "import sys\n"
        "from contex_demo import stdlib\n"
        "list(stdlib.documents())\n"
        "risky = {'antigravity', 'this', 'idlelib', 'test', 'tkinter', 'turtle', 'readline'}\n"
        "print(sorted(risky & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_distributions_are_described_by_their_metadata() -> None:
    found = {document.data_key: document for document in distributions.documents()}
    grpc = found["package/grpcio"]
    assert grpc.description == "HTTP/2-based RPC framework"
    assert grpc.data["name"] == "grpcio"
    assert "version" in grpc.data
    assert all("" not in d.data.get("requires", ()) for d in found.values())
