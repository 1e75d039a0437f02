"""What a linux guest costs: its cold start by phases, memory that is free when its snapshot is taken, its worker's own memory. The
machine is emulated: times mean nothing, shares and sizes do.

    linux_costs.py EXAMPLES        with a home that has the runtime python3.11
"""
import glob
import json
import os
import statistics
import subprocess
import sys
import time

FAASNAP, EXAMPLES = os.environ["FAASNAP"], sys.argv[1]
EVENT = ["--payload", json.dumps({"name": "A"})]
PARAMETERS = "console=ttyS0 quiet reboot=k panic=-1 pci=off"
# How often a cold start is measured.
ROUNDS = 3


def say(text):
    print(text, flush=True)


def run(*arguments):
    done = subprocess.run([FAASNAP, *arguments], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"faasnap {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout.decode()


def create(name, code, kernel):
    run("function", "create", name, "--guest", "linux", "--timeout", "300", "--handler", "app.handler", "--runtime", "python3.11",
        "--memory", "128", "--code", code, "--kernel", kernel)


def cold(name):
    """From the request: the phases' ends, of the median of some rounds."""
    ends, shares = {}, {}
    for _ in range(ROUNDS):
        phases = json.loads(run("invoke", name, *EVENT, "--from", "cold", "--json"))["timeline"]["phases"]
        for phase in phases:
            ends.setdefault(phase["phase"], []).append(phase["end_ns"])
            shares.setdefault(phase["phase"], []).append(phase["end_ns"] - phase["start_ns"])
    total = max(map(statistics.median, ends.values()))
    say(f"a cold call's phases, medians of {ROUNDS}, shares of the time from request to answer")
    for phase in sorted(ends, key=lambda phase: statistics.median(ends[phase])):
        share, end = statistics.median(shares[phase]) / total, statistics.median(ends[phase]) / total
        say(f"  {phase:<16} {share:6.1%}  until {end:6.1%}")


# What a function is given time for before its snapshot: the kernel reports free memory two seconds after it became free.
PATIENT = "\nimport gc, time\ngc.collect()\ntime.sleep(8)\n"
# Kernels by their parameters, and whether the function waits: as it is; reporting what is free; clearing what is freed.
KINDS = {"plain": ("", False), "reported": ("", True), "cleared": (" init_on_free=1", False)}
STRATEGIES = ("on-demand", "cached", "faasnap")


def free_memory():
    """How much of a snapshot is memory that nobody uses, by what the guest does with it, and what that is to a restore."""
    code = f"{EXAMPLES}/python/hello"
    patient = os.path.join(os.environ["TMPDIR"], "patient")
    os.makedirs(patient, exist_ok=True)
    with open(f"{code}/app.py") as source, open(f"{patient}/app.py", "w") as target:
        target.write(source.read() + PATIENT)
    found, answers = {}, {}
    for kind, (parameters, waits) in KINDS.items():
        run("kernel", "import", "/rig/kernel/image", "--modules", "/rig/kernel/modules", "--name", kind, "--command-line", PARAMETERS + parameters)
        create(kind, patient if waits else code, kind)
        found[kind] = json.loads(run("snapshot", "create", kind, "--json"))
        run("invoke", kind, *EVENT, "--strategy", "faasnap")
    for _ in range(ROUNDS):
        for kind in KINDS:
            for strategy in STRATEGIES:
                report = json.loads(run("invoke", kind, *EVENT, "--strategy", strategy, "--restores", "2", "--json"))
                answers.setdefault((kind, strategy), []).append(report["answer"]["median"])
    say("what is stored of 192 MiB; init with the kernel's boot and restores, compared with plain ones")
    for kind, one in found.items():
        plain = found["plain"]
        ratios = (statistics.median(answers[kind, each]) / statistics.median(answers["plain", each]) for each in STRATEGIES)
        ratios = ", ".join(f"{each} {ratio:.2f}" for each, ratio in zip(STRATEGIES, ratios))
        stored = f"{one['memory_bytes'] / (1 << 20):6.1f} MiB, {one['memory_bytes'] / plain['memory_bytes']:.2f}"
        say(f"  {kind:<9} {stored}; init {one['init_ms'] / plain['init_ms']:.2f}, {ratios}")
    basis = statistics.median(answers["plain", "cached"])
    each = ", ".join(f"{kind} {strategy} {statistics.median(values) / basis:.2f}" for (kind, strategy), values in answers.items())
    say(f"answers, by that of plain cached: {each}")


def memory(name):
    """What a worker has beside its guest's memory while it serves warm calls in a restored guest."""
    run("snapshot", "create", name)
    run("invoke", name, *EVENT, "--strategy", "faasnap")
    serving = subprocess.Popen([FAASNAP, "invoke", name, *EVENT, "--from", "snapshot", "--repeat", "100000"], stdout=subprocess.DEVNULL)
    process = None
    for _ in range(120):
        time.sleep(1)
        lines = ((path, open(path, "rb").read()) for path in glob.glob("/proc/[0-9]*/cmdline") if os.path.exists(path))
        process = next((path.split("/")[2] for path, line in lines if b"worker\0--machine\0linux:" in line), None)
        if process:
            break
    if not process:
        sys.exit("there is no worker")
    # It serves by then.
    time.sleep(15)
    say("a worker's memory while it serves warm calls after a restore")
    subprocess.run([sys.executable, "/rig/worker-memory.py", process, "--each"], check=True)
    serving.terminate()
    serving.wait()


run("kernel", "import", "/rig/kernel/image", "--modules", "/rig/kernel/modules", "--replace")
create("hello", f"{EXAMPLES}/python/hello", "default")
cold("hello")
memory("hello")
free_memory()
