"""Which blocks of the product an input enters: its modules are marked, block by block, as they are imported.

Statements in a row are a block; it ends where control may part: at a branch, a loop, a `try`, a `with`. Marks are
the same in every Python, and cost a fraction of what a tracer does.
"""

import ast
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_COUNTS = "__reached__"
_MOST_WORD = 40
_PARTING = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith, ast.Match)
_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

Block = tuple[str, tuple[int, ...]]


class Reached:
    """The blocks of some files, and how often each was entered since `clear`. Make it before they are imported.

    Attributes:
        counts: How often each block was entered.
        blocks: The file and the lines of each.
        words: Texts that the files look for: their constants.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.blocks: list[Block] = []
        self.words: list[bytes] = []
        self._code: dict[str, CodeType] = {}
        for file in files:
            self._mark(file)
        self.counts = [0] * len(self.blocks)
        self._zeros = tuple(self.counts)

    def install(self) -> None:
        """Have the files marked when they are imported.

        Raises:
            RuntimeError: One of them has been imported without marks.
        """
        imported = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        if early := imported & self._code.keys():
            raise RuntimeError(f"imported before they could be marked: {sorted(filter(None, early))}")
        setattr(builtins, _COUNTS, self.counts)
        sys.meta_path.insert(0, _Finder(self._code))

    def clear(self) -> None:
        """Count from zero."""
        self.counts[:] = self._zeros

    def signs(self) -> set[int]:
        """What an input did, as numbers: each block it entered, with the size of how often."""
        return {block << 4 | min(count.bit_length(), 8) for block, count in enumerate(self.counts) if count}

    def _mark(self, file: Path) -> None:
        tree = ast.parse(file.read_bytes(), str(file))
        self.words += _words(tree)
        marking = _Marking(str(file.relative_to(ROOT)), self.blocks)
        self._code[str(file)] = compile(marking.visit(tree), str(file), "exec", dont_inherit=True)


def files_of(aims: Iterable[str]) -> list[Path]:
    """The modules that are named, or that lie in what is named, relative to the repository."""
    found: set[Path] = set()
    for aim in aims:
        path = ROOT / aim
        found |= {path} if path.is_file() else set(path.rglob("*.py"))
    return sorted(found)


def lines_of(blocks: Iterable[Block]) -> set[tuple[str, int]]:
    """The lines of some blocks."""
    return {(file, line) for file, lines in blocks for line in lines}


class _Marking(ast.NodeTransformer):
    """Puts a mark at the beginning of each block in the functions of one file."""

    def __init__(self, file: str, blocks: list[Block]) -> None:
        self._file = file
        self._blocks = blocks

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: Any) -> ast.AST:
        documented = ast.get_docstring(node, clean=False) is not None
        node.body = [*node.body[:documented], *self._marked(node.body[documented:], node)]
        return node

    def _marked(self, body: list[ast.stmt], owner: ast.AST) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        fresh = True
        for statement in body:
            if fresh:
                out.append(self._mark(statement))
            self._blocks[-1] = (self._file, (*self._blocks[-1][1], *_own_lines(statement)))
            # Blocks inside of it have been added behind this one by then, so what follows begins another.
            fresh = isinstance(statement, (*_PARTING, *_DEFINING))
            out.append(self._inside(statement))
        return out or [ast.copy_location(ast.Pass(), owner)]

    def _inside(self, statement: ast.stmt) -> ast.stmt:
        if isinstance(statement, _DEFINING):
            return self.visit(statement)
        for name in ("body", "orelse", "finalbody"):
            body = getattr(statement, name, None)
            if isinstance(body, list) and body:
                setattr(statement, name, self._marked(body, statement))
        for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            part.body = self._marked(part.body, part)
        if isinstance(statement, ast.If) and not statement.orelse:
            statement.orelse = [self._mark(statement)]
        return statement

    def _mark(self, at: ast.AST) -> ast.stmt:
        self._blocks.append((self._file, ()))
        (mark,) = ast.parse(f"{_COUNTS}[{len(self._blocks) - 1}] += 1").body
        for node in ast.walk(mark):
            ast.copy_location(node, at)
        return mark


def _own_lines(statement: ast.stmt) -> range:
    """Those of a statement without what is nested in it."""
    inner = getattr(statement, "body", None) or getattr(statement, "cases", None)
    end = inner[0].lineno if isinstance(inner, list) and hasattr(inner[0], "lineno") else None
    return range(statement.lineno, max(end or (statement.end_lineno or statement.lineno) + 1, statement.lineno + 1))


def _words(tree: ast.AST) -> list[bytes]:
    """Short texts in the code; not those that are documentation."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation
    ]
    found = [value.encode("utf-8", "replace") if isinstance(value, str) else value for value in constants]
    return sorted({value for value in found if isinstance(value, bytes) and 0 < len(value) <= _MOST_WORD})


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as Python does, and has those that are marked made of their marked code."""

    def __init__(self, code: dict[str, CodeType]) -> None:
        self._code = code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin not in self._code:
            return None
        return importlib.util.spec_from_file_location(
            fullname,
            spec.origin,
            loader=_Loader(fullname, spec.origin, self._code[spec.origin]),
            submodule_search_locations=spec.submodule_search_locations,
        )


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._marked_code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._marked_code
