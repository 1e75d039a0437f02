//! Saving and resuming between calls.

use super::*;

#[test]
fn a_blocked_restore_call_goes_on_after_save_and_resume() {
    let mut api = snap_start();
    assert_eq!(send(&mut api, A, &get(RESTORE_NEXT)), "");
    // Half a request on another connection is kept as well.
    let next = get(NEXT);
    let (head, tail) = next.split_at(20);
    assert_eq!(send(&mut api, B, head), "");
    assert_eq!(events(&mut api), [Event::WaitingForRestore]);

    let saved = postcard::to_allocvec(&api.save()).unwrap();
    drop(api);
    let mut api = RuntimeApi::resume(postcard::from_bytes(&saved).unwrap()).unwrap();

    api.deliver(invocation("r")).unwrap();
    assert_eq!(api.release_restore(), ReleasedRuntime::Released);
    assert_eq!(read(&mut api, A), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert!(send(&mut api, B, tail).contains("Aws-Request-Id: r"));
    assert_eq!(events(&mut api), [Event::WaitingForInvocation { after: After::Restore }]);
}

#[test]
fn a_runtime_without_hooks_is_restored_inside_next() {
    let mut api = snap_start();
    send(&mut api, A, &get(NEXT));
    assert_eq!(events(&mut api), [Event::WaitingForInvocation { after: After::Init }]);
    let mut api = RuntimeApi::resume(api.save()).unwrap();
    assert_eq!(api.release_restore(), ReleasedRuntime::NothingToRelease);
    api.deliver(invocation("r")).unwrap();
    assert!(read(&mut api, A).contains("Aws-Request-Id: r"));
}

#[test]
fn contradictory_saved_states_are_refused() {
    let mut api = snap_start();
    send(&mut api, A, &get(NEXT));
    let mut forged = api.save();
    forged.waiting.push_back(B);
    assert_eq!(RuntimeApi::resume(forged).unwrap_err(), ResumeError::NotWaiting(B));
    let mut forged = api.save();
    forged.waiting.clear();
    assert_eq!(RuntimeApi::resume(forged).unwrap_err(), ResumeError::Contradiction(RuntimeState::Ready));
}

#[test]
fn failed_hooks_are_restore_errors_on_both_paths() {
    for path in ["/runtime/restore/error", "/runtime/init/error"] {
        let mut api = snap_start();
        send(&mut api, A, &get(RESTORE_NEXT));
        api.release_restore();
        events(&mut api);
        let fields = "Lambda-Runtime-Function-Error-Type: Runtime.AfterRestoreError\r\n";
        assert!(send(&mut api, B, &post(path, fields, "{}")).starts_with("HTTP/1.1 202"));
        let error_type = ErrorType::from_header(Some("Runtime.AfterRestoreError"));
        assert_eq!(events(&mut api), [Event::RestoreError { error_type, payload: b"{}".to_vec() }]);
        assert_eq!(api.deliver(invocation("r")), Err(DeliverError::Failed(RuntimeState::RestoreError)));
    }
}
