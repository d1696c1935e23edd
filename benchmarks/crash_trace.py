"""The calls by which a command changes files, as the preloaded library and as strace tells them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHANCE = (
    (re.compile(r"\.attempt-[0-9a-f]{32}"), ".attempt-*"),
    (re.compile(r"wsi-hr-(?:scratch|unlocked)-[\w-]+"), "wsi-hr-scratch-*"),
    (re.compile(r"/#\d+( ?\(deleted\))?$"), "/(no name)"),  # O_TMPFILE
)
"""Parts of paths that are drawn at random, and what stands for them."""

_OF_PATH = {
    **dict.fromkeys(("open", "openat", "openat2", "creat"), "open"),
    **dict.fromkeys(("mkdir", "mkdirat"), "mkdir"),
    **dict.fromkeys(("unlink", "unlinkat"), "unlink"),
    **dict.fromkeys(("chmod", "fchmodat", "fchmodat2"), "chmod"),
    **dict.fromkeys(("chown", "lchown", "fchownat"), "chown"),
    **dict.fromkeys(("mknod", "mknodat"), "mknod"),
    **dict.fromkeys(("utime", "utimes", "utimensat", "futimesat"), "utime"),
    **dict.fromkeys(("setxattr", "lsetxattr"), "xattr"),
    "truncate": "truncate",
    "rmdir": "rmdir",
}
_OF_TWO_PATHS = {
    **dict.fromkeys(("rename", "renameat", "renameat2"), "rename"),
    **dict.fromkeys(("link", "linkat"), "link"),
}
_SYMLINKS = ("symlink", "symlinkat")
_OF_FD = {
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile"), "write"),
    **dict.fromkeys(("copy_file_range", "splice", "vmsplice"), "write"),
    **dict.fromkeys(("ftruncate", "fallocate"), "truncate"),
    **dict.fromkeys(("fsync", "fdatasync", "sync_file_range", "syncfs"), "fsync"),
    "fchmod": "chmod",
    "fchown": "chown",
    "fsetxattr": "xattr",
    "mmap": "map",
}
TRACED = (*_OF_PATH, *_OF_TWO_PATHS, *_SYMLINKS, *_OF_FD)
"""System calls that change files, or open them."""

_LINE = re.compile(r"(?P<time>[\d.]+) (?P<name>\w+)\((?P<args>.*)\) += .*")
_ARGUMENT = re.compile(
    r'(?:AT_FDCWD|\d+)<(?P<fd>[^>]*)>(?P<gone>\(deleted\))?|"(?P<text>(?:[^"\\]|\\.)*)"'
)
_WRITES = re.compile(r"\bO_(WRONLY|RDWR|CREAT|TRUNC)\b")


@dataclass(frozen=True)
class Call:
    """One call, the parts of its paths that chance decides left out.

    Attributes:
        kind: ``open``, ``create`` (to write), ``write``, ``rename`` and so on.
        path: what it is about; below the folders that are watched where one of its paths is.
        second: where a rename or a link leads.
    """

    kind: str
    path: str
    second: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.path, self.second)))


@dataclass(frozen=True)
class Counted:
    """A call as the library counted it.

    Attributes:
        call: what it is.
        num_bytes: to be written; 0 for other calls.
    """

    call: Call
    num_bytes: int


def read_counted(log: Path, names: Sequence[tuple[Path, str]]) -> list[Counted]:
    """The calls that the library wrote down; ``names`` are short ones of folders."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines():
        kind, path, num_bytes, second = line.split("\t")
        found.append(Counted(_call(kind, path, second, names), int(num_bytes)))
    return found


def read_strace(prefix: Path, names: Sequence[tuple[Path, str]]) -> list[Call]:
    """The calls about the folders in ``names`` that strace saw, over all threads, in time.

    Args:
        prefix: of its files, one a thread; written with ``-ff -ttt -y -s 0``.
        names: folders and their short names.
    """
    found: list[tuple[float, int, Call]] = []
    for file in prefix.parent.glob(f"{prefix.name}.*"):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            match = _LINE.fullmatch(line)
            if match is None:
                continue
            for kind, path, second in _calls_of(match["name"], match["args"]):
                if any(_below(one, folder) for one in (path, second) for folder, _ in names):
                    found.append((float(match["time"]), number, _call(kind, path, second, names)))
    return [call for _, _, call in sorted(found, key=lambda one: one[:2])]


def unseen(counted: Sequence[Call], traced: Sequence[Call]) -> list[str]:
    """Which calls only strace saw, and which only the library; one sentence per kind and path."""
    by_library, by_strace = Counter(counted), Counter(traced)
    return [
        f"{call}: {by_strace[call]} by strace, {by_library[call]} by the library"
        for call in dict.fromkeys([*traced, *counted])
        if by_strace[call] != by_library[call]
    ]


def without_chance(path: str) -> str:
    """A path with a mark in place of what is drawn at random."""
    for pattern, mark in _CHANCE:
        path = pattern.sub(mark, path)
    return path


def _calls_of(name: str, args: str) -> Iterator[tuple[str, str, str]]:
    """Kind, path and second path of a line of strace; nothing where it changes no file."""
    if name in _OF_FD:
        fds = [one for one in _ARGUMENT.finditer(args) if one["fd"] is not None]
        if not fds or (name == "mmap" and not ("MAP_SHARED" in args and "PROT_WRITE" in args)):
            return
        fd = fds[-1] if name in ("copy_file_range", "splice") else fds[0]
        yield _OF_FD[name], f"{fd['fd']}{fd['gone'] or ''}", ""
        return
    paths, folder = [], ""
    for one in _ARGUMENT.finditer(args):
        if one["fd"] is not None:
            folder = one["fd"]
        else:
            paths.append(str(Path(folder or "/", one["text"])))
    if name in _OF_TWO_PATHS:
        yield _OF_TWO_PATHS[name], paths[0], paths[1]
    elif name in _SYMLINKS:
        yield "symlink", paths[1], ""
    elif paths:
        kind = _OF_PATH[name]
        if kind == "open" and (name == "creat" or _WRITES.search(args)):
            kind = "create"
        if kind == "unlink" and "AT_REMOVEDIR" in args:
            kind = "rmdir"
        yield kind, paths[0], ""


def _below(path: str, folder: Path) -> bool:
    return path == str(folder) or path.startswith(f"{folder}/")


def _call(kind: str, path: str, second: str, names: Sequence[tuple[Path, str]]) -> Call:
    return Call(kind, _short(path, names), _short(second, names))


def _short(path: str, names: Sequence[tuple[Path, str]]) -> str:
    for folder, name in names:
        if _below(path, folder):
            path = f"{name}{path.removeprefix(str(folder))}"
            break
    return without_chance(path)
