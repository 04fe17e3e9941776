"""docker-compose.yml is valid, complete, and opens nothing to the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from pitr.kafka_settings import kafka_config, kafka_topics
from pitr.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text("utf-8"))


def test_every_part_is_a_service(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"postgres", "kafka", "store", "pitr"}


def test_images_are_pinned_to_a_version(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values() if "image" in service]
    assert len(images) == 3
    for image in images:
        _, _, tag = image.partition(":")
        assert tag[:1].isdigit(), image
    assert compose["services"]["postgres"]["image"].startswith("postgres:18")
    assert compose["services"]["kafka"]["image"].startswith("apache/kafka:4.")


def test_ports_are_bound_to_this_machine_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_pitr_waits_until_what_it_needs_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    needed = services["pitr"]["depends_on"]
    assert set(needed) == set(services) - {"pitr"}
    for name, wait in needed.items():
        assert wait == {"condition": "service_healthy"}
        assert services[name]["healthcheck"]["test"]


def test_the_urls_name_the_other_services(compose: dict[str, Any]) -> None:
    services = compose["services"]
    environment = services["pitr"]["environment"]
    catalog = urlsplit(environment["PITR_CATALOG_URL"])
    postgres = services["postgres"]["environment"]
    assert (catalog.scheme, catalog.hostname, catalog.port) == ("postgresql", "postgres", 5432)
    assert (catalog.username, catalog.password) == (
        postgres["POSTGRES_USER"],
        postgres["POSTGRES_PASSWORD"],
    )
    assert catalog.path == "/" + postgres["POSTGRES_DB"]
    assert environment["PITR_KAFKA_BOOTSTRAP"] == "kafka:19092"
    assert "INSIDE://kafka:19092" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_pitr_starts_with_its_environment(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says must be what this version understands."""
    for name, value in compose["services"]["pitr"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.store_folder == Path("/var/lib/pitr/store")
    subscription, _ = kafka_topics(settings)
    assert subscription.pattern is not None
    assert re.match(subscription.pattern, "app.orders")
    assert kafka_config(settings).client()["bootstrap_servers"] == "kafka:19092"


def test_named_volumes_are_declared_and_used(compose: dict[str, Any]) -> None:
    used = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service["volumes"]
    }
    assert used == set(compose["volumes"])


def test_the_image_is_built_from_files_that_exist(compose: dict[str, Any]) -> None:
    lines = compose["services"]["pitr"]["build"]["dockerfile_inline"].splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert {"pitr", "migrations", "pyproject.toml", "constraints.txt"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name


def test_docker_compose_accepts_the_file() -> None:
    command = [shutil.which("docker") or "docker", "compose"]
    try:
        present = subprocess.run([*command, "version"], capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("docker is not installed")
    if present.returncode != 0:
        pytest.skip("docker has no compose plugin")
    checked = subprocess.run(
        [*command, "-f", str(COMPOSE), "config", "--quiet"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
