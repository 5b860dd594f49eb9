use axum::http::header;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

/// One file: it must open from a jump host without a way out.
const PAGE: &str = include_str!("page.html");

/// The page reads `/status` and `/health` by itself. Its script and its style are allowed by a number
/// used once; whatever else might get into it stays dead.
pub(super) async fn page() -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, PAGE.replace("{{nonce}}", &nonce)).into_response()
}
