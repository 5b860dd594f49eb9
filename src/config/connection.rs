//! Connection strings: enough of their grammar to refuse a slip early and to show one without its password.

/// `scheme://[user[:password]@]hosts[/path][?query]`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConnectionString<'a> {
    pub(super) scheme: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) hosts: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
}

impl<'a> ConnectionString<'a> {
    pub(super) fn split(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let (user, password) = match userinfo.map(|info| (info, info.split_once(':'))) {
            Some((_, Some((user, password)))) => (Some(user), Some(password)),
            Some((user, None)) => (Some(user), None),
            None => (None, None),
        };
        Some(Self { scheme, user, password, hosts, path, query })
    }

    /// Shows where it leads, never with what: passwords and tokens become `***`.
    fn redacted(&self) -> String {
        let mut shown = format!("{}://", self.scheme);
        match (self.user, self.password) {
            (Some(user), Some(_)) => shown.push_str(&format!("{user}:***@")),
            (Some(user), None) => shown.push_str(&format!("{user}@")),
            (None, _) => {}
        }
        shown.push_str(self.hosts);
        if !self.path.is_empty() {
            shown.push_str(&format!("/{}", self.path));
        }
        if let Some(query) = self.query {
            let options: Vec<String> = query.split('&').map(redacted_option).collect();
            let slash = if self.path.is_empty() { "/" } else { "" };
            shown.push_str(&format!("{slash}?{}", options.join("&")));
        }
        shown
    }
}

fn redacted_option(option: &str) -> String {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let lower = name.to_lowercase();
    // authMechanismProperties carries AWS_SESSION_TOKEN.
    let secret = ["password", "token", "secret", "authmechanismproperties"];
    if secret.iter().any(|word| lower.contains(word)) {
        return format!("{name}=***");
    }
    if value.is_empty() { name.to_owned() } else { format!("{name}={value}") }
}

/// A connection string that may be shown. What is not in order is not shown at all, since then
/// nobody can say where its password ends.
pub(super) fn redact(text: &str) -> String {
    match ConnectionString::split(text) {
        Some(parts) if is_orderly(&parts) => parts.redacted(),
        _ => "***".to_owned(),
    }
}

fn is_orderly(parts: &ConnectionString<'_>) -> bool {
    let encoded = |text: &str| !text.contains(['@', ':', '/', '?', '#', '[', ']']);
    parts.user.is_none_or(encoded)
        && parts.password.is_none_or(encoded)
        && !parts.path.contains(['@', ':'])
        && !parts.query.is_some_and(|query| query.contains('@'))
        && hosts_are_valid(parts.hosts, true)
}

/// What is wrong with a MongoDB connection string, if anything; never with a piece of it.
pub(super) fn mongodb_mistake(text: &str) -> Option<&'static str> {
    let Some(parts) = ConnectionString::split(text) else {
        return Some("must begin with mongodb:// or mongodb+srv://");
    };
    if !matches!(parts.scheme, "mongodb" | "mongodb+srv") {
        return Some("must begin with mongodb:// or mongodb+srv://");
    }
    if let Some(mistake) = userinfo_mistake(&parts) {
        return Some(mistake);
    }
    if parts.scheme == "mongodb+srv" && parts.hosts.contains([',', ':']) {
        return Some("must name one host without a port when it begins with mongodb+srv://");
    }
    if !hosts_are_valid(parts.hosts, false) {
        return Some("must name its hosts as host or host:port, separated by commas");
    }
    None
}

/// The same for PostgreSQL, whose host may be missing (a socket).
pub(super) fn postgres_mistake(text: &str) -> Option<&'static str> {
    let Some(parts) = ConnectionString::split(text) else {
        return Some("must begin with postgres:// or postgresql://");
    };
    if !matches!(parts.scheme, "postgres" | "postgresql") {
        return Some("must begin with postgres:// or postgresql://");
    }
    if let Some(mistake) = userinfo_mistake(&parts) {
        return Some(mistake);
    }
    if !hosts_are_valid(parts.hosts, true) {
        return Some("must name its host as host or host:port, several separated by commas");
    }
    None
}

/// A PostgreSQL URL for each host that it names, in their order. What only libpq knows is left out: the driver
/// would log it with its value.
pub fn url_of_each_host(text: &str) -> Vec<String> {
    const LIBPQS_OWN: [&str; 2] = ["target_session_attrs", "sslpassword"];
    let Some(parts) = ConnectionString::split(text) else { return vec![text.to_owned()] };
    let user = match (parts.user, parts.password) {
        (Some(user), Some(password)) => format!("{user}:{password}@"),
        (Some(user), None) => format!("{user}@"),
        (None, _) => String::new(),
    };
    let is_known = |option: &&str| !LIBPQS_OWN.contains(&option.split('=').next().unwrap_or_default());
    let options: Vec<&str> = parts.query.unwrap_or_default().split('&').filter(is_known).collect();
    let query = if parts.query.is_some() { format!("?{}", options.join("&")) } else { String::new() };
    let url = |host: &str| format!("{}://{user}{host}/{}{query}", parts.scheme, parts.path);
    parts.hosts.split(',').map(url).collect()
}

