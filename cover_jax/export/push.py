"""Pushes an exported model to the Hugging Face hub."""

import pathlib
import re

import huggingface_hub
from huggingface_hub import errors as hub_errors

from data_pipelines.command_line import UsageError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_TOKEN = "`hf auth login`, or HF_TOKEN, gives the hub's client a token that may write"


def check(repository: str) -> None:
    """Refuses what cannot be pushed, before anything is exported.

    Raises:
        UsageError: the name is not ORG/REPO, or the hub's client has no token.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"--push_to={repository}: must be ORG/REPO")
    if not huggingface_hub.get_token():
        raise UsageError(f"--push_to={repository}: needs a token: {_TOKEN}")


def push(folder: str, repository: str, public: bool) -> str:
    """Creates the repository if it is missing, uploads all files of a local folder in one commit, returns its address.

    Args:
        folder: with the exported model and its card.
        repository: ORG/REPO.
        public: whether a new repository is public; one that exists stays as it is.

    Raises:
        UsageError: the hub refuses it, or cannot be reached.
    """
    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(repository, private=not public, exist_ok=True)
        additions = [
            huggingface_hub.CommitOperationAdd(path.name, path) for path in sorted(pathlib.Path(folder).iterdir())
        ]
        api.create_commit(repository, additions, commit_message="Model exported by cover-jax")
    except hub_errors.HfHubHTTPError as error:
        raise UsageError(f"--push_to={repository}: {_reason(error)}") from error
    except Exception as error:  # of the client's HTTP library, which has changed before
        raise UsageError(
            f"--push_to={repository}: the hub cannot be reached: {type(error).__name__}: {error}"
        ) from error
    return str(url)


def _reason(error: hub_errors.HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the hub does not accept the token (401): {_TOKEN}"
    if status == 403:
        return "the token may not write there (403): is it yours, or an organisation whose member you are?"
    if status == 404:
        return "the hub knows no such user or organisation (404)"
    return f"the hub answers {status}: {error.server_message or error}"
