from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from contex_cli.completion import candidates
from contex_cli.exits import ExitCode

from tests import command_line


@pytest.mark.parametrize(
    ("words", "some", "others"),
    [
        ([""], {"events", "agents", "feedback"}, {"--help", "show"}),
        (["ev"], {"events"}, {"agents"}),
        (["feedback", ""], {"give", "export"}, {"--json"}),
        (["agents", ""], {"show", "ack"}, {"events", "agents"}),
        (["events", "--"], {"--since", "--key", "--project"}, {"-p", "events"}),
        (["agents", "update", "a", "--no"], {"--no-min-delta"}, {"--need", "show"}),
        (["match", "x", "--format", ""], {"json", "toon"}, {"--json"}),
        (["match", "x", "--top", ""], set(), {"--json"}),
        (["events", "x"], set(), {"--json"}),
        (["nonsense", ""], set(), {"events"}),
    ],
)
def test_candidates(words: list[str], some: set[str], others: set[str]) -> None:
    found = {candidate.value for candidate in candidates(words[:-1], words[-1])}
    assert some <= found
    assert found.isdisjoint(others)
    env = {
        "_CONTEX_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(["contex", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = command_line.invoke(env=env)
    assert done.exit_code == ExitCode.OK
    assert {line.partition(",")[2] for line in done.stdout.split()} == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_shown_and_installed(shell: str, tmp_path: Path) -> None:
    env = {"SHELL": f"/bin/{shell}", "HOME": str(tmp_path)}
    shown = command_line.invoke("--show-completion", env=env).stdout
    assert "_CONTEX_COMPLETE" in shown
    assert command_line.invoke("--install-completion", env=env).exit_code == ExitCode.OK
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.read_text(encoding="utf-8") == shown


def test_other_shells_are_refused() -> None:
    done = command_line.invoke("--show-completion", env={"SHELL": "/bin/csh"})
    assert done.exit_code == ExitCode.USAGE
    assert "bash, zsh, fish" in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path: Path) -> None:
    script = command_line.invoke("--show-completion", env={"SHELL": "bash"}).stdout
    (tmp_path / "contex").write_text(f'#!/bin/sh\nexec {sys.executable} -m contex_cli "$@"\n')
    (tmp_path / "contex").chmod(0o755)
    program = f"PATH={tmp_path}:$PATH\n{script}\n"
    program += "COMP_WORDS=(contex del); COMP_CWORD=1; _contex_completion contex\n"
    program += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "deliveries\n"
