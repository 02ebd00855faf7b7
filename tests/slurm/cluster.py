"""A real SLURM of one node on the loopback, with one counted GPU that is none, for as long as this program runs.

``python tests/slurm/cluster.py`` installs what is missing (as root, with apt), writes /etc/slurm, starts the daemons, prints
one line, and waits; when its standard input ends or it gets SIGTERM, it cancels all jobs, ends the daemons and takes its
files away. What started it may thus die in any way and no daemon stays. The packages stay installed.

The line is ``ready``, or a reason why there can be no SLURM here, with exit status 3.

Jobs are asked about with squeue; slurmdbd runs too, because a poll while slurmctld is away would otherwise lose them.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

CONF = Path("/etc/slurm")
MARK = "# written by recircuit's tests/slurm/cluster.py\n"
HOSTS, ALIAS = Path("/etc/hosts"), "# recircuit's tests/slurm"
PACKAGES = ("munge", "slurm-client", "slurmctld", "slurmd", "slurmdbd", "mariadb-server")
POLICY = Path("/usr/sbin/policy-rc.d")
PORTS = {"slurmctld": 6817, "slurmd": 6818, "slurmdbd": 6819, "mariadbd": 13306}
ACCOUNT = "recircuit"

# Tracking by parents and memory limits by polling need no cgroups: a job that takes too much is killed within two seconds.
# MinJobAge: squeue tells of an ended job for so long; the executor wants three times its seconds before a status check.
# bf_min_prio_reserve: a waiting GPU job would else reserve the whole node, and CPU jobs behind it stand still.
SLURM = """ClusterName=recircuit
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
SlurmdPort={ports[slurmd]}
SrunPortRange=60001-61000
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=cred_expire=20
SlurmUser=slurm
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/slurmd
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
DefMemPerCPU=1000
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5,bf_min_prio_reserve=4294967295
MinJobAge=3600
KillWait=5
SlurmdTimeout=60
SlurmctldTimeout=20
InactiveLimit=0
Waittime=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[slurmdbd]}
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
NodeName={node} NodeAddr=127.0.0.1 CPUs=4 RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=accelerated Nodes={node} Default=NO MaxTime=INFINITE DefaultTime=60 State=UP
"""
SLURMDBD = """AuthType=auth/munge
DbdHost={node}
DbdAddr=127.0.0.1
DbdPort={ports[slurmdbd]}
CommunicationParameters=NoInAddrAny
SlurmUser=slurm
PidFile={state}/run/slurmdbd.pid
LogFile={state}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[mariadbd]}
StorageUser=slurm
StoragePass=local
StorageLoc=slurm_acct_db
"""
# A GPU must be a device file; nothing checks that it is a GPU.
GRES = "AutoDetect=off\nNodeName={node} Name=gpu File=/dev/null\n"
DATABASE = """CREATE DATABASE slurm_acct_db;
CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'local';
CREATE USER slurm@localhost IDENTIFIED BY 'local';
GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1', slurm@localhost;
"""


class Unavailable(Exception):
    """There can be no SLURM on this machine, for the reason given."""


def said(*words: str, seconds: float = 20, text: str | None = None) -> str | None:
    """Return what a command printed, or None where it failed, hung, or is not there."""
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def wait_for(what: str, ready, seconds: float = 60) -> None:
    """Wait until a function says yes."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not answer within {seconds} s")
        time.sleep(0.1)


def install() -> None:
    """Install the packages that are missing, without starting what they bring."""
    missing = [name for name in PACKAGES if "ok installed" not in (said("dpkg-query", "-W", "-f", "${Status}", name) or "")]
    if not missing:
        return
    mine = not POLICY.exists()
    if mine:
        POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")  # packages may not start daemons
        POLICY.chmod(0o755)
    try:
        options = ("-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=1")
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        if said("apt-get", "install", *options, *missing, seconds=300) is None and (
            said("apt-get", "update", "-q", seconds=120) is None
            or said("apt-get", "install", *options, *missing, seconds=300) is None
        ):
            raise Unavailable(f"apt-get could not install {', '.join(missing)}")
    finally:
        if mine:
            POLICY.unlink()


def check() -> None:
    """Refuse a machine on which this would not work, or would disturb what is there."""
    if os.geteuid() != 0:
        raise Unavailable("SLURM's daemons need root")
    if not shutil.which("apt-get"):
        raise Unavailable("no apt-get to install SLURM with")
    for path in (CONF / name for name in ("slurm.conf", "slurmdbd.conf", "gres.conf", "cgroup.conf")):
        if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
            raise Unavailable(f"{path} is of a SLURM that these tests did not set up")
    for name, port in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise Unavailable(f"port {port} of {name} is taken") from None


