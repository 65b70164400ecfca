"""Hosts on one machine: network namespaces behind a bridge, each with a name of its own, as mpirun sees hosts."""

import os
import pathlib
import signal
import subprocess
import time

from command import ROOT, build

NET = "10.77"


def sh(*command, check=True):
    return subprocess.run([*map(str, command)], check=check, capture_output=True, text=True).stdout


def possible():
    """Whether this machine lets us: a namespace can be made."""
    name = f"cf{os.getpid()}x"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    sh("ip", "netns", "del", name)
    return True


class Hosts:
    """Hosts a, b, ... (their namespaces and interfaces have longer names)."""

    def __init__(self, folder, names="ab"):
        self.folder, self.names, self.id = folder, names, f"c{os.getpid() % 10000}"
        self.net = f"{NET}.{os.getpid() % 250}"
        sh("ip", "link", "add", self.id, "type", "bridge")
        sh("ip", "link", "set", self.id, "up")
        for i, h in enumerate(names):
            ns, link = self.id + h, f"{self.id}v{h}"
            sh("ip", "netns", "add", ns)
            sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", ns)
            sh("ip", "link", "set", link, "master", self.id, "up")
            sh("ip", "-n", ns, "addr", "add", f"{self.net}.{i + 1}/24", "dev", "eth0")
            sh("ip", "-n", ns, "link", "set", "eth0", "up")
            sh("ip", "-n", ns, "link", "set", "lo", "up")
        # ssh's stand-in: as ssh, it does not hear of it when the other end is gone without a word
        self.agent = folder / "agent"
        self.agent.write_text(
            f'#!/bin/sh\nh=$1; shift\nip netns exec {self.id}$h unshare -u sh -c "hostname $h; $*"\nrc=$?\n'
            f"[ -e {folder}/lost ] && exec sleep 60 > /dev/null 2>&1\nexit $rc\n"
        )
        self.agent.chmod(0o755)

    def pids(self, host):
        return [int(p) for p in sh("ip", "netns", "pids", self.id + host, check=False).split()]

    def rank(self, host):
        """The process of the rank on a host."""
        ranks = [p for p in self.pids(host) if pathlib.Path(f"/proc/{p}/comm").read_text() == "contraflow\n"]
        assert len(ranks) == 1, ranks
        return ranks[0]

    def cut(self, host):
        sh("ip", "link", "set", f"{self.id}v{host}", "down")

    def mend(self):
        for h in self.names:
            sh("ip", "link", "set", f"{self.id}v{h}", "up")

    def lose(self, host):
        """As a power failure: nobody is told."""
        (self.folder / "lost").touch()
        self.cut(host)
        self.kill(host)

    def kill(self, host):
        for p in self.pids(host):
            try:
                os.kill(p, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def start(self, *args):
        """One rank a host, mpirun on a."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_mpi_yield_when_idle": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
        env.pop("LD_LIBRARY_PATH", None)
        launch = ["mpirun", "--bind-to", "none", "--mca", "plm_rsh_agent", self.agent, "--mca", "btl_tcp_if_include", f"{self.net}.0/24",
                  "--mca", "oob_tcp_if_include", f"{self.net}.0/24", "--host", ",".join(f"{h}:1" for h in self.names)]  # fmt: skip
        named = ["unshare", "-u", "sh", "-c", f'hostname {self.names[0]}; exec "$@"', "sh"]
        command = ["ip", "netns", "exec", self.id + self.names[0], *named, *launch, build() / "contraflow", *args]
        return subprocess.Popen([*map(str, command)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def close(self):
        (self.folder / "lost").unlink(missing_ok=True)
        for h in self.names:
            self.kill(h)
        for _ in range(50):
            if not any(self.pids(h) for h in self.names):
                break
            time.sleep(0.1)
        for h in self.names:
            sh("ip", "netns", "del", self.id + h, check=False)
            sh("ip", "link", "del", f"{self.id}v{h}", check=False)
        sh("ip", "link", "del", self.id, check=False)
