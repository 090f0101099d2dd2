"""The Hugging Face Hub: where a finished folder goes."""

from __future__ import annotations

from pathlib import Path

from cahp_plugin.errors import CheckpointError, ConfigError


def check_repository(repo_id: str) -> None:
    """Checks the name of a repository, before work is put into what goes there.

    Raises:
        ConfigError: The Hub does not take such a name.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"`repo_id` must be a name like `user/model`, got {repo_id!r}: {error}") from error


def upload(folder: Path, repo_id: str, *, private: bool | None, token: str | bool | None) -> None:
    """Uploads a finished folder as one commit; the repository is made where there is none.

    Args:
        folder: The folder.
        repo_id: ``user/model`` or ``model``.
        private: Whether a new repository is private; the account's default without it.
        token: As in ``huggingface_hub``.

    Raises:
        CheckpointError: The upload failed; the folder is whole.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="cahp-plugin")
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload pruned model")
    except Exception as error:  # huggingface_hub 0.x and later ones pass different HTTP clients' errors on
        raise CheckpointError(
            f"{folder} is saved and whole, but its upload to {repo_id!r} failed: {error} Upload it again with "
            f"`huggingface_hub.HfApi().upload_folder(repo_id=..., folder_path=...)`."
        ) from error
