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
    │   ├── ObjectError        an object in a bucket cannot be read or written
    │   │   ├── ObjectMissingError   there is no such object or bucket
    │   │   ├── ObjectExistsError    somebody else has written it since it was looked at
    │   │   ├── ObjectAccessError    credentials are missing or refused
    │   │   └── ObjectServerError    the server is down, slow or answers nonsense
    │   ├── PoolError          a pool cannot store or give what is asked of it
    │   │   ├── PoolAccessError      its server refuses the credentials
    │   │   └── PoolServerError      its server is down, slow or answers nonsense
    │   ├── SchemaVersionError a store was written in another version of its schema; names the way to migrate
    │   ├── UnitOfWorkError    units of work are nested, or one cannot be finished
    │   └── WriterBusyError    somebody else is writing what only one may write at a time
    ├── AgentError             an agent is asked for something its mode or shape does not allow
    │   ├── CheckpointError    a checkpoint is missing, incomplete or of another agent
    │   ├── DivergedError      a loss or a weight is not finite; the last checkpoint is good
    │   └── TrackingError      the tracking server or its registry cannot be reached or refuses
    ├── EngineError            a cluster or one of its workers is gone, and training cannot be finished
    ├── ReleaseError           an agent may not be released, or there is nothing to go back to
    ├── GuardError             the guard, its token or its audit log cannot vouch for a flash
    │   ├── TokenError         a campaign token is missing, forged, spent, expired or of another vehicle
    │   └── AuditError         the audit log cannot be written, or its chain is broken
    ├── LinkError              a bus, socket or peer is missing or does not answer as it must
    │   ├── BusError           a CAN interface or channel cannot be opened or used
    │   ├── ChannelError       the bridge's channel is refused, gone or spoken wrongly
    │   ├── XcpError           an XCP command failed
    │   │   ├── XcpTimeoutError    it was not answered in time
    │   │   ├── XcpCommandError    the VCU answered with an error code
    │   │   └── XcpProtocolError   the VCU answered with something else than the standard says
    │   ├── RemoteCanError     a call of the remote CAN service failed; carries its code
    │   │   ├── RemoteNetworkError   no answer, or not by the service: codes 1, 1000, 1001, 1002
    │   │   ├── AiModeOffError       the driver switched the AI mode off: code 2
    │   │   ├── RemoteServiceError   the service (tsp) failed or refused: -1, 202 to 310
    │   │   ├── RemoteVehicleError   the vehicle or its telematics box failed: 311, 2000, 2001
    │   │   ├── RemoteDataError      the window is not in object storage: 2002
    │   │   ├── RemoteTorqueError    the rows have a wrong shape or range: 2003, 2004
    │   │   └── RemoteFormatError    the answer has an unknown form: 2005, 3000, 3001
    │   └── QueueError         the message queue of the HMI cannot be reached or is spoken wrongly
    ├── VehicleError           a vehicle interface is asked for what its state does not allow
    ├── OnlineError            an online run cannot begin, or had to end; names the first cause
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


class ObjectError(StorageError):
    """An object in a bucket cannot be read or written."""


class ObjectMissingError(ObjectError):
    """There is no such object or bucket."""


class ObjectExistsError(ObjectError):
    """A conditional write was refused: somebody else has written the object since it was looked at."""


class ObjectAccessError(ObjectError):
    """Credentials are missing or refused, or do not allow it."""


class ObjectServerError(ObjectError):
    """The object storage is down, too slow, or answers nonsense."""


class PoolError(StorageError):
    """A pool cannot store or give what is asked of it."""


class PoolAccessError(PoolError):
    """The server of a pool refuses the credentials."""


class PoolServerError(PoolError):
    """The server of a pool is down, too slow, or answers nonsense."""


class SchemaVersionError(StorageError):
    """A store was written in another version of its schema; the message names the way to migrate it."""


class UnitOfWorkError(StorageError):
    """Units of work are nested, or one cannot be finished."""


class WriterBusyError(StorageError):
    """Somebody else is writing what only one may write at a time."""


class AgentError(TspaceError):
    """An agent is asked for something its mode or shape does not allow."""


class CheckpointError(AgentError):
    """A checkpoint is missing, incomplete or of another agent."""


class DivergedError(AgentError):
    """A loss or a weight is not finite; the last checkpoint is good."""


class TrackingError(AgentError):
    """The tracking server or its registry cannot be reached or refuses."""


class EngineError(TspaceError):
    """A cluster or one of its workers is gone, and training cannot be finished."""


class ReleaseError(TspaceError):
    """An agent may not be released, or there is nothing to go back to."""


class TwinError(TspaceError):
    """The simulated world is set up in a way it cannot run."""


class GuardError(TspaceError):
    """The guard, its token or its audit log cannot vouch for a flash."""


class TokenError(GuardError):
    """A campaign token is missing, forged, spent, expired or of another vehicle."""


class AuditError(GuardError):
    """The audit log cannot be written, or its chain is broken."""


class LinkError(TspaceError):
    """A bus, socket or peer is missing or does not answer as it must."""


class BusError(LinkError):
    """A CAN interface or channel cannot be opened or used."""


class ChannelError(LinkError):
    """The bridge's channel is refused, gone or spoken wrongly."""


class XcpError(LinkError):
    """An XCP command failed."""


class XcpTimeoutError(XcpError):
    """An XCP command was not answered in time."""


class XcpCommandError(XcpError):
    """The VCU answered an XCP command with an error code.

    Attributes:
        command: name of the command.
        code: the error code of ASAM MCD-1 XCP, 0 to 255.
    """

    def __init__(self, message: str, command: str, code: int) -> None:
        super().__init__(message)
        self.command = command
        self.code = code


class XcpProtocolError(XcpError):
    """The VCU answered an XCP command with something else than the standard says."""


class RemoteCanError(LinkError):
    """A call of the remote CAN service failed.

    Attributes:
        code: the code of the wire contract.
        unchanged: whether it is certain that the call had no effect on the vehicle; where it is not, a map
            that was sent may be in effect.
    """

    def __init__(self, message: str, code: int, *, unchanged: bool) -> None:
        super().__init__(message)
        self.code = code
        self.unchanged = unchanged


class RemoteNetworkError(RemoteCanError):
    """No answer, or none by the service itself: codes 1, 1000, 1001, 1002."""


class AiModeOffError(RemoteCanError):
    """The driver switched the AI mode off: code 2."""


class RemoteServiceError(RemoteCanError):
    """The service failed or refused: codes -1, 202, 206, 301 to 304, 310."""


class RemoteVehicleError(RemoteCanError):
    """The vehicle or its telematics box failed: codes 311, 2000, 2001."""


class RemoteDataError(RemoteCanError):
    """The window is not in object storage: code 2002."""


class RemoteTorqueError(RemoteCanError):
    """The rows have a wrong shape or range: codes 2003, 2004."""


class RemoteFormatError(RemoteCanError):
    """The answer has an unknown form: codes 2005, 3000, 3001."""


class QueueError(LinkError):
    """The message queue of the HMI cannot be reached, or is spoken wrongly."""


class VehicleError(TspaceError):
    """A vehicle interface is asked for what its state does not allow."""


class OnlineError(TspaceError):
    """An online run cannot begin, or had to end; the message names the first cause."""
