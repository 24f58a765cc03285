"""A GitHub App, as which a block may sign in instead of with a token."""

import re
import textwrap
from dataclasses import dataclass

from pydantic import SecretStr

from blocks.github_answers import GitHubRefused


@dataclass(frozen=True)
class App:
    """A GitHub App, as which to sign in.

    Attributes:
        id: Its id or client id.
        private_key: Its private key, PEM.
        installation_id: Its installation in the organization, if it is known.

    """

    id: str
    private_key: SecretStr
    installation_id: int | None

    def assertion(self) -> str:
        """Return what the App shows to be given a token; good for some minutes.

        Raises:
            GitHubRefused: The private key is none.

        """
        from github import Auth  # it takes a third of a second, and most processes never sign in

        try:
            return str(Auth.AppAuth(self.id, pem(self.private_key)).token)
        except Exception:  # of whichever library reads keys; none may repeat the key
            raise GitHubRefused(
                "The App's private_key cannot sign: it is no RSA key as GitHub gives it."
            ) from None


def pem(key: SecretStr) -> str | None:
    r"""Return a key in the lines of a `.pem` file, or None if it is no such text.

    A form's field of one line takes the line ends away, and an environment's may write them `\n`.
    """
    text = key.get_secret_value().replace("\\n", "\n").strip()
    found = re.fullmatch(r"-----BEGIN ([A-Z ]+)-----([A-Za-z0-9+/=\s]+)-----END \1-----", text)
    if found is None:
        return None
    kind, body = found.groups()
    lines = textwrap.wrap("".join(body.split()), 64)
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""])
