# Functions in linux guests: what a cold boot consists of, and how restores compare. The machine is emulated, so the times mean
# nothing: only their shares and ratios do. Run with a home on the throttled disk.
import glob, json, os, subprocess, sys, time

faasnap, examples = os.environ["FAASNAP"], sys.argv[1]
PAYLOADS = {"hello": '{"name":"rig"}', "json": '{"records":200}', "pagerank": '{"seed":1,"nodes":1000}'}
HELLO = PAYLOADS["hello"]
# Beside a first one that does not count.
RESTORES = 1


def run(*arguments):
    done = subprocess.run([faasnap, *arguments], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"faasnap {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout.decode()


def restored(name, payload, strategy, cached):
    """Milliseconds from request to the guest's first instruction that leaves it, and to the answer; what the last one did."""
    drop = [] if cached else ["--drop-cache"]
    line = ["invoke", name, "--payload", payload, "--strategy", strategy, "--restores", str(RESTORES), *drop]
    report = json.loads(run(*line, "--json"))
    last = report["timelines"][-1]
    ends = sorted((phase["end_ns"], phase["start_ns"], phase["phase"]) for phase in last["phases"])
    phases = ", ".join(f"{phase} {(end - start) / 1e6:.0f}" for end, start, phase in ends if end - start > 10_000_000)
    faults = last["faults"]
    told = f'{last["regions_mapped"]} mappings, {faults["minor"]} and {faults["major"]} faults; {phases}'
    return report["first_exit"]["median"], report["answer"]["median"], told


def memory(name, payload):
    """What a worker has beside its guest's memory, while it serves warm calls."""
    line = [faasnap, "invoke", name, "--payload", payload, "--strategy", "warm", "--repeat", "100000"]
    serving = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    time.sleep(40)
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        if b"worker\0--guest\0linux" in open(path, "rb").read():
            print(f"{name}: a worker's memory while it serves", flush=True)
            subprocess.run([sys.executable, "/rig/worker-memory.py", path.split("/")[2]], check=True)
    serving.terminate()
    serving.wait()


def cold(name, payload):
    phases = json.loads(run("invoke", name, "--from", "cold", "--payload", payload, "--json"))["timeline"]["phases"]
    total = max(phase["end_ns"] for phase in phases)
    print(f"{name}: a cold call's phases, shares of the time from request to answer")
    for phase in sorted(phases, key=lambda phase: phase["end_ns"]):
        share = (phase["end_ns"] - phase["start_ns"]) / total
        print(f"  {phase['phase']:<16} {share:6.1%}  until {phase['end_ns'] / total:6.1%}")


def create(function, code, *more):
    line = ["function", "create", function, "--guest", "linux", "--timeout", "300", "--handler", "app.handler"]
    run(*line, "--code", code, *more)


SMALL = ["--runtime", "python3.11", "--memory", "128"]
create("hello", f"{examples}/python/hello", *SMALL)
create("json", f"{examples}/python/json", *SMALL)
create("pagerank", f"{examples}/functions/pagerank", "--runtime", "graphs", "--memory", "256")
for name, payload in PAYLOADS.items():
    cold(name, payload)
    run("snapshot", "create", name)
    warm = json.loads(run("invoke", name, "--payload", payload, "--strategy", "warm", "--json"))
    warm = max(phase["end_ns"] for phase in warm["timeline"]["phases"]) / 1e6
    times = {}
    for strategy in ["on-demand", "faasnap"]:
        times[f"{strategy}, cold disk"] = restored(name, payload, strategy, False)
    for strategy in ["on-demand", "cached", "eager", "reap", "faasnap"]:
        times[strategy] = restored(name, payload, strategy, True)
    print(f"{name}: request to first exit and to answer, in emulated ms; warm {warm:.1f}")
    for way, (first, answered, told) in times.items():
        print(f"  {way:<22} {first:9.1f} {answered:9.1f}   {told}")
    cold_disk, own = times["faasnap, cold disk"][1], times["faasnap"][1]
    ratios = [("on-demand, cold disk", cold_disk / times["on-demand, cold disk"][1]),
              ("cached", own / times["cached"][1]), ("warm", own / warm)]
    print("  faasnap / " + ", ".join(f"{other} {ratio:.2f}" for other, ratio in ratios), flush=True)

# A kernel that clears what is freed, so that the snapshot does not store it.
command_line = "console=ttyS0 quiet reboot=k panic=-1 pci=off init_on_free=1"
modules = ["--modules", "/rig/kernel/modules", "--name", "clears", "--command-line", command_line]
run("kernel", "import", "/rig/kernel/image", *modules)
create("clears", f"{examples}/python/hello", *SMALL, "--kernel", "clears")
plain, clears = (json.loads(run("snapshot", "create", name, "--json")) for name in ("hello", "clears"))
print("init_on_free=1: stored memory {:.2f}, init {:.2f} of what they are without".format(
    *(clears[what] / plain[what] for what in ("memory_bytes", "init_ms"))), flush=True)

memory("hello", HELLO)
