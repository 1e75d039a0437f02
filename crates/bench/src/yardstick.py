"""Answers events with a handler on the host, for comparison: no virtual machine, no isolation.

    yardstick.py once MODULE.FUNCTION EVENT     imports, answers, ends
    yardstick.py serve MODULE.FUNCTION          imports once; each line on standard input is answered by a forked child
"""

import importlib
import json
import os
import sys


def main():
    way, handler = sys.argv[1:3]
    module, function = handler.rsplit(".", 1)
    call = getattr(importlib.import_module(module), function)
    if way == "once":
        print(json.dumps(call(json.loads(sys.argv[3]), None)), flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(json.dumps(call(json.loads(line), None)), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


main()
