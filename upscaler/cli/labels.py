"""What models, and folders of results beside them, are called in a table or a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer


def labelled(folders: Sequence[str], models: Sequence[str], *taken: str) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders of results and models by the names of their rows.

    A label that is given counts. Without one a folder has its own name, a file of weights that without suffix
    (where several would be called the same, behind the nearest folder above that tells them all apart), and any
    other model the name it was asked for by.

    Args:
        folders: ``[LABEL=]DIR``; one whose own name has a = in it needs no label.
        models: ``[LABEL=]NAME``, in the same way.
        taken: names of other rows.

    Raises:
        BadParameter: two rows would have one name.
    """
    parted_folders, parted_models = [_parted(text) for text in folders], [_parted(text) for text in models]
    short = iter(short_names([name for label, name in parted_models if not label]))
    named_folders = [(label or Path(folder).resolve().name, Path(folder)) for label, folder in parted_folders]
    named_models = [(label or next(short), name) for label, name in parted_models]
    names = Counter([*taken, *(label for label, _ in named_models), *(label for label, _ in named_folders)])
    if twice := sorted(name for name, count in names.items() if count > 1):
        example = "-m mine=FILE or --pictures mine=DIR" if folders else "-m mine=FILE"
        raise typer.BadParameter(f"{twice[0]!r} would name two rows; give one a label, as in {example}")
    return dict(named_folders), dict(named_models)


def short_names(models: Sequence[str]) -> list[str]:
    """Models as ``labelled`` calls those without a label."""
    files = [Path(name) for name in models if Path(name).is_file()]
    short = dict(zip(map(str, files), _short(files), strict=True))
    return [short.get(str(Path(name)), name) for name in models]


def _parted(text: str) -> tuple[str, str]:
    """The label, empty if there is none, and what it is of; a label has no slash."""
    label, separator, rest = text.partition("=")
    return (label, rest) if separator and Path(label).name == label and not Path(text).exists() else ("", text)


def _short(files: Sequence[Path]) -> list[str]:
    """The stem of each file; where it repeats, with a folder that tells them apart, else the file as it is."""
    whole = [file.parent.resolve() / file.name for file in files]
    return [_told_apart(path, [each for each in whole if each.stem == path.stem]) or str(file)
            for file, path in zip(files, whole, strict=True)]  # fmt: skip


def _told_apart(path: Path, alike: Sequence[Path]) -> str | None:
    if len(alike) == 1:
        return path.stem
    for level in range(min(len(each.parents) for each in alike) - 1):
        if len({each.parents[level].name for each in alike}) == len(alike):
            return f"{path.parents[level].name}/{path.stem}"
    return None
