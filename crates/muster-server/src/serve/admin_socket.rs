//! The admin listener: its socket in the file system, and how it is opened.

use super::{Opened, ServeError, Step, setup};
use crate::admin::{self, AdminAccess, AdminOptions, Tokens};
use crate::config::{Admin, LocalCallers};
use crate::listener_certificates::FileCertificate;
use anyhow::bail;
use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};

/// Opens the socket that the configuration names, if it names one. A socket that an earlier run left is replaced.
pub(super) fn open(admin: &Admin) -> Result<Option<UnixListener>, ServeError> {
    let Some(path) = &admin.socket else { return Ok(None) };
    let step = Step(format!("open the admin listener's socket {}", path.display()));
    step.run(|| {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        // Who connects is judged by account; the mode only spares others the attempt.
        let mode = if admin.local == LocalCallers::Anybody || admin.token { 0o666 } else { 0o600 };
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(Some(listener))
    })
}

/// Removes a socket that nobody answers at. Anything else that has the name stays, and stops the start.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.file_type().is_socket() || ![0, rustix::process::geteuid().as_raw()].contains(&found.uid()) {
        bail!("something else has this name: name another path in admin.socket");
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another server answers there: stop it, or name another path in admin.socket");
    }
    Ok(std::fs::remove_file(path)?)
}

impl Opened {
    /// Lets the admin listener answer.
    pub(super) fn admin_door(
        &mut self,
        tcp: Option<TcpListener>,
        unix: Option<UnixListener>,
    ) -> Result<(), ServeError> {
        let settings = &self.config.admin;
        let own = setup::file_certificate("the admin door", settings.certificate.as_ref(), settings.key.as_ref())?;
        let local = match settings.local {
            LocalCallers::Owner => admin::Local::Owner,
            LocalCallers::Anybody => admin::Local::Anybody,
        };
        let access = if settings.tls {
            let certificate = own.as_ref().map_or_else(|| self.certificates.slot(), FileCertificate::slot);
            let client_authority = setup::client_authority(settings.client_ca.as_ref())?;
            AdminAccess::Tls { certificate, client_authority }
        } else {
            AdminAccess::Loopback(local)
        };
        let tokens = if settings.token { Tokens::Required } else { Tokens::Optional };
        if let Some(own) = own {
            self.listener_certificates.add("admin", own);
        }
        let defaults = AdminOptions::new(Arc::clone(&self.clock), Arc::clone(&self.random));
        let options = AdminOptions { access, tokens, ..defaults };
        let (engine, stop) = (self.engine.clone(), self.stop.clone());
        let sockets = admin::AdminSockets { tcp, unix: unix.map(|listener| (listener, local)) };
        self.tasks.spawn(async move {
            let served = admin::serve(sockets, engine, options, stop).await;
            served.map_err(|error| Step("serve the admin door".into()).failed(error))
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let admin = |name: &str| Admin { socket: Some(dir.path().join(name)), ..Admin::default() };
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
        let first = open(&admin("a")).unwrap().unwrap();
        assert_eq!(mode("a"), 0o600);
        assert!(open(&admin("a")).is_err(), "somebody answers there");
        drop(first);
        open(&Admin { local: LocalCallers::Anybody, ..admin("a") }).unwrap().unwrap();
        assert_eq!(mode("a"), 0o666);
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(open(&admin("file")).is_err());
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"x");
        assert!(open(&Admin::default()).unwrap().is_none());
    }
}
