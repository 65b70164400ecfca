"""tools/gpu_pack.sh and gpu_check.sh rehearsed: the package starts in a root that holds a shell, Python, torch with CUDA's
libraries, and nothing else of this machine; without a GPU every subcommand ends in one line at the first CUDA call."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ("bash sh env realpath dirname basename cat cp cut date du grep head ls mkdir mktemp pkill printf rm sed sleep sort tail tee timeout uname chmod "
         "awk gawk mawk ldd tr wc").split()  # fmt: skip
CHROOT = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin:/bin")
SYSTEM = re.compile(r"/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s|gomp|tinfo|z|ffi|expat|lzma|bz2|uuid)\.so[^/]*)$")


def libraries_of(path):
    told = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return {line.split("=>")[-1].split("(")[0].strip() for line in told.splitlines() if "/" in line}


def add(root, path):
    to = root / str(path).lstrip("/")
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)


def add_program(root, path):
    add(root, path)
    for library in libraries_of(path):
        add(root, library)


def add_tree(root, path):
    """Hard links where the file system has them: torch's libraries take a gigabyte."""
    to = root / str(path).lstrip("/")
    to.parent.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["cp", "-al", path, to.parent], capture_output=True).returncode:
        subprocess.run(["cp", "-a", path, to.parent], check=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    root = ROOT / "build-gpu/rehearsal"
    shutil.rmtree(root, ignore_errors=True)
    for name in TOOLS:
        if where := shutil.which(name):
            add_program(root, where)
    os.makedirs(root / "bin", exist_ok=True)
    for name in "bash", "sh":
        add_program(root, f"/bin/{name}")
    python = pathlib.Path(os.path.realpath(sys.executable))
    prefix = pathlib.Path(sys.base_prefix)
    stdlib = prefix / f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    add_program(root, str(python))
    add_tree(root, stdlib)
    for extension in (stdlib / "lib-dynload").glob("*.so"):
        for library in libraries_of(extension):
            if SYSTEM.search(library):
                add(root, library)
    site = next(pathlib.Path(p) for p in sys.path if p.endswith("site-packages"))
    for name in "torch", "nvidia", "numpy", "pip":
        if (site / name).exists():
            add_tree(root, site / name)
    # CUDA's libraries lie in torch's wheels there, wherever they are here; a compiler's own in the system's folder
    wheels = root / str(site).lstrip("/") / "nvidia/cu13/lib"
    wheels.mkdir(parents=True, exist_ok=True)
    needed = libraries_of(ROOT / "build-cuda/contraflow") | libraries_of(next((site / "torch/lib").glob("libtorch_python.so")))
    for library in needed:
        if "/site-packages/" in library:
            continue
        if SYSTEM.search(library):
            add(root, library)
        elif "/cuda" in library and not (wheels / os.path.basename(library)).exists():
            subprocess.run(["cp", "-L", "--reflink=auto", library, wheels], check=True)
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/local/bin/python3").write_text(f"#!/bin/sh\nPYTHONPATH={site}${{PYTHONPATH:+:$PYTHONPATH}} exec {python} \"$@\"\n")
    (root / "usr/local/bin/python3").chmod(0o755)
    for d in "tmp", "dev", "proc":
        (root / d).mkdir(exist_ok=True)
    for d in "null", "zero", "urandom":
        node = root / "dev" / d
        if subprocess.run(["mknod", "-m", "666", node, "c", "1", {"null": "3", "zero": "5", "urandom": "9"}[d]], capture_output=True).returncode:
            pytest.skip("devices cannot be made here")
    package = root / "package.tar.xz"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run([ROOT / "tools/gpu_pack.sh", "--python", version, package], capture_output=True, text=True, cwd=ROOT)
    if "network" in done.stderr:
        pytest.skip("the wheels cannot be downloaded")
    assert done.returncode == 0, done.stderr
    subprocess.run(["tar", "-xJf", package, "-C", root], check=True)
    yield root
    shutil.rmtree(root, ignore_errors=True)


def inside(root, *command):
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
    shell = "cd /contraflow-gpu && " + " ".join(map(str, command))
    return subprocess.run([CHROOT, root, "/bin/bash", "-c", shell], capture_output=True, text=True, env=env, timeout=300)


def test_the_root_is_bare(root):
    assert all("contraflow-gpu" in str(p) for p in root.rglob("libmpi.so*"))
    assert inside(root, "command", "-v", "mpirun").returncode != 0 and inside(root, "command", "-v", "bash").returncode == 0


def test_libraries(root):
    done = inside(root, "bash", "-c", "'tools/gpu_check.sh; true'")
    assert "usage: tools/gpu_check.sh right | speed | python" in done.stderr
    names = {p.name for p in (root / "contraflow-gpu/lib").iterdir()}
    assert not [n for n in names if SYSTEM.search("/" + n) and not n.startswith(("libz.", "libffi", "liblzma", "libbz2"))]
    assert any(n.startswith("libicudata") for n in names)  # its name holds "cuda"


@pytest.mark.parametrize("what", ["right", "speed", "python"])
def test_stops_at_the_first_cuda_call(root, what):
    if pathlib.Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    done = inside(root, "tools/gpu_check.sh", what, "/tmp/out-" + what)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no GPU is visible" in done.stdout and "nothing else is tried" in done.stderr, done.stdout + done.stderr
    assert done.stdout.count("FAILED") == 1 and done.stdout.count("contraflow:") == 1


def test_checks_end_in_time(tmp_path):
    """A check that hangs is ended with all that it started, counts as failed, and leaves nothing behind; nor does one that is through."""
    text = (ROOT / "tools/gpu_check.sh").read_text()
    functions = text[text.index("# Each check is a process group"):text.index("medium=(")]
    script = f"""out={tmp_path} end=$((SECONDS + 60)) failed=0
{functions}
piped() {{ sleep 61.375 | cat; }}
stubborn() {{ trap '' TERM; sleep 61.5; sleep 61.625; }}
leaves() {{ sleep 61.75 & echo '= done'; }}
check external 1 sleep 61.25; check piped 1 piped; check stubborn 1 stubborn; check leaves 30 leaves
end=$((SECONDS + 3)); check late 30 true
echo "$failed failed"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    told = [line for line in lines if not line.startswith("    ")]
    assert [line.split()[:2] for line in told] == [["external", "FAILED"], ["piped", "FAILED"], ["stubborn", "FAILED"], ["leaves", "ok"],
                                                   ["late", "skipped"], ["3", "failed"]], done.stdout  # fmt: skip
    assert sum("not done after 1 seconds" in line for line in lines) == 3
    left = [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x0061." in _read(p)]
    assert not left


def _read(path):
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""
