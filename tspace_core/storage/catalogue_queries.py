"""The queries that come with tspace: ``queries/*.sql``, each with a comment that says what it answers.

::

    -- Title, one line.
    --
    -- What is counted and what is not.
    --
    -- Parameters:
    --   name = default: what it does
    -- Columns:
    --   name [unit]: what it is

A new query is one new file of this form. Parameters stand as ``$name`` in the statement and reach DuckDB
as such, never pasted into it; a default of NULL means that nothing is asked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tspace_core.errors import StorageError, UnknownNameError

if TYPE_CHECKING:
    import duckdb

_FOLDER = Path(__file__).parent / "queries"
_LEAD = r"\A(?:\s|--[^\n]*\n|/\*.*?\*/|\()*"
_EXPLAIN = re.compile(_LEAD + r"EXPLAIN\b(?:\s*\([^)]*\)|\s+ANALY[SZ]E\b)?", re.IGNORECASE | re.DOTALL)
_ASKS = re.compile(_LEAD + r"(?:PIVOT|PIVOT_WIDER|UNPIVOT|SELECT|FROM|WITH)\b", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r"(?P<name>\w+) = (?P<default>\S+): (?P<text>.+)")
_COLUMN = re.compile(r"(?P<name>\w+)(?: \[(?P<unit>[^]]+)\])?: (?P<text>.+)")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a query.

    Attributes:
        name: without the ``$``.
        default: its value where none is given; None stands for NULL.
        text: what it does.
    """

    name: str
    default: str | None
    text: str


@dataclass(frozen=True)
class Column:
    """A column of the answer.

    Attributes:
        name: in the answer.
        unit: "" for what has none.
        text: what it is.
    """

    name: str
    unit: str
    text: str


@dataclass(frozen=True)
class NamedQuery:
    """A query that comes with tspace.

    Attributes:
        name: of its file, without ``.sql``.
        title: what it answers, in a line.
        text: what is counted and what is not.
        parameters: that it takes.
        columns: of its answer, in order.
        sql: the whole file.
    """

    name: str
    title: str
    text: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    sql: str

    def values(self, given: Mapping[str, str | None]) -> dict[str, str | None]:
        """The values of all parameters: those given, and the defaults of the others.

        Raises:
            StorageError: it has no parameter of a given name.
        """
        known = {parameter.name: parameter.default for parameter in self.parameters}
        wrong = sorted(given.keys() - known.keys())
        if wrong:
            message = f"the query {self.name} has no parameter {wrong[0]!r}; it takes: {_listed(known)}"
            raise StorageError(message)
        return known | dict(given)


def query_names() -> list[str]:
    """Names of the queries that come with tspace, in order."""
    return sorted(path.stem for path in _FOLDER.glob("*.sql"))


def named_query(name: str) -> NamedQuery:
    """The query of a name.

    Raises:
        UnknownNameError: there is none.
        StorageError: its comment has another form than it must have.
    """
    if name not in query_names():
        message = f"no query {name!r}; there are: {_listed(query_names())}"
        raise UnknownNameError(message)
    return parse_query(name, (_FOLDER / f"{name}.sql").read_text(encoding="utf-8"))


def named_queries() -> list[NamedQuery]:
    """All queries that come with tspace, in the order of their names."""
    return [named_query(name) for name in query_names()]


def parse_query(name: str, sql: str) -> NamedQuery:
    """Read a query with its comment.

    Raises:
        StorageError: a line of the comment has another form than it must have.
    """
    head: list[str] = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        head.append(line.removeprefix("--").removeprefix(" "))
    title, *rest = head or [""]
    prose: list[str] = []
    parameters: list[Parameter] = []
    columns: list[Column] = []
    section = ""
    for line in rest:
        if line in ("Parameters:", "Columns:"):
            section = line
        elif section == "Parameters:" and (found := _PARAMETER.fullmatch(line.strip())):
            default = None if found["default"] == "NULL" else found["default"]
            parameters.append(Parameter(found["name"], default, found["text"]))
        elif section == "Columns:" and (found := _COLUMN.fullmatch(line.strip())):
            columns.append(Column(found["name"], found["unit"] or "", found["text"]))
        elif not section:
            prose.append(line)
        else:
            message = f"query {name}: {line.strip()!r} has another form than the lines below {section}"
            raise StorageError(message)
    if not title or not columns:
        message = f"query {name} begins with no comment that says what it answers and with which columns"
        raise StorageError(message)
    return NamedQuery(name, title, "\n".join(prose).strip(), tuple(parameters), tuple(columns), sql)


def reads_only(connection: "duckdb.DuckDBPyConnection", sql: str) -> bool:
    """Whether a text is one statement that only asks: none that writes files, databases or settings.

    Raises:
        duckdb.Error: it is no SQL.
    """
    import duckdb

    found = connection.extract_statements(sql)
    if len(found) != 1:
        return False
    kind, text = found[0].type, found[0].query
    if kind == duckdb.StatementType.EXPLAIN:  # with ANALYZE it is also done
        return reads_only(connection, _EXPLAIN.sub("", text))
    # A PIVOT becomes several statements, also inside of one that writes.
    pivot = kind == duckdb.StatementType.MULTI and _ASKS.match(text) is not None
    return pivot or kind == duckdb.StatementType.SELECT


def _listed(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(names) or "none"
