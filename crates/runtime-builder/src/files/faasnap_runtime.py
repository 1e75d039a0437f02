"""Starts AWS's runtime client.

Before a snapshot, what is there leaves the garbage collector's sight. Else the first collection of its older generations, some
hundred invocations after a restore, would walk through the whole heap and bring all of it from the snapshot, page by page: 100 ms
within an invocation of 3.

A function without hooks for after a restore is snapshotted where it waits for its first event, not at restore/next before that:
every restored copy would come from there to the event by 21 system calls more, most of them for the client's first connection.
"""

import gc
import os
import runpy


def settle():
    gc.collect()
    gc.freeze()


def only_for_hooks(restore_next):
    def wait(self):
        if get_after_restore():
            restore_next(self)

    return wait


if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
    from awslambdaric import lambda_runtime_client
    from snapshot_restore_py import get_after_restore, register_before_snapshot

    # The first to be registered is the last to run, after the function's own hooks.
    register_before_snapshot(settle)

    for client in vars(lambda_runtime_client).values():
        if isinstance(client, type) and "restore_next" in vars(client):
            client.restore_next = only_for_hooks(client.restore_next)

runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
