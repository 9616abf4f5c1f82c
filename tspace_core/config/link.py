"""How a vehicle is reached: its CAN bus, its VCU's XCP slave, and the addresses of its processes."""

from typing import Literal

from pydantic import Field, model_validator

from tspace_core.config.base import ConfigModel

BusInterface = Literal["kvaser", "socketcan", "udp_multicast", "virtual"]


class BusConfig(ConfigModel):
    """The CAN bus, as python-can opens it."""

    interface: BusInterface = Field(description="python-can's interface")
    channel: str = Field(
        description="kvaser: channel number; socketcan: device; udp_multicast: group; virtual: any name"
    )
    bitrate: int = Field(default=500_000, gt=0, description="bit/s of the arbitration phase")
    fd: bool = Field(default=False, description="CAN FD: frames of up to 64 bytes")
    data_bitrate: int | None = Field(default=None, gt=0, description="bit/s of FD's data phase")
    port: int = Field(default=43113, ge=1, le=65535, description="UDP port of udp_multicast")

    @model_validator(mode="after")
    def _fd_has_a_data_rate(self) -> "BusConfig":
        if self.fd and self.data_bitrate is None:
            message = "fd: true needs data_bitrate, for example 2000000"
            raise ValueError(message)
        return self


class Parameter(ConfigModel):
    """A calibration parameter or a text in the VCU's memory, where no A2L file gives it."""

    address: int = Field(ge=0, le=0xFFFFFFFF, description="address in the VCU")
    extension: int = Field(default=0, ge=0, le=255, description="XCP address extension")
    length: int | None = Field(default=None, gt=0, description="bytes of a text; None: a map of float32")


class XcpConfig(ConfigModel):
    """The VCU's XCP slave and what is calibrated in it."""

    request_id: int = Field(ge=0, description="CAN id of commands to the VCU")
    response_id: int = Field(ge=0, description="CAN id of its answers")
    extended: bool = Field(default=False, description="29-bit ids")
    timeout_s: float = Field(default=0.1, gt=0, description="longest wait for an answer (T1), s")
    attempts: int = Field(
        default=2, ge=1, le=5, description="tries of a command that was not answered, synchronised between"
    )
    block_mode: bool = Field(default=True, description="use block mode where the VCU offers it")
    map_name: str = Field(
        default="TQD_trqTrqSetNormal_MAP_v", description="name of the pedal-torque map, float32 speed x pedal"
    )
    vin_name: str = Field(default="VCU_VIN", description="name of the text that holds the VIN")
    software_name: str = Field(default="VCU_SoftwareId", description="name of the text with the software id")
    software_id: str = Field(description="software that the addresses belong to; another one is refused")
    a2l: str | None = Field(
        default=None, description="A2L file along settings().a2l_path; wins over parameters"
    )
    parameters: dict[str, Parameter] = Field(
        default_factory=dict, description="by name, where there is no A2L"
    )
    segment: int = Field(default=0, ge=0, le=255, description="calibration segment of the map")
    reference_page: int = Field(default=0, ge=0, le=255, description="page that cannot be written")
    working_pages: tuple[int, ...] = Field(
        default=(1,),
        min_length=1,
        max_length=2,
        description="one: the reference is put into effect while it is written; two: the idle one is written",
    )
    unlock: str | None = Field(
        default=None, description="`module:function`, seed (bytes) and resource -> key (bytes)"
    )

    @model_validator(mode="after")
    def _complete(self) -> "XcpConfig":
        if self.request_id == self.response_id:
            message = f"request_id and response_id are both {self.request_id:#x}; they must differ"
            raise ValueError(message)
        if self.reference_page in self.working_pages or len(set(self.working_pages)) < len(
            self.working_pages
        ):
            message = (
                f"working_pages {self.working_pages} must differ from each other and from the reference page"
            )
            raise ValueError(message)
        missing = [
            name for name in (self.map_name, self.vin_name, self.software_name) if name not in self.parameters
        ]
        if self.a2l is None and missing:
            message = f"no a2l is given, so parameters must give the addresses of {missing}"
            raise ValueError(message)
        return self


class PortConfig(ConfigModel):
    """Ports of this vehicle's processes where several vehicles run on one machine; None: the settings'."""

    udp: int | None = Field(default=None, ge=1, le=65535, description="datagrams of bridge and HMI")
    bridge: int | None = Field(default=None, ge=1, le=65535, description="the bridge's channel for agents")
