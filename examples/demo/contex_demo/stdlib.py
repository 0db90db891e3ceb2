"""One document for each module of the Python standard library, read without running it.

Python source is parsed, not imported. Only modules that have none (written in C) are imported;
those that would open something or announce themselves are left out.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contex_demo.corpus import Document

_LEFT_OUT = {
    # Open a browser window, print, or are no library for programs.
    *("antigravity", "this", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "ensurepip"),
    *("distutils", "test", "xxlimited", "xxlimited_35", "xxsubtype", "site", "sitecustomize"),
    *("readline", "encodings"),  # codecs by the hundred, documented only as generated tables
}
_TEST_PARTS = frozenset({"test", "tests", "idle_test"})
_DOC_CHARS = 1_500
_LINE_CHARS = 160
_MEMBERS = 40


@dataclass(slots=True)
class Module:
    """What a module says about itself; members with the first line of their documentation."""

    name: str
    doc: str = ""
    functions: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)


def documents() -> Iterator[Document]:
    """Documents of the public modules and of the submodules that say what they are."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - _LEFT_OUT):
        if name.startswith("_"):
            continue
        for module in _modules(library, name):
            yield _document(module)


def _modules(library: Path, name: str) -> Iterator[Module]:
    file, package = library / f"{name}.py", library / name
    if (package / "__init__.py").is_file():
        yield read_source(name, package / "__init__.py", library)
        yield from _submodules(package, name, library)
    elif file.is_file():
        yield read_source(name, file, library)
    elif (compiled := read_compiled(name)) is not None:
        yield compiled


def _submodules(package: Path, name: str, library: Path) -> Iterator[Module]:
    for path in sorted(package.iterdir()):
        part = path.stem
        if part.startswith("_") or part in _TEST_PARTS:
            continue
        is_package = (path / "__init__.py").is_file()
        if path.suffix == ".py" or is_package:
            source = path / "__init__.py" if is_package else path
            module = read_source(f"{name}.{part}", source, library)
            if module.doc:
                yield module
        if is_package:
            yield from _submodules(path, f"{name}.{part}", library)


def read_source(name: str, path: Path, library: Path) -> Module:
    """Reads a module's source; what it takes over from a private module counts as its own.

    `library` is the folder that top-level modules are found in.
    """
    tree = ast.parse(path.read_bytes())
    module = Module(name, _docstring(tree))
    names = _exported(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            members = module.classes if isinstance(node, ast.ClassDef) else module.functions
            _note(members, node.name, ast.get_docstring(node), names)
    for source in _private_sources(tree):
        _take_over(module, source, path, library)
    return module


def _docstring(tree: ast.Module) -> str:
    """The module's docstring, or what it assigns to `__doc__`."""
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="__doc__")], value=ast.Constant(value=str() as text)
            ):
                return inspect.cleandoc(text)
    return ast.get_docstring(tree) or ""


def _exported(tree: ast.Module) -> frozenset[str] | None:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
            and isinstance(node.value, ast.List | ast.Tuple)
        ):
            values = [e.value for e in node.value.elts if isinstance(e, ast.Constant)]
            return frozenset(value for value in values if isinstance(value, str))
    return None


def _private_sources(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    """The imports by which a module takes over what a private one defines, also inside `try`."""
    blocks = [tree.body, *(n.body for n in tree.body if isinstance(n, ast.Try))]
    for node in (node for block in blocks for node in block):
        if (
            isinstance(node, ast.ImportFrom)
            and node.level <= 1
            and (node.module or "").startswith("_")
            and node.module != "__future__"
        ):
            yield node


def _take_over(module: Module, source: ast.ImportFrom, path: Path, library: Path) -> None:
    """Adds what `from _private import …` brings in: several modules are a facade of such a one."""
    assert source.module is not None
    private = (path.parent if source.level else library) / f"{source.module}.py"
    if private.is_file():
        taken = read_source(source.module, private, library)
    elif source.level or (compiled := read_compiled(source.module)) is None:
        return
    else:
        taken = compiled
    names = {alias.name for alias in source.names}
    if "*" in names:
        module.doc = module.doc or taken.doc
        names = taken.functions.keys() | taken.classes.keys()
    for mine, theirs in ((module.functions, taken.functions), (module.classes, taken.classes)):
        for name, line in theirs.items():
            if name in names and not name.startswith("_"):
                mine.setdefault(name, line)


def read_compiled(name: str) -> Module | None:
    """Imports a module that has no source; None where this platform has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are deprecated, and say so
            imported = importlib.import_module(name)
    except ImportError:
        return None
    module = Module(name, inspect.cleandoc(imported.__doc__ or ""))
    for member, value in vars(imported).items():
        if callable(value):
            members = module.classes if isinstance(value, type) else module.functions
            _note(members, member, getattr(value, "__doc__", None), None)
    return module


def _note(members: dict[str, str], name: str, doc: object, exported: frozenset[str] | None) -> None:
    if name.startswith("_") or (exported is not None and name not in exported):
        return
    lines = doc.strip().splitlines() if isinstance(doc, str) else []
    members[name] = lines[0].strip()[:_LINE_CHARS] if lines else ""


def _document(module: Module) -> Document:
    data: dict[str, object] = {"module": module.name}
    if module.doc:
        data["doc"] = module.doc[:_DOC_CHARS]
    for kind, members in (("functions", module.functions), ("classes", module.classes)):
        # Documented ones first: they say more.
        chosen = sorted(members.items(), key=lambda member: not member[1])[:_MEMBERS]
        if chosen:
            data[kind] = dict(chosen)
    # The first sentences, without a leading "name.py" or "Module x --".
    paragraphs = [" ".join(part.split()) for part in module.doc.strip().split("\n\n")]
    description = next((part[:300] for part in paragraphs if len(part.split()) > 1), "")
    return Document(f"stdlib/{module.name}", description, data)
