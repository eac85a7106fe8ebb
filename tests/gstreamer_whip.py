"""GStreamer's webrtcbin as a WHIP client: ``python3 gstreamer_whip.py FILE URL``, with Debian's Python and its gi.

Publishes the file in real time, prints the status of the answer, and deletes the resource at the end of the file.
"""

import sys
import urllib.request
from urllib.parse import urljoin

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

PIPELINE = (
    "filesrc location={} ! decodebin ! audioconvert ! audioresample ! clocksync ! opusenc ! rtpopuspay !"
    " application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! webrtcbin name=peer bundle-policy=max-bundle"
)


class Publisher:
    def __init__(self, path: str, url: str) -> None:
        self.url, self.resource, self.loop = url, "", GLib.MainLoop()
        self.pipeline = Gst.parse_launch(PIPELINE.format(path))
        self.peer = self.pipeline.get_by_name("peer")
        self.peer.connect("on-negotiation-needed", self.negotiate)
        self.peer.connect("notify::ice-gathering-state", self.gathered)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::eos", lambda *_: self.loop.quit())
        bus.connect("message::error", lambda _, message: (print(message.parse_error()), self.loop.quit()))

    def run(self) -> None:
        for transceiver in [self.peer.emit("get-transceiver", 0)]:
            transceiver.set_property("direction", GstWebRTC.WebRTCRTPTransceiverDirection.SENDONLY)
        self.pipeline.set_state(Gst.State.PLAYING)
        self.loop.run()
        self.pipeline.set_state(Gst.State.NULL)
        if self.resource:
            urllib.request.urlopen(urllib.request.Request(self.resource, method="DELETE"), timeout=10)

    def negotiate(self, peer: object) -> None:
        def created(promise: object, *_: object) -> None:
            self.reply = promise.get_reply()  # owns the offer
            self.offer = self.reply.get_value("offer")
            self.peer.emit("set-local-description", self.offer, Gst.Promise.new())

        self.peer.emit("create-offer", None, Gst.Promise.new_with_change_func(created))

    def gathered(self, *_: object) -> None:
        if self.peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            GLib.idle_add(self.post)

    def post(self) -> None:
        sdp = self.peer.get_property("local-description").sdp.as_text().encode()
        request = urllib.request.Request(self.url, sdp, {"Content-Type": "application/sdp"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            print(answer.status, flush=True)
            self.resource = urljoin(self.url, answer.headers["Location"])
            _, message = GstSdp.SDPMessage.new_from_text(answer.read().decode())
        description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        self.peer.emit("set-remote-description", description, Gst.Promise.new())


if __name__ == "__main__":
    Gst.init(None)
    Publisher(*sys.argv[1:]).run()
