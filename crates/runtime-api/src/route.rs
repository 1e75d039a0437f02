//! From method and path to the call that is meant.

use crate::http::Method;
use crate::reply::Reply;

/// A call of the Runtime API or of its neighbours on the same address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    NextInvocation,
    Response {
        request_id: String,
    },
    Error {
        request_id: String,
    },
    InitError,
    NextRestore,
    RestoreError,
    Credentials,
    /// Answered without looking at any state.
    Fixed(Reply),
}

impl Route {
    /// Finds the call. `snap_start` says whether the calls around a snapshot exist.
    pub(crate) fn find(method: Method, path: &str, snap_start: bool) -> Result<Self, Reply> {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (expected, route) = match segments.as_slice() {
            ["2018-06-01", call @ ..] => runtime_call(call, snap_start).ok_or(Reply::NotFound)?,
            ["2021-04-23", "credentials"] if snap_start => (Method::Get, Self::Credentials),
            ["2020-08-15", "logs"] => (Method::Put, Self::Fixed(Reply::LogsNotSupported)),
            ["2022-07-01", "telemetry"] => (Method::Put, Self::Fixed(Reply::TelemetryNotSupported)),
            _ => return Err(Reply::NotFound),
        };
        if method != expected {
            let allow = match expected {
                Method::Post => "POST",
                Method::Put => "PUT",
                _ => "GET",
            };
            return Err(Reply::MethodNotAllowed { allow: allow.to_owned() });
        }
        Ok(route)
    }
}

fn runtime_call(call: &[&str], snap_start: bool) -> Option<(Method, Route)> {
    Some(match call {
        ["ping"] => (Method::Get, Route::Fixed(Reply::Pong)),
        ["runtime", "invocation", "next"] => (Method::Get, Route::NextInvocation),
        ["runtime", "invocation", request_id, "response"] => {
            (Method::Post, Route::Response { request_id: (*request_id).to_owned() })
        }
        ["runtime", "invocation", request_id, "error"] => {
            (Method::Post, Route::Error { request_id: (*request_id).to_owned() })
        }
        ["runtime", "init", "error"] => (Method::Post, Route::InitError),
        ["runtime", "restore", "next"] if snap_start => (Method::Get, Route::NextRestore),
        ["runtime", "restore", "error"] if snap_start => (Method::Post, Route::RestoreError),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_calls_exist_with_snap_start_only() {
        let path = "/2018-06-01/runtime/restore/next";
        assert_eq!(Route::find(Method::Get, path, true), Ok(Route::NextRestore));
        assert_eq!(Route::find(Method::Get, path, false), Err(Reply::NotFound));
        assert_eq!(Route::find(Method::Get, "/2021-04-23/credentials", false), Err(Reply::NotFound));
    }

    #[test]
    fn wrong_methods_and_unknown_paths() {
        let next = "/2018-06-01/runtime/invocation/next";
        assert_eq!(
            Route::find(Method::Post, next, false),
            Err(Reply::MethodNotAllowed { allow: "GET".to_owned() })
        );
        for path in [
            "",
            "/",
            "/2018-06-01",
            "/2018-06-01/runtime/invocation//x/response",
            "/2020-01-01/extension/register",
        ] {
            assert_eq!(Route::find(Method::Post, path, true), Err(Reply::NotFound), "{path}");
        }
    }
}
