import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster/docker/Dockerfile"
# KubeRay's probes, the launcher's copies and connections, and torch.compile.
NEEDED = {"wget", "rsync", "openssh-client", "g++", "ca-certificates"}


def instructions(text):
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def pip_errors(command):
    if "install" in command and "--require-hashes" not in command:
        if "--no-deps" not in command or not command.rstrip().endswith(".whl"):
            yield f"installs what no hash vouches for: {command}"
    elif "wheel" in command and not {"--no-deps", "--no-build-isolation"} <= set(command.split()):
        yield f"builds with packages that no hash vouches for: {command}"


def dockerfile_errors(text):
    found, steps = [], instructions(text)
    stages = [number for number, (name, _) in enumerate(steps) if name == "FROM"]
    if "-slim" not in steps[stages[0]][1].split()[0].partition(":")[2]:
        found.append("the base is not a slim image by its tag")
    users = [words for name, words in steps[stages[-1] :] if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        found.append("the image does not end as a numbered user other than root")
    found += ["ADD" for name, _ in steps if name == "ADD"]
    if any(name in ("ENV", "ARG") and re.search(r"KEY|TOKEN|SECRET|PASSWORD", words) for name, words in steps):
        found.append("a secret would stay in a layer")
    if re.search(r"://|--(extra-)?index|--trusted-host", text):
        found.append("names an address")
    runs = [words for name, words in steps if name == "RUN"]
    commands = [command.strip() for words in runs for command in words.split("&&")]
    for command in commands:
        if "pip" in command.split():
            found += pip_errors(command)
    if not any("--require-hashes -r /tmp/locks/requirements.lock" in command for command in commands):
        found.append("requirements.lock is not what is installed")
    installed = {word for command in commands if command.startswith("apt-get install") for word in command.split()}
    return found + [f"{package} is missing" for package in NEEDED - installed]


def test_image_installs_by_hash_and_runs_without_root():
    assert dockerfile_errors(DOCKERFILE.read_text()) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("USER 1000:1000\n", ""),
        ("USER 1000:1000", "USER 0"),
        ("USER 1000:1000", "USER 1000:1000\nUSER root"),
        ("COPY . /src/", "ADD . /src/"),
        ("slim-bookworm", "latest"),
        ("python:3.11-slim-bookworm", "python"),
        ("--require-hashes -r /tmp/locks/requirements.lock", "-r /tmp/locks/requirements.lock"),
        ("--require-hashes --no-deps -r /tmp/locks/gcp.lock", "google-api-python-client"),
        ("--no-deps /tmp/wheel/*.whl", "/tmp/wheel/*.whl"),
        ("--no-build-isolation ", ""),
        ("--no-cache-dir", "--extra-index example.com/simple"),
        ("PYTHONUNBUFFERED=1", "AWS_SECRET_ACCESS_KEY=x"),
        (" wget", ""),
        (" rsync", ""),
    ],
)
def test_planted_mistakes_are_found(before, after):
    text = DOCKERFILE.read_text()
    assert before in text
    assert dockerfile_errors(text.replace(before, after))


def test_image_sets_home_for_the_launcher():
    environment = " ".join(words for name, words in instructions(DOCKERFILE.read_text()) if name == "ENV")
    assert "HOME=/home/wmdd " in environment


def test_launcher_lock_has_hashes_and_agrees_with_main():
    lines = (ROOT / "cluster/docker/gcp.lock").read_text().replace("\\\n", " ").splitlines()
    main = (ROOT / "requirements.lock").read_text()
    for line in lines:
        package = re.match(r"([\w-]+)==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line)
        assert package, line
        assert f"\n{package[1]}==" not in main


def allowed():
    """What the build may see: the ignore file refuses everything and then names its exceptions."""
    lines = [line for line in DOCKERFILE.with_suffix(".dockerignore").read_text().splitlines() if line[:1] not in "#"]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def test_build_context_holds_copied_files_alone():
    copied = "requirements.lock cluster/docker/gcp.lock"
    assert f"COPY {copied} /tmp/locks/" in DOCKERFILE.read_text()
    assert {path.split("/")[0] for path in copied.split()} <= set(allowed())
    assert set(allowed()).isdisjoint({".git", ".venv", "runs", "docs", "tests", ".env", "."})


def test_what_the_build_sees_makes_a_whole_wheel(tmp_path):
    context = tmp_path / "context"
    context.mkdir()
    for name in allowed():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, context)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=context, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(ROOT).as_posix() for top in ("wmdd", "ray_jobs") for path in (ROOT / top).rglob("*.py")}
    assert sources | {"wmdd/report/template.html", "cluster/trial.py"} <= names
