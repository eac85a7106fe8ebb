"""WebRTC server around percepnet: aiohttp signaling, aiortc media, one engine for all calls."""
