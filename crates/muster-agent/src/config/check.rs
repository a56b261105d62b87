//! Which values of the configuration can work.
//!
//! Stays true: what is refused is named by its key, with what to write instead. Not here: files that are named there.

use super::{Config, ConfigError, Proxy, split_host_port};
use muster_core::text;
use muster_modules::user::Users;
use std::time::Duration;

impl Config {
    /// Refuses values that cannot work.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.to_owned() });
        if self.servers.is_empty() {
            return refuse("servers", "name at least one server as \"host:port\"");
        }
        for server in &self.servers {
            if split_host_port(server).is_none() {
                return refuse("servers", &format!("{server:?} is not host:port"));
            }
        }
        if self.trusted_certs.is_empty() {
            return refuse("trusted_certs", "give the certificate of the server's authority, as PEM text or as a path");
        }
        for label in &self.labels {
            if let Err(error) = text::name("label", label) {
                return refuse("labels", &error.to_string());
            }
        }
        if self.labels.len() + 3 > muster_core::limits::AGENT_LABELS_MAX {
            return refuse("labels", "at most 61 labels can be claimed");
        }
        if !self.fleet.is_empty()
            && let Err(error) = muster_core::text::fleet(&self.fleet)
        {
            return refuse("fleet", &error.to_string());
        }
        if self.poll_max.0 < Duration::from_secs(1) {
            return refuse("poll_max", "must be at least 1s");
        }
        if self.failure_delay_min.0 < Duration::from_millis(100) || self.failure_delay_min > self.failure_delay_max {
            return refuse("failure_delay_min", "must be at least 100ms and at most failure_delay_max");
        }
        if self.facts_every.0 < Duration::from_secs(1) {
            return refuse("facts_every", "must be at least 1s");
        }
        if self.spool_bytes_max < 4 * 1024 * 1024 {
            return refuse("spool_bytes_max", "must be at least 4194304, room for two messages of the largest size");
        }
        if self.spool_messages_max < 200 {
            return refuse("spool_messages_max", "must be at least 200, two contacts");
        }
        if self.administrators_min == 0 {
            return refuse("administrators_min", "must be at least 1");
        }
        if let Err(error) = self.module_users.parse::<Users>() {
            return refuse("module_users", &error.to_string());
        }
        if self.module_timeout.0 < Duration::from_secs(1) {
            return refuse("module_timeout", "must be at least 1s");
        }
        if !self.status_page.is_empty() && self.status_page_address().is_none() {
            return refuse("status_page", "must be an address of the loopback interface, such as 127.0.0.1:51664");
        }
        if let Err(why) = Proxy::read(&self.proxy) {
            return refuse("proxy", &why);
        }
        if let Err(why) = text::log_level(&self.log_level) {
            return refuse("log_level", &why);
        }
        if let Some(name) = self.services_environment.iter().find(|name| !is_variable(name)) {
            return refuse(
                "services_environment",
                &format!("{name:?} cannot be passed on: name a variable that is not one of the agent's own"),
            );
        }
        if !self.client_certificate_header.is_empty()
            && http::HeaderName::from_bytes(self.client_certificate_header.as_bytes()).is_err()
        {
            return refuse("client_certificate_header", "is not a header's name");
        }
        Ok(())
    }
}

/// Whether a variable of the environment may be passed to services: never the agent's own, which hold its token.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0', ' ']) && !name.starts_with("MUSTER_AGENT_")
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let good = Config { servers: vec!["a:1".into()], trusted_certs: "ca.pem".into(), ..Config::default() };
        good.check().unwrap();
        let cases = [
            ("servers", Config { servers: vec![], ..good.clone() }),
            ("servers", Config { servers: vec!["a".into()], ..good.clone() }),
            ("trusted_certs", Config { trusted_certs: String::new(), ..good.clone() }),
            ("labels", Config { labels: vec!["a\0".into()], ..good.clone() }),
            ("fleet", Config { fleet: "two words".into(), ..good.clone() }),
            ("poll_max", Config { poll_max: Span::seconds(0), ..good.clone() }),
            ("failure_delay_min", Config { failure_delay_min: Span::seconds(900), ..good.clone() }),
            ("spool_bytes_max", Config { spool_bytes_max: 1, ..good.clone() }),
            ("administrators_min", Config { administrators_min: 0, ..good.clone() }),
            ("module_timeout", Config { module_timeout: Span::seconds(0), ..good.clone() }),
            ("status_page", Config { status_page: "0.0.0.0:51664".into(), ..good.clone() }),
            ("status_page", Config { status_page: "here".into(), ..good.clone() }),
            ("proxy", Config { proxy: "socks5://a:1".into(), ..good.clone() }),
            ("log_level", Config { log_level: "warning".into(), ..good.clone() }),
            ("services_environment", Config { services_environment: vec!["A=b".into()], ..good.clone() }),
            (
                "services_environment",
                Config { services_environment: vec!["MUSTER_AGENT_ENROL_TOKEN".into()], ..good.clone() },
            ),
        ];
        for (key, config) in cases {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
