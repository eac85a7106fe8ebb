"""``percepnet serve``: the WebRTC server."""

import argparse
import logging

from server.app import serve
from server.config import Config
from server.logs import log_to_stderr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The server's own options."""
    Config.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Serves until a signal ends it."""
    config = Config.from_arguments(args)
    log_to_stderr(config.log_level, form=config.log_format)
    for name, meant in Config.misspelt().items():
        logging.getLogger(__name__).warning("%s is no option; %s is one", name, meant)
    serve(config)
