//! CreateFunction, UpdateFunctionCode, UpdateFunctionConfiguration, DeleteFunction.

use lambda_api::{
    CreateFunctionRequest, ErrorKind, LambdaError, UpdateCodeRequest, UpdateConfigurationRequest, parse,
    validation,
};
use registry::{Function, Status, Version};
use store::{NewCode, NewFunction, WhenPresent};

use crate::answer::{Answer, Failed};
use crate::code::CodeArguments;
use crate::node::Node;
use crate::request::{ApiRequest, Target, parse_target};
use crate::tags::check_tags;

/// Members of CreateFunction that mean something this node does not offer.
fn refuse_unoffered(request: &CreateFunctionRequest<'_>) -> Result<(), LambdaError> {
    match request.package_type.as_deref() {
        Some("Zip") | None => {}
        Some("Image") => {
            return Err(LambdaError::invalid(
                "Container images are not offered by this node: give a zip and leave PackageType and ImageUri out.",
            ));
        }
        Some(other) => return Err(validation::enum_error(other, "packageType", &["Zip", "Image"])),
    }
    if request.code_signing_config_arn.as_ref().is_some_and(|arn| !arn.is_empty()) {
        return Err(LambdaError::invalid("This node does not offer CodeSigningConfigArn: leave it out."));
    }
    if request.tenancy_config.as_ref().is_some_and(|config| !config.is_null()) {
        return Err(LambdaError::invalid("This node does not offer TenancyConfig: leave it out."));
    }
    architectures(request.architectures.as_deref())
}

fn architectures(given: Option<&[String]>) -> Result<(), LambdaError> {
    match given {
        None | Some([]) => Ok(()),
        Some([one]) if one == "x86_64" => Ok(()),
        Some([one]) if one == "arm64" => {
            Err(LambdaError::invalid("This node runs functions for x86_64 only, not for arm64."))
        }
        Some(other) => Err(validation::enum_error(
            &format!("[{}]", other.join(", ")),
            "architectures",
            &["x86_64", "arm64"],
        )),
    }
}

/// `RevisionId` of a request must be the function's.
pub(crate) fn check_revision(given: Option<&str>, current: &str) -> Result<(), LambdaError> {
    match given {
        Some(given) if given != current => Err(LambdaError::new(
            ErrorKind::PreconditionFailed,
            "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve \
             the latest Revision Id",
        )),
        _ => Ok(()),
    }
}

/// Whether `$LATEST` may be changed now.
fn check_idle(function: &Function, arn: &str) -> Result<(), LambdaError> {
    let message = if function.status.state == registry::State::Pending {
        "The operation cannot be performed at this time. The function is currently in the following state: Pending".to_owned()
    } else if function.status.is_in_progress() {
        format!(
            "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
        )
    } else {
        return Ok(());
    };
    Err(LambdaError::new(ErrorKind::ResourceConflict, message))
}

/// Changes concern `$LATEST`; AWS refuses any other qualifier.
pub(crate) fn latest_only(target: &Target) -> Result<(), LambdaError> {
    match target.qualifier.as_deref() {
        None | Some("$LATEST") => Ok(()),
        Some(_) => Err(LambdaError::invalid(
            "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. \
             Please specify either a function name or an unqualified function ARN.",
        )),
    }
}

impl Node {
    pub(crate) fn create_function(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: CreateFunctionRequest<'_> = parse(&request.body)?;
        let name = body.function_name.as_deref().ok_or_else(|| validation::missing("functionName"))?;
        let target = parse_target(self, name, None)?;
        latest_only(&target)?;
        let arn = target.plain_arn(self);
        refuse_unoffered(&body)?;
        if body.settings.role.is_none() {
            return Err(validation::missing("role"));
        }
        let code = body.code.as_ref().ok_or_else(|| validation::missing("code"))?;
        let arguments = CodeArguments {
            zip_file: code.zip_file.as_deref(),
            bucket: code.s3_bucket.as_deref(),
            image: code.image_uri.as_deref(),
        };
        let code = arguments
            .source()?
            .ok_or_else(|| LambdaError::invalid("Please provide a source for function code."))?;
        let tags = body.tags.clone().unwrap_or_default();
        check_tags(&tags)?;
        let settings = self.check_settings(&body.settings).map_err(|failed| failed.into_error(&arn))?;
        let (config, other) = settings.new_function()?;
        let new = NewFunction {
            name: target.name.clone(),
            config,
            settings: other,
            code,
            layers: settings.layers.unwrap_or_default(),
            tags,
            status: Status::pending(),
        };
        let made = self
            .store
            .create_function(&new, WhenPresent::Refuse)
            .map_err(|error| Failed::from(error).into_error(&arn))?;
        self.settle(&made);
        if body.publish == Some(true) {
            return self.publish_answer(&target, None, None);
        }
        Answer::json(&self.configuration(&made, None))
    }

