"""Where credentials come from, and where they never go."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import contex
import grpc
import pytest
from contex import credentials
from contex.credentials import Credentials, CredentialsWarning, find, store_key, stored_keys

HERE = "127.0.0.1:50051"
AWAY = "contex.example.com:50051"
KEY = "ctx_7q2m4k9x1b5d_secretsecret"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the machine's own is found."""
    for name in list(os.environ):
        if name.startswith("CONTEX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def private(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def sent(target: str = HERE, **arguments: object) -> dict[str, str]:
    return dict(Credentials(target, **arguments).metadata())  # type: ignore[arg-type]


def test_each_place_comes_before_the_next(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent() == {}
    private(home / "data/admin.key", "ctx_admin_x\n")
    assert sent() == {"authorization": "Bearer ctx_admin_x"}
    store_key(HERE, "ctx_stored_x")
    assert sent() == {"authorization": "Bearer ctx_stored_x"}
    (home / "named").write_text("ctx_named_x\n")
    monkeypatch.setenv("CONTEX_API_KEY_FILE", "named")
    assert sent() == {"authorization": "Bearer ctx_named_x"}
    monkeypatch.setenv("CONTEX_API_KEY", "ctx_variable_x")
    assert sent() == {"authorization": "Bearer ctx_variable_x"}
    assert sent(api_key=KEY) == {"authorization": f"Bearer {KEY}"}
    assert sent(token="a.b.c") == {"authorization": "Bearer a.b.c"}
    assert sent(api_key="") == {}
    assert sent(looks=False) == {}


def test_a_servers_own_key_is_for_this_machine_only(home: Path) -> None:
    private(home / "data/admin.key", KEY)
    assert find("localhost:1") == (KEY, "data/admin.key")
    assert find("unix:/run/contex.sock") is not None
    assert find(AWAY) is None


def test_the_data_directory_may_be_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_DATA_DIR", str(home / "elsewhere"))
    private(home / "elsewhere/admin.key", KEY)
    assert sent() == {"authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_servers_own_key_that_others_can_read_is_not_used(home: Path, mode: int) -> None:
    private(home / "data/admin.key", KEY).chmod(mode)
    with pytest.warns(CredentialsWarning, match="others can read it; run: chmod 600"):
        assert sent() == {}


def test_files_of_other_users_are_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private(home / "data/admin.key", KEY)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.warns(CredentialsWarning, match="belongs to another user"):
        assert sent() == {}


def test_what_is_no_file_is_not_waited_for(home: Path) -> None:
    (home / "data").mkdir()
    os.mkfifo(home / "data/admin.key", 0o600)
    with pytest.warns(CredentialsWarning, match="is no file"):
        assert sent() == {}


def test_what_login_stores_is_private_and_by_target(home: Path) -> None:
    path = Path(store_key(HERE, KEY))
    assert path == home / "config/contex/credentials.json"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    store_key(AWAY, "ctx_away_x")
    assert stored_keys(str(path)) == {HERE: KEY, AWAY: "ctx_away_x"}
    store_key(HERE, None)
    store_key("never:1", None)
    assert stored_keys(str(path)) == {AWAY: "ctx_away_x"}
    assert [*path.parent.iterdir()] == [path]
    path.chmod(0o644)
    for act in (lambda: stored_keys(str(path)), lambda: store_key(HERE, KEY), lambda: find(HERE)):
        with pytest.raises(ValueError, match="others can read it"):
            act()


@pytest.mark.parametrize(
    "text", ["", "{}", f'"{KEY}"', '{"targets": [1]}', '{"targets": {"a": 1}}']
)
def test_a_damaged_file_is_not_quoted(home: Path, text: str) -> None:
    path = private(home / "config/contex/credentials.json", text)
    with pytest.raises(ValueError, match="is damaged") as raised:
        stored_keys(str(path))
    assert KEY not in str(raised.value)


def test_the_file_may_be_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_CREDENTIALS_FILE", "mine.json")
    assert store_key(HERE, KEY) == "mine.json"
    assert json.loads((home / "mine.json").read_text()) == {"targets": {HERE: {"api_key": KEY}}}


# -- where they don't go -----------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{"api_key": KEY}, {"token": KEY}, {"token": lambda: KEY}])
def test_nothing_is_sent_in_plain_text_to_other_machines(
    arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (contex.Client, contex.AsyncClient):
        with pytest.raises(ValueError, match="not encrypted") as raised:
            kind(AWAY, **arguments)  # type: ignore[arg-type]
        assert KEY not in str(raised.value)
    assert sent(AWAY, encrypted=True, **arguments) == {"authorization": f"Bearer {KEY}"}
    assert sent(AWAY, allow_plaintext=True, **arguments)
    monkeypatch.setenv("CONTEX_ALLOW_PLAINTEXT_CREDENTIALS", "1")
    assert sent(AWAY, **arguments)
    with pytest.raises(ValueError, match="not encrypted"):
        sent(AWAY, allow_plaintext=False, **arguments)


def test_a_key_that_is_found_is_not_sent_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_API_KEY", KEY)
    with (
        contex.Client(AWAY) as client,
        pytest.raises(ValueError, match=r"^CONTEX_API_KEY: not sent to contex\.example\.com"),
    ):
        client.stats("shop")
    assert sent(AWAY, api_key="") == {}


def test_a_channel_of_ones_own_gets_what_is_given_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_API_KEY", KEY)
    with grpc.insecure_channel(AWAY) as channel:
        assert contex.Client(channel=channel)._metadata == ()
        given = contex.Client(channel=channel, api_key="ctx_given_x")
        assert given._metadata == (("authorization", "Bearer ctx_given_x"),)


@pytest.mark.parametrize("secret", ["two words", "ctx_ä", "line\nbreak", "x" * 20_000, "nul\0"])
@pytest.mark.parametrize("name", ["api_key", "token"])
def test_what_metadata_can_not_carry_is_refused_unquoted(name: str, secret: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: is not an API key or token") as raised:
        sent(**{name: secret})
    assert secret not in str(raised.value)
    with pytest.raises(ValueError, match="is not an API key or token"):
        sent(token=lambda: secret)


def test_only_one_kind_can_be_given() -> None:
    with pytest.raises(ValueError, match="not both"):
        sent(api_key=KEY, token=KEY)
    with pytest.raises(TypeError, match="api_key: expected a string, not bytes"):
        sent(api_key=KEY.encode())
    assert sent(api_key="", token=KEY) == {"authorization": f"Bearer {KEY}"}


def test_a_key_is_looked_for_once_in_a_while(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(credentials.time, "monotonic", lambda: now)
    monkeypatch.setenv("CONTEX_API_KEY_FILE", "named")
    file = home / "named"
    found = Credentials(HERE)
    with pytest.raises(FileNotFoundError):
        found.metadata()
    file.write_text("ctx_one_x")
    assert found.metadata() == (("authorization", "Bearer ctx_one_x"),)
    file.write_text("ctx_two_x")
    assert found.metadata() == (("authorization", "Bearer ctx_one_x"),)
    now += 31
    assert found.metadata() == (("authorization", "Bearer ctx_two_x"),)
    file.unlink()
    now += 31
    assert found.metadata() == (("authorization", "Bearer ctx_two_x"),)
    file.write_text("")  # being replaced by `contex keys rotate … > named`
    now += 31
    assert found.metadata() == (("authorization", "Bearer ctx_two_x"),)


def test_the_space_around_a_key_is_no_part_of_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"authorization": f"Bearer {KEY}"}
    assert sent(api_key=f" {KEY}\r\n") == sent(token=f"{KEY}\n") == expected
    monkeypatch.setenv("CONTEX_API_KEY", f"{KEY}\n")
    assert sent() == expected
    with pytest.raises(ValueError, match="api_key: is empty"):
        sent(api_key=" \n")


def test_a_file_may_be_named(home: Path) -> None:
    file = home / "a.key"
    with pytest.raises(FileNotFoundError):
        contex.Client(HERE, api_key_file="a.key")
    file.write_text("\n")
    with pytest.raises(ValueError, match="key: is empty"):
        contex.Client(HERE, api_key_file="a.key")
    file.write_text(f"{KEY}\n")
    assert sent(api_key_file=file) == {"authorization": f"Bearer {KEY}"}
    with pytest.raises(ValueError, match=f"^{file}: not sent"):
        contex.AsyncClient(AWAY, api_key_file=file)
    for more in ({"api_key": ""}, {"token": KEY}):
        with pytest.raises(ValueError, match="give one of api_key, api_key_file and token"):
            sent(api_key_file=file, **more)


def test_no_repr_has_a_secret() -> None:
    with contex.Client(HERE, api_key=KEY) as client:
        assert KEY not in f"{client!r} {client._credentials!r} {client.access!r}"


def test_looking_imports_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find(HERE) is None
