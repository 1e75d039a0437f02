# Functions in linux guests: what a cold boot consists of, and how restores compare. The machine is emulated, so the times mean
# nothing: only their shares and ratios do. Run with a home on the throttled disk.
import glob, json, os, subprocess, sys, time

faasnap, examples = os.environ["FAASNAP"], sys.argv[1]
FUNCTIONS = {"hello": '{"name":"rig"}', "json": '{"records":200}'}
RESTORES = 2


def run(*arguments):
    done = subprocess.run([faasnap, *arguments], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"faasnap {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout.decode()


def answer(name, payload, strategy, cached):
    drop = [] if cached else ["--drop-cache"]
    line = ["invoke", name, "--payload", payload, "--strategy", strategy, "--restores", str(RESTORES), *drop]
    return json.loads(run(*line, "--json"))["answer"]["median"]


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


def create(function, name, *more):
    line = ["function", "create", function, "--guest", "linux", "--runtime", "python3.11", "--timeout", "300", "--memory", "128"]
    run(*line, "--handler", "app.handler", "--code", f"{examples}/python/{name}", *more)


for name, payload in FUNCTIONS.items():
    create(name, name)
    cold(name, payload)
    run("snapshot", "create", name)
    warm = json.loads(run("invoke", name, "--payload", payload, "--strategy", "warm", "--json"))
    warm = max(phase["end_ns"] for phase in warm["timeline"]["phases"]) / 1e6
    times = {"warm": warm}
    for strategy in ["on-demand", "faasnap"]:
        times[f"{strategy}, cold disk"] = answer(name, payload, strategy, False)
    for strategy in ["on-demand", "cached", "eager", "faasnap"]:
        times[strategy] = answer(name, payload, strategy, True)
    print(f"{name}: request to answer, in emulated ms")
    for way, time in times.items():
        print(f"  {way:<22} {time:9.1f}")
    by = times["faasnap, cold disk"]
    others = [("on-demand, cold disk", by), ("cached", times["faasnap"]), ("warm", times["faasnap"])]
    print("  faasnap / " + ", ".join(f"{other} {own / times[other]:.2f}" for other, own in others), flush=True)

# A kernel that clears what is freed, so that the snapshot does not store it.
command_line = "console=ttyS0 quiet reboot=k panic=-1 pci=off init_on_free=1"
modules = ["--modules", "/rig/kernel/modules", "--name", "clears", "--command-line", command_line]
run("kernel", "import", "/rig/kernel/image", *modules)
create("clears", "hello", "--kernel", "clears")
plain, clears = (json.loads(run("snapshot", "create", name, "--json")) for name in ("hello", "clears"))
print("init_on_free=1: stored memory {:.2f}, init {:.2f} of what they are without".format(
    *(clears[what] / plain[what] for what in ("memoryBytes", "initMs"))), flush=True)

memory("hello", FUNCTIONS["hello"])