class Cluster:
    """The daemons in the order of their start, and the folder of their state."""

    def __init__(self):
        self.node = socket.gethostname().partition(".")[0]  # slurmd finds its own entry by this name
        self.state = Path(tempfile.mkdtemp(prefix="recircuit-slurm-"))
        self.state.chmod(0o755)
        self.daemons: list[tuple[str, subprocess.Popen]] = []
        self.written: list[Path] = []

    def folder(self, name: str, owner: str) -> Path:
        """Make a folder of the state for a user."""
        path = self.state / name
        path.mkdir()
        shutil.chown(path, owner, owner)
        return path

    def write(self, name: str, text: str, mode: int = 0o644, owner: str = "root") -> None:
        """Write a configuration file of SLURM's, where its programs look without being told."""
        memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 * 0.9)
        path = CONF / name
        path.write_text(MARK + text.format(node=self.node, state=self.state, ports=PORTS, memory=memory), encoding="utf-8")
        path.chmod(mode)
        shutil.chown(path, owner, owner)
        self.written.append(path)

    def launch(self, name: str, *words: str, user: str | None = None) -> None:
        """Start a daemon in the foreground, in a session of its own; it gets SIGTERM if this program is killed."""
        as_user = ("--reuid", user, "--regid", user, "--clear-groups") if user else ()
        with (self.state / "log" / f"{name}.out").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *as_user, *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.daemons.append((name, process))

    def start(self) -> None:
        """Start everything and wait for the node."""
        CONF.mkdir(exist_ok=True)
        for name, owner in (("run", "slurm"), ("log", "slurm"), ("ctld", "slurm"), ("slurmd", "root"), ("mysql", "mysql")):
            self.folder(name, owner)
        if not socket.gethostbyname(self.node).startswith("127."):  # daemons listen where the name of the host leads
            HOSTS.write_text(f"127.0.0.1 {self.node} {ALIAS}\n{HOSTS.read_text(encoding='utf-8')}", encoding="utf-8")
        self.write("slurm.conf", SLURM)
        self.write("gres.conf", GRES)
        self.write("slurmdbd.conf", SLURMDBD, 0o600, "slurm")
        self.start_munge()
        self.start_database()
        self.launch("slurmdbd", "slurmdbd", "-D")
        wait_for("slurmdbd", lambda: said("sacctmgr", "-n", "show", "cluster") is not None)
        for words in (
            ("cluster", "recircuit"),
            ("account", ACCOUNT, "Cluster=recircuit"),
            ("user", "root", f"Account={ACCOUNT}"),
        ):
            said("sacctmgr", "-i", "add", *words)
        self.launch("slurmctld", "slurmctld", "-D")
        wait_for("slurmctld", lambda: "is UP" in (said("scontrol", "ping") or ""))
        self.launch("slurmd", "slurmd", "-D")
        wait_for("the node", lambda: (said("sinfo", "-h", "-N", "-p", "main", "-o", "%T") or "").strip() == "idle")

    def start_munge(self) -> None:
        """Start munged; one that runs already serves as well."""

        def answers() -> bool:
            sealed = said("munge", "-n")
            return sealed is not None and said("unmunge", text=sealed) is not None

        if answers():
            return
        if not Path("/etc/munge/munge.key").exists():
            said("mungekey", "-c")
            shutil.chown("/etc/munge/munge.key", "munge", "munge")
        for path, mode in (("/run/munge", 0o755), ("/var/log/munge", 0o700), ("/var/lib/munge", 0o711)):
            Path(path).mkdir(parents=True, exist_ok=True)
            Path(path).chmod(mode)
            shutil.chown(path, "munge", "munge")
        self.launch("munged", "munged", "--foreground", user="munge")
        wait_for("munged", answers, 20)

    def start_database(self) -> None:
        """Start MariaDB for slurmdbd, on a port and in a folder of its own."""
        data, where = self.state / "mysql", f"--socket={self.state}/mysql/sock"
        common = ("--no-defaults", f"--datadir={data}")
        if said("mariadb-install-db", *common, "--user=mysql", "--skip-test-db", seconds=120) is None:
            raise Unavailable("mariadb-install-db failed")
        self.launch(
            "mariadbd", "mariadbd", *common, where, f"--pid-file={data}/pid", "--bind-address=127.0.0.1",
            f"--port={PORTS['mariadbd']}", "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
            "--skip-log-bin", user="mysql",
        )  # fmt: skip
        wait_for("MariaDB", lambda: said("mariadb-admin", "--no-defaults", where, "ping") is not None)
        if said("mariadb", "--no-defaults", where, text=DATABASE) is None:
            raise Unavailable("MariaDB refused slurmdbd's database")

    def stop(self) -> None:
        """Cancel all jobs, end the daemons in the opposite order, and take away what was written."""
        if any(name == "slurmctld" for name, _ in self.daemons):
            said("scancel", "--user=root", "--state=PENDING")
            said("scancel", "--user=root")
            with contextlib.suppress(Unavailable):  # a job outlives slurmd
                wait_for("squeue", lambda: not said("squeue", "-h", "-t", "pending,running,completing", "-o", "%A"), 30)
        for _, process in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for path in self.written:
            path.unlink(missing_ok=True)
        lines = HOSTS.read_text(encoding="utf-8").splitlines(keepends=True)
        if any(ALIAS in line for line in lines):
            HOSTS.write_text("".join(line for line in lines if ALIAS not in line), encoding="utf-8")
        shutil.rmtree(self.state, ignore_errors=True)


def leave(*_) -> NoReturn:
    """Signal handler: go through ``finally``."""
    raise SystemExit(1)


def main() -> None:
    """Run the cluster until standard input ends."""
    os.environ["PATH"] = f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ['PATH']}"
    os.environ.pop("SLURM_CONF", None)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    cluster = None
    try:
        check()
        install()
        cluster = Cluster()
        cluster.start()
        print("ready", flush=True)
        sys.stdin.read()
    except Unavailable as reason:
        print(reason, flush=True)
        logs = sorted((cluster.state / "log").glob("*")) if cluster else ()
        for path in logs:
            print(f"--- {path}\n{path.read_text(errors='replace')[-1500:]}", file=sys.stderr)
        raise SystemExit(3) from None
    finally:
        if cluster:
            cluster.stop()


if __name__ == "__main__":
    main()
