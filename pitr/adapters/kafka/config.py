"""How to reach a Kafka cluster, and what its errors mean here."""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiokafka import errors as kafka

from pitr.domain.errors import InvalidRequest, Unavailable

Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

REQUEST_TIMEOUT_MS = 20_000
HEARD_MAX = 8


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
            InvalidRequest: A file cannot be read, or settings do not fit together.
        """
        self._check()
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": "pitr",
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "security_protocol": self.security,
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
            "ssl_context": self._ssl() if self._tls else None,
        }

    @property
    def _tls(self) -> bool:
        return self.security.endswith("SSL")

    def _check(self) -> None:
        """What was set to be safe must not be passed over in silence."""
        user = (self.username, self.password)
        if self.security.startswith("SASL"):
            if None in user:
                raise InvalidRequest(
                    "Kafka wants a user name and a password",
                    hint="set PITR_KAFKA_USERNAME and PITR_KAFKA_PASSWORD",
                    security=self.security,
                )
        elif user != (None, None):
            raise InvalidRequest(
                "a user name or password for Kafka is set, but no login",
                hint="set PITR_KAFKA_SECURITY=SASL_SSL, or unset PITR_KAFKA_USERNAME and"
                " PITR_KAFKA_PASSWORD",
                security=self.security,
            )
        if not self._tls and (self.ca_file or self.cert_file or self.key_file):
            raise InvalidRequest(
                "certificates for Kafka are set, but no TLS",
                hint="set PITR_KAFKA_SECURITY=SSL, or SASL_SSL with a user name and a password",
                security=self.security,
            )
        if self.key_file is not None and self.cert_file is None:
            raise InvalidRequest(
                "a key for Kafka is set, but no certificate",
                hint="set PITR_KAFKA_CERT_FILE to the certificate of PITR_KAFKA_KEY_FILE",
            )

    def _ssl(self) -> ssl.SSLContext:
        hint = "PITR_KAFKA_CA_FILE: a file of certificates, PEM"
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                hint = "see PITR_KAFKA_CERT_FILE, PITR_KAFKA_KEY_FILE and PITR_KAFKA_KEY_PASSWORD"
                # Without any password, OpenSSL would ask for it at the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, self.key_password or "")
        except (OSError, ValueError) as error:
            raise InvalidRequest(
                "a certificate or key for Kafka cannot be read", hint=hint, reason=str(error)
            ) from error
        return context


# What the errors of aiokafka mean here ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What we say when a broker does not let us in, and what to do about it."""

    message: str
    hint: str


_LOGIN = _Refusal(
    "Kafka refuses the user name or the password",
    "see PITR_KAFKA_USERNAME, PITR_KAFKA_PASSWORD and PITR_KAFKA_MECHANISM",
)
_MECHANISM = _Refusal(
    "Kafka refuses the SASL mechanism", "set PITR_KAFKA_MECHANISM to one that the brokers have"
)
_NO_LOGIN = _Refusal(
    "Kafka has no login at this port",
    "see the listener that PITR_KAFKA_BOOTSTRAP names, and PITR_KAFKA_SECURITY",
)
_LOGINS = {
    kafka.AuthenticationFailedError: _LOGIN,
    kafka.SaslAuthenticationFailed: _LOGIN,
    kafka.AuthenticationMethodNotSupported: _MECHANISM,
    kafka.UnsupportedSaslMechanismError: _MECHANISM,
    kafka.IllegalSaslStateError: _NO_LOGIN,
}
_UNTRUSTED = _Refusal(
    "the certificate of a Kafka broker is not one that we trust",
    "set PITR_KAFKA_CA_FILE to the certificate of the authority that signed it",
)
_OTHER_NAME = _Refusal(
    "the certificate of a Kafka broker is for another name",
    "give brokers the name that is in their certificates: in PITR_KAFKA_BOOTSTRAP, and there in"
    " advertised.listeners",
)
_OTHER_TIME = _Refusal(
    "the certificate of a Kafka broker is not valid now",
    "let the broker have a new one; see the clock here as well",
)
_OURS = _Refusal(
    "Kafka refuses our certificate, or wants one",
    "set PITR_KAFKA_CERT_FILE and PITR_KAFKA_KEY_FILE to one whose authority the brokers trust",
)

_VERIFIED = {9: _OTHER_TIME, 10: _OTHER_TIME, 62: _OTHER_NAME, 64: _OTHER_NAME}
"""What OpenSSL's X509_V_ERR numbers mean; all others mean that we do not trust it."""

_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")
"""What a broker's alert is about when it is about our certificate."""

_REFUSED = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.InvalidTopicError,
    kafka.UnknownTopicOrPartitionError,
)

_heard: ContextVar[deque[BaseException] | None] = ContextVar("_heard", default=None)


def _hear(record: logging.LogRecord) -> bool:
    """Keep why connections failed: aiokafka tells its log alone, and goes on."""
    heard = _heard.get()
    if heard is not None and isinstance(record.args, tuple):
        heard.extend(each for each in record.args if isinstance(each, BaseException))
    return True


logging.getLogger("aiokafka").addFilter(_hear)


@contextmanager
def translated() -> Iterator[None]:
    """Turn aiokafka's exceptions into the families of ``domain.errors``.

    What a broker said that did not let us in counts for more than what came of that.
    """
    heard: deque[BaseException] = deque(maxlen=HEARD_MAX)
    outside = _heard.set(heard)
    try:
        yield
    except (kafka.KafkaError, OSError, TimeoutError) as error:
        for cause in map(_cause, (error, *heard)):
            if (refusal := _refusal_of(cause)) is not None:
                raise InvalidRequest(
                    refusal.message, hint=refusal.hint, reason=_line(cause)
                ) from error
        if isinstance(error, _REFUSED):
            raise InvalidRequest(
                "Kafka refuses", hint="see credentials, rights and topics", reason=_line(error)
            ) from error
        if isinstance(error, kafka.KafkaConnectionError):
            raise Unavailable(
                "Kafka does not answer",
                hint="see PITR_KAFKA_BOOTSTRAP, PITR_KAFKA_SECURITY and the brokers",
                reason=_line(_cause(heard[-1] if heard else error)),
            ) from error
        raise Unavailable("Kafka does not answer", reason=_line(error)) from error
    finally:
        _heard.reset(outside)


def _cause(error: BaseException) -> BaseException:
    """Return what closed a connection, if that is known."""
    closed = isinstance(error, kafka.KafkaConnectionError)
    return (error.__cause__ if closed else None) or error


def _refusal_of(error: BaseException) -> _Refusal | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFIED.get(error.verify_code, _UNTRUSTED)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        about_ours = "ALERT" in reason and any(each in reason for each in _ALERTS)
        return _OURS if about_ours else None
    return next((refusal for kind, refusal in _LOGINS.items() if isinstance(error, kind)), None)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
