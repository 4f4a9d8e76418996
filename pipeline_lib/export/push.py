"""Push of a model to the Hugging Face hub: its files, card included, as one commit, by the hub's own client.

One commit, so that whoever loads the repository gets the model before or the model after. Files that are there already are not
sent again, whether an interrupted push left them or an earlier one; where all are, no commit is made.

The login is the client's own (`HF_TOKEN`, or what `hf auth login` left), the address is that of `HF_ENDPOINT`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.export.card import FILE as CARD
from pipeline_lib.runtime.progress import Progress, silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
IGNORE_NOTHING = "# nothing\n"
RESERVED = ("api", "buckets", "collections", "datasets", "docs", "kernels", "models", "organizations", "papers", "spaces")
REVISION = re.compile(r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[\w][\w./-]*(?<![./-])", re.ASCII)
MOST_REVISION_CHARACTERS = 200
WEIGHTS = (".safetensors", ".onnx", ".onnx.data", ".onnx_data", ".bin")
AGAIN = (408, 412, 425, 429)  # too slow, or somebody else's commit came first, or too often: the same push goes on


@dataclass(frozen=True)
class Destination:
    """Where a model goes.

    Attributes:
        repo: NAMESPACE/NAME, or NAME alone for one of the login's own.
        revision: the branch; made where it is not there.
        public: whether a new repository can be seen by everybody, and whether one that can be may be pushed to.
    """

    repo: str
    revision: str = MAIN
    public: bool = False

    def __post_init__(self) -> None:
        """Look whether the hub would take the names.

        Raises:
            UserError: it would not; the message says what it takes.
        """
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            if not self.repo:
                raise HFValidationError("Repo id is empty.")
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise UserError(f"{self.repo!r} is no name of a repository, give NAMESPACE/NAME: {error}") from error
        if (first := self.repo.partition("/")[0].lower()) in RESERVED:
            raise UserError(f"{self.repo!r}: {first!r} is a place of the hub itself; give NAMESPACE/NAME")
        if not REVISION.fullmatch(self.revision) or len(self.revision) > MOST_REVISION_CHARACTERS:
            raise UserError(f"{self.revision!r} is no name of a branch: letters, digits and . _ - / between them")


@dataclass(frozen=True)
class Pushed:
    """What became of a push.

    Attributes:
        repo: its whole name.
        address: the page of the commit.
        commit: the revision's commit now.
        is_new: whether this push made it; else all files were there already.
        removed: files of an earlier model, which this one does not have.
    """

    repo: str
    address: str
    commit: str
    is_new: bool
    removed: tuple[str, ...] = ()


def push(files: Mapping[str, Path], to: Destination, message: str, progress: Progress = silent) -> Pushed:
    """Bring a repository's revision to these files; it is made where it is not there, private unless asked otherwise.

    Files of an earlier model are removed (`stale_files`), all others stay.

    Args:
        files: name in the repository to file.
        message: of the commit.

    Raises:
        UserError: there is no card among the files, no login, or no right to write there; or the repository can be seen by
            everybody, and that was not asked for.
        TransientError: the hub does not answer; what it has by then is not sent again.
    """
    if CARD not in files:
        raise UserError(f"no {CARD} among the files: a model is not pushed without its card")
    with _told(to.repo):
        return _push(files, to, message, progress)


def _push(files: Mapping[str, Path], to: Destination, message: str, progress: Progress) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=True, library_name="cpt-factory")  # True: a login, or an error that says so
    progress(0, 1, f"{to.repo}: asking the hub")
    repo = str(api.create_repo(to.repo, private=not to.public, exist_ok=True).repo_id)
    before, there = _looked_at(api, repo, to)
    stale = stale_files(there, files)
    added = [CommitOperationAdd(name, str(path)) for name, path in sorted(files.items())]
    removed = [CommitOperationDelete(name) for name in stale]
    progress(0, 1, f"{repo}: sending what is not there yet")
    # a .gitignore that lies in the repository would have files left out in silence: it is told that there is none
    api.preupload_lfs_files(repo, added, revision=to.revision, free_memory=False, gitignore_content=IGNORE_NOTHING)
    operations: list[Any] = [*added, *removed]
    made = api.create_commit(repo, operations, commit_message=message, revision=to.revision, parent_commit=before or None)
    _check_whole(api, repo, str(made.oid), files)
    progress(1, 1, f"{repo}: done")
    return Pushed(repo, str(made.commit_url), str(made.oid), made.oid != before, tuple(stale))


def _check_whole(api: HfApi, repo: str, commit: str, files: Mapping[str, Path]) -> None:
    """Look whether every file is there now.

    Raises:
        UserError: the hub left some out.
    """
    there = {file.rfilename for file in api.model_info(repo, revision=commit).siblings or ()}
    if missing := sorted(set(files) - there):
        raise UserError(
            f"{repo} at {commit}: the hub left out {len(missing)} of {len(files)} files ({', '.join(missing[:5])}): who loads"
            " it gets no whole model; take away what in the repository forbids them, and push again"
        )


def _looked_at(api: HfApi, repo: str, to: Destination) -> tuple[str, list[str]]:
    """Commit and files of the revision, which is made where it is not there.

    Raises:
        UserError: everybody can see the repository, or may, and that was not asked for.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    found = api.model_info(repo)
    if not found.private and not to.public:  # nor to one of which nobody says who can see it
        if found.private is False:
            raise UserError(f"{repo} is there already and everybody can see it; --public says that this is meant")
        raise UserError(f"{repo}: the hub does not say that it is private; --public says that this is meant")
    if to.revision != MAIN:
        try:
            found = api.model_info(repo, revision=to.revision)
        except RevisionNotFoundError:
            api.create_branch(repo, branch=to.revision, exist_ok=True)
            found = api.model_info(repo, revision=to.revision)
    return str(found.sha or ""), [file.rfilename for file in found.siblings or ()]


def stale_files(there: Sequence[str], files: Mapping[str, Path]) -> list[str]:
    """Files of a repository that an earlier model left: weights, and what lies in a folder of the model, under other names.

    Whoever loads the repository might take them for a part of the new one.
    """
    folders = {PurePosixPath(name).parts[0] for name in files if "/" in name}
    return sorted(
        name for name in there if name not in files and (name.endswith(WEIGHTS) or PurePosixPath(name).parts[0] in folders)
    )


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Errors of the hub's client as ours."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    login = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    try:
        yield
    except UserError:
        raise
    except LocalTokenNotFoundError as error:
        raise UserError(f"{repo}: no login for the hub; {login}") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"{repo}: the hub is switched off here (HF_HUB_OFFLINE)") from error
    except HfHubHTTPError as error:
        raise _of_answer(repo, error.response.status_code, error.server_message or str(error), login) from error
    except PermissionError as error:  # of the hub's storage
        raise UserError(f"{repo}: the hub refuses this login ({error}); {login}") from error
    except (HTTPError, OSError, RuntimeError) as error:
        raise TransientError(f"{repo}: the hub does not answer ({error}); run it again, it goes on") from error
    except ValueError as error:
        raise UserError(f"{repo}: the hub refuses it ({_line(str(error))})") from error


def _of_answer(repo: str, code: int, said: str, login: str) -> UserError | TransientError:
    if code in (401, 403):
        return UserError(f"{repo}: the hub refuses this login ({code}: {_line(said)}); {login}")
    if code in AGAIN or code >= 500:
        return TransientError(f"{repo}: the hub answered {code} ({_line(said)}); run it again, it goes on")
    return UserError(f"{repo}: the hub refuses it ({code}: {_line(said)})")


def _line(text: str) -> str:
    return " ".join(text.split())
