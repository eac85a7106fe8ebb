"""What a caller may turn during a call; the same for HTTP, the offer's options and the data channel."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, TypedDict

from percepnet.enhancer import MAX_ATTENUATION_LIMIT_DB


class Changes(TypedDict, total=False):
    """Any subset of the controls, checked."""

    enabled: bool
    attenuation_limit_db: float | None
    postfilter: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Controls:
    """The controls of one call.

    ``enabled``: False gives back the dry signal at the same delay.
    ``attenuation_limit_db``: 0…100, the most that anything is attenuated by; None for no limit.
    ``postfilter``: whether the envelope post-filter runs.
    """

    enabled: bool = True
    attenuation_limit_db: float | None = None
    postfilter: bool = True

    def merged(self, changes: Changes) -> Self:
        return replace(self, **changes)

    def as_changes(self) -> Changes:
        """All of them."""
        return {
            "enabled": self.enabled,
            "attenuation_limit_db": self.attenuation_limit_db,
            "postfilter": self.postfilter,
        }


def checked(changes: object) -> Changes:
    """The controls named in a decoded JSON object; ``ValueError`` names what is wrong and what is allowed."""
    if not isinstance(changes, Mapping):
        raise ValueError(f"controls must be a JSON object, not {type(changes).__name__}")
    result: Changes = {}
    for name, value in changes.items():
        match name:
            case "enabled":
                result["enabled"] = _switch(name, value)
            case "postfilter":
                result["postfilter"] = _switch(name, value)
            case "attenuation_limit_db":
                result["attenuation_limit_db"] = _limit(value)
            case _:
                raise ValueError(unknown(name))
    return result


def unknown(name: object) -> str:
    """What is said of a control that there is not."""
    return f"unknown control {name!r}; allowed: {', '.join(Changes.__annotations__)}"


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value


def _limit(value: object) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= MAX_ATTENUATION_LIMIT_DB:  # type: ignore[operator]  # NaN is not in between
        raise ValueError(
            f"attenuation_limit_db must be null or 0…{MAX_ATTENUATION_LIMIT_DB:g} dB, not {value!r}"
        )
    return float(value)  # type: ignore[arg-type]
