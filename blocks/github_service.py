"""GitHub, or a GitHub Enterprise server: an organization's repositories and what is in them."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.github_answers import (
    GitHubAnswerUnusable,
    GitHubError,
    GitHubRefused,
    GitHubUnavailable,
    Misfit,
    Repository,
    RepositoryPage,
    TreeFile,
)
from blocks.github_app import App, pem
from blocks.github_session import GitHubSession
from blocks.outgoing import BACKOFF, Address, Backoff, fits_into_a_header, tls

__all__ = [
    "GitHub",
    "GitHubAnswerUnusable",
    "GitHubError",
    "GitHubRefused",
    "GitHubSession",
    "GitHubUnavailable",
    "Misfit",
    "Repository",
    "RepositoryPage",
    "TreeFile",
]


class GitHub(Block):
    """Reads an organization's repositories.

    It signs in with a token, or as a GitHub App that is installed in the organization.

    Attributes:
        organization: The organization's name, as in its address.
        token: A token that may read the organization's repositories and their contents.
        app_id: The App's id or client id, in place of a token.
        private_key: The App's private key, the text of the `.pem` file that GitHub gave.
        installation_id: The App's installation; each use looks it up if it is not given.
        base_url: The API's address; of an Enterprise server `https://HOST/api/v3`.
        connect_seconds: How long to wait for a connection, in seconds.
        read_seconds: How long to wait for each part of an answer, in seconds.
        try_seconds: How long one try may take as a whole, in seconds.

    Example:
        Load a stored block and read a file:
        ```python
        from blocks.github_service import GitHub

        acme = GitHub.load("BLOCK_NAME")
        async with acme.connected() as github:
            page = await github.repositories(1)
            readme = await github.file("acme/shop", "README.md", "main")
        ```

    """

    _block_type_name = "GitHub Organization"
    _block_type_slug = "github-organization"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    # A bad token must not be repeated in the error that says so.
    model_config = ConfigDict(hide_input_in_errors=True)

    organization: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
        description="The organization's name, as in its address.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="A token that may read the organization's repositories and their contents.",
    )
    app_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9.]{1,100}$",
        description="The App's id or client id, in place of a token.",
    )
    private_key: SecretStr | None = Field(
        default=None, description="The App's private key, the text of GitHub's `.pem` file."
    )
    installation_id: int | None = Field(
        default=None,
        gt=0,
        description="The App's installation; each use looks it up if it is not given.",
    )
    base_url: Address = Field(
        default=HttpUrl("https://api.github.com"),
        title="Base URL",
        description="The API's address; of an Enterprise server `https://HOST/api/v3`.",
    )
    connect_seconds: float = Field(
        default=5, gt=0, description="How long to wait for a connection, in seconds."
    )
    read_seconds: float = Field(
        default=30, gt=0, description="How long to wait for each part of an answer, in seconds."
    )
    try_seconds: float = Field(
        default=120, gt=0, description="How long one try may take as a whole, in seconds."
    )

    @field_validator("token")
    @classmethod
    def _fits_into_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        return fits_into_a_header(token) if token and token.get_secret_value() else None

    @field_validator("private_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        if not key or not key.get_secret_value().strip():
            return None
        if pem(key) is None:
            raise ValueError("The private key must be the text of a `.pem` file, BEGIN to END.")
        return key

    @model_validator(mode="after")
    def _signs_in_one_way(self) -> "GitHub":
        if self.token and (self.app_id or self.private_key):
            raise ValueError("Give either token, or app_id and private_key, and not both.")
        if not self.token and not (self.app_id and self.private_key):
            raise ValueError("Give token, or both app_id and private_key.")
        return self

    @property
    def source(self) -> str:
        """Whose repositories these are: `github:acme`, or of an Enterprise server `HOST:acme`."""
        host = self.base_url.host or ""
        provider = "github" if host == "api.github.com" else re.sub(r"[^A-Za-z0-9.-]", "", host)
        return f"{provider}:{self.organization.lower()}"

    @asynccontextmanager
    async def connected(
        self, *, deadline_seconds: float = 900, backoff: Backoff = BACKOFF
    ) -> AsyncIterator[GitHubSession]:
        """Open connections; calls made inside share them, and what is known of rate limits.

        Args:
            deadline_seconds: When all calls inside give up, in seconds from now.
            backoff: When to try again.

        """
        limits = httpx.Timeout(self.read_seconds, connect=self.connect_seconds)
        headers = {
            # Only what is sent is counted against the size limit, so nothing may be packed.
            "Accept-Encoding": "identity",
            "User-Agent": "rota",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        # A proxy sees nothing of what goes through it to https, but all of what goes to http.
        tunnelled = self.base_url.scheme == "https"
        async with httpx.AsyncClient(
            verify=tls(),
            timeout=limits,
            headers=headers,
            base_url=str(self.base_url),
            trust_env=tunnelled,
        ) as client:
            yield GitHubSession(
                client,
                self.organization,
                self._access(),
                try_seconds=self.try_seconds,
                deadline_seconds=deadline_seconds,
                backoff=backoff,
            )

    def _access(self) -> SecretStr | App:
        if self.app_id and self.private_key:
            return App(self.app_id, self.private_key, self.installation_id)
        assert self.token is not None, "the validator sees to that"
        return self.token
