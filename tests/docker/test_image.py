"""The image, built for real and used as a hospital would: odd uid, no network, read-only slides.

Root, buildah, mmdebstrap and the workplace's base image tool are needed, some 30 GB of disk and
several minutes: it runs with ``-m docker`` or WSI_HR_DOCKER=1 only.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from wsi_hr.testing.cohort import make_cohort

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
BASE_TOOL = ROOT.parent / "shared" / "tools" / "make_base_image.sh"
BASE, IMAGE = "wsi-hr-pytest-base", "localhost/wsi-hr-pytest"
UID = 12345  # in no /etc/passwd
ENVIRONMENT = os.environ | {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
NUM_SLIDES = 16
SHM_MB = 64  # what docker gives where it is not asked for more


def call(*command: str | Path) -> str:
    ran = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def container(request: pytest.FixtureRequest) -> Iterator[str]:
    wanted = request.config.option.markexpr == "docker" or os.environ.get("WSI_HR_DOCKER") == "1"
    if not wanted:
        pytest.skip("asked for with -m docker or WSI_HR_DOCKER=1")
    for tool in ("buildah", "mmdebstrap", "unshare"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.getuid() != 0 or not BASE_TOOL.is_file():
        pytest.skip(f"needs root and {BASE_TOOL}")
    call(BASE_TOOL, BASE)
    name = ""
    try:
        call("buildah", "bud", "--target", "cpu", "--build-arg", f"BASE_IMAGE=localhost/{BASE}",
             "-t", IMAGE, "-f", "docker/Dockerfile", ".")  # fmt: skip
        name = call("buildah", "from", "--cap-drop", "ALL", IMAGE).strip()
        yield name
    finally:
        if name:
            call("buildah", "rm", name)
        images = call("buildah", "images", "--format", "{{.Name}}")
        for image in (IMAGE, f"localhost/{BASE}"):
            if image in images.split():
                call("buildah", "rmi", image)


def run(container: str, *command: str, mounts: Sequence[str] = ()) -> str:
    """Run as a uid without a name, in a network name space that has no interface."""
    volumes = [part for mount in mounts for part in ("--volume", mount)]
    locked_up = ("env", "-u", "HOME", "setpriv", "--no-new-privs")
    # this isolation gives a container the machine's /dev, whatever is to be mounted in there
    shared = f'mount -t tmpfs -o size={SHM_MB}m,mode=1777 tmpfs /dev/shm && exec "$@"'
    return call("unshare", "--net", "--mount", "sh", "-c", shared, "sh",
                "buildah", "run", "--user", f"{UID}:0", *volumes,
                container, "--", *locked_up, *command)  # fmt: skip


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A mount of /tmp, as compose.yaml has it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=4g,mode=1777", "tmpfs", folder)
    yield (f"{folder}:/tmp",)
    call("umount", folder)


def test_the_doctor_finds_nothing_broken(container: str):
    out = run(container, "wsi-hr", "doctor", "/tmp")
    assert "fail" not in out.split()
    assert "wsi_hr_jpeg" in out


def test_the_image_has_no_development_tools_and_no_sources(container: str):
    out = run(container, "sh", "-c", "pip list --format=freeze; ls -A /usr/src /work")
    for name in ("pytest", "ruff", "pyright", "hypothesis"):
        assert f"{name}==" not in out
    assert "wsi-hr==" in out
    assert "pyproject.toml" not in out


@pytest.mark.fault("H1", "H3", "H4", "H5", "H6", "H7", "H8")
def test_it_is_locked_up_as_the_study_needs_it(container: str, in_memory: tuple[str, ...]):
    """What the study below is held to does hold."""
    state = run(container, "cat", "/proc/self/status", mounts=in_memory)
    told = dict(line.split(":\t", 1) for line in state.splitlines() if ":\t" in line)
    assert told["Uid"].split() == [str(UID)] * 4
    assert {int(told[name], 16) for name in ("CapInh", "CapPrm", "CapEff")} == {0}
    assert told["NoNewPrivs"].strip() == "1"
    interfaces = run(container, "cat", "/proc/net/dev", mounts=in_memory).splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] in ([], ["lo"])
    sizes = run(container, "df", "-m", "--output=fstype,size,target", "/tmp", "/dev/shm",
                mounts=in_memory)  # fmt: skip
    filesystems = [line.split() for line in sizes.splitlines()[1:]]
    assert [row[0] for row in filesystems] == ["tmpfs", "tmpfs"]
    assert int(filesystems[1][1]) == SHM_MB
    assert "HOME=" not in run(container, "env", mounts=in_memory)


@pytest.mark.fault("H2")
def test_nothing_but_tmp_can_be_written(container: str):
    find = "find / -xdev -writable -not -path '/tmp*' -not -path '/var/tmp*' -not -type l"
    shown = run(container, "sh", "-c", f"{find} -not -path '/proc/*' -not -path '/dev/*' || true")
    kernel = ("/sys", "/proc", "/dev", "/run", "/var/lock")
    assert [line for line in shown.splitlines() if not line.startswith(kernel)] == []


@pytest.mark.fault("H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8")
def test_a_small_study_from_slides_to_heatmaps(
    container: str, tmp_path: Path, in_memory: tuple[str, ...]
):
    make_cohort(tmp_path, num_slides=NUM_SLIDES, size_px=2048, workers=2)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(tmp_path / "labels.csv", work)
    for path in (work, *work.iterdir()):
        os.chown(path, UID, 0)
    mounts = (f"{tmp_path / 'slides'}:/slides:ro", f"{work}:/work", *in_memory)
    for command in (
        "tile /slides -o /work/store --recipe demo",
        "train /work/store --labels /work/labels.csv -o /work/run --recipe demo --epochs 1",
        "predict /work/run /slides -o /work/predictions",
    ):
        run(container, "wsi-hr", *command.split(), mounts=mounts)

    with (work / "predictions" / "predictions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    slides = sorted(path.stem for path in (tmp_path / "slides").glob("*.svs"))
    assert [row["slide_id"] for row in rows] == slides
    assert {row["status"] for row in rows} == {"done"}
    heatmaps = work / "predictions" / "heatmaps"
    assert sorted(path.stem for path in heatmaps.glob("*.png")) == slides
    assert {path.stat().st_uid for path in work.rglob("*")} == {UID}
