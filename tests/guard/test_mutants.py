"""Whether the tests would notice: each comparison, sign and bound of the envelope is turned, one at a time.

Every mutant runs in a forked child through the tests of the envelope and the rules. Those that live on are
listed in ``EQUIVALENT`` with the reason why they are the same guard; any other one fails this test.
"""

import ast
import copy
import importlib
import inspect
import itertools
import os
import signal
import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

MODULES = ("tspace_core.guard.shape", "tspace_core.guard.envelope", "tspace_core.guard.rules")
TESTS = ("tests.guard.test_shape", "tests.guard.test_rules", "tests.guard.test_envelope")
LATE = ("test_whatever_is_accepted", "test_what_holds_every_rule")
LEFT_OUT = ("test_the_envelope_is_what_an_independent_reading",)  # slow, and the others say the same
MOST_S = 60
SWAPPED: dict[type, Any] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Or: ast.And,
    ast.And: ast.Or,
}
NAMES = {
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "up": "down",
    "down": "up",
    "lower": "upper",
    "upper": "lower",
}
_FROM = 'from_below = below.rule if below.lower[cell] > above.upper[cell] else "shape"'
EQUIVALENT = {
    "Gt turned: if jump > most:": "rounding is taken off the jump, so it is never equal to the limit",
    "Gt turned: if isinstance(clipped, Accepted) and _jump(clipped.table, live, state) "
    "> envelope.limits.driver_point_nm:": "at the limit, clipping to it changes nothing",
    f"Gt turned: {_FROM}": "names a rule in a message",
    f"lower -> upper: {_FROM}": "names a rule in a message",
    f"upper -> lower: {_FROM}": "names a rule in a message",
    "Gt turned: row, column = (int(index) for index in np.argwhere(least > upper)[0])": (
        "names a cell in a message"
    ),
    "lower -> upper: below = max(bounds, key=lambda bound: float(bound.lower[row, column]))": (
        "names a rule in a message"
    ),
    "Add turned: where = place(live, accepted.first_row + row, column)": "names a cell in a message",
    "upper -> lower: least = lower if (lower > upper).any() else raised(lower, step)": "as below",
    "lower -> upper: least = lower if (lower > upper).any() else raised(lower, step)": (
        "what is raised is above what it was raised from: it contradicts all the same"
    ),
}
"""What was changed: the line -> why it changes nothing."""


def _change(node: ast.AST, other: ast.AST) -> str:
    """Change ``other``, the copy of ``node``, in place; returns what was changed, or nothing."""
    for field in ("op", "attr", "id"):
        value = getattr(node, field, None)
        if type(value) in SWAPPED:
            setattr(other, field, SWAPPED[type(value)]())
            return f"{type(value).__name__} turned"
        if isinstance(value, str) and value in NAMES:
            setattr(other, field, NAMES[value])
            return f"{value} -> {NAMES[value]}"
    if isinstance(node, ast.Compare) and isinstance(other, ast.Compare) and type(node.ops[0]) in SWAPPED:
        other.ops[0] = SWAPPED[type(node.ops[0])]()
        return f"{type(node.ops[0]).__name__} turned"
    return ""


def _messages(tree: ast.Module) -> set[int]:
    """Nodes inside texts: what an error says is not what the guard does."""
    return {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for inner in ast.walk(node)
    }


def mutants(module: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Place, what was changed and code of every mutant of a module."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(source)
    texts = _messages(tree)
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in texts:
            continue
        changed = copy.deepcopy(tree)
        what = _change(node, next(itertools.islice(ast.walk(changed), number, None)))
        if what:
            line = getattr(node, "lineno", 0)
            text = source.splitlines()[line - 1].strip()
            yield f"{module.rsplit('.', 1)[1]}:{line}", f"{what}: {text}", changed


def _cases(function: Any) -> Iterator[dict[str, Any]]:
    """The arguments that pytest would call a parametrized test with."""
    axes = []
    for mark in getattr(function, "pytestmark", []):
        names = (
            [name.strip() for name in mark.args[0].split(",")]
            if isinstance(mark.args[0], str)
            else mark.args[0]
        )
        values = [value if len(names) > 1 else (value,) for value in mark.args[1]]
        axes.append([dict(zip(names, value, strict=True)) for value in values])
    for chosen in itertools.product(*axes):
        yield {name: value for one in chosen for name, value in one.items()}


def run_the_tests() -> None:
    """Every test of TESTS that needs no fixture; the quick ones first; raises what fails."""
    found: list[Any] = []
    for name in TESTS:
        found += [
            test
            for test in vars(importlib.import_module(name)).values()
            if inspect.isfunction(test) and test.__name__.startswith("test_") and test.__module__ == name
        ]
    found.sort(key=lambda test: test.__name__.startswith(LATE))
    for test in found:
        if test.__name__.startswith(LEFT_OUT):
            continue
        for given in _cases(test):
            if set(given) == set(inspect.signature(test).parameters):
                test(**given)


def lives(module: str, code: ast.Module) -> bool:
    """Whether the tests pass with the mutant in the module's place."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            signal.setitimer(
                signal.ITIMER_PROF, MOST_S
            )  # of its own computing time, however busy the machine
            for name in [
                name for name in sys.modules if name.startswith(("tspace_core.guard.", "tests.guard."))
            ]:
                del sys.modules[name]
            mutant = types.ModuleType(module)
            mutant.__dict__["__package__"] = module.rpartition(".")[0]
            sys.modules[module] = mutant
            exec(compile(ast.fix_missing_locations(code), module, "exec"), mutant.__dict__)
            run_the_tests()
            status = 0
        finally:
            os._exit(status)
    _, state = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(state) == 0


@pytest.mark.slow
def test_the_tests_pass_without_a_mutant() -> None:
    """Else every mutant would seem to be caught."""
    module = MODULES[0]
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert lives(module, ast.parse(Path(spec.origin).read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_no_turned_comparison_sign_or_bound_lives_on(module: str) -> None:
    found = list(mutants(module))
    assert len(found) > 10
    survivors = [
        f"{place} {what}" for place, what, code in found if what not in EQUIVALENT and lives(module, code)
    ]
    print(f"{len(found)} mutants of {module}, {len(survivors)} live on")
    assert survivors == []
