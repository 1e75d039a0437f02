//! Settings of functions as requests give them: checked, in AWS's words, and turned into what is stored.

use lambda_api::{ErrorKind, LambdaError, LoggingConfig, SettingsRequest, validation};
use registry::{
    Environment, EnvironmentProblem, Function, FunctionConfig, Guest, Handler, LayerUse, Logging, MAX_LAYERS,
    MemoryMegabytes, RuntimeName, Settings, SnapStart, TimeoutSeconds, TmpMegabytes,
};
use serde_json::Value;
use store::{NewLayer, Runtime, RuntimeOrigin};

use crate::answer::Failed;
use crate::node::Node;

const ROLE_PATTERN: &str = r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+";

/// Settings that were given, checked. `None` leaves what there is.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Checked {
    runtime: Option<AskedRuntime>,
    handler: Option<Handler>,
    memory: Option<MemoryMegabytes>,
    timeout: Option<TimeoutSeconds>,
    tmp: Option<TmpMegabytes>,
    environment: Option<Environment>,
    role: Option<String>,
    description: Option<String>,
    snap_start: Option<SnapStart>,
    tracing_active: Option<bool>,
    logging: Option<Logging>,
    /// The inner `None` takes the dead letter target away.
    dead_letter: Option<Option<String>>,
    /// New layers.
    pub layers: Option<Vec<NewLayer>>,
}

/// A runtime of the home.
#[derive(Clone, PartialEq, Debug)]
struct AskedRuntime {
    name: RuntimeName,
    /// AWS's name of it, when that one was given.
    asked: Option<String>,
}

/// AWS's name of a runtime that is called otherwise here: Debian's Node.js has one version, AWS's names have it in them.
fn aws_name(runtime: &Runtime) -> Option<String> {
    let RuntimeOrigin::Built { recipe, debian, .. } = &runtime.origin else { return None };
    let package = debian.iter().find(|package| recipe == "nodejs" && package.name == "nodejs")?;
    let major: u32 = package.version.split('.').next()?.parse().ok()?;
    Some(format!("nodejs{major}.x"))
}

impl Checked {
    /// A new function's configuration: what is not given has AWS's default.
    pub fn new_function(&self) -> Result<(FunctionConfig, Settings), LambdaError> {
        let mandatory = || {
            LambdaError::invalid(
                "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
            )
        };
        let mut config = FunctionConfig {
            runtime: self.runtime.clone().ok_or_else(mandatory)?.name,
            handler: self.handler.clone().ok_or_else(mandatory)?,
            memory: MemoryMegabytes::DEFAULT,
            timeout: TimeoutSeconds::DEFAULT,
            tmp: TmpMegabytes::DEFAULT,
            environment: Environment::default(),
            guest: Guest::Process,
        };
        let mut settings = Settings::default();
        self.apply_to(&mut config, &mut settings);
        Ok((config, settings))
    }

    /// Changes a function.
    pub fn apply(&self, function: &mut Function) {
        self.apply_to(&mut function.config, &mut function.settings);
    }

    fn apply_to(&self, config: &mut FunctionConfig, settings: &mut Settings) {
        fn set<T: Clone>(place: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *place = value.clone();
            }
        }
        if let Some(AskedRuntime { name, asked }) = &self.runtime {
            config.runtime = name.clone();
            settings.runtime_as_asked = asked.clone();
        }
        set(&mut config.handler, &self.handler);
        set(&mut config.memory, &self.memory);
        set(&mut config.timeout, &self.timeout);
        set(&mut config.tmp, &self.tmp);
        set(&mut config.environment, &self.environment);
        set(&mut settings.role, &self.role);
        set(&mut settings.description, &self.description);
        set(&mut settings.snap_start, &self.snap_start);
        set(&mut settings.tracing_active, &self.tracing_active);
        set(&mut settings.logging, &self.logging);
        set(&mut settings.dead_letter, &self.dead_letter);
    }
}

