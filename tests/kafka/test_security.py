"""Passwords, TLS and client certificates: what lets us in, and what is said when nothing does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import TopicPartition

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.kafka import KafkaConfig
from pitr.domain.errors import InvalidRequest, Unavailable
from pitr.services.restore import RestoreRequest
from tests.fakes import FakeState
from tests.kafka import brokers, certificates
from tests.kafka.brokers import Broker, Tls
from tests.kafka.certificates import KEY_PASSWORD, Certificates
from tests.kafka.conftest import TopicFactory
from tests.kafka.test_brokers import everything, produce
from tests.kafka.test_capture import Opener, capturing, changes, ids, until_stored

Given = dict[str, object]


@pytest.fixture(scope="session")
def security_url(postgres: EmbeddedPostgres) -> str:
    return asyncio.run(postgres.ensure_database("pitr_capture"))


@pytest.fixture
def opened(broker: Broker, security_url: str, tmp_path: Path) -> Opener:
    return Opener(broker, security_url, tmp_path / "data")


def need_login(broker: Broker) -> str:
    if broker.login_bootstrap is None:
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: it asks nobody for a password")
    return broker.login_bootstrap


def need_tls(broker: Broker) -> Tls:
    if broker.tls is None:
        reason = broker.name == "apache" and certificates.absent()
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: {reason or 'it speaks no TLS'}")
    return broker.tls


def user(mechanism: str) -> Given:
    return {
        "kafka_security": "SASL_PLAINTEXT",
        "kafka_mechanism": mechanism,
        "kafka_username": brokers.USER,
        "kafka_password": brokers.PASSWORD,
    }


def scram(broker: Broker, *, bits: int, **more: object) -> Given:
    return user(f"SCRAM-SHA-{bits}") | {"kafka_bootstrap": need_login(broker)} | more


def tls(broker: Broker, **more: object) -> Given:
    there = need_tls(broker)
    return {
        "kafka_bootstrap": there.bootstrap,
        "kafka_security": "SSL",
        "kafka_ca_file": there.certificates.authority,
    } | more


def tls_login(broker: Broker, **more: object) -> Given:
    at = need_tls(broker).login_bootstrap
    login = user("SCRAM-SHA-512") | {"kafka_security": "SASL_SSL", "kafka_bootstrap": at}
    return tls(broker) | login | more


def mutual(broker: Broker, **more: object) -> Given:
    return tls(broker) | {"kafka_bootstrap": need_tls(broker).mutual_bootstrap} | more


def known(broker: Broker) -> Given:
    """Settings of a client with a certificate."""
    return {
        "kafka_cert_file": need_tls(broker).certificates.client,
        "kafka_key_file": need_tls(broker).certificates.client_key,
        "kafka_key_password": KEY_PASSWORD,
    }


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda broker: scram(broker, bits=256), id="SCRAM-SHA-256"),
        pytest.param(lambda broker: scram(broker, bits=512), id="SCRAM-SHA-512"),
        pytest.param(tls, id="SSL"),
        pytest.param(lambda broker: mutual(broker, **known(broker)), id="mutual"),
    ],
)
async def test_records_are_captured(
    broker: Broker, opened: Opener, topic: TopicFactory, given: Callable[[Broker], Given]
) -> None:
    settings = given(broker)
    name = await topic(name="secure")
    await produce(broker, TopicPartition(name, 0), *changes(1, 2))
    async with opened(**settings, kafka_topics=name) as app, capturing(app):
        await until_stored(app, 2)
        await produce(broker, TopicPartition(name, 0), *changes(3))
        assert ids(await until_stored(app, 3)) == [1, 2, 3]


async def test_what_was_captured_is_restored_by_password_and_tls(
    broker: Broker, opened: Opener, topic: TopicFactory
) -> None:
    settings = tls_login(broker)
    name, into = await topic(name="secure"), await topic(name="restored")
    await produce(broker, TopicPartition(name, 0), *changes(1, 2))
    async with opened(**settings, kafka_topics=name) as app:
        async with capturing(app):
            await until_stored(app, 2)
        plan = await app.restorer.plan(RestoreRequest(log=app.settings.log, target="seq:2"))
        report = await app.restorer.restore(plan, app.sink(f"kafka:///{into}"))
    assert report.row_count == 2
    found = await everything(broker, TopicPartition(into, 0), isolation_level="read_committed")
    assert [json.loads(record.value)["after"] for record in found] == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        pytest.param(
            lambda broker: scram(broker, bits=512, kafka_password="wrong"),
            "refuses the user name or the password",
            "PITR_KAFKA_PASSWORD",
            id="password",
        ),
        pytest.param(
            lambda broker: tls_login(broker, kafka_password="wrong"),
            "refuses the user name or the password",
            "PITR_KAFKA_PASSWORD",
            id="password-tls",
        ),
        pytest.param(
            lambda broker: scram(broker, bits=512, kafka_bootstrap=broker.bootstrap),
            "no login at this port",
            "PITR_KAFKA_SECURITY",
            id="no-login",
        ),
        pytest.param(
            lambda broker: tls(broker, kafka_ca_file=need_tls(broker).certificates.stranger),
            "not one that we trust",
            "PITR_KAFKA_CA_FILE",
            id="authority",
        ),
        pytest.param(
            lambda broker: tls(
                broker,
                kafka_bootstrap=need_tls(broker).bootstrap.replace(brokers.HOST, "localhost"),
            ),
            "for another name .*localhost",
            "PITR_KAFKA_BOOTSTRAP",
            id="host",
        ),
        pytest.param(mutual, "our certificate", "PITR_KAFKA_CERT_FILE", id="no-certificate"),
        pytest.param(
            lambda broker: mutual(
                broker, kafka_cert_file=need_tls(broker).certificates.strange_client
            ),
            "our certificate",
            "PITR_KAFKA_CERT_FILE",
            id="strange-certificate",
        ),
    ],
)
async def test_whoever_is_not_let_in_is_told_why(
    broker: Broker,
    opened: Opener,
    given: Callable[[Broker], Given],
    said: str,
    hint: str,
) -> None:
    async with opened(**given(broker), kafka_topics="t") as app, asyncio.timeout(10):
        with pytest.raises(InvalidRequest, match=said) as refused:
            await (await app.capture()).run(asyncio.Event())
        assert hint in str(refused.value.hint)
        with pytest.raises(InvalidRequest, match=said) as refused:
            sink = app.sink("kafka:///t")
            await sink.write(FakeState({"c": []}), progress=lambda _: None)
        assert hint in str(refused.value.hint)


@pytest.mark.parametrize("speaks_tls", [True, False])
async def test_a_port_where_another_protocol_is_spoken(
    broker: Broker, opened: Opener, speaks_tls: bool
) -> None:
    at: Given = {"kafka_bootstrap": need_tls(broker).bootstrap}
    if speaks_tls:
        at = tls(broker, kafka_bootstrap=broker.bootstrap)
    async with opened(**at) as app, asyncio.timeout(10):
        with pytest.raises(Unavailable) as away:
            sink = app.sink("kafka:///t")
            await sink.write(FakeState({"c": []}), progress=lambda _: None)
    assert "PITR_KAFKA_SECURITY" in str(away.value.hint)


# Without a broker -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if (reason := certificates.absent()) is not None:
        pytest.skip(f"NOT TESTED: {reason}")
    return certificates.made(tmp_path_factory.mktemp("pem") / "made", address=brokers.HOST)


def test_files_are_named_that_cannot_be_read(pem: Certificates, tmp_path: Path) -> None:
    ours = {"cert_file": pem.client, "key_file": pem.client_key}
    empty = tmp_path / "empty.pem"
    empty.touch()
    KafkaConfig(bootstrap="b:1", security="SSL", key_password=KEY_PASSWORD, **ours).client()
    for given, hint in (
        ({"ca_file": empty}, "PITR_KAFKA_CA_FILE"),
        ({"ca_file": tmp_path / "none.pem"}, "PITR_KAFKA_CA_FILE"),
        ({"cert_file": pem.client}, "PITR_KAFKA_KEY_FILE"),
        ({"cert_file": pem.strange_client, "key_file": pem.client_key}, "PITR_KAFKA_KEY_FILE"),
        ({**ours, "key_password": "wrong"}, "PITR_KAFKA_KEY_PASSWORD"),
        (ours, "PITR_KAFKA_KEY_PASSWORD"),  # and nobody is asked for it at the terminal
    ):
        begun_s = time.monotonic()
        with pytest.raises(InvalidRequest, match="cannot be read") as refused:
            KafkaConfig(bootstrap="b:1", security="SSL", **given).client()  # type: ignore[arg-type]
        assert hint in str(refused.value.hint)
        assert time.monotonic() - begun_s < 1


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"username": "u", "password": "geheim"}, "PITR_KAFKA_SECURITY=SASL_SSL"),
        ({"password": "geheim", "security": "SSL"}, "PITR_KAFKA_SECURITY=SASL_SSL"),
        ({"username": "u", "security": "SASL_SSL"}, "PITR_KAFKA_PASSWORD"),
        ({"ca_file": Path("ca.pem")}, "PITR_KAFKA_SECURITY=SSL"),
        (
            {
                "cert_file": Path("c.pem"),
                "security": "SASL_PLAINTEXT",
                "username": "u",
                "password": "geheim",
            },
            "SASL_SSL",
        ),
        ({"key_file": Path("k.pem"), "security": "SSL"}, "PITR_KAFKA_CERT_FILE"),
    ],
)
def test_what_was_set_to_be_safe_is_not_passed_over(given: Given, hint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        KafkaConfig(bootstrap="b:1", **given).client()  # type: ignore[arg-type]
    assert hint in str(refused.value.hint)
    assert "geheim" not in f"{refused.value} {refused.value.hint} {refused.value.facts}"
