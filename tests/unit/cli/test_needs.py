from __future__ import annotations

from pathlib import Path

import pytest
from contex import EventFilter, Need
from contex_cli.exits import InputError
from contex_cli.options import read_needs
from contex_cli.records import encode


def test_a_text_file_skips_comments_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "needs.txt"
    path.write_text("# ours\n\n  payment providers  \nAPI timeouts\n")
    assert read_needs(["first"], str(path)) == ["first", "payment providers", "API timeouts"]


def test_yaml_and_json_have_options(tmp_path: Path) -> None:
    yaml, json_file = tmp_path / "needs.yaml", tmp_path / "needs.json"
    yaml.write_text(
        "- payment providers\n"
        "- text: API timeouts\n  threshold: 0.5\n  max_matches: 3\n  exclude: test/*\n"
    )
    json_file.write_text('["payment providers", {"text": "API timeouts", "exclude": ["a", "b"]}]')
    expected = ["payment providers", Need("API timeouts", 0.5, 3, ("test/*",))]
    assert read_needs([], str(yaml)) == expected
    assert read_needs([], str(json_file))[1] == Need("API timeouts", exclude_data_keys=("a", "b"))


def test_what_an_agent_shows_can_be_read_again(tmp_path: Path) -> None:
    mixed = EventFilter(("a, b",), ("orders/*", "x,y"), ("p",), ("order.",), {"k": "v=w"}, True)
    needs = [Need("a"), Need("b", 0.4, 2, ("x*",)), Need(filter=mixed), Need(filter=EventFilter())]
    path = tmp_path / "needs.json"
    path.write_text(encode(needs).decode())
    assert read_needs([], str(path)) == needs


def test_an_exclusion_is_for_all_needs(tmp_path: Path) -> None:
    path = tmp_path / "needs.yaml"
    path.write_text("- {text: b, exclude: [x, y]}")
    assert read_needs(["a"], str(path), ["y", "z"]) == [
        Need("a", exclude_data_keys=("y", "z")),
        Need("b", exclude_data_keys=("x", "y", "z")),
    ]
    with pytest.raises(InputError, match="together"):
        read_needs([], None, ["x"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1", "not a list"),
        ("", "not a list"),
        ("[1]", "need 1: neither"),
        ("- a\n- threshold: 1", "need 2: neither"),
        ("- {text: a, limit: 1}", "unknown key 'limit'"),
        ("- {text: a, threshold: high}", "threshold"),
        ("- {text: a, threshold: yes}", "threshold"),
        ("- {text: a, max_matches: 0}", "max_matches"),
        ("- {text: a, max_matches: true}", "max_matches"),
        ("- {text: a, exclude: [1]}", "exclude"),
        ("- [", "can't read"),
    ],
)
def test_a_wrong_file_tells_where(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "needs.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        read_needs([], str(path))
    assert "\n" not in str(caught.value)
