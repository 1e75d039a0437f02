//! The head of a request: what is asked for and how its body is delimited.

use serde::{Deserialize, Serialize};

use super::Refusal;

/// More header fields than this in one request are refused; real clients send under 20.
const MAX_FIELDS: usize = 128;

/// A request method, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Other,
}

/// How the end of a request's body is found (RFC 9112 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunked transfer coding, with trailers.
    Chunked,
}

/// Header or trailer fields. Names are compared without regard to case; values that are not UTF-8 are read lossily.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first value of the field called `name`, without surrounding blanks; `None` when absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether the list-valued field `name` holds `token`.
    fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// Parses a field section that ends in its empty line: the trailers of a chunked body.
    pub(crate) fn parse(section: &[u8]) -> Result<Self, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        match httparse::parse_headers(section, &mut fields) {
            Ok(httparse::Status::Complete((_, fields))) => Ok(Self::from_parsed(fields)),
            Ok(httparse::Status::Partial) => Err(Refusal::Malformed("incomplete trailers")),
            Err(httparse::Error::TooManyHeaders) => Err(Refusal::HeadTooLarge),
            Err(_) => Err(Refusal::Malformed("invalid trailers")),
        }
    }

    fn from_parsed(fields: &[httparse::Header<'_>]) -> Self {
        let owned = |field: &httparse::Header<'_>| {
            (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned())
        };
        Self(fields.iter().map(owned).collect())
    }
}

/// A parsed request head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    /// The path alone: without scheme and authority, without query.
    pub(crate) path: String,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    pub(crate) version: Version,
    /// Whether the connection may carry another request after this one.
    pub(crate) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
}

/// The protocol version of a request, answered in kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Version {
    Http10,
    Http11,
}

impl RequestHead {
    /// Parses `section`, which ends in the empty line that ends the head.
    pub(crate) fn parse(section: &[u8]) -> Result<Self, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(section) {
            Ok(httparse::Status::Complete(length)) if length == section.len() => {}
            Ok(_) => return Err(Refusal::Malformed("incomplete head")),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
            Err(httparse::Error::Version) => return Err(Refusal::UnsupportedVersion),
            Err(_) => return Err(Refusal::Malformed("invalid head")),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(Refusal::Malformed("incomplete request line"));
        };
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let fields = Fields::from_parsed(request.headers);
        let hosts = fields.all("host").count();
        // As Go's net/http does, on which AWS's own server stands.
        if hosts > 1 || (hosts == 0 && version == Version::Http11) {
            return Err(Refusal::Malformed("there must be one Host header"));
        }
        let close = fields.lists("connection", "close");
        Ok(Self {
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "POST" => Method::Post,
                "PUT" => Method::Put,
                _ => Method::Other,
            },
            path: path_of(target),
            framing: framing(&fields, version)?,
            version,
            keep_alive: match version {
                Version::Http11 => !close,
                Version::Http10 => !close && fields.lists("connection", "keep-alive"),
            },
            expects_continue: version == Version::Http11 && fields.lists("expect", "100-continue"),
            fields,
        })
    }
}

/// The path in a request target in origin form (`/a?b`) or absolute form (`http://host/a?b`).
fn path_of(target: &str) -> String {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            rest.find('/').map_or("/", |at| rest.get(at..).unwrap_or("/"))
        }
        _ => target,
    };
    path.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// Finds the body's delimitation and refuses what two parsers could read differently (RFC 9112 section 6.3).
fn framing(fields: &Fields, version: Version) -> Result<Framing, Refusal> {
    let mut lengths = fields.all("content-length");
    let mut codings = fields.all("transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => Err(Refusal::Malformed("both Content-Length and Transfer-Encoding")),
        (Some(length), None) => {
            if lengths.any(|other| other != length) {
                return Err(Refusal::Malformed("several Content-Length"));
            }
            if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Refusal::Malformed("invalid Content-Length"));
            }
            length.parse().map(Framing::Length).map_err(|_| Refusal::Malformed("invalid Content-Length"))
        }
        (None, Some(coding)) => {
            if version == Version::Http10 {
                return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
            }
            if codings.next().is_some() || !coding.eq_ignore_ascii_case("chunked") {
                return Err(Refusal::UnsupportedTransferCoding);
            }
            Ok(Framing::Chunked)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<RequestHead, Refusal> {
        RequestHead::parse(head.as_bytes())
    }

    #[test]
    fn reads_target_forms_and_drops_the_query() {
        for target in ["/a/b", "/a/b?x=://y", "http://127.0.0.1:9001/a/b", "http://h/a/b?c#d"] {
            let head = parse(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
            assert_eq!(head.path, "/a/b", "{target}");
        }
        assert_eq!(parse("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().path, "/");
    }

    #[test]
    fn persistence_follows_version_and_connection() {
        for (version, connection, keeps) in [
            ("1.1", "", true),
            ("1.1", "Connection: foo, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let head = parse(&format!("GET / HTTP/{version}\r\nHost: h\r\n{connection}\r\n")).unwrap();
            assert_eq!(head.keep_alive, keeps, "{version} {connection}");
        }
    }

    #[test]
    fn refuses_ambiguous_bodies() {
        for (fields, refusal) in [
            ("Content-Length: 1\r\nContent-Length: 2\r\n", Refusal::Malformed("several Content-Length")),
            ("Content-Length: +1\r\n", Refusal::Malformed("invalid Content-Length")),
            ("Content-Length: 99999999999999999999999\r\n", Refusal::Malformed("invalid Content-Length")),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                Refusal::Malformed("both Content-Length and Transfer-Encoding"),
            ),
            ("Transfer-Encoding: gzip, chunked\r\n", Refusal::UnsupportedTransferCoding),
            ("Host: other\r\n", Refusal::Malformed("there must be one Host header")),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            assert_eq!(parse(&head), Err(refusal), "{fields}");
        }
        assert_eq!(parse("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), Err(Refusal::UnsupportedVersion));
        assert!(parse("GET / HTTP/1.1\r\n\r\n").is_err(), "no host");
    }
}
