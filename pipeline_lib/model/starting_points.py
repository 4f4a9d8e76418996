"""Where a run starts from: the folder of a causal language model, here already or fetched from the hub on demand."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.model.weights import count_weights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WANTED = ("*.json", "*.safetensors")  # no pickled weights, no code


def find_start(init: str, download: bool = False) -> str:
    """The folder that `init` means: itself, or the snapshot of a hub id in the hub's own cache.

    Args:
        init: a folder, or the id of a model on the hub, as EleutherAI/pythia-70m. Empty: no start, and an empty answer.
        download: whether what is not in the cache may be fetched; without it nothing is asked of the network.

    Raises:
        UserError: there is no such folder, and no such model in the cache (or on the hub), or the hub does not answer.
    """
    if not init or Path(init).is_dir():
        return init
    if not HUB_ID.fullmatch(init):
        raise UserError(f"init {init!r}: no such folder; expected that of a causal language model (config.json, *.safetensors)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        return snapshot_download(init, allow_patterns=list(WANTED), local_files_only=not download)
    except (RepositoryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(f"init {init!r}: not on the hub, or the hub is switched off: {_first_line(error)}") from error
    except LocalEntryNotFoundError as error:
        if download:
            raise UserError(f"init {init!r}: the hub does not answer ({_first_line(error)}); run it again") from error
        raise UserError(
            f"init {init!r}: no such folder, and no such model in the hub's cache; nothing is fetched unasked: give --download "
            f"(`download` in a flow's form), or run `hf download {init}` on this machine; for random weights instead give "
            "--init random"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"init {init!r}: the hub does not answer ({_first_line(error)}); run it again") from error


def start_weights(init: str) -> int | None:
    """Weights of a start that is on this machine already, its head for words included; None: none is given, or not here.

    Raises:
        CorruptArtifact: a file of weights is malformed.
    """
    try:
        folder = find_start(init)
    except UserError:
        return None  # whoever needs the folder itself is told why it is not there
    return (count_weights(Path(folder)) or None) if folder else None


def start_name(folder: str) -> str:
    """What a start is called in cards and reports: the hub's id and revision, or the folder's own name."""
    parts = Path(folder).parts
    if len(parts) > 3 and parts[-2] == "snapshots":
        return f"{parts[-3].removeprefix('models--').replace('--', '/')} at {parts[-1][:8]}"
    return Path(folder).name


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
