"""What a load test shall do."""

from dataclasses import dataclass, field

from server.weather.conditions import Weather


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """``calls`` callers of the server at ``url``; times in seconds.

    They begin at ``ramp`` calls per second, and all end together, ``seconds`` after the last has begun, so
    that for so long all are there. Chance is the same for the same ``seed``.
    """

    url: str
    calls: int = 1
    ramp: float = 2.0  # calls per second
    seconds: float = 20.0
    weather: Weather = Weather()  # noqa: RUF009 — frozen; between the callers and the server
    enabled: bool = True  # the enhancement, as calls begin
    listen: float = 8.0  # of what comes back, so much is kept and decoded afterwards
    churn: float | None = None  # callers hang up after so long on average, and come back
    toggle: float | None = None  # three of four callers turn the enhancement off or on this often on average
    repeat: int | None = None  # each caller makes so many calls in a row, each of ``seconds``
    retry: bool = False  # callers that are refused come back after Retry-After
    control_channel: bool = False  # callers open the data channel, as the page does, and get live figures
    processes: int = 1
    seed: int = 1
    token: str | None = field(default=None, repr=False)  # that the server asks for

    @property
    def ramp_time(self) -> float:
        return (self.calls - 1) / self.ramp

    @property
    def total(self) -> float:
        """Length of the whole run, roughly where ``repeat`` is given."""
        return self.ramp_time + self.seconds * (self.repeat or 1)

    def mine(self, process: int) -> range:
        """The numbers of the callers of one process: every so manieth, so that all share the ramp."""
        return range(process, self.calls, self.processes)
