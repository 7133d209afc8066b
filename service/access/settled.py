"""The administrator's token that comes from the settings: a first way in where a database has no token yet."""

from __future__ import annotations

from pydantic import ValidationError

from fixnorm_core.errors import FixNormError
from service.access.tokens import digest_of
from service.settings import Settings

__all__ = ["AdminTokenError", "administrator_of"]


class AdminTokenError(FixNormError):
    """The file of the administrator's token has none."""

    code = "admin_token"


def administrator_of(settings: Settings) -> str | None:
    """The digest of the administrator's token; None when the settings name none.

    Raises:
        AdminTokenError: If its file cannot be read, or what is in it is no token.
    """
    token = settings.admin_token
    if (path := settings.admin_token_file) is not None:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AdminTokenError(
                f"admin_token_file {path} cannot be read: {error}", "Correct FIXNORM_ADMIN_TOKEN_FILE"
            ) from error
        try:
            token = Settings(admin_token=text, admin_token_file=None).admin_token
        except ValidationError as error:
            rule = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise AdminTokenError(f"the token in {path}: {rule}", "Write another one into the file") from None
        if token is None:
            raise AdminTokenError(f"admin_token_file {path} is empty", "Write a token into it: openssl rand -hex 32")
    return digest_of(token.get_secret_value()) if token is not None else None
