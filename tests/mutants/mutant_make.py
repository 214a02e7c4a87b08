"""Small faults in a program, made by the rules of its grammar: what a slip of the pen would be.

Each has a name that does not change when lines move: file, function, kind of fault, and its number among those. Which
of them are tried is decided by a hash of seed and name, so that other code brings few other faults.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """``old`` at ``start`` (in octets of the file) is ``new``. ``line`` and ``function`` are where that is."""

    name: str
    file: str
    function: str
    function_line: int  # of the innermost function, decorators included; 0: in no function
    line: int
    start: int
    old: str
    new: str

    def applied(self, source: bytes) -> bytes:
        """The file with the fault."""
        end = self.start + len(self.old.encode())
        assert source[self.start : end] == self.old.encode(), f"{self.name}: the file has changed meanwhile"
        return source[: self.start] + self.new.encode() + source[end:]


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Every fault that can be made in a file, in the order of its lines."""
    tree = ast.parse(source)
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    numbers: dict[str, int] = {}
    found: list[Mutant] = []
    for function, function_line, node, kind, text in _faults(tree):
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        old = source[start:end].decode()
        stem = f"{file}:{function}:{kind}"
        numbers[stem] = numbers.get(stem, 0) + 1
        found.append(Mutant(f"{stem}:{numbers[stem]}", file, function, function_line, node.lineno, start, old, text))
    return found


def chosen(root: Path, areas: tuple[str, ...], count: int, seed: int) -> list[Mutant]:
    """``count`` of all faults in the files of ``areas`` below ``root``, by ``seed``."""
    everything = [
        mutant
        for area in areas
        for path in sorted((root / area).rglob("*.py"))
        for mutant in mutants_of(str(path.relative_to(root)), path.read_bytes())
    ]
    everything.sort(key=lambda mutant: hashlib.sha256(f"{seed}/{mutant.name}".encode()).digest())
    return everything[:count]


def function_line_at(source: str, line: int) -> int:
    """Where the innermost function around a line of a file begins, decorators included; 0: in no function."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return max((first for f in functions if (first := _first_line(f)) <= line <= (f.end_lineno or 0)), default=0)


def text_around(source: str, line: int) -> str:
    """The innermost function around a line of a file, as it is written; the whole file where there is none."""
    first = function_line_at(source, line)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    ends = [f.end_lineno for f in functions if _first_line(f) == first]
    return "\n".join(source.splitlines()[first - 1 : ends[0]]) if first and ends else source


def _first_line(function: ast.FunctionDef) -> int:
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


Fault = tuple[str, int, ast.expr | ast.stmt, str, str]


def _faults(tree: ast.Module) -> Iterator[Fault]:
    yield from _walk(tree, "", 0)


def _walk(node: ast.AST, function: str, function_line: int) -> Iterator[Fault]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}" if function else node.name
    if isinstance(node, ast.FunctionDef):
        function_line = _first_line(node)
        children: list[ast.AST] = [*node.args.defaults, *node.body]  # no decorators, no annotations
    elif isinstance(node, ast.JoinedStr):
        children = []  # Python 3.11 does not say where in the file its parts are
    elif isinstance(node, ast.AnnAssign):
        children = [] if node.value is None else [node.value]
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.expr):
        yield from ((function, function_line, node, kind, text) for kind, text in _expressions(node))
    elif isinstance(node, ast.stmt) and function_line:
        yield from ((function, function_line, node, kind, text) for kind, text in _statements(node))
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield function, function_line, node.test, "negated", f"(not ({ast.unparse(node.test)}))"
    for child in children:
        yield from _walk(child, function, function_line)


def _expressions(node: ast.expr) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=comparators):
            for other in COMPARISONS.get(type(op), ()):
                yield "compare", ast.unparse(ast.Compare(left, [other()], comparators))
        case ast.BoolOp(op=op, values=values):
            other_op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "and-or", f"({ast.unparse(ast.BoolOp(other_op, values))})"
            for at in range(len(values)):
                rest = values[:at] + values[at + 1 :]
                yield "condition-left-out", f"({ast.unparse(rest[0] if len(rest) == 1 else ast.BoolOp(op, rest))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not-left-out", f"({ast.unparse(operand)})"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "the-other-way", f"({ast.unparse(ast.IfExp(test, orelse, body))})"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC and not _is_type(node):
            yield "arithmetic", f"({ast.unparse(ast.BinOp(left, ARITHMETIC[type(op)](), right))})"
        case ast.Constant(value=bool() as value):
            yield "constant", str(not value)
        case ast.Constant(value=int() as number):
            yield "constant", str(number + 1)
        case ast.Constant(value=float() as number):
            yield "constant", repr(number * 2 + 1)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in CALLS:
            yield "call", ast.unparse(ast.Call(ast.Name(CALLS[name]), args, keywords))


def _is_type(node: ast.BinOp) -> bool:
    """``A | B`` of classes."""
    names = [each for each in (node.left, node.right) if isinstance(each, ast.Name)]
    return isinstance(node.op, ast.BitOr) and any(name.id[:1].isupper() and not name.id.isupper() for name in names)


def _statements(node: ast.stmt) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Delete() | ast.Continue() | ast.Break() | ast.Raise():
            yield "statement-left-out", "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement-left-out", "pass"
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "returns-nothing", "return None"
