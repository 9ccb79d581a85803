"""The table of faults names, for each, the test that proves it; here the names are held.

docs/failures.md has one table per group. A row is a number (with a letter for another side
of the same fault), the fault, what happens, and the tests; or why there can be none here.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import tree

PAGE = Path("docs/failures.md")
COLUMNS = ("#", "fault", "what happens", "proof")
NOT_HERE = "Not tested here:"
# Shorter than this is no reason.
REASON = 40
LEAST_ROWS = 72

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_NUMBER = re.compile(r"(\d+)([a-z]*)")


@dataclass(frozen=True)
class Row:
    """One line of the table; `number` is 57 of `57c`, `letter` the c."""

    number: int
    letter: str
    fault: str
    happens: str
    proof: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        """File and function of each test that is named."""
        return _TEST.findall(self.proof)


def rows(text: str) -> list[Row]:
    """The rows of every table of the page; AssertionError for a line that is none."""
    found = []
    for line in text.splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        if cells == list(COLUMNS) or set(line) <= set("|- "):
            continue
        assert len(cells) == len(COLUMNS), f"not four cells: {line}"
        number = _NUMBER.fullmatch(cells[0])
        assert number, f"no number: {line}"
        found.append(Row(int(number[1]), number[2], *cells[1:]))
    return found


def problems(table: list[Row]) -> list[str]:
    """What is wrong with the table, one sentence each."""
    wrong = []
    before = Row(0, "", "", "", "")
    for row in table:
        name = f"{row.number}{row.letter}"
        if not row.fault or not row.happens:
            wrong.append(f"{name}: an empty cell")
        if (row.number, row.letter) not in _after(before):
            wrong.append(f"{name} does not follow {before.number}{before.letter}")
        wrong += [f"{name}: {each}" for each in _unproved(row)]
        before = row
    return wrong


def _after(row: Row) -> set[tuple[int, str]]:
    """What may come next: the next number, or the next letter of the same."""
    letter = chr(ord(row.letter) + 1) if row.letter else "b"
    return {(row.number + 1, ""), (row.number, letter)}


def _unproved(row: Row) -> list[str]:
    if row.proof.startswith(NOT_HERE):
        reason = _TEST.sub("", row.proof.removeprefix(NOT_HERE))
        short = len(reason.strip()) < REASON
        return ["no reason why it is not tested"] * short + _absent(row)
    rest = _TEST.sub("", row.proof).strip(" ,;·")
    if not row.tests or rest:
        return [f"the proof is not a list of tests: {row.proof or 'nothing'}"]
    return _absent(row)


def _absent(row: Row) -> list[str]:
    return [
        f"there is no {file}::{name}"
        for file, name in row.tests
        if name not in functions(file)
    ]


@functools.cache
def functions(file: str) -> frozenset[str]:
    """The test functions at the top of a file, empty when there is no such file."""
    path = tree.CHECKOUT / file
    if not path.exists():
        return frozenset()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in body if isinstance(node, kinds))


def test_every_fault_has_a_test_that_exists() -> None:
    table = rows((tree.CHECKOUT / PAGE).read_text(encoding="utf-8"))
    assert problems(table) == []
    assert max(row.number for row in table) >= LEAST_ROWS


def test_the_page_is_linked() -> None:
    for page, link in (("README.md", str(PAGE)), ("docs/operating.md", PAGE.name)):
        text = (tree.CHECKOUT / page).read_text(encoding="utf-8")
        assert f"]({link}" in text, f"{page} does not link to {link}"


HERE = "`tests/test_failures.py::test_the_page_is_linked`"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([f"| 1 | a | b | {HERE} |", f"| 1b | a | b | {HERE}, {HERE} |"], ""),
        (["| 1 | a | b | `tests/test_failures.py::test_gone` |"], "there is no"),
        (["| 1 | a | b | `tests/test_none.py::test_gone` |"], "there is no"),
        (["| 1 | a | b | |"], "not a list of tests: nothing"),
        ([f"| 1 | a | b | trust us {HERE} |"], "not a list of tests"),
        (["| 1 | a | b | Not tested here: no. |"], "no reason"),
        ([f"| 1 | a | b | Not tested here: {'why ' * 12} {HERE} |"], ""),
        ([f"| 1 | a | | {HERE} |"], "an empty cell"),
        ([f"| 2 | a | b | {HERE} |"], "2 does not follow 0"),
        ([f"| 1 | a | b | {HERE} |", f"| 1 | c | d | {HERE} |"], "does not follow"),
        ([f"| 1 | a | b | {HERE} |", f"| 1c | c | d | {HERE} |"], "does not follow"),
    ],
)
def test_the_rule_sees(lines: list[str], complaint: str) -> None:
    found = problems(rows("\n".join(lines)))
    assert (not found) if not complaint else complaint in " ".join(found)


@pytest.mark.parametrize("line", [f"| 1 | a | {HERE} |", f"| x | a | b | {HERE} |"])
def test_a_row_without_number_or_cells_is_no_row(line: str) -> None:
    with pytest.raises(AssertionError, match=r"no number|not four cells"):
        rows(line)
