//! Policies of functions: kept and shown. The node itself lets in whoever signs with a known key.

use lambda_api::{ErrorKind, LambdaError, PermissionRequest, parse, validation};
use registry::Permission;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Failed};
use crate::functions::check_revision;
use crate::node::Node;
use crate::request::{ApiRequest, Target};

/// Bytes of a policy.
const LONGEST: usize = 20_480;

impl Node {
    fn statements(&self, target: &Target) -> Result<Vec<Permission>, LambdaError> {
        self.record_of(target)?;
        let qualifier = target.qualifier.as_deref().unwrap_or("");
        let found = self.store.registry().permissions(&target.name, qualifier);
        found.map_err(|error| Failed::from(error).into_error(&target.arn(self)))
    }

    pub(crate) fn add_permission(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: PermissionRequest = parse(&request.body)?;
        let target = request.target(self)?;
        let known = self.statements(&target)?;
        check_revision(body.revision_id.as_deref(), &policy_revision(&known))?;
        let statement = body.statement_id.ok_or_else(|| validation::missing("statementId"))?;
        let word = |text: &str| {
            (1..=100).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if !word(&statement) {
            return Err(validation::pattern_error(&statement, "statementId", "([a-zA-Z0-9-_]+)"));
        }
        let action = body.action.ok_or_else(|| validation::missing("action"))?;
        if action != "*"
            && !action
                .strip_prefix("lambda:")
                .is_some_and(|name| name == "*" || name.bytes().all(|byte| byte.is_ascii_alphabetic()))
        {
            return Err(validation::pattern_error(&action, "action", r"(lambda:[*]|lambda:[a-zA-Z]+|[*])"));
        }
        let principal = body.principal.ok_or_else(|| validation::missing("principal"))?;
        let principal = checked_principal(&principal)?;
        let mut conditions: Map<String, Value> = Map::new();
        let mut equals: Map<String, Value> = Map::new();
        if let Some(account) = body.source_account {
            equals.insert("AWS:SourceAccount".to_owned(), account.into());
        }
        if let Some(kind) = body.function_url_auth_type {
            equals.insert("lambda:FunctionUrlAuthType".to_owned(), kind.into());
        }
        if !equals.is_empty() {
            conditions.insert("StringEquals".to_owned(), equals.into());
        }
        if let Some(arn) = body.source_arn {
            conditions.insert("ArnLike".to_owned(), json!({"AWS:SourceArn": arn}));
        }
        let mut document = json!({
            "Sid": statement,
            "Effect": "Allow",
            "Principal": principal,
            "Action": action,
            "Resource": target.arn(self),
        });
        if let (false, Some(members)) = (conditions.is_empty(), document.as_object_mut()) {
            members.insert("Condition".to_owned(), conditions.into());
        }
        let permission = Permission { statement: statement.clone(), document: document.to_string() };
        let length: usize = known.iter().map(|known| known.document.len()).sum();
        if length + permission.document.len() > LONGEST {
            return Err(LambdaError::new(
                ErrorKind::PolicyLengthExceeded,
                format!(
                    "The final policy size ({}) is bigger than the limit ({LONGEST}).",
                    length + permission.document.len()
                ),
            ));
        }
        let qualifier = target.qualifier.as_deref().unwrap_or("");
        let added = self.store.registry().add_permission(&target.name, qualifier, &permission);
        match added.map_err(|error| Failed::from(error).into_error(&target.arn(self)))? {
            true => Answer::json(&json!({"Statement": permission.document})),
            false => Err(LambdaError::new(
                ErrorKind::ResourceConflict,
                format!(
                    "The statement id ({statement}) provided already exists. Please provide a new statement id, or remove the existing statement."
                ),
            )),
        }
    }

    pub(crate) fn get_policy(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        let known = self.statements(&target)?;
        if known.is_empty() {
            return Err(no_policy());
        }
        let statements: Vec<Value> =
            known.iter().filter_map(|known| serde_json::from_str(&known.document).ok()).collect();
        let policy = json!({"Version": "2012-10-17", "Id": "default", "Statement": statements});
        Answer::json(&json!({"Policy": policy.to_string(), "RevisionId": policy_revision(&known)}))
    }

    pub(crate) fn remove_permission(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        let known = self.statements(&target)?;
        if known.is_empty() {
            return Err(no_policy());
        }
        check_revision(request.query("RevisionId"), &policy_revision(&known))?;
        let statement = request.matched.parameter("StatementId");
        let qualifier = target.qualifier.as_deref().unwrap_or("");
        let removed = self.store.registry().remove_permission(&target.name, qualifier, statement);
        match removed.map_err(|error| Failed::from(error).into_error(&target.arn(self)))? {
            true => Ok(Answer::empty()),
            false => Err(LambdaError::new(
                ErrorKind::ResourceNotFound,
                format!("Statement {statement} is not found in resource policy."),
            )),
        }
    }
}

/// Who is allowed, as a policy writes it.
fn checked_principal(principal: &str) -> Result<Value, LambdaError> {
    Ok(match principal {
        "*" => json!("*"),
        service if service.ends_with(".amazonaws.com") => json!({"Service": service}),
        account if account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) => {
            json!({"AWS": format!("arn:aws:iam::{account}:root")})
        }
        arn if arn.starts_with("arn:") => json!({"AWS": arn}),
        _ => {
            return Err(LambdaError::invalid(
                "The provided principal was invalid. Please check the principal and try again.",
            ));
        }
    })
}

/// Changes with the policy: a UUID made from what it says.
fn policy_revision(known: &[Permission]) -> String {
    let text: String = known.iter().map(|known| known.document.as_str()).collect();
    let digest = registry::TreeDigest::of_bytes(text.as_bytes()).to_string();
    let part = |from: usize, to: usize| digest.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

fn no_policy() -> LambdaError {
    LambdaError::new(ErrorKind::ResourceNotFound, "The resource you requested does not exist.")
}
