"""README and others --> pages of the site; links that leave docs/ --> text; picture --> part of its page.

So the same files can be read in the repository, where links go to folders, and as a site, which has none.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r'<img [^>]*src="(?:[^"]*/)?system\.svg"[^>]*>')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand at the top of the repository."""
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leave of a link to a file that is no page its text alone."""
    is_top = page.file.src_uri in PAGES.values()
    folder = "docs" if not is_top else ""
    folder = posixpath.join(folder, posixpath.dirname(page.file.src_uri))

    def shown(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            up = "../" * page.file.src_uri.count("/")
            return f"[{text}]({up}{PAGES[path]}{anchor})"
        is_page = path.startswith("docs/") or (is_top and (ROOT / "docs" / path).is_file())
        return link[0] if is_page else text

    return LINK.sub(shown, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Put the picture itself into the page, so that its text can be selected and found."""
    return PICTURE.sub(lambda _: (ROOT / "docs" / "system.svg").read_text(encoding="utf-8"), html)
