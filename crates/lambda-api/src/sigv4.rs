//! AWS's signatures, version 4: checked on requests, made for URLs of our own.
//!
//! The canonical path is encoded twice for Lambda: what is `arn%3Aaws` on the wire is `arn%253Aaws` in what is signed.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{ErrorKind, LambdaError};
use crate::percent;

/// How far the clocks may be apart, in seconds.
const SKEW: i64 = 300;
/// The longest that a presigned URL may live, in seconds: AWS's figure of seven days.
const LONGEST: i64 = 604_800;
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "lambda";

/// A request as it came.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, not decoded.
    pub path: &'a str,
    /// The query, not decoded.
    pub query: &'a str,
    /// Names in lower case, with values.
    pub headers: &'a [(String, String)],
    /// The body.
    pub body: &'a [u8],
}

/// The parts of a signature.
struct Signature {
    access_key: String,
    date: String,
    scope: String,
    signed_headers: Vec<String>,
    signature: String,
    timestamp: String,
    /// Seconds that a presigned URL lives; `None` for a header.
    expires: Option<i64>,
}

impl Signature {
    /// Checks scope, time and what is signed.
    fn check(&self, region: &str, now: i64) -> Result<(), LambdaError> {
        let expected_scope = format!("{}/{region}/{SERVICE}/aws4_request", self.date);
        if self.scope != expected_scope {
            let message = format!(
                "Credential should be scoped to a valid region and service: '{}' is not '{expected_scope}'.",
                self.scope
            );
            return Err(invalid(message));
        }
        if !self.timestamp.starts_with(&self.date) {
            return Err(invalid(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date.",
            ));
        }
        let at = seconds(&self.timestamp)
            .ok_or_else(|| incomplete(&format!("'{}' is no valid date.", self.timestamp)))?;
        match self.expires {
            None if (at - now).abs() > SKEW => {
                return Err(invalid(format!(
                    "Signature expired or not yet current: {} is more than 5 min. from the server's time.",
                    self.timestamp
                )));
            }
            Some(lifetime) if now > at.saturating_add(lifetime) => {
                return Err(LambdaError::new(ErrorKind::ExpiredToken, "The presigned URL has expired."));
            }
            Some(_) if at - now > SKEW => return Err(invalid("Signature not yet current.")),
            _ => {}
        }
        if !self.signed_headers.iter().any(|name| name == "host") {
            return Err(incomplete("'Host' must be a 'SignedHeader' in the AWS Authorization."));
        }
        Ok(())
    }
}

fn unknown_key() -> LambdaError {
    LambdaError::new(ErrorKind::UnrecognizedClient, "The security token included in the request is invalid.")
}