fn userinfo_mistake(parts: &ConnectionString<'_>) -> Option<&'static str> {
    const ENCODE: &str =
        "must have user and password percent-encoded (@ : / ? # [ ] % as %40 %3A %2F %3F %23 %5B %5D %25)";
    let plain = |text: &str| text.contains(['@', ':', '/', '?', '#', '[', ']']) || !percents_are_valid(text);
    let torn =
        parts.user.is_none() && (parts.path.contains('@') || parts.query.is_some_and(|q| q.contains('@')));
    (torn || parts.user.is_some_and(plain) || parts.password.is_some_and(plain)).then_some(ENCODE)
}

fn percents_are_valid(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let bytes = rest.as_bytes();
        bytes.len() >= 2 && bytes[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

fn hosts_are_valid(hosts: &str, may_be_empty: bool) -> bool {
    if hosts.is_empty() {
        return may_be_empty;
    }
    hosts.split(',').all(|host| {
        let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':')),
            None => match host.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (host, None),
            },
        };
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        !name.is_empty() && !name.contains(char::is_whitespace) && port_fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_connection_string_keeps_its_hosts_and_loses_its_secrets() {
        for (given, shown) in [
            (
                "mongodb://app:p%40ss@a:27017,b:27018/shop?replicaSet=rs0",
                "mongodb://app:***@a:27017,b:27018/shop?replicaSet=rs0",
            ),
            ("mongodb+srv://app:pass@c.example.net", "mongodb+srv://app:***@c.example.net"),
            (
                "postgres://app@db/shop?sslmode=require&sslpassword=hunter2",
                "postgres://app@db/shop?sslmode=require&sslpassword=***",
            ),
            (
                "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:abc",
                "mongodb://h/?authMechanismProperties=***",
            ),
            ("mongodb://app:p@ss@host/shop", "***"),
            ("mongodb://app:p/ss@host/shop", "***"),
            ("mongodb://app:se:cret@host/shop", "***"),
            ("mongodb://app:s?cret@host/shop", "***"),
            ("mongodb://app:12?cret@host/shop", "***"),
            ("mongodb://app:12/cret@host/shop", "***"),
            ("just-a-password", "***"),
        ] {
            assert_eq!(redact(given), shown);
        }
    }

    #[test]
    fn each_host_of_a_postgresql_url_has_a_url_of_its_own() {
        for (given, urls) in [
            (
                "postgres://u:p%40s@h:5432/db?sslmode=require",
                &["postgres://u:p%40s@h:5432/db?sslmode=require"][..],
            ),
            ("postgres://u@a,[::1]:5433/db", &["postgres://u@a/db", "postgres://u@[::1]:5433/db"]),
            (
                "postgres://a,b/db?target_session_attrs=read-write&sslmode=require&sslpassword=x",
                &["postgres://a/db?sslmode=require", "postgres://b/db?sslmode=require"],
            ),
            ("postgres:///db?host=/run", &["postgres:///db?host=/run"]),
        ] {
            assert_eq!(url_of_each_host(given), urls, "{given}");
        }
    }

    #[test]
    fn a_connection_string_is_refused_with_the_reason() {
        for (given, fits) in [
            ("mongodb://localhost", true),
            ("mongodb://u:p@[::1]:27017/db?replicaSet=rs0", true),
            ("mongodb://%2Ftmp%2Fmongodb-27017.sock", true),
            ("mongodb+srv://u:p@c.example.net/db", true),
            ("mongodb+srv://c.example.net:27017/db", false),
            ("mongodb://", false),
            ("mongodb://host:99999", false),
            ("mongodb://a,,b", false),
            ("mongodb://u:p@ss@host", false),
            ("mongodb://u:100%@host", false),
            ("mongo://host", false),
            ("host:27017", false),
        ] {
            assert_eq!(mongodb_mistake(given).is_none(), fits, "{given}");
        }
        for (given, fits) in [
            ("postgres://u:p@host:5432/db", true),
            ("postgresql:///db?host=/var/run/postgresql", true),
            ("postgres://a,b:5433/db", true),
            ("postgres://a,,b/db", false),
            ("mysql://host/db", false),
            ("postgres://u:p/w@host/db", false),
        ] {
            assert_eq!(postgres_mistake(given).is_none(), fits, "{given}");
        }
    }
}
