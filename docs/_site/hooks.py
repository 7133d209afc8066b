"""What the documentation's site takes from outside ``docs/``: measurements, the CLI's help, the API's document.

Pages under ``docs/`` link to files of the repository as they are on disk, so that the links also work where the
repository is read without the site. Here a link to a page that the site has leads there, and one to any other file
becomes its name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

ROOT = Path(__file__).parents[2]
PAGES = ("benchmarks/*.md", "deploy/*.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PICTURES = ("benchmarks/**/*.png", "benchmarks/**/*.svg")
LINK = re.compile(
    r"```.*?```|(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)|`[^`\n]*`",
    flags=re.DOTALL,
)  # or code, in which nothing is a link


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures of the repository that lie elsewhere."""
    for pattern in (*PAGES, *PICTURES):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Fills in what is generated, and has links lead to where pages are on the site."""
    for name, write in (("cli", _command_line), ("rest", _rest)):
        if (mark := f"<!-- generated: {name} -->") in markdown:
            markdown = markdown.replace(mark, write())
    return LINK.sub(lambda found: _link(found, page=page, files=files), markdown)


def _link(found: re.Match[str], *, page: Page, files: Files) -> str:
    picture, text, target, anchor = found.group("picture", "text", "target", "anchor")
    if not target or ":" in target:
        return found[0]
    here = posixpath.dirname(_on_disk(page.file))
    there = posixpath.normpath(posixpath.join(here, target))
    on_site = there.removeprefix("docs/")
    for name in (on_site, f"{on_site}.md", f"{on_site}/README.md", f"{on_site}/index.md"):
        if files.get_file_from_path(name) is not None:
            relative = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
            return f"{picture}[{text}]({relative}{anchor or ''})"
    return text if (ROOT / there).exists() else found[0]  # what is nowhere stays, for --strict to find


def _on_disk(file: File) -> str:
    """The path in the repository of what a page is made from."""
    return Path(file.abs_src_path or "").relative_to(ROOT).as_posix()


def _command_line() -> str:
    from service.cli.main import app

    command: Any = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="fixnorm-tune")
    return text.partition("\n")[2]  # the page has a heading


def _rest() -> str:
    from service.app import describe_api
    from service.pages.reference import Field, read_openapi

    def names(some: tuple[str, ...]) -> str:
        return ", ".join(f"[{name}](#{name.lower()})" for name in some)

    def rows(fields: tuple[Field, ...], *, places: bool = False) -> list[str]:
        titles = ("name", *(("in",) if places else ()), "type", "default", "about")
        lines = ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for field in fields:
            kind = " ".join(names((word,)) if word in field.names else word for word in field.type.split(" "))
            default = "*required*" if field.required else f"`{field.default}`" if field.default else ""
            place = (field.place,) if places else ()
            cells = (f"`{field.name}`", *place, kind, default, " ".join(field.about.split()))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return [*lines, ""]

    reference = read_openapi(describe_api())
    lines = [reference.about, ""]
    for tag, operations in reference.by_tag.items():
        lines += [f"## {tag}", ""]
        for operation in operations:
            lines += [f"### {operation.method} `{operation.path}` {{: #{operation.anchor} }}", "", operation.about]
            if operation.parameters:
                lines += rows(operation.parameters, places=True)
            if operation.takes:
                lines += ["", f"Takes {names(operation.takes)}."]
            lines += ["", *(f"- `{status}` {names(some)} {about}" for status, about, some in operation.gives), ""]
    lines += ["## Documents", ""]
    for document in reference.documents:
        lines += [f"### {document.name}", "", document.about, ""]
        lines += [", ".join(f"`{value}`" for value in document.values)] if document.values else []
        lines += rows(document.fields) if document.fields else []
    return "\n".join(lines)
