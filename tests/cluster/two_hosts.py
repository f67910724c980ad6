"""Two hosts on this machine, each with its own address, processes, home, shared memory and sshd, and a client beside.

Nothing of it is in the machine's own network: a bridge in the client's namespace joins them. Killing a host's first
process kills every process of that host and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync", "hostname", "mount")
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
SSHD_CONFIG = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""


def missing() -> str:
    """Why hosts cannot be had here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    absent += [] if Path(SSHD).exists() else ["sshd"]
    if absent:
        return f"not installed: {', '.join(absent)}"
    probe = f"probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return f"no network namespaces: {made.stderr.strip()}" if made.returncode else ""


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Hosts:
    """``head`` (10.77.0.2) and ``work`` (10.77.0.3); ``folder`` is seen by both, and by the client."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, {}
        self.names = {name: f"{name}-{os.getpid()}" for name in ("client", "head", "work")}
        self.addresses = {"client": "10.77.0.1", "head": "10.77.0.2", "work": "10.77.0.3"}
        self.hidden: dict[str, Path] = {}
        """Host -> a folder that is empty there."""
        self.discs: dict[str, str] = {}
        """Host -> size of a small disc of its own, at ``~/disc``, with Ray's files on it; empty after a boot."""
        self.networks: set[int] = set()

    # --- up and down ---------------------------------------------------------------------------------------------

    def up(self) -> None:
        for key in ("key", "host_key"):
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        (self.folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=self.folder))
        Path("/run/sshd").mkdir(exist_ok=True)
        for name, space in self.names.items():
            sh("ip", "netns", "add", space)
            self.networks.add((Path("/run/netns") / space).stat().st_ino)
            sh("ip", "-n", space, "link", "set", "lo", "up")
            for place in ("home", "ray"):
                (self.folder / f"{name}.{place}").mkdir()
            roots = ":".join(f"$HOME/ganatomy/{root}" for root in ("platform", "methods", "search_spaces"))
            (self.folder / f"{name}.home" / ".bashrc").write_text(f"export PYTHONPATH={roots} OMP_NUM_THREADS=1\n")
        client = self.names["client"]
        sh("ip", "-n", client, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", client, "addr", "add", f"{self.addresses['client']}/24", "dev", "br0")
        sh("ip", "-n", client, "link", "set", "br0", "up")
        sh("ip", "-n", client, "route", "add", "default", "dev", "br0")  # leads nowhere; says which address is ours
        for name in ("head", "work"):
            space = self.names[name]
            sh("ip", "-n", client, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", space)
            sh("ip", "-n", client, "link", "set", f"to-{name}", "master", "br0", "up")
            sh("ip", "-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
            sh("ip", "-n", space, "link", "set", "eth0", "up")
            sh("ip", "-n", space, "route", "add", "default", "via", self.addresses["client"])
            self.boot(name)

    def boot(self, name: str) -> None:
        """Switch a host on; what it has on disc is as it was."""
        command = self._inside(name, (SSHD, "-D", "-e", "-f", f"{self.folder}/sshd_config"), own_processes=True)
        with (self.folder / f"{name}.sshd.log").open("a") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while self.client("bash", "-c", f"exec 3<>/dev/tcp/{self.addresses[name]}/22").returncode != 0:
            assert time.monotonic() < until, (self.folder / f"{name}.sshd.log").read_text()
            time.sleep(0.2)

    def pull_the_plug(self, name: str) -> None:
        """Every process of the host dies at once."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def down(self) -> None:
        for name in list(self.processes):
            self.pull_the_plug(name)
        until = time.monotonic() + 20
        while (left := self.left_behind()) and time.monotonic() < until:
            if time.monotonic() > until - 10:
                for process in left:  # a command of the client's that a test gave up
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, 9)
            time.sleep(0.2)
        for space in self.names.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def cut(self, name: str) -> None:
        """Take the host's link away; nobody is told, packets are lost."""
        sh("ip", "-n", self.names["client"], "link", "set", f"to-{name}", "down")

    def mend(self, name: str) -> None:
        """Put the link back."""
        sh("ip", "-n", self.names["client"], "link", "set", f"to-{name}", "up")

    def left_behind(self) -> list[int]:
        """Processes that are still in one of our networks."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _network_of(path) in self.networks]

    # --- commands ------------------------------------------------------------------------------------------------

    def client(self, *command: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user beside the cluster does."""
        return subprocess.run(
            self._inside("client", command, own_processes=False),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def start(self, log: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
        """The same, in the background; what it says goes into ``log``."""
        with log.open("w") as output:
            return subprocess.Popen(
                self._inside("client", command, own_processes=False),
                stdout=output,
                stderr=output,
                env=self._environment(environment),
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
            )

    def on(self, name: str, script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a line of shell on a host that is up, as who is logged in there."""
        return subprocess.run(
            self._on(name, script),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._environment({}),
            stdin=subprocess.DEVNULL,
        )

    def begin(self, name: str, log: Path, script: str) -> subprocess.Popen[str]:
        """The same, in the background; what it says is added to ``log``."""
        with log.open("a") as output:
            return subprocess.Popen(
                self._on(name, script),
                stdout=output,
                stderr=output,
                env=self._environment({}),
                stdin=subprocess.DEVNULL,
                text=True,
            )

    def running(self, name: str, *words: str) -> list[int]:
        """Processes of a host whose command line holds all of ``words``, by the numbers they have here."""
        network = (Path("/run/netns") / self.names[name]).stat().st_ino
        ours = [path for path in Path("/proc").glob("[0-9]*") if _network_of(path) == network]
        return [int(path.name) for path in ours if all(word in _command_of(path) for word in words)]

    def _on(self, name: str, script: str) -> list[str]:
        outer = self.processes[name].pid
        first = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0]
        inside = ["nsenter", "--target", first, "--mount", "--uts", "--net", "--pid", f"--wd={_home()}"]
        return [*inside, "bash", "-c", f". ~/.bashrc; {script}"]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "GANATOMY_"))
        }
        return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": _home(), **more}

    def _inside(self, name: str, command: tuple[str, ...], *, own_processes: bool) -> list[str]:
        """The command, as it is run on a host."""
        home, mine = Path(_home()), self.folder / f"{name}.home"
        steps = []
        # What Python needs may lie in the home that is hidden below.
        for path in {Path(sys.prefix), Path(sys.base_prefix), ROOT, self.folder}:
            if path.is_relative_to(home):
                inside = mine / path.relative_to(home)
                steps += [f"mkdir -p {inside}", f"mount --bind {path} {inside}"]
        steps += [f"mount --rbind {mine} {home}"]
        ray = f"{self.folder}/{name}.ray"
        if own_processes:
            steps += [f"hostname {name}", "mount -t tmpfs -o size=1g shm /dev/shm"]
        if own_processes and name in self.discs:
            disc, ray = home / "disc", f"{home}/disc/ray"
            steps += [f"mkdir -p {disc}", f"mount -t tmpfs -o size={self.discs[name]} disc {disc}", f"mkdir {ray}"]
        steps += ["mkdir -p /tmp/ray", f"mount --bind {ray} /tmp/ray"]
        if name in self.hidden:
            steps += [f"mount -t tmpfs none {self.hidden[name]}"]
        own = ["--pid", "--fork", "--kill-child", "--mount-proc", "--uts"] if own_processes else []
        script = " && ".join([*steps, 'exec "$@"'])
        return [
            *("ip", "netns", "exec", self.names[name], "unshare", "--mount", *own),
            *("bash", "-c", script, "bash", *command),
        ]


def _home() -> str:
    return pwd.getpwuid(0).pw_dir


def _command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _network_of(process: Path) -> int:
    try:
        return (process / "ns" / "net").stat().st_ino
    except OSError:
        return 0
