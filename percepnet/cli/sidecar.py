"""``percepnet sidecar janus``: enhanced twins for the publishers of another server's rooms."""

import argparse

from server.logs import log_to_stderr
from server.sidecar.options import SidecarOptions
from server.sidecar.sidecar import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What kind of server it stands beside, and the options for that."""
    parser.add_argument("kind", choices=["janus"], help="of the server: Janus with its VideoRoom plugin")
    SidecarOptions.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Runs until a signal ends it."""
    log_to_stderr("info")
    serve(SidecarOptions.from_arguments(args))
