//! The environment variables of a function's process, as a pure function of its configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the Runtime API is, as the guest sees it: the address the worker serves, host and port without scheme.
pub const RUNTIME_API_ADDRESS: &str = "127.0.0.1:9001";

/// `AWS_LAMBDA_INITIALIZATION_TYPE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum InitializationType {
    /// Booted for an invocation.
    OnDemand,
    /// Booted ahead of invocations.
    ProvisionedConcurrency,
    /// Booted to be snapshotted.
    SnapStart,
}

/// What the environment is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionEnvironment<'a> {
    /// The function's name.
    pub function_name: &'a str,
    /// `$LATEST` or a version's number.
    pub function_version: &'a str,
    /// The function's memory, in MB of 2^20 bytes.
    pub memory_size_mb: u64,
    /// The handler, such as `app.handler`.
    pub handler: &'a str,
    /// The region the node stands for.
    pub region: &'a str,
    /// The runtime's identifier such as `python3.12`, when it is managed: with it clients behave as under AWS's own image.
    pub managed_runtime: Option<&'a str>,
    /// The log group.
    pub log_group: &'a str,
    /// The instance's log stream.
    pub log_stream: &'a str,
    /// How the instance is booted.
    pub initialization_type: InitializationType,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`, set with [`InitializationType::SnapStart`] only.
    pub authorization_token: Option<&'a str>,
    /// The access key, secret key and session token, set without [`InitializationType::SnapStart`] only: they would be
    /// frozen into the snapshot.
    pub credentials: Option<[&'a str; 3]>,
    /// Whether logs are JSON (`AWS_LAMBDA_LOG_FORMAT`).
    pub json_logs: bool,
    /// `AWS_LAMBDA_LOG_LEVEL`.
    pub log_level: Option<&'a str>,
    /// The user's own variables. They win over defaults such as `PATH`, never over what identifies the function.
    pub user: &'a BTreeMap<String, String>,
}

/// Reserved with AWS although this node doesn't set them. The first two would switch clients into modes that this node
/// does not serve: many invocations at once, and framed logs.
const NEVER_SET: [&str; 3] = ["AWS_LAMBDA_MAX_CONCURRENCY", "_LAMBDA_TELEMETRY_LOG_FD", "_X_AMZN_TRACE_ID"];

impl FunctionEnvironment<'_> {
    /// The variables, sorted by name.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |name: &str, value: &str| {
            variables.insert(name.to_owned(), value.to_owned());
        };
        for (name, value) in DEFAULTS {
            set(name, value);
        }
        for (name, value) in self.user.iter().filter(|(name, value)| is_expressible(name, value)) {
            set(name, value);
        }
        set("AWS_LAMBDA_FUNCTION_NAME", self.function_name);
        set("AWS_LAMBDA_FUNCTION_VERSION", self.function_version);
        set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &self.memory_size_mb.to_string());
        set("AWS_LAMBDA_RUNTIME_API", RUNTIME_API_ADDRESS);
        set("AWS_REGION", self.region);
        set("AWS_DEFAULT_REGION", self.region);
        set("_HANDLER", self.handler);
        set("LAMBDA_TASK_ROOT", "/var/task");
        set("LAMBDA_RUNTIME_DIR", "/var/runtime");
        if let Some(runtime) = self.managed_runtime {
            set("AWS_EXECUTION_ENV", &format!("AWS_Lambda_{runtime}"));
        }
        if self.json_logs {
            set("AWS_LAMBDA_LOG_FORMAT", "JSON");
        }
        if let Some(level) = self.log_level {
            set("AWS_LAMBDA_LOG_LEVEL", level);
        }
        set(
            "AWS_LAMBDA_INITIALIZATION_TYPE",
            match self.initialization_type {
                InitializationType::OnDemand => "on-demand",
                InitializationType::ProvisionedConcurrency => "provisioned-concurrency",
                InitializationType::SnapStart => "snap-start",
            },
        );
        if self.initialization_type == InitializationType::SnapStart {
            // Many instances share the snapshot, so there is no log stream to name, and no key may be in it.
            if let Some(token) = self.authorization_token {
                let uri = format!("http://{RUNTIME_API_ADDRESS}/2021-04-23/credentials");
                set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri);
                set("AWS_CONTAINER_AUTHORIZATION_TOKEN", token);
            }
        } else {
            set("AWS_LAMBDA_LOG_GROUP_NAME", self.log_group);
            set("AWS_LAMBDA_LOG_STREAM_NAME", self.log_stream);
            if let Some([access_key_id, secret_access_key, session_token]) = self.credentials {
                set("AWS_ACCESS_KEY_ID", access_key_id);
                set("AWS_SECRET_ACCESS_KEY", secret_access_key);
                set("AWS_SESSION_TOKEN", session_token);
            }
        }
        for name in NEVER_SET {
            variables.remove(name);
        }
        variables
    }
}

/// As recorded from AWS, but for the daemon's address; a user may override each of these.
const DEFAULTS: [(&str, &str); 7] = [
    ("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
    (
        "LD_LIBRARY_PATH",
        "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    ),
    ("PYTHONPATH", "/var/runtime"),
    ("LANG", "en_US.UTF-8"),
    ("TZ", ":UTC"),
    ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
    // AWS's is a link-local address. Here nobody listens, and datagrams to the guest's own loopback go nowhere.
    ("AWS_XRAY_DAEMON_ADDRESS", "127.0.0.1:2000"),
];

/// Whether a variable can be handed to a program at all.
fn is_expressible(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(user: &BTreeMap<String, String>) -> FunctionEnvironment<'_> {
        FunctionEnvironment {
            function_name: "hello",
            function_version: "$LATEST",
            memory_size_mb: 256,
            handler: "app.handler",
            region: "eu-central-1",
            managed_runtime: Some("python3.11"),
            log_group: "/aws/lambda/hello",
            log_stream: "s",
            initialization_type: InitializationType::OnDemand,
            authorization_token: Some("token"),
            credentials: Some(["a", "b", "c"]),
            json_logs: false,
            log_level: None,
            user,
        }
    }

    fn user(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn users_override_defaults_but_not_the_identity() {
        let user = user(&[
            ("PATH", "/mine"),
            ("AWS_LAMBDA_FUNCTION_NAME", "other"),
            ("AWS_LAMBDA_RUNTIME_API", "evil:1"),
            ("AWS_LAMBDA_MAX_CONCURRENCY", "8"),
            ("A=B", "c"),
            ("D", "e\0f"),
            ("STAGE", "test"),
        ]);
        let variables = function(&user).variables();
        let get = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!(get("PATH"), Some("/mine"));
        assert_eq!(get("STAGE"), Some("test"));
        assert_eq!(get("AWS_LAMBDA_FUNCTION_NAME"), Some("hello"));
        assert_eq!(get("AWS_LAMBDA_RUNTIME_API"), Some(RUNTIME_API_ADDRESS));
        assert_eq!(get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"), Some("256"));
        assert_eq!(get("AWS_EXECUTION_ENV"), Some("AWS_Lambda_python3.11"));
        for absent in ["AWS_LAMBDA_MAX_CONCURRENCY", "A=B", "D", "AWS_CONTAINER_AUTHORIZATION_TOKEN"] {
            assert_eq!(get(absent), None, "{absent}");
        }
    }

    #[test]
    fn a_snapshot_holds_no_keys_and_no_log_stream() {
        let user = BTreeMap::new();
        let variables =
            FunctionEnvironment { initialization_type: InitializationType::SnapStart, ..function(&user) }
                .variables();
        let get = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!(get("AWS_LAMBDA_INITIALIZATION_TYPE"), Some("snap-start"));
        assert_eq!(get("AWS_CONTAINER_AUTHORIZATION_TOKEN"), Some("token"));
        assert_eq!(
            get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            Some("http://127.0.0.1:9001/2021-04-23/credentials")
        );
        for absent in
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_LAMBDA_LOG_STREAM_NAME"]
        {
            assert_eq!(get(absent), None, "{absent}");
        }
    }
}
