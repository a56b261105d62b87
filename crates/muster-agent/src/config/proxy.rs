//! A proxy as people write it, and addresses of the form `host:port`.
//!
//! Stays true: a login is shown nowhere, also not in an error. Not here: speaking to a proxy (comms).

use super::Secret;
use muster_core::text;
use serde::Serializer;

/// Splits `host:port`; an IPv6 address stands in brackets and comes back without them.
pub(crate) fn split_host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

/// A proxy that can CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Where it is, as `host:port`.
    pub(crate) address: String,
    /// `name:password`, if it wants a login.
    pub(crate) login: Option<Secret>,
}

impl Proxy {
    /// Reads `http://host:port` or `http://name:password@host:port`, in which letters may be escaped by `%`. Empty text is
    /// no proxy. The error says what is wrong without repeating a password.
    pub(crate) fn read(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("must begin with http://, as in http://host:port".to_owned());
        };
        if scheme != "http" {
            let scheme = text::cut(scheme, 20);
            return Err(format!("{scheme}:// proxies are not supported, only those that take CONNECT over http://"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        if split_host_port(address).is_none() {
            return Err("must name host and port, as in http://host:3128".to_owned());
        }
        let login = login.map(|login| {
            let (name, password) = login.split_once(':').unwrap_or((login, ""));
            let decoded = |part| percent_encoding::percent_decode_str(part).decode_utf8().ok();
            let (name, password) = (decoded(name)?, decoded(password)?);
            // The name ends at the first colon.
            let is_good = !name.is_empty() && !name.contains(':');
            is_good.then(|| Secret(format!("{name}:{password}")))
        });
        match login {
            Some(None) => Err("has a login that is not name:password with letters escaped by %".to_owned()),
            login => Ok(Some(Self { address: address.to_owned(), login: login.flatten() })),
        }
    }

    /// Returns it without the login, to be shown.
    pub(crate) fn shown(&self) -> String {
        let login = if self.login.is_some() { "(hidden)@" } else { "" };
        format!("http://{login}{}", self.address)
    }
}

/// Writes a proxy without its login.
pub(super) fn without_login<S: Serializer>(proxy: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match Proxy::read(proxy) {
        Ok(Some(read)) if read.login.is_some() => serializer.serialize_str(&read.shown()),
        // What cannot be read may hold a login, too.
        Err(_) if proxy.contains('@') => serializer.serialize_str("(hidden)"),
        _ => serializer.serialize_str(proxy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(split_host_port("a.example:4443"), Some(("a.example", 4443)));
        assert_eq!(split_host_port("[::1]:1"), Some(("::1", 1)));
        for bad in ["", "a", "a:", "a:0", "a:70000", "::1:1", ":1", "[::1:1"] {
            assert_eq!(split_host_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn case_19_a_proxy_is_read_as_people_write_it_or_refused_by_what_is_wrong() {
        let read = |text: &str| Proxy::read(text).map(|proxy| proxy.map(|proxy| (proxy.address, proxy.login)));
        let plain = |address: &str| Ok(Some((address.to_owned(), None)));
        assert_eq!(read("http://proxy.example.org:3128"), plain("proxy.example.org:3128"));
        assert_eq!(read("http://proxy.example.org:3128/"), plain("proxy.example.org:3128"));
        assert_eq!(read("http://[2001:db8::1]:3128"), plain("[2001:db8::1]:3128"));
        assert_eq!((read(""), read(" ")), (Ok(None), Ok(None)));
        let login = Some(Secret("kim:s@cret".into()));
        assert_eq!(
            read("http://kim:s%40cret@proxy.example.org:3128"),
            Ok(Some(("proxy.example.org:3128".into(), login)))
        );
        for (wrong, why) in [
            ("proxy.example.org:3128", "http://"),
            ("https://proxy.example.org:3129", "https://"),
            ("socks5://proxy.example.org:1080", "socks5://"),
            ("http://proxy.example.org", "port"),
            ("http://:pass@proxy.example.org:1", "login"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(why) && !error.contains("pass@"), "{wrong}: {error}");
        }
        for shown in ["http://kim:s3cret@p:1", "http://kim:s3cret@p", "socks5://kim:s3cret@p:1"] {
            let config = Config { proxy: shown.into(), ..Config::default() };
            assert!(!toml::to_string(&config).unwrap().contains("s3cret"), "{shown}");
        }
    }
}
