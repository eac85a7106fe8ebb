"""Plug-ins for frameworks of voice agents; each module needs the extra of its name, such as ``.[pipecat]``."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(package: str, name: str, what: str = "this plug-in") -> Iterator[None]:
    """Around the import of ``package``: where it is missing, ModuleNotFoundError tells which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{what} needs {name}: pip install '.[{package}]' in percepnet's folder", name=error.name
        ) from error
