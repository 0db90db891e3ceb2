"""The stubs of protos/ compile, by the commands of docs/guide/writing-a-client.md."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "writing-a-client.md"
FILES = sorted(ROOT.glob("protos/contex/v1/*.proto"))
SERVICES = [path for path in FILES if path.name.endswith("_service.proto")]

# Each downloads and compiles a lot: on a new machine, minutes.
pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(1_200)]


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips where one of the programs isn't installed."""
    missing = [each for each in programs if shutil.which(each) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is first in the PATH."""
    path = tmp_path / "bin"
    path.mkdir()
    return path


@pytest.fixture
def protoc(programs: Path) -> None:
    """The protoc of grpcio-tools, which runs plugins."""
    _script(programs / "protoc", f'"{sys.executable}" -m grpc_tools.protoc')


@pytest.fixture
def official_protoc(programs: Path, tmp_path: Path) -> None:
    """Google's own, as Maven has it, which makes Java and C# by itself."""
    program = _from_maven("com.google.protobuf:protoc:4.35.1", tmp_path)
    well_known = resources.files("grpc_tools") / "_proto"
    _script(programs / "protoc", f'"{program}" -I "{well_known}"')


@pytest.fixture
def grpc_java(programs: Path, tmp_path: Path) -> None:
    """The plugin for services in Java, of the version of gRPC in pom.xml."""
    pom = (ROOT / "tests" / "clients" / "java" / "pom.xml").read_text(encoding="utf-8")
    found = re.search(r"<grpc.version>(.+)</grpc.version>", pom)
    assert found is not None
    plugin = _from_maven(f"io.grpc:protoc-gen-grpc-java:{found[1]}", tmp_path)
    _script(programs / "protoc-gen-grpc-java", f'"{plugin}"')


def _from_maven(artifact: str, folder: Path) -> Path:
    """Downloads the program that an artifact has for this machine."""
    system = {"Linux": "linux", "Darwin": "osx"}[platform.system()]
    machine = "aarch_64" if platform.machine() in ("arm64", "aarch64") else "x86_64"
    whole = f"{artifact}:exe:{system}-{machine}"
    run(f"mvn -q -B dependency:copy -Dartifact={whole} -DoutputDirectory='{folder}'", folder)
    (program,) = folder.glob(f"{artifact.split(':')[1]}-*.exe")
    program.chmod(0o755)
    return program


def _script(path: Path, command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


def run(script: str, at: Path) -> None:
    added = {"CONTEX": str(ROOT), "GOBIN": str(at.parent / "bin")}
    added["PATH"] = f"{at.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=at,
        env={**os.environ, **added},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def run_commands(language: str, tmp_path: Path) -> Path:
    """Runs what the page says for a language; returns where."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {re.escape(language)}\n.*?^```sh\n(.*?)^```", page, re.M | re.S)
    assert found is not None, language
    there = tmp_path / "project"
    there.mkdir()
    run(found[1], there)
    return there


@needs("go")
@pytest.mark.usefixtures("protoc")
def test_go(tmp_path: Path) -> None:
    there = run_commands("Go", tmp_path)
    assert len([*there.glob("v1/*_grpc.pb.go")]) == len(SERVICES)


@needs("mvn", "javac")
@pytest.mark.usefixtures("official_protoc", "grpc_java")
def test_java(tmp_path: Path) -> None:
    there = run_commands("Java", tmp_path)
    classes = there / "target" / "classes" / "dev" / "contex" / "v1"
    assert len([*classes.glob("*ServiceGrpc.class")]) == len(SERVICES)


@needs("cargo")
@pytest.mark.usefixtures("protoc")
def test_rust(tmp_path: Path) -> None:
    there = run_commands("Rust", tmp_path)
    (made,) = there.glob("target/debug/build/*/out/contex.v1.rs")
    assert made.read_text(encoding="utf-8").count("Client<T> {") >= len(SERVICES)


@needs("node", "npm")
@pytest.mark.usefixtures("protoc")
def test_typescript(tmp_path: Path) -> None:
    there = run_commands("TypeScript", tmp_path)
    assert len([*there.glob("src/contex/v1/*_pb.ts")]) == len(FILES)


@needs("mvn")
@pytest.mark.usefixtures("official_protoc")
def test_csharp_needs_no_escapes(tmp_path: Path) -> None:
    made = [*run_commands(r"C\#", tmp_path).glob("Contex/*.cs")]
    assert len(made) == len(FILES)
    for path in made:
        code = re.sub(r"//.*|\"[^\"\n]*\"", "", path.read_text(encoding="utf-8"))
        assert not re.findall(r"@\w+", code), path.name
        assert not re.findall(r"public [\w.:<>]+ \w+_ \{", code), path.name
