"""Where a run's artifacts lie, and what it was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.parameters import RunParams
from pipeline_lib.config.run import RunConfig
from pipeline_lib.model.checkpoint import find_start
from pipeline_lib.runtime.machine import artifact_home, writable_home
from pipeline_lib.store.store import Store


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
        UserError: the artifact root cannot be written to, this machine is too small, or there is no such model to start from.
    """
    home = writable_home()
    config = params.resolve()
    if trains:
        folder = find_start(config.model.init, params.download)
        config = params.resolve()  # again: rates go by the size of a start that may have been fetched just now
        config = config.model_copy(update={"model": config.model.model_copy(update={"init": folder})})
    return Workspace(home=home, store=open_store(params.artifacts), config=config)
