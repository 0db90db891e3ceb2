from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contex_server.serve import InvalidSettings, settings_of


def problems(flags: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        settings_of(flags)
    return caught.value.problems


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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tls_cert": "c"}, "--tls-cert needs --tls-key"),
        ({"tls_key": "k"}, "--tls-key needs --tls-cert"),
        ({"tls_client_ca": "a"}, "--tls-client-ca needs TLS"),
        ({"tls_self_signed": True, "tls_cert": "c", "tls_key": "k"}, "not both"),
        ({"tls_self_signed": True, "redis_url": "redis://a"}, "a store of your own"),
        ({"tls_client_port": 0}, "--tls-client-port needs --tls-client-ca"),
        (
            {"tls_self_signed": True, "tls_client_ca": "a", "tls_client_port": 1, "port": 1},
            "--tls-client-port is the same as --port",
        ),
        ({"tls_identity": "cn"}, "CONTEX_TLS_IDENTITY needs --tls-client-ca"),
    ],
)
def test_settings_of_tls_go_together(flags: dict[str, Any], said: str) -> None:
    (line,) = problems(flags)
    assert said in line


def test_tls_may_be_served_to_other_machines() -> None:
    everywhere = {"host": "0.0.0.0", "access": True}
    assert settings_of({**everywhere, "tls_cert": "c", "tls_key": "k"}).tls
    assert settings_of({**everywhere, "tls_self_signed": True}).tls
    assert not settings_of({"host": "0.0.0.0", "insecure": True}).tls
    (line,) = problems({"host": "0.0.0.0", "tls_self_signed": True, "access": False})
    assert "anybody" in line


def test_each_problem_has_its_line() -> None:
    assert len(problems({"port": -1, "workers": 0, "log_format": "xml"})) == 3


def test_embedder_flags_are_named_as_they_were_given(tmp_path: Path) -> None:
    (line,) = problems({"embedder_url": "ftp://models", "embedder_model": "tiny"})
    assert line == "--embedder-url: not an http:// or https:// URL"
    (line,) = problems({"embedder_path": str(tmp_path), "embedder_model": "tiny"})
    assert line == "--embedder-model: is for kind openai, and kind is local"
    (line,) = problems({"embedder_path": str(tmp_path), "embedder_url": "http://models"})
    assert line.endswith("not both")


def test_what_an_embedder_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_EMBEDDER__KIND", "local")
    assert problems({}) == ["CONTEX_EMBEDDER__PATH: needed with kind local"]
    monkeypatch.setenv("CONTEX_EMBEDDER__KIND", "openai")
    assert problems({}) == [
        "CONTEX_EMBEDDER__BASE_URL: needed with kind openai",
        "CONTEX_EMBEDDER__MODEL: needed with kind openai",
    ]
    assert problems({"embedder_url": "http://models/v1"}) == [
        "CONTEX_EMBEDDER__MODEL: needed with kind openai"
    ]
    monkeypatch.setenv("CONTEX_EMBEDDER__KIND", "builtin")
    monkeypatch.setenv("CONTEX_PREVIOUS_EMBEDDER__SHORTEN", "true")
    assert problems({}) == ["CONTEX_PREVIOUS_EMBEDDER__SHORTEN: needs dimension"]


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_EMBEDDER__KIND", "openai")
    monkeypatch.setenv("CONTEX_EMBEDDER__API_KEY", "sk-secret")
    monkeypatch.setenv("CONTEX_EMBEDDER__APIKEY", "sk-secret")
    monkeypatch.setenv("CONTEX_EMBEDDER__BASE_URL", "https://user:sk-secret@models/v1")
    lines = problems({})
    assert [line.partition(":")[0] for line in lines] == [
        "CONTEX_EMBEDDER__BASE_URL",
        "CONTEX_EMBEDDER__MODEL",
        "CONTEX_EMBEDDER__APIKEY",
    ]
    assert "sk-secret" not in "".join(lines)


def test_flags_and_variables_of_an_embedder_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_EMBEDDER__API_KEY", "sk-secret")
    monkeypatch.setenv("CONTEX_EMBEDDER__DIMENSION", "768")
    monkeypatch.setenv("CONTEX_PREVIOUS_EMBEDDER__KIND", "local")
    monkeypatch.setenv("CONTEX_PREVIOUS_EMBEDDER__PATH", "/models/old")
    settings = settings_of({"embedder_url": "http://models/v1", "embedder_model": "tiny"})
    assert settings.embedder.kind == "openai"
    assert settings.embedder.dimension == 768
    assert settings.embedder.api_key is not None
    assert settings.previous_embedder is not None
    assert settings.previous_embedder.path == Path("/models/old")
    assert "sk-secret" not in repr(settings)
