"""Make the README's picture of the page from a real call: python tests/screenshot.py [FILE.png]

The page's noisy sample goes through the server with the shipped model; suppression is turned on on the way, so
that the picture shows both.
"""

import io
import sys
from pathlib import Path

from chromium import browsing, call, record, serving
from PIL import Image

PICTURE = Path(__file__).parent / "pictures" / "page.png"
SHOWN = 8.0  # s across a spectrogram
DRY = 2.4  # s at its start


def main(picture: Path) -> None:
    window = {"width": 1180, "height": 1128}
    with serving() as server, browsing(server.url, viewport=window, color_scheme="dark") as browser:
        browser.page.click("#enabled")
        call(browser.page, "sample")
        record(browser.page, SHOWN, "enabled", [DRY])
        shot = browser.page.screenshot()
    save(io.BytesIO(shot), picture)


def save(png: io.BytesIO, picture: Path) -> None:
    """With 255 colours: a third of the size, and no difference to be seen."""
    picture.parent.mkdir(exist_ok=True)
    with Image.open(png) as image:
        image.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture}: {picture.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
