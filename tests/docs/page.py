"""Take the code out of a page, run its shell sessions, and compare what they show.

A block of ``console`` is a session: a line that begins with ``$ `` is a command, one that
begins with ``> `` goes on with it, and the rest is what it shows. A block with a title
is a file of that name. In what is shown, ``…`` stands for any text within a line, and a
line that is only ``…`` for any number of lines. A command that shows nothing is run and
not compared. A command that fails is followed by ``echo $?``.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
ANY = "…"
#: Stands where no output can: between two commands.
_MARK = "\x1e"
_ASKS_STATUS = "echo $?"


@dataclass(frozen=True)
class Block:
    """A fenced block: language, title (``""`` if it has none), text, line in the page, and its section."""

    language: str
    title: str
    text: str
    line: int
    section: str = ""


@dataclass(frozen=True)
class Command:
    """A command of a session and what the page shows of it (``""`` for nothing)."""

    text: str
    shown: str
    line: int


def blocks(page):
    """Return the fenced blocks of a page of ``docs/``, in order."""
    found, opened, lines, section = [], None, [], ""
    for number, line in enumerate((DOCS / page).read_text(encoding="utf-8").splitlines(), start=1):
        if opened is None and line.startswith("```"):
            words = re.fullmatch(r'```(\w*)(?: title="([^"]+)")?', line)
            assert words, f"{page}:{number}: not the head of a block: {line}"
            opened, lines = (words[1], words[2] or "", number), []
        elif opened is not None and line == "```":
            language, title, start = opened
            found.append(Block(language, title, "".join(f"{line}\n" for line in lines), start, section))
            opened = None
        elif opened is not None:
            lines.append(line)
        elif line.startswith("## "):
            section = line[3:]
    assert opened is None, f"{page}: the block of line {opened[2]} has no end"
    return found


def commands(block):
    """Return the commands of a session."""
    found = []
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        if line.startswith("$ "):
            found.append(Command(line[2:], "", number))
            continue
        assert found, f"line {number}: shown before any command"
        last = found[-1]
        if line.startswith("> ") and not last.shown:
            found[-1] = Command(f"{last.text}\n{line[2:]}", "", last.line)
        else:
            found[-1] = Command(last.text, f"{last.shown}{line}\n", last.line)
    return found


def matches(shown, output):
    """Tell whether a command's output is what the page shows."""
    pattern = ""
    for line in shown.splitlines():
        within = ".*".join(re.escape(part) for part in line.split(ANY))
        pattern += r"(?:.*\n)*?" if line == ANY else rf"{within}[ ]*\n"
    # A command may leave its last line open.
    ended = output if output.endswith("\n") or not output else f"{output}\n"
    return re.fullmatch(pattern, ended) is not None


def play(parts, folder, environment, timeout_s):
    """Run blocks of a page in one shell; return (command, output, status) for each command.

    Args:
        parts: The blocks: sessions are run, files written where the shell is by then, the rest left out.
        folder: Where the shell starts.
        environment: All of its environment.
        timeout_s: Longest that they may take together.
    """
    script, played = ["exec 2>&1"], []
    for block in parts:
        if block.title:
            script.append(f"cat > '{block.title}' <<'END_OF_FILE'\n{block.text}END_OF_FILE")
        elif block.language == "console":
            for command in commands(block):
                played.append(command)
                # The status is handed on, for the page may ask for it next.
                mark = f"printf '{_MARK}%s{_MARK}' $status_; (exit $status_)"
                script.append(f"{command.text}\nstatus_=$?; {mark}")
    done = subprocess.run(
        ["/bin/bash", "-c", "\n".join(script)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
        timeout=timeout_s,
    )
    told = done.stdout.split(_MARK)
    assert len(told) == 2 * len(played) + 1, f"the shell ended early:\n{done.stdout}\n{done.stderr}"
    return list(zip(played, told[0::2], map(int, told[1::2]), strict=False))


def hold(page, played):
    """Fail if the output or the status of a command is not what the page says; tell of all that are not."""
    faults = []
    for number, (command, output, status) in enumerate(played):
        where = f"{page}:{command.line}: $ {command.text}"
        following = played[number + 1][0].text if number + 1 < len(played) else ""
        if status and following != _ASKS_STATUS:
            faults.append(f"{where}\nexited with {status}:\n{output}")
        elif command.shown and not matches(command.shown, output):
            faults.append(f"{where}\nthe page shows:\n{command.shown}\nit said:\n{output}")
    assert not faults, "\n\n".join(faults)
