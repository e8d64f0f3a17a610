"""Google Drive: the address of a file behind the page that asks for a confirmation."""

from __future__ import annotations

import urllib.parse
import urllib.request
from html.parser import HTMLParser

__all__ = ["confirmed_url"]

DOWNLOAD = "https://drive.google.com/uc?export=download&id="
TIMEOUT_SECONDS = 60.0
PAGE_BYTES = 1 << 20  # more than any such page


class Form(HTMLParser):
    """The address and the hidden values of the first form of a page."""

    def __init__(self) -> None:
        """Begin with no form."""
        super().__init__()
        self.action: str | None = None
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a form, or one of its values."""
        given = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = given.get("action")
        elif tag == "input" and given.get("type") == "hidden" and given.get("name"):
            self.values[str(given["name"])] = given.get("value") or ""


def confirmed_url(file_id: str, download: str = DOWNLOAD) -> str | None:
    """Return the address from which a file comes.

    Args:
        file_id: Id of the file.
        download: Address that an id is appended to.

    Returns:
        The address, or None if the page asks for more than a confirmation.
    """
    url = download + file_id
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        if "text/html" not in response.headers.get("Content-Type", ""):
            return url
        page = response.read(PAGE_BYTES).decode("utf-8", "replace")
    form = Form()
    form.feed(page)
    if form.action is None or "id" not in form.values:
        return None
    address = urllib.parse.urljoin(url, form.action)
    return f"{address}?{urllib.parse.urlencode(form.values)}"