impl Node {
    /// Checks settings.
    pub(crate) fn check_settings(&self, request: &SettingsRequest) -> Result<Checked, Failed> {
        refuse_unoffered(request)?;
        let number = |value: Option<i64>, member, lowest, highest| {
            value
                .map(|value| validation::in_range(value, member, lowest, highest))
                .transpose()
                .map(|value| value.and_then(|value| u32::try_from(value).ok()))
        };
        let refused = |problem: registry::SettingProblem| LambdaError::invalid(problem.to_string());
        let memory = number(request.memory_size, "memorySize", 128, 10_240)?;
        let timeout = number(request.timeout, "timeout", 1, 900)?;
        let size = request.ephemeral_storage.map(|storage| storage.size);
        let tmp = number(size, "ephemeralStorage.size", 512, 10_240)?;
        let handler = |text: &String| {
            Handler::try_from(text.clone()).map_err(|_| validation::pattern_error(text, "handler", r"[^\s]+"))
        };
        let variables =
            request.environment.as_ref().map(|environment| environment.variables.clone().unwrap_or_default());
        Ok(Checked {
            runtime: request.runtime.as_deref().map(|name| self.runtime(name)).transpose()?,
            handler: request.handler.as_ref().map(handler).transpose()?,
            memory: memory.map(MemoryMegabytes::try_from).transpose().map_err(refused)?,
            timeout: timeout.map(TimeoutSeconds::try_from).transpose().map_err(refused)?,
            tmp: tmp.map(TmpMegabytes::try_from).transpose().map_err(refused)?,
            environment: variables
                .map(Environment::new)
                .transpose()
                .map_err(|problem| environment_error(&problem))?,
            role: request.role.as_deref().map(role).transpose()?,
            description: request.description.as_deref().map(description).transpose()?,
            snap_start: request
                .snap_start
                .as_ref()
                .map(|snap_start| match snap_start.apply_on.as_deref() {
                    Some("PublishedVersions") => Ok(SnapStart::PublishedVersions),
                    Some("None") | None => Ok(SnapStart::None),
                    Some(other) => Err(validation::enum_error(
                        other,
                        "snapStart.applyOn",
                        &["PublishedVersions", "None"],
                    )),
                })
                .transpose()?,
            tracing_active: request
                .tracing_config
                .as_ref()
                .map(|tracing| match tracing.mode.as_deref() {
                    Some("Active") => Ok(true),
                    Some("PassThrough") | None => Ok(false),
                    Some(other) => {
                        Err(validation::enum_error(other, "tracingConfig.mode", &["Active", "PassThrough"]))
                    }
                })
                .transpose()?,
            logging: request.logging_config.as_ref().map(logging).transpose()?,
            dead_letter: request
                .dead_letter_config
                .as_ref()
                .map(|config| self.destination(config.target_arn.as_deref(), "deadLetterConfig.targetArn"))
                .transpose()?,
            layers: request.layers.as_deref().map(|arns| self.layer_uses(arns)).transpose()?,
        })
    }

    /// A runtime that is in the home, by its own name or AWS's.
    fn runtime(&self, given: &str) -> Result<AskedRuntime, Failed> {
        let listed = self.store.list_runtimes()?;
        let known: Vec<_> =
            listed.into_iter().filter_map(|(name, record)| Some((name, aws_name(&record.ok()?)))).collect();
        if let Some((name, _)) = known.iter().find(|(name, _)| name.as_str() == given) {
            return Ok(AskedRuntime { name: name.clone(), asked: None });
        }
        if let Some((name, asked)) = known.iter().find(|(_, aws)| aws.as_deref() == Some(given)) {
            return Ok(AskedRuntime { name: name.clone(), asked: asked.clone() });
        }
        let shown: String = given.chars().take(80).collect();
        let all: Vec<String> =
            known.into_iter().flat_map(|(name, aws)| std::iter::once(name.to_string()).chain(aws)).collect();
        let message = format!(
            "Value {shown} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a valid ARN \
             (`faasnap runtime build` makes more)",
            all.join(", ")
        );
        Err(LambdaError::invalid(message).into())
    }

    /// A function's ARN as the target of failed events; an empty one takes it away.
    pub(crate) fn destination(&self, arn: Option<&str>, member: &str) -> Result<Option<String>, LambdaError> {
        let Some(arn) = arn.filter(|arn| !arn.is_empty()) else { return Ok(None) };
        if !arn.starts_with(&self.account.function("")) {
            return Err(LambdaError::invalid(format!(
                "The destination ARN {arn} at '{member}' is invalid: this node sends to functions of its own only."
            )));
        }
        crate::request::parse_target(self, arn, None)?;
        Ok(Some(arn.to_owned()))
    }

    fn layer_uses(&self, arns: &[String]) -> Result<Vec<NewLayer>, Failed> {
        if arns.len() > MAX_LAYERS {
            return Err(
                LambdaError::invalid(format!("Cannot reference more than {MAX_LAYERS} layers.")).into()
            );
        }
        let mut uses: Vec<NewLayer> = Vec::new();
        for arn in arns {
            let (name, number) = self.account.parse_layer_version(arn).ok_or_else(|| {
                LambdaError::invalid(format!("Layer version {arn} does not exist on this node."))
            })?;
            let layer = self
                .store
                .registry()
                .layer_version(&name, number)?
                .ok_or_else(|| LambdaError::invalid(format!("Layer version {arn} does not exist.")))?;
            uses.push(NewLayer::Stored(LayerUse {
                arn: Some(arn.clone()),
                package_bytes: layer.package.bytes,
                tree: layer.tree,
            }));
        }
        Ok(uses)
    }
}

