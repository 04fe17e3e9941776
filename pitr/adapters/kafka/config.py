"""How to reach a Kafka cluster, and what its errors mean here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiokafka import errors as kafka
from aiokafka.helpers import create_ssl_context

from pitr.domain.errors import InvalidRequest, Unavailable

Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

REQUEST_TIMEOUT_MS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """A cluster: ``host:port``, several with commas, and how to log in there."""

    bootstrap: str
    security: Security = "PLAINTEXT"
    mechanism: Mechanism = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: str | None = field(default=None, repr=False)

    def client(self) -> dict[str, Any]:
        """Return the arguments that every aiokafka client takes.

        Raises:
            InvalidRequest: A file cannot be read, or name and password are missing.
        """
        if self.security.startswith("SASL") and (self.username is None or self.password is None):
            raise InvalidRequest(
                "Kafka wants a user name and a password",
                hint="set PITR_KAFKA_USERNAME and PITR_KAFKA_PASSWORD",
                security=self.security,
            )
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": "pitr",
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "security_protocol": self.security,
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
            "ssl_context": self._ssl() if self.security.endswith("SSL") else None,
        }

    def _ssl(self) -> ssl.SSLContext:
        try:
            context: ssl.SSLContext = create_ssl_context(
                cafile=_text(self.ca_file),
                certfile=_text(self.cert_file),
                keyfile=_text(self.key_file),
                password=self.key_password,
            )
            return context
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(
                "a certificate or key for Kafka cannot be read",
                hint="see PITR_KAFKA_CA_FILE, PITR_KAFKA_CERT_FILE and PITR_KAFKA_KEY_FILE",
                reason=str(error),
            ) from error


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


_REFUSED = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.AuthenticationMethodNotSupported,
    kafka.UnsupportedSaslMechanismError,
    kafka.InvalidTopicError,
    kafka.UnknownTopicOrPartitionError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn aiokafka's exceptions into the families of ``domain.errors``."""
    try:
        yield
    except _REFUSED as error:
        raise InvalidRequest(
            "Kafka refuses", hint="see credentials, rights and topics", reason=_line(error)
        ) from error
    except (kafka.KafkaError, OSError, TimeoutError) as error:
        raise Unavailable("Kafka does not answer", reason=_line(error)) from error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
