"""Put files of the repository into the site that its pages link to, outside of docs/.

On a page the link `../benchmarks/results/a.md` works in the repository; in the site the file
is the page `repository/benchmarks/results/a.md`. A link to a folder becomes its name.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[2]
FOLDER = "repository/"
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the three pages, and every file that a page links to."""
    waiting = [*PAGES]
    for page in files.documentation_pages():
        waiting += _linked(f"docs/{page.src_uri}", page.content_string)
    while waiting:
        path = waiting.pop()
        uri = _uri(path)
        if not uri.startswith(FOLDER) or not (ROOT / path).is_file() or uri in files.src_uris:
            continue
        content = (ROOT / path).read_bytes()
        files.append(File.generated(config, uri, content=content))
        if path.endswith(".md"):
            waiting += _linked(path, content.decode())
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page at the places that the files have in the site."""
    uri = page.file.src_uri
    source = uri.removeprefix(FOLDER) if uri.startswith(FOLDER) else f"docs/{uri}"

    def replaced(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if (ROOT / path).is_dir():
            return f"`{text}`" if "/" in text else text
        place = posixpath.relpath(_uri(path), posixpath.dirname(uri) or ".")
        return f"{image}[{text}]({place}{anchor})"

    return LINK.sub(replaced, markdown)


def _linked(path: str, markdown: str) -> Iterator[str]:
    """Yield the paths, from the root of the repository, of a file's relative links."""
    for link in LINK.finditer(markdown):
        if ":" not in link[3]:
            yield posixpath.normpath(posixpath.join(posixpath.dirname(path), link[3]))


def _uri(path: str) -> str:
    """Return the place in the site of a path of the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else FOLDER + path
