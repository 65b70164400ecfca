"""No library of the program exports a variable that libtorch exports too: the loader would make one of them serve both, and
where their sizes differ, one library then writes over the other's neighbours. Plain Python; needs nm and ldd."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def variables(library):
    """Names of exported, strong data: what copies of inline functions share (weak) is meant to be shared."""
    out = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True).stdout
    rows = (line.split() for line in out.splitlines())
    return {r[2].split("@")[0] for r in rows if len(r) == 3 and r[1] in "BDRGS"}


def main():
    program = ROOT / os.environ.get("BUILD", "build") / "contraflow"
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = {line.split()[2] for line in out.splitlines() if "=>" in line and line.split()[2].startswith("/")}
    torch = {p for p in paths if "/torch/lib/" in p and any(s in p for s in ("libtorch", "libc10"))}
    assert len(torch) >= 2 and len(paths) > 10, paths
    ours = set().union(*(variables(p) for p in torch))
    assert len(ours) > 50
    system = ("libc.so", "libm.so", "libstdc++", "libgcc_s", "ld-linux", "libgomp")
    clashes = [f"{p}: {name}" for p in sorted(paths - torch) if not any(s in p for s in system) for name in sorted(variables(p) & ours)]
    print("\n".join(clashes) if clashes else f"{len(paths)} libraries, no variable twice")
    sys.exit(bool(clashes))


if __name__ == "__main__":
    main()
