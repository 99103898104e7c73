"""Every link of README and docs leads somewhere, files and headings; the README stays short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker_config import errors

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*/README.md")])
README_WORDS = 1_000

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def links_of(text: str) -> list[str]:
    """Targets of links and pictures outside of code."""
    return LINK.findall(CODE.sub("code", FENCE.sub("", text)))


def anchors_of(text: str) -> Iterator[str]:
    """What the headings of a page are called in links, in the repository's viewer and in the site alike."""
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """Relative links of the page that lead to no file, or to no heading of it."""
    broken = []
    for link in links_of(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `heading`, and more\n\n```\n# no heading\n```\n")
    text = (
        "[a](other.md) [b](other.md#a-heading-and-more) [c](#here) [`d`](gone.md) ![e](gone.svg)\n"
        "[f](other.md#no-heading) [g](mailto:x) `[h](code.md)` [i\nj](gone/)\n\n## Here\n\n```\n[k](fenced.md)\n```\n"
    )
    (tmp_path / "page.md").write_text(text)
    assert broken_links(tmp_path / "page.md") == ["gone.md", "gone.svg", "other.md#no-heading", "gone/"]


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [REPOSITORY / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [
            (page.parent / link.partition("#")[0]).resolve() for link in links_of(page.read_text(encoding="utf-8"))
        ]
    assert set((REPOSITORY / "docs").rglob("*.md")) <= reached


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = set(re.findall(r": (\S+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {page.relative_to(REPOSITORY / "docs").as_posix() for page in (REPOSITORY / "docs").rglob("*.md")}
    assert menu == pages | {"index.md", "contributing.md", "changelog.md", "reporting.md"}


def test_every_example_stands_in_the_table_beside_a_test_that_runs_it() -> None:
    folder = REPOSITORY / "examples"
    rows = re.findall(
        r"^\| \[`(.+?)`\]\(\1\) \|.*\| `make (?:test|integrations)`: \[.*\]\((.+)\) \|$",
        (folder / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    programs = [path for suffix in ("py", "ipynb", "sh") for path in folder.rglob(f"*.{suffix}")]
    helpers = {"digits/augment.py", "images/decode.py"}  # which the programs beside them use
    assert {name for name, _ in rows} == {path.relative_to(folder).as_posix() for path in programs} - helpers
    for name, test in rows:
        text = (folder / test).read_text(encoding="utf-8")
        told = Path(name).parts[0].removesuffix(".ipynb") if name.endswith("train.py") else Path(name).name
        assert told in text or re.fullmatch(r"with_(\w+)\.py", told)[1] in text, name  # type: ignore[index]


def test_every_error_is_documented() -> None:
    tree = re.findall(
        r"^ *(\w+Error) {2,}|^(CeleriacError)$", (REPOSITORY / "docs" / "errors.md").read_text(), re.MULTILINE
    )
    classes = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert {name for names in tree for name in names if name} == classes


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS
