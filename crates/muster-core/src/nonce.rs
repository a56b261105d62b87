//! The chain of nonces: how two machines with one key give themselves away.
//!
//! Every contact is given a fresh nonce and refers to the last one its machine was given. One machine makes one chain,
//! with stubs: an answer that was lost, or a request that arrived late, leaves a contact that nobody refers to. A
//! restored disk image goes back to an old contact once, and on from there. Only two machines that share a key make two
//! branches that both go on, in turns: [`two_branches`].

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
    /// It refers past the last contact to one that nobody has referred to, as after a request that arrived late.
    Skip,
}

/// One contact of a machine, as far as the chain goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// The nonce it was given.
    pub sent: u64,
    /// The nonce it referred to.
    pub received: u64,
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

/// Whether a contact that refers to `received` is evidence of two machines under one key. `earlier` are the contacts
/// before it, oldest first; what came before these is taken to prove nothing.
///
/// It is when the contact `r` that it refers to was followed by another, `b`, that refers to some `p` from before `r`,
/// and `r` does not come from `p`. One machine cannot do this. Whoever sent `b` had been told of `p`; if that was the
/// machine that sent `r`, then it sent `r` knowing `p` or something that came from `p`. It sent nothing else, because it
/// goes on with `r` now, and so had not gone back to an older state for `b`. Lost answers and late requests thus prove
/// nothing, however many there are, nor does a machine that goes back to an older state, or to none, and on from there.
/// Two machines in turns are found at the second contact of the one that spoke second.
pub fn two_branches(received: u64, earlier: &[Visit]) -> bool {
    let given = |nonce: u64, before: usize| {
        let known = earlier[..before].iter().rposition(|visit| visit.sent == nonce);
        known.filter(|_| nonce != 0)
    };
    let parent = |of: usize| given(earlier[of].received, of);
    let Some(referred) = given(received, earlier.len()) else { return false };
    let mut line = vec![false; referred + 1];
    let mut at = Some(referred);
    while let Some(ancestor) = at {
        line[ancestor] = true;
        at = parent(ancestor);
    }
    (referred + 1..earlier.len()).any(|between| parent(between).is_some_and(|from| from < referred && !line[from]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contacts as (sent, received), and then what the next one refers to.
    fn evidence(earlier: &[(u64, u64)], received: u64) -> bool {
        let earlier: Vec<_> = earlier.iter().map(|&(sent, received)| Visit { sent, received }).collect();
        two_branches(received, &earlier)
    }

    #[test]
    fn lost_answers_late_requests_and_restored_images_are_no_evidence() {
        assert!(!evidence(&[(1, 0), (2, 1)], 2), "nothing was lost");
        assert!(!evidence(&[(1, 0), (2, 1), (3, 1), (4, 1)], 1), "answers were lost");
        assert!(!evidence(&[(1, 0), (2, 1), (3, 1)], 2), "the request of 3 was late");
        assert!(!evidence(&[(1, 0), (2, 1), (3, 1), (4, 2), (5, 1)], 4), "two were");
        assert!(!evidence(&[(1, 0), (2, 1), (3, 2), (4, 3)], 1), "an image was restored");
        assert!(!evidence(&[(1, 0), (2, 1), (3, 2), (4, 1), (5, 4), (6, 5)], 1), "and again");
        assert!(!evidence(&[(1, 0), (2, 1), (3, 0), (4, 3)], 4), "the state was lost");
        assert!(!evidence(&[(1, 0), (2, 1)], 99), "a nonce that was never given out");
    }

    #[test]
    fn two_machines_in_turns_are_evidence_whether_they_parted_before_or_after_their_first_contact() {
        assert!(evidence(&[(1, 0), (2, 1), (3, 1), (4, 2)], 3));
        assert!(evidence(&[(2, 0), (3, 0), (4, 2)], 3));
        assert!(evidence(&[(1, 0), (2, 1), (3, 1), (4, 2), (5, 4), (6, 5), (7, 6)], 3), "one speaks more often");
    }

    /// A small generator with a seed: the same numbers in every run.
    struct Draw(u64);

    impl Draw {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    /// A machine whose answers are lost and whose requests are late at random. Returns what it refers to at each
    /// contact, in the order in which the server sees them.
    fn troubled(draw: &mut Draw, visits: &mut Vec<Visit>, knows: &mut u64, late: &mut Vec<u64>) -> bool {
        let (received, is_late) = match draw.below(10) {
            // It gives up on a request that then hangs somewhere.
            0..2 => {
                late.push(*knows);
                return false;
            }
            2..4 if !late.is_empty() => {
                let which = draw.below(late.len() as u64);
                (late.swap_remove(usize::try_from(which).unwrap()), true)
            }
            _ => (*knows, false),
        };
        let evidence = two_branches(received, visits);
        let sent = visits.len() as u64 + 1;
        visits.push(Visit { sent, received });
        if !is_late && draw.below(3) > 0 {
            *knows = sent;
        }
        evidence
    }

    #[test]
    fn no_trouble_of_one_machine_is_taken_for_two() {
        for seed in 0..500 {
            let (mut draw, mut visits, mut knows, mut late) = (Draw(seed), Vec::new(), 0, Vec::new());
            for _ in 0..100 {
                assert!(!troubled(&mut draw, &mut visits, &mut knows, &mut late), "seed {seed}: {visits:?}");
            }
        }
    }

    #[test]
    fn two_machines_are_found_soon_whatever_trouble_they_have() {
        for seed in 0..500 {
            let (mut draw, mut visits) = (Draw(seed), Vec::new());
            let (mut one, mut other) = ((0, Vec::new()), (0, Vec::new()));
            let found = (0..100).position(|turn| {
                let (knows, late) = if turn % 2 == 0 { &mut one } else { &mut other };
                troubled(&mut draw, &mut visits, knows, late)
            });
            assert!(found.is_some_and(|turn| turn < 60), "seed {seed}: {found:?}");
        }
    }

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
