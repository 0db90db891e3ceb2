from __future__ import annotations

from typing import Any

import pytest
from contex_server.cli.serve import explain
from contex_server.config import Settings
from pydantic import ValidationError


def problems(flags: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Settings(**flags)
    return explain(caught.value, flags)


def test_a_flag_is_named_as_it_was_given() -> None:
    (line,) = problems({"port": 99_999})
    assert line == "--port 99999: Input should be less than or equal to 65535"
    (line,) = problems({"log_level": "loud"})
    assert line.startswith("--log-level loud: Input should be 'debug'")


def test_a_variable_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_WORKERS", "none")
    (line,) = problems({})
    assert line.startswith("CONTEX_WORKERS none: ")


def test_a_flag_wins_over_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_PORT", "50000")
    (line,) = problems({"port": -1})
    assert line.startswith("--port -1: ")


def test_a_rule_about_several_settings_speaks_for_itself() -> None:
    (line,) = problems({"host": "0.0.0.0"})
    assert line.startswith("host '0.0.0.0' is reachable from other machines")
    assert "--insecure" in line
    assert "\n" not in line


def test_each_problem_has_its_line() -> None:
    assert len(problems({"port": -1, "workers": 0, "log_format": "xml"})) == 3
