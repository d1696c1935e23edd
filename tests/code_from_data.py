"""Where source runs what a file may say, read off its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_RUN_TEXT = {"eval", "exec", "compile", "__import__"}
_UNPICKLE = {"np.load", "numpy.load", "torch.load"}
_SAFE = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
_BY_NAME = {
    *("os.system", "os.popen", "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.load_all"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"),
    *("runpy.run_path", "runpy.run_module", "shutil.unpack_archive"),
}
_UNPACK = {"extract", "extractall"}


def code_from_data(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and source of every call that imports, evaluates or unpickles what it is given."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: word.value for word in node.keywords}
        runs = (
            called in _RUN_TEXT | _BY_NAME
            or (called.endswith("import_module") and not _all_constant(node))
            or (called in _UNPICKLE and not _is_safe(called, given))
            or (isinstance(node.func, ast.Attribute) and node.func.attr in _UNPACK)
            or (isinstance(node.func, ast.Attribute) and node.func.attr == "load" and not node.args)
            or ("shell" in given and ast.unparse(given["shell"]) != "False")
        )
        if runs:
            yield node.lineno, ast.unparse(node)


def _all_constant(node: ast.Call) -> bool:
    return all(isinstance(argument, ast.Constant) for argument in node.args)


def _is_safe(called: str, given: dict[str | None, ast.expr]) -> bool:
    word, value = _SAFE[called.replace("numpy", "np")]
    found = given.get(word)
    return isinstance(found, ast.Constant) and found.value is value
