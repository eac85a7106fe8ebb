"""Pages that commands write, taken apart."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What is in a page, all of whose tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []  # that it takes something from
        self.shapes: list[dict[str, str | None]] = []  # attributes of what is drawn
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("img", "meta"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.shapes.append(dict(attributes))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
