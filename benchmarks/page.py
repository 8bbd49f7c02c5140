"""Write the tables of docs/benchmarks.md from the JSON files that the benchmarks left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.measure import PLAIN, Line, cells

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
HEADS = ("work", "unit", PLAIN, "here", "ratio", "lowest to highest", "wanted", "")


def main() -> None:
    """Put each benchmark's table between its two marks; the text around them stays."""
    text = PAGE.read_text(encoding="utf-8")
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if path.stem == "gpu" and result.get("device") == "cpu":
            continue  # a trial of that benchmark, which says nothing about a GPU
        marks = f"<!-- {path.stem} -->", f"<!-- end of {path.stem} -->"
        pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
        table = table_of(result)
        whole = f"{marks[0]}\n{table}\n{marks[1]}"
        text = pattern.sub(lambda _, whole=whole: whole, text)  # type: ignore[misc]
    PAGE.write_text(text, encoding="utf-8")


def table_of(result: dict[str, Any]) -> str:
    """One benchmark's machine, lines and other figures as Markdown."""
    facts = result.pop("machine")
    result.pop("benchmark")
    lines = [Line(**line) for line in result.pop("lines")]
    where = (
        f"{facts['processor']}, {facts['processors']} processors, {facts['threads']} threads, "
        f"{facts['system']}, Python {facts['python']}, torch {facts['torch']}, "
        f"inceptcli {facts['inceptcli']}, {facts['date']}."
    )
    rows = [HEADS, (":--", ":--", *["--:"] * 5, ":--"), *map(cells, lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows) if lines else ""
    others = "\n".join(f"- {name}: {_shown(value)}" for name, value in result.items())
    return "\n\n".join(part for part in (where, table, others) if part)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
