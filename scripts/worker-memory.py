#!/usr/bin/env python3
"""Memory of a worker beyond its guest's own resident pages, from /proc/PID/smaps.

    faasnap invoke hello --payload '{}' --repeat 100000 > /dev/null &
    scripts/worker-memory.py $(pgrep -f 'faasnap worker') [--each]

The guest's memory is one reservation, larger than everything else, in many mappings; what is mapped next to it without a gap belongs to it. The rest is
the worker's: its program and libraries (clean pages of files, shared by all workers) and memory of its own. What is proportional
counts a page that several processes have by its share. --each lists what the worker's memory consists of, the smallest left out.
"""

import re
import sys


# What --each names is at least that large, in KiB.
LEAST = 16
KINDS = ("Rss:", "Private_Dirty:", "Pss:")


def mappings(pid):
    found = []
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if head:
                words = line.split(maxsplit=5)
                what = (words[5].strip() if len(words) > 5 else "memory without a name") + " " + words[1]
                found.append({"start": int(head[1], 16), "end": int(head[2], 16), "what": what})
            else:
                name, value = line.split()[:2]
                if name in KINDS:
                    found[-1][name] = int(value)
    return found


def guests(found):
    """The mappings of the guest's reservation: one that a snapshot's memory file is mapped in, or that of the largest mapping."""
    runs = []
    for one in found:
        if runs and runs[-1][-1]["end"] == one["start"]:
            runs[-1].append(one)
        else:
            runs.append([one])
    restored = [run for run in runs if any("/memory " in one["what"] for one in run)]
    largest = max(runs, key=lambda run: max(one["end"] - one["start"] for one in run))
    return [one for run in restored or [largest] for one in run]


def told(part):
    resident, dirty, proportional = (sum(one[kind] for one in part) for kind in KINDS)
    return f"{resident:7} KiB resident, {dirty:6} KiB of them private and written; {proportional:6} KiB proportional"


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--each"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    found = mappings(arguments[0])
    guest = guests(found)
    own = [one for one in found if one not in guest]
    print(f"guest   {told(guest)}")
    print(f"worker  {told(own)}")
    if "--each" in sys.argv:
        kinds = {}
        for one in own:
            kinds.setdefault(one["what"], []).append(one)
        for what, part in sorted(kinds.items(), key=lambda pair: -sum(one["Rss:"] for one in pair[1])):
            if sum(one["Rss:"] for one in part) >= LEAST:
                print(f"  {told(part)}  {len(part):3} of {what}")


if __name__ == "__main__":
    main()