    pub(crate) fn update_code(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: UpdateCodeRequest<'_> = parse(&request.body)?;
        let target = request.target(self)?;
        latest_only(&target)?;
        architectures(body.architectures.as_deref())?;
        let arguments = CodeArguments {
            zip_file: body.zip_file.as_deref(),
            bucket: body.s3_bucket.as_deref(),
            image: body.image_uri.as_deref(),
        };
        let code = arguments
            .source()?
            .ok_or_else(|| LambdaError::invalid("Please provide a source for function code."))?;
        let new = NewCode { code: Some(code), layers: None };
        let arn = target.plain_arn(self);
        let dry_run = body.dry_run == Some(true);
        let mut shown = None;
        let updated = self.store.update_function(&target.name, &new, |function| {
            check_revision(body.revision_id.as_deref(), &function.revision_id)?;
            check_idle(function, &arn)?;
            if dry_run {
                // Everything was checked; what would be is shown and nothing kept.
                shown = Some(function.clone());
                return Err(Failed::Api(LambdaError::new(ErrorKind::Service, "dry run")));
            }
            function.status = Status::updating();
            Ok(())
        });
        match (shown, updated) {
            (Some(function), _) => Answer::json(&self.configuration(&function, None)),
            (None, Err(failed)) => Err(failed.into_error(&arn)),
            (None, Ok(function)) => {
                self.settle(&function);
                if body.publish == Some(true) {
                    return self.publish_answer(&target, None, None);
                }
                Answer::json(&self.configuration(&function, None))
            }
        }
    }

    pub(crate) fn update_configuration(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: UpdateConfigurationRequest = parse(&request.body)?;
        let target = request.target(self)?;
        latest_only(&target)?;
        let arn = target.plain_arn(self);
        // A function that is not there goes before settings that are wrong.
        self.store.function(&target.name).map_err(|error| Failed::from(error).into_error(&arn))?;
        let settings = self.check_settings(&body.settings).map_err(|failed| failed.into_error(&arn))?;
        let new = NewCode { code: None, layers: settings.layers.clone() };
        let updated = self.store.update_function(&target.name, &new, |function| {
            check_revision(body.revision_id.as_deref(), &function.revision_id)?;
            check_idle(function, &arn)?;
            settings.apply(function);
            function.status = Status::updating();
            Ok(())
        });
        let function = updated.map_err(|failed: Failed| failed.into_error(&arn))?;
        self.settle(&function);
        Answer::json(&self.configuration(&function, None))
    }

    pub(crate) fn delete_function(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        let arn = target.arn(self);
        let failed = |error: store::StoreError| Failed::from(error).into_error(&arn);
        match target.qualifier.as_deref().map(str::parse::<Version>) {
            None => {
                self.store.remove_function(&target.name).map_err(failed)?;
                self.forget(&target.name, None);
                self.pool.reserve(&target.name, None);
            }
            Some(Ok(Version::Latest)) => {
                return Err(LambdaError::invalid(
                    "$LATEST version cannot be deleted without deleting the function.",
                ));
            }
            Some(Ok(Version::Number(number))) => {
                if !self.store.registry().exists(&target.name).map_err(|error| failed(error.into()))? {
                    return Err(target.not_found(self));
                }
                let version = Version::Number(number);
                let aliases = self.store.registry().aliases_of(&target.name, version);
                if let Some(alias) = aliases.map_err(|error| failed(error.into()))?.first() {
                    return Err(LambdaError::new(
                        ErrorKind::ResourceConflict,
                        format!(
                            "The version {number} cannot be deleted while the alias {alias} refers to it."
                        ),
                    ));
                }
                self.store.remove_version(&target.name, number).map_err(failed)?;
                self.forget(&target.name, Some(version));
            }
            Some(Err(_)) => {
                return Err(LambdaError::invalid("Deletion of aliases is not currently supported."));
            }
        }
        Ok(Answer::empty())
    }
}
