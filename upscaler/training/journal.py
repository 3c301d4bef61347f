"""What a run has found out so far, so that the next one need not find it out again."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from upscaler.saving import explained
from upscaler.training.inspection import Inspection
from upscaler.training.shards import write_file
from upscaler.training.sources import Source

JOURNAL = ".inspected.jsonl"


class Journal:
    """Inspections by source, in a file that grows line by line; a context manager.

    Findings under other rules are forgotten, and so is a last line that was cut off.

    Args:
        path: of the file.
        rules: anything that the findings depend on beside the source, as one word.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, rules: str) -> None:
        self._path = path
        self._found: dict[tuple[str, tuple[str, ...]], Inspection] = {}
        first = json.dumps({"rules": rules})
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        if lines and lines[0] == first:
            for line in lines[1:]:
                try:
                    self._remember(Inspection.from_json(json.loads(line)))
                except (ValueError, TypeError, KeyError):
                    break
        kept = [first, *(_line(inspection) for inspection in self._found.values())]
        write_file(path, ["".join(f"{line}\n" for line in kept).encode()])

    def __enter__(self) -> Self:
        with explained(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with explained(self._path):
            self._file.close()

    def find(self, source: Source) -> Inspection | None:
        """What is known of a source with these digests."""
        return self._found.get((source.name, source.digests))

    def add(self, inspection: Inspection) -> None:
        """Note a finding; it is safe from a kill, though not from a power cut, when this returns.

        Raises:
            UserError: it cannot be written.
        """
        self._remember(inspection)
        with explained(self._path):
            self._file.write(_line(inspection) + "\n")
            self._file.flush()

    def _remember(self, inspection: Inspection) -> None:
        self._found[inspection.name, inspection.digests] = inspection


def _line(inspection: Inspection) -> str:
    return json.dumps(inspection.as_json(), separators=(",", ":"))
