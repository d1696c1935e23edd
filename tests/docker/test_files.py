"""What can be told from the packaging files without building the image."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())


def locked(path: Path) -> dict[str, set[str]]:
    """Versions (one per marker) that a lock file allows, by package."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def required(extra: str | None = None) -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    pairs = [re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", line) for line in lines]
    return {pair[1].lower(): pair[2] for pair in pairs if pair}


def test_every_locked_package_has_a_hash():
    for lock in (ROOT / "requirements.lock", ROOT / "docker" / "requirements.lock"):
        blocks = re.split(r"\n(?=[a-z0-9])", lock.read_text())
        assert len(blocks) > 50
        assert [block for block in blocks if "--hash=sha256:" not in block] == []


def test_locks_hold_what_pyproject_asks_for():
    for name, floor in required().items():
        for lock in (ROOT / "requirements.lock", ROOT / "docker" / "requirements.lock"):
            for version in locked(lock)[name]:
                numbers = [
                    [int(part) for part in re.findall(r"\d+", text)] for text in (version, floor)
                ]
                assert numbers[0] >= numbers[1], f"{lock}: {name} {version} < {floor}"


def test_the_image_has_the_tested_versions_and_no_development_tools():
    image, tested = (
        locked(ROOT / "docker" / "requirements.lock"),
        locked(ROOT / "requirements.lock"),
    )
    assert {name: tested.get(name) for name in image} == image
    assert not image.keys() & required("dev").keys()


@pytest.mark.parametrize("text", [DOCKERFILE, (ROOT / "docker" / "requirements.lock").read_text()])
def test_no_registry_is_named(text):
    """Hospitals have their own; `# syntax=` would fetch a frontend from Docker's."""
    assert not re.search(
        r"https?://|docker\.io|nvcr\.io|pypi\.org|quay\.io|ghcr\.io|#\s*syntax=", text
    )


def test_the_context_is_an_allow_list():
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    for rule in rules[1:]:
        assert rule.startswith("**/") or (ROOT / rule.removeprefix("!")).exists(), rule


@pytest.mark.parametrize("name", ["tile", "train", "predict"])
def test_services_are_locked_up(name):
    service = COMPOSE["services"][name]
    assert service["command"][0] == name
    assert service["network_mode"] == "none"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert "shm_size" in service
    mounts = [
        volume.rsplit("/slides", 1)[1] for volume in service["volumes"] if "/slides" in volume
    ]
    assert mounts == ([] if name == "train" else [":ro"])
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
    assert bool(devices) == (name != "tile")


def test_commands_that_compose_runs_are_commands_of_the_line():
    """Options included: a renamed one would only show in a hospital."""
    from typer.main import get_command

    from pipelines.cli import app

    commands = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    for service in COMPOSE["services"].values():
        name, *arguments = service["command"]
        commands[name].make_context(name, list(arguments), resilient_parsing=False)
