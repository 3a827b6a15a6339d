"""Object stores that speak a cloud's protocol on loopback, and what finds them there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import ServerProcess

_AZURITE = Path(__file__).parent / "azurite/node_modules/azurite/dist/src/blob/main.js"

# Azurite knows one account; its key is public.
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class S3Server(ServerProcess):
    """An S3-compatible server whose data is in memory."""

    root = "s3://taquba-test"

    def __init__(self) -> None:
        super().__init__("moto_child.py", "taquba-test")

    @staticmethod
    def environment(endpoint: str) -> Mapping[str, str]:
        """What a program sets to reach this server, or a proxy of it, at `endpoint`."""
        return {
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }


class AzureServer(ServerProcess):
    """Azurite, an Azure Blob Storage server whose data is in memory."""

    root = "az://taquba-test"

    def __init__(self) -> None:
        super().__init__("azurite_child.py", str(_AZURITE), _ACCOUNT, _ACCOUNT_KEY, "taquba-test")

    @staticmethod
    def installed() -> bool:
        return _AZURITE.exists()

    @staticmethod
    def environment(endpoint: str) -> Mapping[str, str]:
        """What a program sets to reach this server, or a proxy of it, at `endpoint`."""
        return {
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _ACCOUNT_KEY,
        }
