"""Write docs/reference/options.md: every option of the command line and of ``serve()``.

Run it after a change of ``bridges/server/config.py`` or ``bridges/server/command.py``.
"""

from __future__ import annotations

from pathlib import Path

from bridges.server.command import OWN_OPTIONS, all_options, default_text
from bridges.server.config import Option

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "options.md"

INTRODUCTION = """\
# Options

<!-- Made by tests/tools/options_page.py from bridges/server/config.py and bridges/server/command.py. -->

An option is typed (`bridges main:app --port 8080`), or set by its variable (`BRIDGES_PORT=8080`); what is typed wins.
For `bridges.serve()` and `bridges.Server` it is an argument of the same name with underscores: `serve(app, port=8080)`.
Those two read no variables.

- Sizes are whole numbers of bytes. Times are seconds, and may be fractions.
- Where the default is `none`, there is no limit or no value; `none` can be typed as well, also to undo a variable.
- A switch is typed as `--factory` or `--no-factory`; its variable takes `true`, `yes`, `on` or `1`,
  and `false`, `no`, `off` or `0`.
- A wrong value ends the start with one sentence and exit status 2.

A password on a command line can be read by every user of the machine: set `BRIDGES_KEYFILE_PASSWORD` instead.
"""

OWN = """
The options {names} belong to the command line alone.
"""


def page() -> str:
    """Give the text of the page."""
    groups: dict[str, list[Option]] = {}
    for option in all_options():
        groups.setdefault(option.group, []).append(option)
    names = [f"`{option.flag}`" for option in OWN_OPTIONS]
    own = OWN.format(names=f"{', '.join(names[:-1])} and {names[-1]}")
    return INTRODUCTION + own + "".join(_table(*group) for group in groups.items())


def _table(title: str, options: list[Option]) -> str:
    rows = "".join(map(_row, options))
    return (
        f"\n## {title}\n\n| option | default | what it is | variable |\n|---|---|---|---|\n{rows}"
    )


def _row(option: Option) -> str:
    flag = f"`{option.flag}`"
    if option.kind is bool:
        flag += f", `--no-{option.flag[2:]}`"
    text = option.text.replace("|", r"\|").replace("*", r"\*")
    if option.choices:
        text += f": {', '.join(f'`{choice}`' for choice in option.choices)}"
    return f"| {flag} | {default_text(option)} | {text} | `{option.variable}` |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
