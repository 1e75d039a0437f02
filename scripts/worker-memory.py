#!/usr/bin/env python3
"""Memory of a worker beyond its guest's own resident pages, from /proc/PID/smaps.

    faasnap invoke hello --payload '{}' --repeat 100000 > /dev/null &
    scripts/worker-memory.py $(pgrep -f 'faasnap worker')

The guest's memory is one reservation, larger than everything else; what is mapped next to it without a gap belongs to it. The rest is
the worker's: its program and libraries (clean pages of files, shared by all workers) and memory of its own.
"""

import re
import sys


def mappings(pid):
    found = []
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if head:
                found.append({"start": int(head[1], 16), "end": int(head[2], 16)})
            else:
                name, value = line.split()[:2]
                if name in ("Rss:", "Private_Dirty:"):
                    found[-1][name] = int(value)
    return found


def guests(found):
    """The mappings of the guest's reservation."""
    large = max(range(len(found)), key=lambda at: found[at]["end"] - found[at]["start"])
    first = last = large
    while first > 0 and found[first - 1]["end"] == found[first]["start"]:
        first -= 1
    while last + 1 < len(found) and found[last + 1]["start"] == found[last]["end"]:
        last += 1
    return found[first:last + 1]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = mappings(sys.argv[1])
    guest = guests(found)
    own = [one for one in found if one not in guest]
    for name, part in (("guest", guest), ("worker", own)):
        resident, dirty = sum(one["Rss:"] for one in part), sum(one["Private_Dirty:"] for one in part)
        print(f"{name:7} {resident:7} KiB resident, {dirty:6} KiB of them private and written")


if __name__ == "__main__":
    main()
