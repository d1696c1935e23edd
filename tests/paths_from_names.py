"""Where source makes a path of a name that is no constant, read off its syntax tree.

What a name holds is not known before the program runs, and whether ``a / b`` divides or joins is
not known without types. So a path is whatever is annotated as one, made of one, or called as paths
are called here; and every name but a constant is suspected of coming from a file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_TYPES = re.compile(r"\b(Path|PurePath|PosixPath|PurePosixPath|Place|RemotePath|P)\b")
_CLASSES = {"Path", "PurePath", "PosixPath", "PurePosixPath", "RemotePath"}
_CALLED = re.compile(r"(^|_)(path|folder|dir|root|place|out|parent|scratch)$", re.I)
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
_GIVE_PATHS = {
    *("absolute", "resolve", "joinpath", "with_name", "with_suffix", "with_stem", "expanduser"),
    *("iterdir", "glob", "rglob", "file_in", "file_below", "beside", "own_folder", "require_own"),
    *("place", "atomic_path", "scratch_folder", "gettempdir", "mkdtemp", "cwd", "home"),
}
_GIVE_TEXT = {
    *("str", "repr", "format", "join", "replace", "strip", "lstrip", "rstrip", "lower", "upper"),
    *("removeprefix", "removesuffix", "fsdecode", "decode", "casefold", "title", "partition"),
}
_TEXT_ATTRIBUTES = {"name", "stem", "suffix", "slide_id"}
_JOIN = {"joinpath", "with_name", "with_stem", "with_suffix", "with_segments"}
_OPEN = {"open", "io.open", "os.open", "os.unlink", "os.remove", "os.mkdir", "os.rename"}


def paths_from_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and source of every expression that makes a path of a name that is no constant."""
    known = _names_of_paths(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            suspect = _is_text(node.right) or _is_path(node.left, known)
            if suspect and not _is_constant(node.right):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
            suspect = _is_text(node.value) or _is_path(node.target, known)
            if suspect and not _is_constant(node.value):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and _makes_a_path(node):
            yield node.lineno, ast.unparse(node)


def _makes_a_path(node: ast.Call) -> bool:
    called = ast.unparse(node.func)
    last = called.rsplit(".", 1)[-1]
    changing = [argument for argument in node.args if not _is_constant(argument)]
    if last in _JOIN and isinstance(node.func, ast.Attribute):
        return bool(changing)
    if called.endswith("path.join"):
        return bool(changing)
    if last in _CLASSES:  # of one thing: a path, or what the user typed
        several = len(node.args) > 1 or any(isinstance(a, ast.Starred) for a in changing)
        return bool(changing) and (several or _is_text(changing[0]))
    return called in _OPEN and any(map(_is_text, changing))


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return ".." not in str(node.value).split("/")
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "file_name"
    if isinstance(node, ast.IfExp):
        return _is_constant(node.body) and _is_constant(node.orelse)
    if isinstance(node, ast.Attribute):
        return bool(_CONSTANT.fullmatch(node.attr))
    return isinstance(node, ast.Name) and bool(_CONSTANT.fullmatch(node.id))


def _is_text(node: ast.expr) -> bool:
    """Whether an expression surely gives text."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return _is_text(node.left) or _is_text(node.right)
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).rsplit(".", 1)[-1] in _GIVE_TEXT
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    return isinstance(node, ast.Attribute) and node.attr in _TEXT_ATTRIBUTES


def _is_path(node: ast.expr, known: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in known or bool(_CALLED.search(node.id))
    if isinstance(node, ast.Attribute):
        return node.attr in known or bool(_CALLED.search(node.attr))
    if isinstance(node, ast.Call):
        last = ast.unparse(node.func).rsplit(".", 1)[-1]
        return last in _CLASSES or last in _GIVE_PATHS or last in known
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _is_path(node.left, known)
    if isinstance(node, ast.IfExp):
        return _is_path(node.body, known) or _is_path(node.orelse, known)
    return False


def _names_of_paths(tree: ast.Module) -> set[str]:
    """Names and attributes of a file that hold paths, and its functions that give them."""
    known: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            target = node.arg if isinstance(node, ast.arg) else _name_of(node.target)
            if target and _is_type(node.annotation):
                known.add(target)
        if isinstance(node, ast.FunctionDef) and node.returns and _is_type(node.returns):
            known.add(node.name)
    before = -1
    while before != len(known):
        before = len(known)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and _is_path(node.value, known):
                known |= {name for name in map(_name_of, node.targets) if name}
            elif isinstance(node, ast.For | ast.comprehension) and _is_path(node.iter, known):
                known |= {name for name in [_name_of(node.target)] if name}
            elif (
                isinstance(node, ast.withitem)
                and node.optional_vars is not None
                and _is_path(node.context_expr, known)
            ):
                known |= {name for name in [_name_of(node.optional_vars)] if name}
    return known


def _is_type(annotation: ast.expr) -> bool:
    return bool(_TYPES.search(ast.unparse(annotation)))


def _name_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None
