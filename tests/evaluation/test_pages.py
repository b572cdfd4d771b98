"""The pages of this room: every command on them is one that the command line takes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ganaug.cli import main

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
COMMAND = re.compile(rf"^(?: {{4}})?(ganaug (?:{'|'.join(main.commands)}) .*)$", re.MULTILINE)


@pytest.mark.parametrize("page", ["study", "evaluate", "translate"])
def test_the_commands_of_a_page_are_accepted(page: str) -> None:
    found = COMMAND.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))
    assert found
    for line in found:
        _, name, *arguments = shlex.split(line, comments=True)
        command = main.get_command(click.Context(main), name)
        assert command is not None, line
        command.make_context(name, arguments)  # raises UsageError


def test_the_page_on_translation_begins_with_a_training_to_paste() -> None:
    found = COMMAND.findall((PAGES / "translate.md").read_text(encoding="utf-8"))
    assert found[0].startswith("ganaug fit ")
    assert all(option in found[0] for option in ("--model cyclegan", "--rule class", "--out runs/lesions"))