impl SignedRequest<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Checks the signature. `secret` knows the secret of an access key, `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`ErrorKind::MissingAuthenticationToken`], [`ErrorKind::IncompleteSignature`],
    /// [`ErrorKind::UnrecognizedClient`], [`ErrorKind::InvalidSignature`] or [`ErrorKind::ExpiredToken`].
    pub fn verify(
        &self,
        region: &str,
        now: i64,
        secret: impl FnOnce(&str) -> Option<String>,
    ) -> Result<String, LambdaError> {
        let signature = self.signature()?;
        signature.check(region, now)?;
        let secret = secret(&signature.access_key).ok_or_else(unknown_key)?;
        let canonical = self.canonical(&signature);
        let expected =
            sign(&secret, &signature.date, region, &signature.timestamp, &signature.scope, &canonical);
        if bool::from(expected.as_bytes().ct_eq(signature.signature.as_bytes())) {
            return Ok(signature.access_key);
        }
        let message = "The request signature we calculated does not match the signature you provided. Check your AWS \
                       Secret Access Key and signing method. Consult the service documentation for details.";
        Err(invalid(message))
    }

    /// Checks all of it that can be checked before the body is there: everything but the signature itself.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_key(
        &self,
        region: &str,
        now: i64,
        known: impl FnOnce(&str) -> bool,
    ) -> Result<(), LambdaError> {
        let signature = self.signature()?;
        signature.check(region, now)?;
        if known(&signature.access_key) { Ok(()) } else { Err(unknown_key()) }
    }

    fn signature(&self) -> Result<Signature, LambdaError> {
        if let Some(authorization) = self.header("authorization") {
            return self.in_header(authorization);
        }
        let query = crate::query_pairs(self.query);
        let get =
            |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let Some(signature) = get("X-Amz-Signature") else {
            return Err(LambdaError::new(
                ErrorKind::MissingAuthenticationToken,
                "Missing Authentication Token",
            ));
        };
        let part = |name: &str| {
            get(name)
                .ok_or_else(|| incomplete(&format!("AWS query-string parameters must include '{name}'.")))
        };
        if part("X-Amz-Algorithm")? != ALGORITHM {
            return Err(incomplete("Only AWS4-HMAC-SHA256 is supported."));
        }
        let lifetime: i64 = part("X-Amz-Expires")?.parse().unwrap_or(-1);
        if !(1..=LONGEST).contains(&lifetime) {
            return Err(incomplete("X-Amz-Expires must be between 1 and 604800 seconds."));
        }
        build(
            &part("X-Amz-Credential")?,
            &part("X-Amz-SignedHeaders")?,
            signature,
            part("X-Amz-Date")?,
            Some(lifetime),
        )
    }

    fn in_header(&self, authorization: &str) -> Result<Signature, LambdaError> {
        let Some(parts) = authorization.strip_prefix(ALGORITHM) else {
            return Err(incomplete("Authorization header requires the algorithm AWS4-HMAC-SHA256."));
        };
        let part = |wanted: &str| {
            let mut found = parts.split(',').filter_map(|part| part.trim().split_once('='));
            found
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value.to_owned())
                .ok_or_else(|| incomplete(&format!("Authorization header requires '{wanted}' parameter.")))
        };
        let timestamp = self
            .header("x-amz-date")
            .ok_or_else(|| incomplete("Authorization header requires existence of 'X-Amz-Date' header."))?;
        build(&part("Credential")?, &part("SignedHeaders")?, part("Signature")?, timestamp.to_owned(), None)
    }

    /// The canonical request.
    fn canonical(&self, signature: &Signature) -> String {
        let mut pairs: Vec<(String, String)> = self
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (recode(name), recode(value)))
            .filter(|(name, _)| signature.expires.is_none() || name != "X-Amz-Signature")
            .collect();
        pairs.sort();
        let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let headers: String = signature
            .signed_headers
            .iter()
            .map(|name| {
                let values = self.headers.iter().filter(|(known, _)| known == name);
                let values: Vec<String> = values
                    .map(|(_, value)| value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
                    .collect();
                format!("{name}:{}\n", values.join(","))
            })
            .collect();
        // A presigned URL of GET has no body; AWS's own tools sign "UNSIGNED-PAYLOAD" for S3 only.
        let hash = hex(&Sha256::digest(self.body));
        format!(
            "{}\n{}\n{}\n{headers}\n{}\n{hash}",
            self.method,
            percent::encode(self.path, b"/"),
            query.join("&"),
            signature.signed_headers.join(";")
        )
    }
}

/// A URL's path and query, signed.
#[derive(Clone, Copy, Debug)]
pub struct Presign<'a> {
    /// The host with its port, as clients will send it.
    pub host: &'a str,
    /// The path, of unreserved characters and slashes only.
    pub path: &'a str,
    /// The region.
    pub region: &'a str,
    /// The access key.
    pub access_key: &'a str,
    /// Its secret.
    pub secret: &'a str,
    /// Now, in seconds since 1970.
    pub now: i64,
    /// How long it lives, in seconds.
    pub lifetime: i64,
}

impl Presign<'_> {
    /// Path and query of a GET.
    pub fn url(&self) -> String {
        let timestamp = timestamp(self.now);
        let date = timestamp.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/{SERVICE}/aws4_request", self.region);
        let credential = percent::encode(&format!("{}/{scope}", self.access_key), b"");
        let query = format!(
            "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date={timestamp}&X-Amz-Expires={}&X-Amz-SignedHeaders=host",
            self.lifetime
        );
        let headers = [("host".to_owned(), self.host.to_owned())];
        let request =
            SignedRequest { method: "GET", path: self.path, query: &query, headers: &headers, body: b"" };
        let signature = Signature {
            access_key: String::new(),
            date: date.to_owned(),
            scope: scope.clone(),
            signed_headers: vec!["host".to_owned()],
            signature: String::new(),
            timestamp: timestamp.clone(),
            expires: Some(self.lifetime),
        };
        let signed = sign(self.secret, date, self.region, &timestamp, &scope, &request.canonical(&signature));
        format!("{}?{query}&X-Amz-Signature={signed}", self.path)
    }
}

fn build(
    credential: &str,
    signed_headers: &str,
    signature: String,
    timestamp: String,
    expires: Option<i64>,
) -> Result<Signature, LambdaError> {
    let (access_key, scope) = credential
        .split_once('/')
        .ok_or_else(|| incomplete("Credential must have the form KEY/DATE/REGION/lambda/aws4_request."))?;
    let date = scope.split('/').next().unwrap_or_default();
    Ok(Signature {
        access_key: access_key.to_owned(),
        date: date.to_owned(),
        scope: scope.to_owned(),
        signed_headers: signed_headers.split(';').map(str::to_ascii_lowercase).collect(),
        signature,
        timestamp,
        expires,
    })
}

/// What is encoded in some way, encoded in the one way.
fn recode(text: &str) -> String {
    let text = text.replace('+', "%20");
    percent::encode(&percent::decode(&text).unwrap_or_else(|| text.clone()), b"")
}

fn sign(secret: &str, date: &str, region: &str, timestamp: &str, scope: &str, canonical: &str) -> String {
    let to_sign = format!("{ALGORITHM}\n{timestamp}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = hmac(format!("AWS4{secret}").as_bytes(), date);
    let key = [region, SERVICE, "aws4_request"].iter().fold(key, |key, part| hmac(&key, part));
    hex(&hmac(&key, &to_sign))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of every length, so this can't fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn invalid(message: impl Into<String>) -> LambdaError {
    LambdaError::new(ErrorKind::InvalidSignature, message)
}

fn incomplete(message: &str) -> LambdaError {
    LambdaError::new(ErrorKind::IncompleteSignature, message)
}

/// Seconds since 1970 of `20260102T030405Z`.
fn seconds(timestamp: &str) -> Option<i64> {
    let bytes = timestamp.as_bytes();
    let shape = bytes.len() == 16 && bytes.get(8) == Some(&b'T') && bytes.get(15) == Some(&b'Z');
    let number = |from: usize, to: usize| -> Option<i64> {
        let text = timestamp.get(from..to)?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    if !shape {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    let valid =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    valid.then(|| days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// `20260102T030405Z` of seconds since 1970.
fn timestamp(seconds: i64) -> String {
    let days = seconds.div_euclid(86400) + 719_468;
    let second = seconds.rem_euclid(86400);
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_767_323_045;

    /// Captured from boto3 with the key AKID and the secret "secret".
    fn captured() -> (String, Vec<(String, String)>) {
        let path =
            "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af/invocations";
        let headers = CAPTURED.map(|(name, value)| (name.to_owned(), value.to_owned()));
        (path.to_owned(), headers.to_vec())
    }

    const CAPTURED: [(&str, &str); 4] = [
        ("host", "127.0.0.1:9000"),
        ("x-amz-date", "20260102T030405Z"),
        ("x-amz-invocation-type", "RequestResponse"),
        (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKID/20260102/us-east-1/lambda/aws4_request, SignedHeaders=host;x-amz-date;x-amz-invocation-type, Signature=a2c699c2897397933657e14e96d2ca23e58ad5fbf6c8bb737335b8b4b55ebdfb",
        ),
    ];

    fn verify(
        path: &str,
        query: &str,
        headers: &[(String, String)],
        body: &[u8],
        now: i64,
    ) -> Result<String, ErrorKind> {
        let request = SignedRequest { method: "POST", path, query, headers, body };
        request
            .verify("us-east-1", now, |key| (key == "AKID").then(|| "secret".to_owned()))
            .map_err(|error| error.kind)
    }

    #[test]
    fn what_boto3_signs_is_accepted_and_nothing_else() {
        let (path, headers) = captured();
        let query = "Qualifier=%24LATEST";
        assert_eq!(verify(&path, query, &headers, b"{}", NOW), Ok("AKID".to_owned()));
        assert_eq!(verify(&path, query, &headers, b"{} ", NOW), Err(ErrorKind::InvalidSignature));
        assert_eq!(verify(&path, "Qualifier=1", &headers, b"{}", NOW), Err(ErrorKind::InvalidSignature));
        assert_eq!(verify(&path, query, &headers, b"{}", NOW + 301), Err(ErrorKind::InvalidSignature));
        assert_eq!(verify(&path, query, &headers, b"{}", NOW + 299), Ok("AKID".to_owned()));
        for (at, from, to, kind) in [
            (0, "9000", "9001", ErrorKind::InvalidSignature),
            (1, "0405", "0406", ErrorKind::InvalidSignature),
            (1, "T", "t", ErrorKind::IncompleteSignature),
            (3, "AKID", "OTHER", ErrorKind::UnrecognizedClient),
            (3, "us-east-1", "eu-west-1", ErrorKind::InvalidSignature),
            (3, "Signature=", "Sig=", ErrorKind::IncompleteSignature),
            (3, "host;", "", ErrorKind::IncompleteSignature),
            (3, "AWS4-", "AWS5-", ErrorKind::IncompleteSignature),
        ] {
            let mut changed = headers.clone();
            changed[at].1 = changed[at].1.replace(from, to);
            assert_eq!(verify(&path, query, &changed, b"{}", NOW), Err(kind), "{from}");
        }
        let unsigned = &headers[..3];
        assert_eq!(verify(&path, query, unsigned, b"{}", NOW), Err(ErrorKind::MissingAuthenticationToken));
    }

    #[test]
    fn a_presigned_url_opens_until_it_has_run_out() {
        let presign = Presign {
            host: "127.0.0.1:9000",
            path: "/_/code/abc",
            region: "us-east-1",
            access_key: "own",
            secret: "s",
            now: NOW,
            lifetime: 600,
        };
        let url = presign.url();
        let (path, query) = url.split_once('?').unwrap();
        let open = |host: &str, path: &str, now: i64| {
            let headers = [("host".to_owned(), host.to_owned())];
            let request = SignedRequest { method: "GET", path, query, headers: &headers, body: b"" };
            request.verify("us-east-1", now, |_| Some("s".to_owned())).map_err(|error| error.kind)
        };
        assert_eq!(open("127.0.0.1:9000", path, NOW + 600), Ok("own".to_owned()));
        assert_eq!(open("127.0.0.1:9000", path, NOW + 601), Err(ErrorKind::ExpiredToken));
        assert_eq!(open("127.0.0.1:9000", "/_/code/abd", NOW), Err(ErrorKind::InvalidSignature));
        assert_eq!(open("other", path, NOW), Err(ErrorKind::InvalidSignature));
    }

    proptest! {
        #[test]
        fn times_come_back(at in 0i64..200_000_000_000) {
            prop_assert_eq!(seconds(&timestamp(at)), Some(at));
        }

        #[test]
        fn nothing_makes_it_panic(authorization in "\\PC{0,80}", date in "\\PC{0,20}", path in "[%/a-f0-9]{0,20}", query in "[%&=a-f0-9+]{0,30}") {
            let headers = [("authorization".to_owned(), format!("AWS4-HMAC-SHA256 {authorization}")), ("x-amz-date".to_owned(), date)];
            prop_assert!(verify(&path, &query, &headers, b"", NOW).is_err());
        }
    }
}
