"""The error tree of tspace.

::

    TspaceError
    ├── ConfigError            a file under conf/, a setting or an environment variable is wrong
    │   └── UnknownNameError   a vehicle, driver, site, format, ... of that name does not exist
    ├── LogError               a raw log or trip table cannot be used
    │   ├── LogFormatError     its format is unknown or not the one expected
    │   └── LogReadError       its format is known, its content is broken from the start
    ├── DatabaseError          a DBC file cannot be read, or names something that is not there
    ├── RecordError            windows, quadruples or episodes that contradict their definition
    │   └── SchemaError        a data frame does not hold its pandera schema
    ├── StorageError           the lake, the catalogue or a replay buffer is missing or damaged
    ├── AgentError             an agent is asked for something its mode or shape does not allow
    │   └── CheckpointError    a checkpoint is missing, incomplete or of another agent
    └── TwinError              the simulated world is set up in a way it cannot run

Every message says what is wrong, the value seen, the limit or the expected form, the place, and what to do
next. Damage inside a log that costs only a part of it is no error: it is counted in the log's
``ReadReport`` and the rest is used.
"""


class TspaceError(Exception):
    """Base of all errors that tspace raises on purpose."""


class ConfigError(TspaceError):
    """A file under conf/, a setting or an environment variable is wrong."""


class UnknownNameError(ConfigError):
    """A vehicle, driver, site, format, ... of that name does not exist."""


class LogError(TspaceError):
    """A raw log or trip table cannot be used."""


class LogFormatError(LogError):
    """The log's format is unknown or not the one expected."""


class LogReadError(LogError):
    """The log's format is known, but its content is broken from the start."""


class DatabaseError(TspaceError):
    """A DBC file cannot be read, or a message or signal named in the config is not in it."""


class RecordError(TspaceError):
    """Windows, quadruples or episodes contradict their definition."""


class SchemaError(RecordError):
    """A data frame does not hold its pandera schema."""


class StorageError(TspaceError):
    """The lake, the catalogue or a replay buffer is missing or damaged."""


class AgentError(TspaceError):
    """An agent is asked for something its mode or shape does not allow."""


class CheckpointError(AgentError):
    """A checkpoint is missing, incomplete or of another agent."""


class TwinError(TspaceError):
    """The simulated world is set up in a way it cannot run."""
