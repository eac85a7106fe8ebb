"""``percepnet serve``: the WebRTC server. The only place where this package meets ``server``."""

import argparse
import logging

from server.app import serve
from server.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The server's own options."""
    Config.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Serves until a signal ends it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(Config.from_arguments(args))
