//! The chain of nonces: how two machines with one key give themselves away.
//!
//! Every contact is given a fresh nonce and refers to the last one it was given. One machine makes one chain. A restored
//! disk image refers to an old nonce once; two machines that share a key refer past each other at every contact.

/// What a contact's nonce says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It refers to the contact before it, or there was none.
    Next,
    /// It refers to none: the machine has lost what it knew, but kept its key.
    Fresh,
    /// It refers to an earlier contact that another contact already referred to, or to one that is not known: the
    /// chain has split. One lost answer does this too, because the machine then refers to the same contact twice; so a
    /// split alone is no proof of a clone.
    Split,
    /// It refers past the last contact to one that nobody has referred to. After a split this is the mark of a clone.
    Skip,
}

/// Judges a contact that refers to `received`, when the one before it was given `last` (`None` for the first contact).
///
/// `referred_before` tells whether an earlier contact referred to `received` already.
pub fn judge(received: u64, last: Option<u64>, referred_before: bool) -> Link {
    match (received, last) {
        (_, None) => Link::Next,
        (received, Some(last)) if received == last => Link::Next,
        (0, Some(_)) => Link::Fresh,
        _ if referred_before => Link::Split,
        _ => Link::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_makes_one_chain() {
        assert_eq!(judge(0, None, false), Link::Next);
        assert_eq!(judge(7, Some(7), false), Link::Next);
        assert_eq!(judge(7, Some(7), true), Link::Next);
    }

    #[test]
    fn a_reference_past_the_last_contact_is_a_skip_and_the_second_of_its_kind_a_split() {
        assert_eq!(judge(5, Some(7), false), Link::Skip);
        assert_eq!(judge(5, Some(7), true), Link::Split);
        assert_eq!(judge(0, Some(7), true), Link::Fresh);
    }
}
