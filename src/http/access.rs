//! Who may change something. Reading is open to whoever reaches the port; everything else passes here.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;
use subtle::ConstantTimeEq;

use super::{Http, problem};
use crate::config::Secret;

/// By what a request that changes something is let through.
#[derive(Debug, Clone)]
pub enum Access {
    /// `Authorization: Bearer …`, wherever the server listens.
    Token(Secret),
    /// No token, and only this machine reaches the port: whoever is on it. A page of another site in a browser
    /// on this machine is not.
    Loopback,
    /// No token, and others reach the port.
    Closed,
}

/// The same, as `/status` and the page tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    Open,
    Token,
    Closed,
}

impl Access {
    /// `listen`: where the server really listens.
    pub fn new(token: Option<Secret>, listen: SocketAddr) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if listen.ip().is_loopback() => Self::Loopback,
            None => Self::Closed,
        }
    }

    pub(super) fn changes(&self) -> Changes {
        match self {
            Self::Token(_) => Changes::Token,
            Self::Loopback => Changes::Open,
            Self::Closed => Changes::Closed,
        }
    }

    fn refuses(&self, headers: &HeaderMap) -> Option<Refused> {
        match self {
            Self::Token(token) => match bearer(headers) {
                None => Some(Refused::NoToken),
                Some(given) if given.ct_eq(token.expose().as_bytes()).into() => None,
                Some(_) => Some(Refused::WrongToken),
            },
            Self::Loopback if is_local(headers) => None,
            Self::Loopback => Some(Refused::Elsewhere),
            Self::Closed => Some(Refused::Closed),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    NoToken,
    WrongToken,
    Elsewhere,
    Closed,
}

impl Refused {
    fn response(self) -> Response {
        let (code, error) = match self {
            Self::NoToken => {
                (StatusCode::UNAUTHORIZED, "this changes something: send Authorization: Bearer <http.token>")
            }
            Self::WrongToken => (StatusCode::UNAUTHORIZED, "the bearer token is not http.token"),
            Self::Elsewhere => (
                StatusCode::FORBIDDEN,
                "without http.token only requests of this machine itself may change something",
            ),
            Self::Closed => (
                StatusCode::FORBIDDEN,
                "http.listen is not a loopback address: set http.token to let requests change something",
            ),
        };
        let mut response = problem(code, error);
        if code == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"rowstream\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// Before every handler: a page that is added later is guarded without its doing.
pub(super) async fn guard(State(http): State<Http>, request: Request, next: Next) -> Response {
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let refused = if only_reads { None } else { http.access.refuses(request.headers()) };
    match refused {
        Some(refused) => refused.response(),
        None => next.run(request).await,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let given = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = given.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// A browser sends the name it asked for as Host, and the site it was on as Origin: a name that was made to
/// point here, or another site's page, is told from an operator by them.
fn is_local(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else { return false };
    let same_site = match text(header::ORIGIN) {
        None => !headers.contains_key(header::ORIGIN),
        Some(origin) => origin.strip_prefix("http://") == Some(host),
    };
    same_site && names_loopback(host)
}

fn names_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_the_whole_token_is_let_through() {
        let access = Access::new(Some(Secret::new("0123456789abcdef".into())), ([0, 0, 0, 0], 8080).into());
        let refuses = |value: &'static str| access.refuses(&headers(&[(header::AUTHORIZATION, value)]));
        assert_eq!(refuses("Bearer 0123456789abcdef"), None);
        assert_eq!(refuses("bearer 0123456789abcdef"), None);
        for wrong in
            ["Bearer 0123456789abcdeX", "Bearer 0123456789abcde", "Bearer ", "Bearer 0123456789abcdef "]
        {
            assert_eq!(refuses(wrong), Some(Refused::WrongToken), "{wrong}");
        }
        assert_eq!(refuses("Basic 0123456789abcdef"), Some(Refused::NoToken));
        assert_eq!(access.refuses(&HeaderMap::new()), Some(Refused::NoToken));
    }

    #[test]
    fn without_a_token_a_server_that_others_reach_lets_nobody_change_anything() {
        let access = Access::new(None, ([0, 0, 0, 0], 8080).into());
        assert_eq!(access.refuses(&headers(&[(header::HOST, "localhost:8080")])), Some(Refused::Closed));
    }

    #[test]
    fn on_loopback_other_sites_and_names_that_only_point_here_are_refused() {
        let access = Access::new(None, ([127, 0, 0, 1], 8080).into());
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "[::1]"] {
            assert_eq!(access.refuses(&headers(&[(header::HOST, host)])), None, "{host}");
        }
        for host in ["rebound.example:8080", "10.0.0.1:8080", "localhost.example", "127.0.0.1.example:80"] {
            let refused = access.refuses(&headers(&[(header::HOST, host)]));
            assert_eq!(refused, Some(Refused::Elsewhere), "{host}");
        }
        let from =
            |origin| access.refuses(&headers(&[(header::HOST, "localhost:8080"), (header::ORIGIN, origin)]));
        assert_eq!(from("http://localhost:8080"), None);
        for origin in ["http://evil.example", "http://localhost:3000", "https://localhost:8080", "null"] {
            assert_eq!(from(origin), Some(Refused::Elsewhere), "{origin}");
        }
    }
}
