"""The kinds of encoders: a new one is a module like its siblings and a line here."""

from importlib import import_module

from tspace_core.config.embeddings import EmbeddingParameters
from tspace_core.embeddings.base import ARRAYS, Encoder, read_manifest, restore
from tspace_core.errors import UnknownNameError
from tspace_core.objects.path import AnyPath, local_folder

ENCODERS = {
    "sequence": ("tspace_core.embeddings.sequence", "SequenceEncoder"),
    "statistics": ("tspace_core.embeddings.statistics", "StatisticsEncoder"),
}
"""Kind to module and class; imported when asked for, torch costs seconds."""


def new_encoder(
    parameters: EmbeddingParameters, *, window: int, signals: tuple[str, ...], rate_hz: float
) -> Encoder:
    """An encoder that has learned nothing yet.

    Raises:
        UnknownNameError: there is no such kind; lists those there are.
    """
    if parameters.encoder not in ENCODERS:
        known = ", ".join(sorted(ENCODERS))
        message = f"no encoder of kind {parameters.encoder!r}; known: {known}; correct `encoder` in the file"
        raise UnknownNameError(message)
    module, name = ENCODERS[parameters.encoder]
    made: Encoder = getattr(import_module(module), name)(
        parameters, window=window, signals=signals, rate_hz=rate_hz
    )
    return made


def load_encoder(folder: AnyPath) -> Encoder:
    """A stored encoder, from a disk or a bucket.

    Raises:
        CheckpointError: it is missing, cut off, changed or of another shape.
        UnknownNameError: its kind is not known here.
    """
    manifest = read_manifest(folder)
    parameters = manifest.parameters.model_copy(update={"encoder": manifest.kind})
    encoder = new_encoder(
        parameters, window=manifest.window, signals=manifest.signals, rate_hz=manifest.rate_hz
    )
    path = local_folder(folder) / ARRAYS
    content = path.read_bytes() if path.is_file() else b""
    restore(encoder, manifest, content, folder / ARRAYS)
    return encoder
