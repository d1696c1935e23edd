"""Where source writes to a terminal, or makes what does, read off its syntax tree.

Annotations may name a console: it is the calls, the base classes, and the process's own streams
under any name that count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeGuard

_NEVER = {  # not even as a value
    *("print", "builtins.print", "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"),
    *("sys.excepthook", "threading.excepthook", "logging.lastResort", "warnings.showwarning"),
    *("typer.echo", "typer.secho", "typer.echo_via_pager", "rich.print", "rich.print_json"),
    *("rich.get_console", "rich.inspect", "rich.progress.track", "traceback.print_exc"),
    *("traceback.print_exception", "traceback.print_last", "traceback.print_tb"),
    *("traceback.print_stack", "traceback.print_list"),
}
_MADE = {
    *("rich.console.Console", "rich.logging.RichHandler", "rich.progress.Progress"),
    *("rich.live.Live", "rich.status.Status", "logging.StreamHandler", "logging.FileHandler"),
    *("logging.basicConfig", "logging.Formatter"),
}
_OPENED = {"open", "os.write", "os.fdopen", "os.writev", "io.open"}
_STREAMS = (1, 2)
_DEVICES = ("/dev/tty", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2", "/proc/self/fd")


def unshown(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and source of everything that speaks to people by itself."""
    known = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            if _full(node, known) in _NEVER and not _is_called(node, tree):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call):
            if _speaks(node, _full(node.func, known)):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ClassDef):
            if any(_full(base, known) in _MADE for base in node.bases):
                yield node.lineno, node.name
        elif _is_device(node):
            yield node.lineno, ast.unparse(node)


def _speaks(node: ast.Call, called: str) -> bool:
    if called in _MADE or called in _NEVER:
        return True
    if called == "os.dup2":
        return any(_is_stream(argument) for argument in node.args[1:2])
    return called in _OPENED and any(_is_stream(argument) for argument in node.args[:1])


def _is_stream(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in _STREAMS


def _is_device(node: ast.AST) -> TypeGuard[ast.Constant]:
    constant = isinstance(node, ast.Constant)
    return constant and isinstance(node.value, str) and node.value.startswith(_DEVICES)


def _is_called(node: ast.expr, tree: ast.Module) -> bool:
    """Whether it is told with its call already."""
    return any(isinstance(call, ast.Call) and call.func is node for call in ast.walk(tree))


def _imported(tree: ast.Module) -> dict[str, str]:
    """Full names by what they are called here."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                known[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return known


def _full(node: ast.expr, known: dict[str, str]) -> str:
    first, dot, rest = ast.unparse(node).partition(".")
    return f"{known.get(first, first)}{dot}{rest}"
