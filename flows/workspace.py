"""Where a run's artifacts lie, and what it was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.parameters import RunParams
from pipeline_lib.artifact import Store
from pipeline_lib.config import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.hardware import free_disk_bytes
from pipeline_lib.home import artifact_home
from pipeline_lib.model.starting_points import find_start

NEEDED_DISK_BYTES = 2 * 1024**3  # the demo leaves 0.6 GB; Dask and the shards want room to work


@dataclass(frozen=True)
class Workspace:
    """The artifact root of this machine, the store, and the whole configuration of a run."""

    home: Path
    store: Store
    config: RunConfig

    @property
    def report_folder(self) -> Path:
        """Where report.json and report.html of this run go."""
        return self.home / "reports" / self.config.name


def open_store(artifacts: str = "") -> Store:
    """The store at a URL or path; below the artifact root where none is given."""
    return Store.at(artifacts or str(artifact_home() / "store"))


def open_workspace(params: RunParams, trains: bool = True) -> Workspace:
    """The workspace of these parameters.

    Args:
        trains: whether a run may have to be made: the model that it starts from is looked for.

    Raises:
        UserError: the disk is nearly full, or there is no such model to start from.
    """
    home = artifact_home()
    free = free_disk_bytes(home)
    if free < NEEDED_DISK_BYTES:
        raise UserError(
            f"{home}: {free / 1e9:.1f} GB free, a run needs {NEEDED_DISK_BYTES / 1e9:.1f} GB; "
            "free some, or point CPT_HOME at another disk"
        )
    config = params.resolve()
    if trains:
        folder = find_start(config.model.init, params.download)
        config = params.resolve()  # again: rates go by the size of a start that may have been fetched just now
        config = config.model_copy(update={"model": config.model.model_copy(update={"init": folder})})
    return Workspace(home=home, store=open_store(params.artifacts), config=config)
