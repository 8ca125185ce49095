"""Datasets in folders of this machine, for commands that ask no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgectl.errors import LocalError

if TYPE_CHECKING:
    from edgectl_datasets.folders import Folder

__all__ = ["open_dataset", "verify_blobs"]


def open_dataset(path: Path) -> Folder:
    """Return the dataset in a folder, with its id proved.

    Raises:
        LocalError: ``dataset.extra``: the packages are missing; ``dataset.folder``.
    """
    try:
        from edgectl_datasets.errors import BadDataset
        from edgectl_datasets.folders import open_folder
    except ImportError as error:
        raise LocalError(
            "dataset.extra",
            f"reading datasets needs {error.name}, which is not installed",
            "pip install 'edgectl[datasets]'",
        ) from error
    try:
        return open_folder(path)
    except BadDataset as error:
        raise _no_dataset(path, error.code, str(error)) from error


def verify_blobs(folder: Folder) -> int:
    """Check every sample of a dataset; return how many blobs there are.

    Raises:
        LocalError: ``dataset.folder``.
    """
    from edgectl_datasets.errors import BadDataset
    from edgectl_datasets.fitting import misfit_of

    names = set()
    try:
        for row, _, arrays in folder.samples():
            names.add(row.blob)
            if misfit := misfit_of(arrays, folder.dataset.inputs):
                detail = f"the sample {row.sample} is none of it: {misfit}"
                raise _no_dataset(folder.path, "dataset.blob", detail)
    except BadDataset as error:
        raise _no_dataset(folder.path, error.code, str(error)) from error
    return len(names)


def _no_dataset(path: Path, code: str, detail: str) -> LocalError:
    return LocalError(
        "dataset.folder",
        f"{path} is not the dataset that it says it is ({code}): {detail}",
        "export it again: `edgectl dataset export NAME`",
    )
