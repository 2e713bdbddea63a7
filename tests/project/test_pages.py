"""What the pages tell a reader to follow and to type: links, files, commands and their options."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from fastssl.cli import app
from fastssl.cli.evaluation import DENSE_PROTOCOLS, IMAGE_TEXT_PROTOCOLS
from fastssl.cli.language import PROTOCOLS as TEXT_PROTOCOLS
from fastssl.cli.recipes import method_settings
from fastssl.evaluate import PROTOCOLS
from tests.support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts and page.read_text()]  # the site's build makes others
PROGRAM: Any = typer.main.get_command(app)
PLACEHOLDER = re.compile(r"[A-Z]+")


def _blocks(page: Path) -> list[str]:
    """The code of a page in no language: what is typed, or printed."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```", text, flags=re.S | re.M)
    return [block for language, block in blocks if not language]


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


def _commands() -> list[list[str]]:
    found = []
    for page in PAGES:
        for line in "".join(_blocks(page)).splitlines():
            if "fastssl " not in line or line.lstrip().startswith(("#", "import", "from")):
                continue
            words = shlex.split(line, comments=True)
            starts = [k for k, word in enumerate(words) if word == "fastssl"]
            for start, stop in zip(starts, [*starts[1:], len(words)]):  # torchrun -m fastssl ..., ... && fastssl ...
                found.append([word for word in words[start + 1 : stop] if word != "&&"])
    return list(map(list, dict.fromkeys(map(tuple, found))))


@functools.cache
def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_are_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", _prose(page)):
        place, _, anchor = target.partition("#")
        there = (page.parent / place).resolve() if place else page
        if "docs/api/" not in str(there):  # which the site's build writes
            assert there.exists(), target
            assert not anchor or anchor in _anchors(there), target
    folders = "docs|fastssl|benchmarks|csrc|tests|kernels"
    for file in re.findall(rf"`(?:python )?((?:{folders})/[\w\-./]+\.\w+)[ `]", _prose(page)):
        assert (ROOT / file).exists() or PLACEHOLDER.search(Path(file).stem), file


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_has_these_options(command: list[str]) -> None:
    name, *arguments = command
    with PROGRAM.commands[name].make_context(name, arguments, resilient_parsing=False) as context:
        assert not context.args  # nothing is left over
    given = context.params
    if name == "pretrain" and given["method"] != "word2vec" and not PLACEHOLDER.fullmatch(given["method"]):
        method_settings(given["method"], given["encoder"], given["set_"] or [])
    if name == "evaluate":
        assert given["protocol"] in {"frozen", *PROTOCOLS, *DENSE_PROTOCOLS, *IMAGE_TEXT_PROTOCOLS, *TEXT_PROTOCOLS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_the_text_are_there(page: Path) -> None:
    """Of ``fastssl COMMAND --option`` those of the command, of ``--option`` alone those of any, or of a benchmark."""
    options = {name: {o for p in command.params for o in p.opts} for name, command in PROGRAM.commands.items()}
    scripts = "\n".join(file.read_text() for file in (ROOT / "benchmarks").glob("*.py"))
    known = {"--version", "--debug", "--help", *re.findall(r'"(--[\w-]+)"', scripts)}.union(*options.values())
    known |= {f"--no-{option[2:]}" for option in known}
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _prose(page)):
        words = code.split()
        if not words or not (words[0] == "fastssl" or words[0].startswith("--")):
            continue
        given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        if words[0] == "fastssl" and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            assert words[1] in options or words[1].startswith("--"), code
            if words[1] in options and words[1] != "doctor":  # whose further words are those of a script
                assert given <= options[words[1]], code
        else:
            assert given <= known, code
