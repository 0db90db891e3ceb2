"""The files below a folder, as events to publish."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import contex

from contex_cli.drafts import guess_content_type
from contex_cli.exits import InputError


@dataclass(frozen=True, slots=True)
class File:
    """A file to publish: its path below the folder is its data key."""

    path: Path
    data_key: str
    size_bytes: int

    def read(self) -> contex.NewEvent:
        """The event of its content.

        Raises:
            InputError: It can't be read, its name is no text, or it is not what its suffix says.
        """
        try:
            self.data_key.encode()
            payload = self.path.read_bytes()
            content_type = guess_content_type(payload, self.path.name)
        except UnicodeEncodeError:
            raise InputError(f"{self.data_key!a}: its name is not text in UTF-8") from None
        except OSError as error:
            raise InputError(f"can't read {self.data_key!r}: {error.strerror}") from None
        except InputError as error:
            raise InputError(f"{self.data_key!r} not published: {error}") from None
        return contex.NewEvent(self.data_key, payload, content_type=content_type)


def below(folder: str) -> tuple[list[File], list[str]]:
    """The files in the order of their keys, and the names of links and devices among them.

    Hidden files and folders are left out without a word, links are not followed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"--dir {folder!r} is not a folder")
    found: list[File] = []
    others: list[str] = []

    def fail(error: OSError) -> None:
        raise InputError(f"can't read {error.filename!r}: {error.strerror}")

    for directory, folders, names in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *names]:
            path = Path(directory, name)
            key = path.relative_to(root).as_posix()
            if name.startswith(".") or (name in folders and not path.is_symlink()):
                continue
            if path.is_symlink() or not path.is_file():
                others.append(key)
            else:
                found.append(File(path, key, path.stat().st_size))
    return sorted(found, key=lambda file: file.data_key), sorted(others)
