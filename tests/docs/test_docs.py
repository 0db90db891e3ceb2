"""The documents are true: snippets run, links lead somewhere, tables are complete."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import contex
import grpc
import pytest
from contex.v1 import error_reason_pb2, event_service_pb2
from contex_cli.commands import COMMANDS, GROUPS, load
from contex_cli.exits import exit_code
from contex_server.kernel.config import EmbedderSettings, Settings
from contex_server.kernel.errors import Reason
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from docs import render_access, render_cli
from tests import command_line

ROOT = Path(__file__).parents[2]
GUIDES = ["README.md", *(f"docs/guide/{p.name}" for p in sorted(ROOT.glob("docs/guide/*.md")))]
PAGES = [
    *("ARCHITECTURE.md", "CHANGELOG.md", "clients/python/README.md", *GUIDES),
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/*/*.md")) if "guide" not in p.parts),
]
ADDRESS = "127.0.0.1:50051"
_START_S = 60.0


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL):
        line = match.string.count("\n", 0, match.start(2))
        found.append(Block(page, line, match[1], match[2]))
    return found


def rows(page: str, first_column: str) -> list[list[str]]:
    """The rows of the one table whose first column has this name."""
    lines = read(page).splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(f"| {first_column} |")]
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


# -- snippets run ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """A server as a user starts it, on the bundled store; its key is found as by its user."""
    directory = Path(tempfile.mkdtemp(prefix="ctx"))
    log = directory / "server.log"
    command = [sys.executable, "-m", "contex_server", "serve", "--port", "0"]
    command += ["--data-dir", str(directory), "--log-format", "json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONTEX_")}
    with log.open("wb") as stderr:
        server = subprocess.Popen(command, stderr=stderr, env=environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTEX_DATA_DIR", str(directory))
        patch.setenv("XDG_CONFIG_HOME", str(directory))
        try:
            yield f"127.0.0.1:{_port(server, log)}"
        finally:
            server.terminate()
            code = server.wait(15)
            shutil.rmtree(directory, ignore_errors=True)
    assert code == 0


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.endswith("}") and (said := json.loads(line))["event"] == "serving":
                return int(said["port"])
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("page", [page for page in GUIDES if page != "docs/guide/cli.md"])
def test_snippets_run(
    page: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page == "docs/guide/access.md":
        monkeypatch.chdir(tmp_path)  # It writes files.
    run_snippets(page, target, monkeypatch)


def run_snippets(page: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = page.rpartition("/")[2].removesuffix(".md")
    monkeypatch.setenv("CONTEX_TARGET", target)
    monkeypatch.setenv("CONTEX_PROJECT", f"{project}-cli")
    for block in blocks(page):
        if block.language == "python":
            run_python(block, target, project)
        elif block.language == "console":
            for command, expected in commands_of(block):
                code, output = run_command(command)
                assert code == 0, f"{page}:{block.line}: {command}\n{output}"
                pattern = expectation(expected)
                assert re.fullmatch(pattern, squeezed(output)), f"{command}\n{output}\n{pattern}"


def run_python(block: Block, target: str, project: str) -> None:
    source = re.sub('"(shop|articles)"', f'"{project}"', block.text.replace(ADDRESS, target))
    # So that a traceback shows the line of the page.
    source = "\n" * block.line + source
    exec(compile(source, str(ROOT / block.page), "exec"), {"__name__": "__main__"})


def commands_of(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        if not command.startswith(". "):
            yield command, output


def run_command(command: str) -> tuple[int, str]:
    if re.search(r"\||;| > ", command):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr
    program, *arguments = shlex.split(command)
    assert program == "contex"
    done = command_line.invoke(*arguments)
    return done.exit_code, done.stdout if done.exit_code == 0 else done.output


_ANYTHING = r"\.\.\.|…"
_VARYING = (
    r"\d{13}-\d+",  # sequence
    r"\d{4}-\d\d-\d\dT[\d:.]+Z",
    r"\d\d:\d\d:\d\d\.\d{3}",
    r"\b[01]\.\d\d\b",  # score
    r"\d+\.\d ms",
    r"127\.0\.0\.1:\d+",
)


def squeezed(text: str) -> str:
    return re.sub("─+", "─", " ".join(text.split()))


def expectation(shown: str) -> str:
    """A pattern for output as it is shown: times, sequences and scores may differ."""
    pattern, at, text = "", 0, squeezed(shown)
    for found in re.finditer("|".join(f"({regex})" for regex in (_ANYTHING, *_VARYING)), text):
        assert found.lastindex is not None
        pattern += re.escape(text[at : found.start()])
        pattern += ".*" if found.lastindex == 1 else _VARYING[found.lastindex - 2]
        at = found.end()
    return pattern + re.escape(text[at:])


def test_reflection_lists_the_services(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"contex.v1.EventService", "contex.v1.AgentService", "grpc.health.v1.Health"} <= {
        *services
    }


# -- what is shown but not run -----------------------------------------------------------


@pytest.mark.parametrize("page", [*GUIDES, "docs/operations/running.md"])
def test_shell_blocks_use_what_exists(page: str) -> None:
    verbs = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    for block in blocks(page):
        if block.language != "sh":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert set(words[1:]) <= set(verbs), line
            elif words[:1] == ["contex"]:
                name = next(n for n in (" ".join(words[1:3]), words[1]) if n in COMMANDS)
                known = {text for p in load(name).params for text in p.opts + p.secondary_opts}
                assert {word for word in words if word.startswith("-")} <= known, line


def test_the_image_is_built_from_what_is_there() -> None:
    let_in = [line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", read("Dockerfile"), re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in let_in), source


# -- references ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), link


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def all_files() -> str:
    """The paths below the root, each between lines; without what was installed or made."""
    found = [""]
    for directory, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if name[0] != "." and name != "__pycache__"]
        found += [f"/{(Path(directory) / name).relative_to(ROOT)}" for name in files]
    return "\n".join([*found, ""])


@pytest.mark.parametrize("page", [p for p in PAGES if "adr" in p or p == "ARCHITECTURE.md"])
def test_named_files_exist(page: str) -> None:
    for name in re.findall(r"`([\w./]+\.(?:py|lua|proto|md|toml|yaml))`", read(page)):
        assert f"/{name}\n" in all_files(), name


# -- tables are complete -------------------------------------------------------------------


def test_every_setting_is_in_the_table() -> None:
    table = {
        row[0].strip("`"): row[1].strip("`")
        for row in rows("docs/operations/settings.md", "variable")
    }
    assert table.pop("CONTEX_LIMITS__*") == ""
    assert table.pop("CONTEX_PREVIOUS_EMBEDDER__*") == ""
    embedder = {f"embedder__{n}": f for n, f in EmbedderSettings.model_fields.items()}
    left_out = ("limits", "embedder", "previous_embedder")
    fields = {n: f for n, f in Settings.model_fields.items() if n not in left_out}
    at = list(fields).index("log_level")
    fields = dict([*list(fields.items())[:at], *embedder.items(), *list(fields.items())[at:]])
    assert list(table) == [f"CONTEX_{name.upper()}" for name in fields]
    for name, field in fields.items():
        shown = "none" if field.default is None else str(field.default)
        shown = shown.lower() if isinstance(field.default, bool) else shown
        assert table[f"CONTEX_{name.upper()}"] == shown, name


def test_every_error_is_in_the_table() -> None:
    table = rows("docs/guide/errors.md", "reason")
    assert [row[0] for row in table] == [f"`{reason.value}`" for reason in Reason]
    for reason, (_, code, exception, _, _) in zip(Reason, table, strict=True):
        assert code == f"`{reason.code.name}`", reason
        raised = contex.from_refusal(
            event_service_pb2.Refusal(
                code=reason.code,
                reason=reason.value,
            )
        )
        assert exception == f"`{type(raised).__name__}`", reason


def test_every_error_has_its_exit_code_in_the_table() -> None:
    table = {int(code): reasons for code, _, reasons in rows("docs/guide/errors.md", "exit code")}
    listed = {reason: code for code in table for reason in re.findall(r"`(\w+)`", table[code])}
    errors = {
        reason.value: contex.ContexError("", grpc.StatusCode[reason.code.name], reason.value)
        for reason in Reason
    }
    assert listed == {name: int(exit_code(error)) for name, error in errors.items()}
    assert sum(len(re.findall("`", reasons)) for reasons in table.values()) == 2 * len(listed)


def test_the_proto_documents_every_error_with_its_code() -> None:
    names = [n for n in error_reason_pb2.ErrorReason.keys() if not n.endswith("UNSPECIFIED")]  # noqa: SIM118
    assert names == [f"ERROR_REASON_{reason.value}" for reason in Reason]
    for reason in Reason:
        value = rf"ERROR_REASON_{reason.value} = \d+;"
        found = re.search(rf"((?:  //.*\n)+)  {value}", read("protos/contex/v1/error_reason.proto"))
        assert found is not None, reason
        assert found[1].split()[1] == f"{reason.code.name}.", reason


def test_every_command_is_in_the_table() -> None:
    table = rows("docs/guide/commands.md", "command")
    commands = {row[0].strip("`").removeprefix("contex ") for row in table}
    assert commands == {name.partition(" ")[0] for name in COMMANDS} | GROUPS.keys()


def test_the_table_of_roles_is_current() -> None:
    written = render_access.PAGE.read_text(encoding="utf-8")
    assert written == render_access.page(), "run: python docs/render_access.py"


def test_the_command_reference_is_current() -> None:
    written = render_cli.PAGE.read_text(encoding="utf-8")
    assert written == render_cli.page(), "run: python docs/render_cli.py"
