"""What a server is told when it starts."""

from ipaddress import ip_address

from pydantic import Field

from data.settings import Settings


class ServeSettings(Settings):
    """Where a server listens, whom it hears, and how much it takes."""

    host: str = Field("127.0.0.1", description="address that it listens on")
    port: int = Field(8000, ge=0, le=65535, description="its port; 0: one that is free")
    api_key: str | None = Field(None, min_length=1, description="what every request has to bring")
    max_queue: int = Field(32, ge=1, description="requests that are read, wait or are written at once")
    max_megabytes: float = Field(25.0, gt=0, description="largest body of a request, of a million bytes each")
    max_seconds: float = Field(3600.0, gt=0, description="longest sound")

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def max_bytes(self) -> int:
        """Of a body."""
        return int(self.max_megabytes * 1e6)
