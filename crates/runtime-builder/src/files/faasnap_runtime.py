"""Starts AWS's runtime client.

Before a snapshot, what is there leaves the garbage collector's sight. Else the first collection of its older generations, some
hundred invocations after a restore, would walk through the whole heap and bring all of it from the snapshot, page by page: 100 ms
within an invocation of 3.
"""

import gc
import os
import runpy


def settle():
    gc.collect()
    gc.freeze()


if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
    from snapshot_restore_py import register_before_snapshot

    # The first to be registered is the last to run, after the function's own hooks.
    register_before_snapshot(settle)

runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
