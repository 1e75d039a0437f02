"""Functions in linux guests, on an emulated machine: how restores compare with each other and with a warm call. The machine is
emulated, so that times mean nothing: only their shares and ratios do.

    linux.py EXAMPLES ROUNDS FUNCTIONS [--times]    with a home on a throttled disk

FUNCTIONS are names with commas between. --times shows emulated milliseconds as well.
"""
import json
import os
import statistics
import subprocess
import sys

FAASNAP = os.environ["FAASNAP"]
EXAMPLES, ROUNDS, CHOSEN = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
TIMES = "--times" in sys.argv

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
        sys.exit(f"faasnap {' '.join(arguments)} ended with {done.returncode}: {done.stdout.decode().strip()}")
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


def measure(name):
    code, more, recorded, measured = FUNCTIONS[name]
    create(name, code, *more)
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


run("kernel", "import", "/rig/kernel/image", "--modules", "/rig/kernel/modules", "--replace")
for chosen in CHOSEN:
    show(chosen, measure(chosen))
