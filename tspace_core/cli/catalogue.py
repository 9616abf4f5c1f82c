"""The command that asks the catalogue: in SQL, or by the name of a query that comes with tspace."""

import shutil
from typing import TYPE_CHECKING, Annotated

import typer

from tspace_core.cli.options import DataDir, open_lake
from tspace_core.errors import StorageError, TspaceError

if TYPE_CHECKING:
    import polars as pl

    from tspace_core.storage.catalogue import Catalogue

ROWS_SHOWN = 100
"""Rows of an answer that are printed for people."""
_DAMAGED_SHOWN = 5

app = typer.Typer()


@app.command()
def catalogue(
    sql: Annotated[
        str | None, typer.Argument(help="One SQL statement, e.g. 'SELECT * FROM episodes'.")
    ] = None,
    *,
    named: Annotated[
        str | None, typer.Option("--named", metavar="NAME", help="Ask a query that comes with tspace.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A value for $NAME in the statement; repeatable."),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the queries that come with tspace; with --named: that one.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON lines.")] = False,
) -> None:
    """Ask the catalogue of the lake: logs, signals, episodes, records, flashes, losses, checkpoints and more.

    `tspace catalogue "SHOW TABLES"` lists all, `tspace catalogue --list` the queries that come with tspace.
    """
    if listing:
        _print_queries(named)
        return
    if (sql is None) == (named is None):
        message = "give one SQL statement, or --named NAME; `tspace catalogue --list` shows the names"
        raise TspaceError(message)
    from tspace_core.storage.catalogue import Catalogue
    from tspace_core.storage.catalogue_queries import named_query

    values = dict(map(_parameter, param or ()))
    if named is not None:
        query = named_query(named)
        statement, values = query.sql, query.values(values)
    else:
        assert sql is not None
        statement = sql
    lake = open_lake(data_dir)
    store = Catalogue(lake.local / "catalogue.duckdb", lake)
    _refresh(store)
    answer = store.query(statement, values)
    if as_json:
        typer.echo(answer.write_ndjson(), nl=False)
        return
    _print_answer(answer)


def _refresh(store: "Catalogue") -> None:
    try:
        damaged = store.refresh().damaged
    except StorageError as error:
        if not store.path.is_file():
            raise
        typer.echo(f"warning: the answer may be of an older state of the lake: {error}", err=True)
        return
    for path, what in damaged[:_DAMAGED_SHOWN]:
        typer.echo(f"warning: left out {path}: {what}", err=True)
    if len(damaged) > _DAMAGED_SHOWN:
        typer.echo(f"warning: {len(damaged)} files left out in all, see the table `damaged`", err=True)


def _parameter(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        message = f"--param {text!r} must have the form NAME=VALUE"
        raise TspaceError(message)
    return name, value


def _print_queries(name: str | None) -> None:
    from tspace_core.storage.catalogue_queries import named_queries, named_query

    if name is not None:
        typer.echo(named_query(name).sql, nl=False)
        return
    for query in named_queries():
        typer.echo(f"{query.name:<24}{query.title}")
        for parameter in query.parameters:
            default = "" if parameter.default is None else f" (default: {parameter.default})"
            typer.echo(f"{'':<24}  --param {parameter.name}=...  {parameter.text}{default}")


def _print_answer(answer: "pl.DataFrame") -> None:
    import polars as pl

    with pl.Config(
        tbl_rows=ROWS_SHOWN,
        tbl_cols=-1,
        tbl_width_chars=-1,
        fmt_str_lengths=80,
        tbl_hide_dataframe_shape=True,
    ):
        table = str(answer)
    width = shutil.get_terminal_size().columns
    if answer.is_empty() or max(map(len, table.splitlines())) <= width:
        typer.echo(table)
    else:
        _print_rows(answer)
    if answer.height > ROWS_SHOWN:
        typer.echo(
            f"{answer.height} rows, {ROWS_SHOWN} shown; add LIMIT and OFFSET, or --json for all", err=True
        )


def _print_rows(answer: "pl.DataFrame") -> None:
    """A column a line, for rows that are wider than the terminal."""
    label = max(map(len, answer.columns))
    for number, row in enumerate(answer.head(ROWS_SHOWN).iter_rows(named=True), start=1):
        typer.echo(f"row {number}")
        for name, value in row.items():
            text = "-" if value is None else str(value)
            typer.echo(f"  {name:<{label}}  {text}")