/// Settings that change what a function may rely on and are not offered: refused, never ignored.
fn refuse_unoffered(request: &SettingsRequest) -> Result<(), LambdaError> {
    let means_something = |value: &Value| match value {
        Value::Null => false,
        Value::Object(members) => members.values().any(|member| match member {
            Value::Array(items) => !items.is_empty(),
            Value::String(text) => !text.is_empty(),
            Value::Bool(flag) => *flag,
            Value::Null => false,
            _ => true,
        }),
        _ => true,
    };
    let file_systems = request.file_system_configs.as_ref().is_some_and(|configs| !configs.is_empty());
    let key = request.kms_key_arn.as_ref().is_some_and(|arn| !arn.is_empty());
    for (name, given) in [
        ("VpcConfig", request.vpc_config.as_ref().is_some_and(means_something)),
        ("ImageConfig", request.image_config.as_ref().is_some_and(means_something)),
        ("CapacityProviderConfig", request.capacity_provider_config.as_ref().is_some_and(means_something)),
        ("DurableConfig", request.durable_config.as_ref().is_some_and(means_something)),
        ("AcceleratorConfig", request.accelerator_config.as_ref().is_some_and(means_something)),
        ("FileSystemConfigs", file_systems),
        ("KMSKeyArn", key),
    ] {
        if given {
            return Err(LambdaError::invalid(format!("This node does not offer {name}: leave it out.")));
        }
    }
    Ok(())
}

fn role(role: &str) -> Result<String, LambdaError> {
    let fits = || {
        let rest = role.strip_prefix("arn:aws")?;
        let (partition, rest) = rest.split_once(":iam::")?;
        let (account, name) = rest.split_once(":role")?;
        let good = partition.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && name.trim_start_matches('/').bytes().next().is_some()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@-_/".contains(&byte));
        good.then(|| role.to_owned())
    };
    fits().ok_or_else(|| validation::pattern_error(role, "role", ROLE_PATTERN))
}

/// A text for people, within AWS's bound.
pub(crate) fn description(text: &str) -> Result<String, LambdaError> {
    if text.chars().count() > 256 {
        Err(validation::length_error(text, "description", 256))
    } else {
        Ok(text.to_owned())
    }
}

fn environment_error(problem: &EnvironmentProblem) -> LambdaError {
    match problem {
        EnvironmentProblem::TooLarge { .. } => LambdaError::invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have provided \
             exceeded the 4KB limit. String measured: the variables as JSON",
        ),
        EnvironmentProblem::Reserved { name } => LambdaError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have provided \
             contains reserved keys that are currently not supported for modification. Reserved keys used in this request: {name}"
        )),
        EnvironmentProblem::Name { name } => {
            validation::pattern_error(name, "environment.variables", "[a-zA-Z]([a-zA-Z0-9_])+")
        }
        EnvironmentProblem::Nul { .. } => LambdaError::invalid(problem.to_string()),
    }
}

fn logging(config: &LoggingConfig) -> Result<Logging, LambdaError> {
    let json = match config.log_format.as_deref() {
        Some("JSON") => true,
        Some("Text") | None => false,
        Some(other) => {
            return Err(validation::enum_error(other, "loggingConfig.logFormat", &["JSON", "Text"]));
        }
    };
    const LEVELS: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    let level = |given: &Option<String>, member: &str, allowed: &[&str]| match given {
        Some(level) if !allowed.contains(&level.as_str()) => {
            Err(validation::enum_error(level, member, allowed))
        }
        Some(_) if !json => Err(LambdaError::new(
            ErrorKind::InvalidParameterValue,
            format!("{member} is only supported with LogFormat JSON"),
        )),
        level => Ok(level.clone()),
    };
    Ok(Logging {
        json,
        application_level: level(
            &config.application_log_level,
            "loggingConfig.applicationLogLevel",
            &LEVELS,
        )?,
        system_level: level(
            &config.system_log_level,
            "loggingConfig.systemLogLevel",
            &["DEBUG", "INFO", "WARN"],
        )?,
        group: config.log_group.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_a_pattern() {
        assert!(role("arn:aws:iam::000000000000:role/r").is_ok());
        assert!(role("arn:aws-cn:iam::000000000000:role/path/to/r").is_ok());
        for bad in [
            "",
            "r",
            "arn:aws:iam::0:role/r",
            "arn:aws:iam::000000000000:role/",
            "arn:aws:iam::000000000000:user/r",
        ] {
            assert_eq!(role(bad).unwrap_err().kind, ErrorKind::Validation, "{bad}");
        }
    }

    #[test]
    fn what_is_not_offered_is_refused_and_its_emptiness_is_not() {
        let parse = |text: &str| refuse_unoffered(&serde_json::from_str(text).unwrap());
        assert!(parse(r#"{"VpcConfig":{"SubnetIds":[],"SecurityGroupIds":[],"Ipv6AllowedForDualStack":false},"KMSKeyArn":"","FileSystemConfigs":[],"ImageConfig":{}}"#).is_ok());
        for text in
            [r#"{"VpcConfig":{"SubnetIds":["s"]}}"#, r#"{"KMSKeyArn":"k"}"#, r#"{"FileSystemConfigs":[{}]}"#]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
