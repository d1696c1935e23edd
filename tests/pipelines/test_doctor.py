"""Each fault is planted on this machine, and the doctor names it and how to mend it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import doctor
from pipelines.doctor import Check, print_checks, run_checks


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def plant_version(folder: Path, name: str, version: str) -> None:
    """Make ``folder`` claim that another version of a package is installed."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_sound_installation_has_no_failure(tmp_path: Path):
    checks = run_checks(tmp_path)
    assert [check for check in checks if check.state == "fail"] == []
    found = by_name(checks)
    assert "openslide-bin" in found["packages"].found
    assert "JpegCodec" in found["zarr codec"].found
    assert str(tmp_path) in found["disk"].found
    assert len(found) == len(checks)
    assert all(check.mend for check in checks if check.state != "ok")


@pytest.mark.parametrize("version", ["4.0.0.99", "3.4", "4.0.1"])
def test_an_old_openslide_is_named(version, tmp_path: Path, monkeypatch):
    plant_version(tmp_path, "openslide-bin", version)
    monkeypatch.syspath_prepend(str(tmp_path))
    check = by_name(run_checks(tmp_path))["packages"]
    assert check.state == "fail"
    assert check.found == f"openslide-bin {version} is older than 4.0.1.1"


@pytest.mark.parametrize("version", ["4.0.1.1", "4.0.10", "5"])
def test_a_new_enough_openslide_is_not(version, tmp_path: Path, monkeypatch):
    plant_version(tmp_path, "openslide-bin", version)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert by_name(run_checks(tmp_path))["packages"].state == "ok"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "torch"),
        ("torchvision", "torch"),
        ("openslide", "codecs"),
        ("simplejpeg", "simplejpeg"),
        ("imagecodecs", "imagecodecs"),
    ],
)
def test_a_missing_module_is_a_finding(module, name, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself does to forbid an import
    found = by_name(run_checks(tmp_path))
    assert found[name].state == "fail"
    assert module in found[name].found
    assert found[name].mend
    assert found["disk"].state in ("ok", "warn")  # the others were looked at all the same


def test_a_package_that_is_not_installed_at_all_is_a_finding(tmp_path: Path):
    """An interpreter that sees only wsi-hr's source and rich: nothing else, no metadata."""
    import rich

    root = Path(doctor.__file__).parents[1]
    site = Path(rich.__file__).parents[1]
    links = tmp_path / "site"
    links.mkdir()
    for name in ("rich", "pygments", "markdown_it", "mdurl", "pydantic", "pydantic_core", "yaml"):
        (links / name).symlink_to(site / name)
    for name in ("annotated_types", "typing_inspection"):
        (links / name).symlink_to(site / name)
    (links / "typing_extensions.py").symlink_to(site / "typing_extensions.py")
    (links / "numpy").symlink_to(site / "numpy")
    (links / "numpy.libs").symlink_to(site / "numpy.libs")
    code = (
        "from pipelines.doctor import *\n"
        "for check in run_checks(): print(check.state, check.name, check.found, sep='|')"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": f"{root}:{links}", "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    states = {line.split("|")[1]: line.split("|")[0] for line in ran.stdout.splitlines()}
    for name in ("python", "packages", "torch", "GPU", "codecs", "zarr codec"):
        assert states[name] == "fail", ran.stdout
    for name in ("processors", "shared memory", "temporary folder"):
        assert states[name] in ("ok", "warn")


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(doctor, "LOW_DISK", 2**80)
    monkeypatch.setattr(doctor, "LOW_SHM", 2**80)
    found = by_name(run_checks(tmp_path))
    assert found["disk"].state == "warn"
    assert found["shared memory"].state == "warn"
    assert "--shm-size" in found["shared memory"].mend


def test_a_folder_that_cannot_be_written_is_a_failure():
    check = by_name(run_checks(Path("/proc/a/b")))["output folder"]  # not even by root
    assert check.state == "fail"
    assert "/proc" in check.found


def test_a_folder_yet_to_be_made_is_judged_by_the_one_above(tmp_path: Path):
    check = by_name(run_checks(tmp_path / "not" / "yet"))["disk"]
    assert check.found.endswith(f"free at {tmp_path}")


def test_an_unwritable_weights_cache_is_a_warning(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/proc/weights")
    check = by_name(run_checks(tmp_path))["weights cache"]
    assert check.state == "warn"
    assert "HF_HOME" in check.mend


def test_a_processor_quota_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(doctor, "core_limits", lambda: [8.0, 1.5])
    monkeypatch.setattr(doctor, "num_usable_cores", lambda: 2)
    check = by_name(run_checks(tmp_path))["processors"]
    assert check.state == "ok"
    assert "in the machine, 2 used; the container or job gets the time of 1.5" in check.found


def test_a_memory_limit_is_a_warning(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2**30)
    check = by_name(run_checks(tmp_path))["memory"]
    assert check.state == "warn"
    assert check.found.startswith("1.0 GiB")
    assert "tile.memory_gib=0.5" in check.mend


def test_what_is_printed_is_plain_text_with_every_finding():
    checks = [
        Check("one", "ok", "[/] is not markup"),
        Check("two", "warn", "low", "raise it [bold]"),
        Check("three", "fail", "gone", "bring it back"),
    ]
    out = io.StringIO()
    print_checks(checks, Console(file=out, width=80))
    text = out.getvalue()
    assert "[/] is not markup" in text
    assert "two: raise it [bold]" in text
    assert "three: bring it back" in text
    assert "one: " not in text
