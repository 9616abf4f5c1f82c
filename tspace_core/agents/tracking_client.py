"""MLflow as tspace uses it: imported late and quietly, with time-outs that training can live with."""

import logging
import os
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow's own are 120 s and 7 retries, minutes for each call; what fails here is kept and sent later.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


@cache
def import_mlflow() -> ModuleType:
    """MLflow without its telemetry, its start-up lines, and a warning about its own database models.

    Environment variables of MLflow that are set already are left as they are.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import mlflow
        import mlflow.entities
        import mlflow.store.tracking.sqlalchemy_store  # configures SQLAlchemy's mappers, which warn
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    module: ModuleType = mlflow
    return module


def client_of(uri: str) -> "MlflowClient":
    """A client of a store; makes the tables of one in a SQLite file that has none."""
    mlflow = import_mlflow()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    _let_reach_bucket()
    client: MlflowClient = mlflow.MlflowClient(tracking_uri=uri)
    return client


def _let_reach_bucket() -> None:
    """MLflow finds its server for ``s3://`` in the environment only, as it does the credentials."""
    from tspace_core.config import settings

    found = settings().s3
    if found.endpoint is not None:
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = found.endpoint
    os.environ.setdefault("AWS_DEFAULT_REGION", found.region)
