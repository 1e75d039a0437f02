"""Functions in linux guests, on an emulated machine: how restores compare with each other and with a warm call. The machine is
emulated, so that times mean nothing: only their shares and ratios do.

    linux.py EXAMPLES ROUNDS FUNCTIONS [--times] [--more]    with a home on a throttled disk

FUNCTIONS are names with commas between. --times shows emulated milliseconds as well, --more what else is asked of a linux guest:
what a cold start consists of, a kernel that clears what is freed, a worker's own memory.
"""
import glob
import json
import os
import statistics
import subprocess
import sys
import time

FAASNAP = os.environ["FAASNAP"]
EXAMPLES, ROUNDS, CHOSEN = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
TIMES, MORE = "--times" in sys.argv, "--more" in sys.argv

# Its code, what creates it, the event that is recorded, the one that is measured. They are as large as the benchmark's inputs A and B,
# but for pagerank, which lies between these (18,000 and 20,000 nodes) and the paper's (90,000 and 100,000).
PYTHON = ["--runtime", "python3.11", "--memory", "128"]
FUNCTIONS = {
    "hello": ("python/hello", PYTHON, {"name": "A"}, {"name": "another"}),
    "json": ("python/json", PYTHON, {"records": 120}, {"records": 1400}),
    "pagerank": ("functions/pagerank", ["--runtime", "graphs", "--memory", "256"],
                 {"seed": 1, "nodes": 45000}, {"seed": 2, "nodes": 50000}),
}
# The strategy, and whether the snapshot's files are dropped from the page cache before each restore.
WAYS = {
    "on demand, cold disk": ("on-demand", True),
    "faasnap, cold disk": ("faasnap", True),
    "on demand": ("on-demand", False),
    "cached": ("cached", False),
    "reap": ("reap", False),
    "eager": ("eager", False),
    "faasnap": ("faasnap", False),
}
# A baseline that takes long is measured in the first round only.
ONCE = {"reap", "eager"}
TARGETS = [("faasnap, cold disk", "on demand, cold disk", 0.45), ("faasnap", "cached", 1.05), ("faasnap", "warm", 1.25)]


def say(text):
    print(text, flush=True)


def run(*arguments):
    done = subprocess.run([FAASNAP, *arguments], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"faasnap {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout.decode()


def invoke(name, event, *more):
    return json.loads(run("invoke", name, "--payload", json.dumps(event), *more, "--json"))


def end(timeline):
    return max(phase["end_ns"] for phase in timeline["phases"]) / 1e6


class Measured:
    """What one way to an answer took, in emulated milliseconds, and what the last one did."""

    def __init__(self):
        self.first, self.answer, self.did = [], [], ""

    def add(self, name, event, way):
        strategy, dropped = WAYS[way]
        report = invoke(name, event, "--strategy", strategy, "--restores", "1", *(["--drop-cache"] if dropped else []))
        self.first.append(report["first_exit"]["median"])
        self.answer.append(report["answer"]["median"])
        last = report["timelines"][-1]
        phases = sorted((phase["end_ns"], phase["start_ns"], phase["phase"]) for phase in last["phases"])
        told = ", ".join(f"{phase} {(end - start) / 1e6:.0f}" for end, start, phase in phases if end - start > 10_000_000)
        self.did = f'{last["regions_mapped"]} mappings, {last["faults"]["minor"]} and {last["faults"]["major"]} faults; {told}'


def create(name, code, *more):
    run("function", "create", name, "--guest", "linux", "--timeout", "300", "--handler", "app.handler",
        "--code", f"{EXAMPLES}/{code}", *more)


def cold(name, event):
    timeline = invoke(name, event, "--from", "cold")["timeline"]
    total = end(timeline) * 1e6
    say(f"{name}: a cold call's phases, shares of the time from request to answer")
    for phase in sorted(timeline["phases"], key=lambda phase: phase["end_ns"]):
        share = (phase["end_ns"] - phase["start_ns"]) / total
        say(f"  {phase['phase']:<16} {share:6.1%}  until {phase['end_ns'] / total:6.1%}")


def measure(name):
    code, more, recorded, measured = FUNCTIONS[name]
    create(name, code, *more)
    if MORE:
        cold(name, recorded)
    run("snapshot", "create", name)
    for strategy in ("faasnap", "reap"):
        invoke(name, recorded, "--strategy", strategy)
    say(f"{name}: booted, saved and recorded")
    ways, warm = {way: Measured() for way in WAYS}, []
    for number in range(ROUNDS):
        warm.append(end(invoke(name, measured, "--strategy", "warm")["timeline"]))
        for way, found in ways.items():
            if number == 0 or way not in ONCE:
                found.add(name, measured, way)
        say(f"{name}: round {number + 1} of {ROUNDS}")
    return {way: (statistics.median(found.first), statistics.median(found.answer), found.did)
            for way, found in ways.items()} | {"warm": (0, statistics.median(warm), "")}


def show(name, found):
    _, basis, _ = found["cached"]
    if TIMES:
        say(f"{name}: emulated ms")
        for way, (first, answer, did) in found.items():
            say(f"  {way:<22} {first:9.1f} {answer:9.1f}   {did}")
    say(f"{name:<24} first exit  answer   (the answer of a restore by `cached` is 1)")
    for way, (first, answer, _) in found.items():
        say(f"  {way:<22} {f'{first / basis:9.2f}' if first else ' ' * 9} {answer / basis:9.2f}")
    for way, other, most in TARGETS:
        ratio = found[way][1] / found[other][1]
        say(f"  {way} / {other}: {ratio:.2f}, at most {most:.2f}: {'met' if ratio <= most else 'NOT MET'}")


def clearing():
    """A kernel that clears what is freed, so that the snapshot does not store it."""
    command_line = "console=ttyS0 quiet reboot=k panic=-1 pci=off init_on_free=1"
    run("kernel", "import", "/rig/kernel/image", "--modules", "/rig/kernel/modules", "--name", "clears", "--command-line", command_line)
    code, more, recorded, _ = FUNCTIONS["hello"]
    create("clears", code, *more, "--kernel", "clears")
    plain, clears = (json.loads(run("snapshot", "create", name, "--json")) for name in ("hello", "clears"))
    say("init_on_free=1: stored memory {:.2f}, init {:.2f} of what they are without".format(
        *(clears[what] / plain[what] for what in ("memory_bytes", "init_ms"))))


def memory(name):
    """What a worker has beside its guest's memory, while it serves warm calls."""
    event = json.dumps(FUNCTIONS[name][2])
    line = [FAASNAP, "invoke", name, "--payload", event, "--strategy", "warm", "--repeat", "100000"]
    serving = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    found = []
    for _ in range(120):
        time.sleep(1)
        lines = ((path, open(path, "rb").read()) for path in glob.glob("/proc/[0-9]*/cmdline") if os.path.exists(path))
        found = [path.split("/")[2] for path, line in lines if b"worker\0--guest\0linux" in line]
        if found:
            break
    # It serves by then.
    time.sleep(20)
    for process in found:
        say(f"{name}: a worker's memory while it serves")
        subprocess.run([sys.executable, "/rig/worker-memory.py", process])
    serving.terminate()
    serving.wait()


run("kernel", "import", "/rig/kernel/image", "--modules", "/rig/kernel/modules", "--replace")
for chosen in CHOSEN:
    show(chosen, measure(chosen))
if MORE:
    clearing()
    memory("hello")
