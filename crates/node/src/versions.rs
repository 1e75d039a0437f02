//! PublishVersion.

use lambda_api::{LambdaError, PublishVersionRequest, parse};
use registry::{Function, SnapStart, Status};

use crate::answer::{Answer, Failed};
use crate::functions::{check_revision, latest_only};
use crate::node::Node;
use crate::request::{ApiRequest, Target};
use crate::settings::description;

impl Node {
    pub(crate) fn publish_version(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: PublishVersionRequest = parse(&request.body)?;
        let target = request.target(self)?;
        latest_only(&target)?;
        let description = body.description.as_deref().map(description).transpose()?;
        self.publish_answer(&target, Some(&body), description.as_deref())
    }

    /// Publishes and answers with the version's configuration.
    pub(crate) fn publish_answer(
        &self,
        target: &Target,
        request: Option<&PublishVersionRequest>,
        description: Option<&str>,
    ) -> Result<Answer, LambdaError> {
        let check = |latest: &Function| {
            check_revision(request.and_then(|request| request.revision_id.as_deref()), &latest.revision_id)?;
            match request.and_then(|request| request.code_sha256.as_deref()) {
                Some(given) if !given.is_empty() && given != latest.package.sha256 => {
                    let current = &latest.package.sha256;
                    Err(Failed::Api(LambdaError::invalid(format!(
                        "CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({current}). Please try \
                         again with the CodeSHA256 in $LATEST."
                    ))))
                }
                _ => Ok(()),
            }
        };
        let change = |version: &mut Function| {
            if let Some(description) = description {
                version.settings.description = description.to_owned();
            }
            version.status = match version.settings.snap_start {
                SnapStart::PublishedVersions => Status::pending(),
                SnapStart::None => Status::active(),
            };
        };
        let published = self.store.registry().publish(&target.name, check, change);
        let (version, is_new) =
            published.map_err(|failed: Failed| failed.into_error(&target.plain_arn(self)))?;
        if is_new {
            self.settle(&version);
        }
        Answer::json(&self.configuration(&version, Some(&version.version.to_string())))
    }
}
