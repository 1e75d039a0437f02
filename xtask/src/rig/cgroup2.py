"""A node below a version 2 control group with the kernel's own controllers: each worker has its limits, what stops at them
is told, and no instance starts when the group that the node is in has no memory left for it.

    cgroup2.py FAASNAP EXAMPLES        as root, with nothing mounted on /sys/fs/cgroup
"""

import json
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

FAASNAP, EXAMPLES = sys.argv[1:]
TOP = pathlib.Path("/sys/fs/cgroup")
OWN = TOP / "node"
INVOKE = "/2015-03-31/functions/{}/invocations"


def invoke(endpoint, name):
    request = urllib.request.Request(endpoint + INVOKE.format(name), data=b"{}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def workers():
    return sorted(OWN.glob("faasnap-worker-*"))


def figures(group, name):
    return {key: int(value) for key, value in (line.split() for line in (group / name).read_text().splitlines())}


def main():
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", TOP], check=True)
    (TOP / "cgroup.subtree_control").write_text("+memory +cpu +pids")
    OWN.mkdir()
    for name in ("one", "two"):
        subprocess.run([FAASNAP, "function", "create", name, "--runtime", "provided.al2023", "--handler", "app.handler", "--code", f"{EXAMPLES}/shell", "--timeout", "60"], check=True)
    start = f'echo $$ >{OWN}/cgroup.procs && exec {FAASNAP} serve --auth none --listen 127.0.0.1:9009 --no-automatic-snapshots'
    node = subprocess.Popen(["sh", "-c", start], stdout=subprocess.PIPE, text=True)
    try:
        endpoint = node.stdout.readline().split()[2]
        limits(endpoint)
        end_by_memory(endpoint)
        admission(endpoint)
    finally:
        node.terminate()
        status = node.wait(timeout=120)
    assert status == 0, status
    assert workers() == [], "groups are left"
    # The steps after this one are without, as those before.
    subprocess.run(["umount", "-l", TOP], check=True)
    print("all of it holds")


def limits(endpoint):
    """Each worker is alone in a group with all three limits."""
    status, body = invoke(endpoint, "one")
    assert status == 200, body
    found = workers()
    print(f"{len(found)} groups of workers; the node is in {(OWN / 'faasnap-node/cgroup.procs').read_text().split()}")
    assert found and (OWN / "cgroup.procs").read_text() == ""
    for group in found:
        maximum = int((group / "memory.max").read_text())
        processes = (group / "cgroup.procs").read_text().split()
        current = int((group / "memory.current").read_text())
        # The worker, and the first process of its pid namespace.
        assert processes and 0 < current <= maximum, (group, processes, current, maximum)
        assert (group / "pids.max").read_text() == "1280\n" and int((group / "pids.current").read_text()) > 1
        quota, period = map(int, (group / "cpu.max").read_text().split())
        assert period == 20_000 and quota >= period and int((group / "cpu.max.burst").read_text()) == quota
        assert figures(group, "cpu.stat")["nr_periods"] > 0, "no CPU time was counted against the limit"
        print(group.name, "memory.max", maximum >> 20, "MiB, cpu.max", quota, period)


def end_by_memory(endpoint):
    """A worker that needs more than its limit is ended by the kernel, and the next call has another one."""
    spare = [group for group in workers() if figures(group, "memory.events")["oom_kill"] == 0]
    for group in spare:
        (group / "memory.max").write_text(str(1 << 20))
    wait("the kernel ends them", lambda: all(not group.exists() or not (group / "cgroup.procs").read_text() for group in spare))
    status, body = invoke(endpoint, "one")
    assert status == 200, body
    print("ended at the limit, and answered by another one")


def admission(endpoint):
    """The node's own group has no memory left: refused as AWS does, until it has."""
    (OWN / "memory.max").write_text(str(256 << 20))
    status, body = invoke(endpoint, "two")
    assert status == 429 and json.loads(body)["Reason"] == "ConcurrentInvocationLimitExceeded", (status, body)
    (OWN / "memory.max").write_text("max")
    # A look at the memory is good for a moment.
    wait("memory again", lambda: invoke(endpoint, "two")[0] == 200)
    print("refused without memory, and answered with it")


def wait(what, condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(what)


main()
