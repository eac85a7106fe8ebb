"""``percepnet sidecar janus`` and ``percepnet sidecar livekit``: enhanced twins in another server's rooms."""

import argparse

from server.logs import log_to_stderr
from server.sidecar.livekit.options import LiveKitOptions
from server.sidecar.options import SidecarOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What kind of server it stands beside; each has options of its own."""
    kinds = parser.add_subparsers(title="servers", metavar="SERVER", dest="kind", required=True)
    janus = _kind(kinds, "janus", "Janus with its VideoRoom plugin")
    SidecarOptions.add_arguments(janus)
    livekit = _kind(kinds, "livekit", "LiveKit; needs pip install '.[livekit]'")
    LiveKitOptions.add_arguments(livekit)


def run(args: argparse.Namespace) -> None:
    """Runs until a signal ends it."""
    log_to_stderr(args.log_level, form=args.log_format)
    if args.kind == "janus":
        from server.sidecar.sidecar import serve

        serve(SidecarOptions.from_arguments(args))
    else:
        from server.sidecar.livekit.sidecar import serve as serve_livekit

        serve_livekit(LiveKitOptions.from_arguments(args))


def _kind(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(
        name,
        help=what,
        description=f"Join rooms of {what.partition(';')[0]} and publish an enhanced twin of each voice.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
