//! Whose order results answer: the action, as people signed it.
//!
//! Stays true: the digest under which machines sign their results is worked out here, from an action that this person
//! signed or holds, or whose signatures were verified with keys of this person; a server's word for it counts for nothing.

use super::file::{self, sha256};
use super::verify::{self, keyring};
use crate::output::safe;
use crate::signing::{self, name_of};
use crate::{Context, Exit, Failure, values};
use muster_core::AgentId;
use muster_core::action::Action;
use muster_core::target::Target;
use muster_trust::{Keyring, signature, signed_text};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;

/// With what the action of a server is verified.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OrderArgs {
    /// Whose signatures make it the action that people signed: a file with public keys, or a directory of such files; the
    /// keys of gpg unless told
    #[arg(long, value_name = "PATH")]
    keyring: Vec<PathBuf>,
    /// The action as you hold it, instead of the server's copy
    #[arg(long, value_name = "FILE", conflicts_with = "keyring")]
    order: Option<PathBuf>,
    /// The gpg program, asked for its keys when there is no --keyring
    #[arg(long, env = "MUSTER_SIGN_GPG", value_name = "PROGRAM", default_value = "gpg")]
    gpg: PathBuf,
}

/// What results answer.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The modules of its operations, in their order.
    pub(crate) modules: Vec<String>,
    /// SHA-256 of what people signed; `None` when nobody knows what they did.
    pub(crate) digest: Option<[u8; 32]>,
    /// What it is for, in the words that are signed.
    pub(crate) name: String,
    /// Whose signatures were verified here, for people: names and fingerprints. None for a file that this person holds.
    pub(crate) signers: Vec<String>,
    /// Which machines it is for.
    pub(crate) target: Option<Target>,
}

impl Order {
    /// An action that this person signed or holds.
    pub(crate) fn own(action: &Action) -> Self {
        let digest = signed_text(action).ok().map(|text| Sha256::digest(text.as_bytes()).into());
        // A target that this program cannot read excludes nobody here, and no machine runs it.
        Self { digest, target: Target::parse(&action.target).ok(), ..Self::unknown(action) }
    }

    fn unknown(action: &Action) -> Self {
        Self {
            modules: action.operations.iter().map(|operation| operation.module.clone()).collect(),
            digest: None,
            name: action.name.clone(),
            signers: Vec::new(),
            target: None,
        }
    }

    /// The same, signed by these people.
    pub(crate) fn signed_by(self, signers: Vec<String>) -> Self {
        Self { signers, ..self }
    }

    /// Whether the signed target excludes the machine with this id, whatever else is true of it.
    pub(crate) fn excludes(&self, id: AgentId) -> bool {
        self.target.as_ref().is_some_and(|target| target.excludes(id))
    }

    /// The action of the server with number `id`, of which it says that it is `action`. `is_lax`: it may be anything.
    pub(crate) async fn of_server(
        context: &Context,
        (id, action): (i64, &Action),
        with: &OrderArgs,
        is_lax: bool,
    ) -> Result<Self, Failure> {
        let what = format!("could not verify action {id}");
        if let Some(path) = &with.order {
            let bytes = signing::read_file(&what, path, muster_core::limits::ACTION_BYTES_MAX)?;
            let held = Self::own(&file::parse(&what, &path.display().to_string(), &bytes)?);
            if held.digest.is_none() || held.digest != Self::own(action).digest {
                let why = format!("action {id} of the server is not the one in this file");
                return Err(Failure::new(Exit::Conflict, what, why).on(path.display()).next("muster action list"));
            }
            return Ok(held);
        }
        let keyring =
            if with.keyring.is_empty() { of_gpg(action, with).await } else { keyring(context.out, &with.keyring)? };
        let order = Self::own(action);
        let text = signed_text(action).map_err(|error| Failure::new(Exit::Failed, &what, error.to_string()))?;
        let now = values::now();
        let good = action
            .pgp_signatures
            .iter()
            .filter_map(|line| muster_trust::verify(&keyring, line, text.as_bytes(), now).ok());
        let signers: Vec<_> = good.filter_map(|signed| keyring.get(&signed.signer).map(name_of)).collect();
        if !signers.is_empty() {
            let (name, named) = (safe(&action.name), safe(&signers.join(", ")));
            context.out.note(&format!("action {id}: {name:?}, signed by {named}, SHA-256 {}", sha256(&text)));
            return Ok(order.signed_by(signers));
        }
        if is_lax {
            context.out.note(&format!("note: nobody whose key you have signed action {id}: no result can be proven"));
            return Ok(Self::unknown(action));
        }
        let why =
            "no signature of it is by a key that you have: which question these results answer is the server's word";
        let next = "give the signers' public keys with --keyring, or the signed file with --order; --unproven prints them \
                    all the same";
        Err(Failure::new(Exit::Refused, what, why).next(next))
    }
}

/// Returns those keys of gpg by which the action says that it is signed. Without gpg there are none.
async fn of_gpg(action: &Action, with: &OrderArgs) -> Keyring {
    let issuers = action.pgp_signatures.iter().filter_map(|line| signature::issuers(line).ok()?.into_iter().next());
    let keys = signing::keys_of(&with.gpg, &issuers.collect::<Vec<_>>()).await.unwrap_or_default();
    let keys: Vec<_> = keys.into_iter().flat_map(verify::apart).collect();
    Keyring::from_files(keys.iter().map(|key| ("gpg", key.as_slice()))).0
}
