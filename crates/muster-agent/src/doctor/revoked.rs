//! What administrators revoked for good, and what that leaves of the authorities that this machine trusts.

use super::{Check, failed, ok, warning};
use crate::actions::Believed;
use crate::actions::status::documents_path;
use crate::config::Config;
use crate::revocations::{is_revoked, leaves_none};
use muster_trust::document::Kind;
use rustls_pki_types::CertificateDer;

const NAME: &str = "revoked";

/// Looks at the certificates that the configuration trusts, by what administrators revoked.
pub(super) fn look(config: &Config, pins: &[CertificateDer<'static>]) -> Vec<Check> {
    let believed = Believed::load(config, &documents_path(config));
    let Some(in_force) = believed.in_force.get(&Kind::Revocations) else { return Vec::new() };
    let (version, revoked) = (in_force.version, &believed.revocations);
    let count = pins.iter().filter(|pin| is_revoked(pin, revoked)).count();
    let says = format!("version {version} of the administrators' revocations names {} certificates", revoked.len());
    let advice = "put the certificate of an authority into trusted_certs that is not revoked, and take the others out";
    vec![match count {
        0 => ok(NAME, says),
        _ if leaves_none(pins, revoked) => {
            failed(NAME, format!("{says}, and all that trusted_certs holds: no server is trusted"), advice)
        }
        count => {
            warning(NAME, format!("{says}, {count} of those in trusted_certs: it trusts the others alone"), advice)
        }
    }]
}
