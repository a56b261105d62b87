use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const ROOMY: SpoolLimits = SpoolLimits { bytes_max: 64 * 1024 * 1024, messages_max: 10_000 };

fn open(directory: &Path) -> Spool {
    open_with(directory, ROOMY)
}

fn open_with(directory: &Path, limits: SpoolLimits) -> Spool {
    Spool::open(directory, limits, Arc::new(Random::from_number(1))).unwrap()
}

fn message(number: u8, priority: Priority) -> Outgoing {
    Outgoing { id: [number; 16], priority, background: number.is_multiple_of(2), body: vec![number; 40] }
}

fn accept(spool: &mut Spool, message: &Outgoing) {
    spool.append(message).unwrap();
    spool.confirm(&[message.id]);
}

fn numbers(taken: &[Outgoing]) -> Vec<u8> {
    taken.iter().map(|message| message.id[0]).collect()
}

fn take_all(spool: &mut Spool) -> Vec<Outgoing> {
    spool.take(usize::MAX, usize::MAX)
}

/// The only file with records in it.
fn file_with_records(directory: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .filter(|path| std::fs::metadata(path).unwrap().len() > 0)
        .collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn hurry_comes_before_age() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    for (number, priority) in [(1, Priority::Low), (2, Priority::Medium), (3, Priority::High), (4, Priority::Medium)] {
        accept(&mut spool, &message(number, priority));
    }
    assert_eq!(numbers(&spool.take(3, usize::MAX)), [3, 2, 4]);
    assert_eq!(numbers(&take_all(&mut spool)), [1]);
    spool.release(&[[2; 16]]);
    assert_eq!(numbers(&take_all(&mut spool)), [2]);
}

#[test]
fn a_message_is_not_sent_before_it_is_accepted_nor_after_it_is_withdrawn() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    spool.append(&message(1, Priority::High)).unwrap();
    assert_eq!(numbers(&take_all(&mut spool)), [0_u8; 0]);
    spool.withdraw(&[[1; 16]]);
    spool.confirm(&[[1; 16]]);
    assert_eq!(spool.len(), 0);
    accept(&mut spool, &message(2, Priority::High));
    assert_eq!(numbers(&take_all(&mut spool)), [2]);
}

#[test]
fn what_is_unacknowledged_comes_back_after_a_restart_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    let sent: Vec<_> = (1..=5).map(|number| message(number, Priority::Medium)).collect();
    for message in &sent {
        accept(&mut spool, message);
    }
    take_all(&mut spool);
    spool.acknowledge(&[[2; 16], [4; 16]]);
    drop(spool);
    for _ in 0..3 {
        let mut spool = open(directory.path());
        let back = take_all(&mut spool);
        assert_eq!(back, [sent[0].clone(), sent[2].clone(), sent[4].clone()]);
    }
}

#[test]
fn an_empty_spool_leaves_no_files_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    for round in 0..30 {
        for number in 0..100 {
            let body = vec![0; 4096];
            let id = [[round; 8], [number; 8]].concat().try_into().unwrap();
            accept(&mut spool, &Outgoing { id, priority: Priority::Low, background: false, body });
        }
        let ids: Vec<_> = take_all(&mut spool).iter().map(|message| message.id).collect();
        spool.acknowledge(&ids);
    }
    let bytes: u64 = spool.segments.values().map(|segment| segment.bytes).sum();
    assert!(bytes <= IDLE_BYTES_MAX && spool.segments.len() == 1, "{bytes} bytes");
}

#[test]
fn one_old_message_does_not_hold_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    let old = message(1, Priority::Low);
    accept(&mut spool, &old);
    for number in 0..60_u8 {
        let id = [number + 100; 16];
        let big = Outgoing { id, priority: Priority::High, background: false, body: vec![0; 1024 * 1024] };
        accept(&mut spool, &big);
        spool.acknowledge(&[id]);
    }
    let bytes: u64 = spool.segments.values().map(|segment| segment.bytes).sum();
    assert!(bytes <= 6 * SEGMENT_BYTES, "{bytes} bytes for one small message");
    drop(spool);
    assert_eq!(take_all(&mut open(directory.path())), [old]);
}

#[test]
fn a_full_spool_gives_up_the_least_important_and_counts_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open_with(directory.path(), SpoolLimits { bytes_max: 1 << 20, messages_max: 3 });
    for (number, priority) in [(1, Priority::Low), (2, Priority::Low), (3, Priority::Medium)] {
        accept(&mut spool, &message(number, priority));
    }
    assert!(matches!(spool.append(&message(4, Priority::Low)), Err(SpoolError::Full { messages: 3, .. })));
    accept(&mut spool, &message(5, Priority::Medium));
    accept(&mut spool, &message(6, Priority::High));
    assert_eq!(spool.counts(), SpoolCounts { dropped: 2, damaged: 0 });
    assert!(spool.append(&message(7, Priority::Medium)).is_err());
    assert_eq!(numbers(&take_all(&mut spool)), [6, 3, 5]);
    // What is on its way is never given up.
    assert!(spool.append(&message(8, Priority::High)).is_err());
}

#[test]
fn a_message_larger_than_any_server_takes_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut large = message(1, Priority::High);
    large.body = vec![0; muster_core::limits::MESSAGE_BYTES_MAX + 1];
    assert!(matches!(open(directory.path()).append(&large), Err(SpoolError::TooLarge { .. })));
}

#[test]
fn a_file_cut_at_any_byte_keeps_every_record_before_the_cut() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    (1..=4).for_each(|number| accept(&mut spool, &message(number, Priority::Medium)));
    drop(spool);
    let path = file_with_records(directory.path());
    let name = path.file_name().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let record = whole.len() / 4;
    for cut in 0..=whole.len() {
        let torn = tempfile::tempdir().unwrap();
        std::fs::write(torn.path().join(name), &whole[..cut]).unwrap();
        let mut spool = open(torn.path());
        let intact = u8::try_from(cut / record).unwrap();
        assert_eq!(numbers(&take_all(&mut spool)), (1..=intact).collect::<Vec<_>>(), "cut at {cut}");
        assert_eq!(spool.counts().damaged, u64::from(!cut.is_multiple_of(record)), "cut at {cut}");
        drop(spool);
        // The damage is dealt with once; the next start finds a sound spool with the same messages.
        let mut again = open(torn.path());
        assert_eq!(again.counts().damaged, 0);
        assert_eq!(take_all(&mut again).len(), usize::from(intact));
    }
}

#[test]
fn a_flipped_bit_costs_its_own_record_only_and_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    (1..=4).for_each(|number| accept(&mut spool, &message(number, Priority::Medium)));
    drop(spool);
    let path = file_with_records(directory.path());
    let name = path.file_name().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let record = whole.len() / 4;
    for at in 0..whole.len() {
        let hurt = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(hurt.path().join(name), &bytes).unwrap();
        let mut spool = open(hurt.path());
        let lost = u8::try_from(at / record).unwrap() + 1;
        let left: Vec<u8> = (1..=4).filter(|number| *number != lost).collect();
        assert_eq!(numbers(&take_all(&mut spool)), left, "bit of byte {at}");
        assert_eq!(spool.counts().damaged, 1);
        assert_eq!(std::fs::read_dir(hurt.path().join("quarantine")).unwrap().count(), 1);
    }
}

#[test]
fn a_body_that_looks_like_a_record_is_not_read_as_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    // Another file's mark: the best that somebody who reads the spool's format can do beforehand.
    let forged = record::encode([7; 8], &[66; 16], 0, b"forged");
    accept(&mut spool, &Outgoing { id: [1; 16], priority: Priority::High, background: false, body: forged });
    drop(spool);
    let path = file_with_records(directory.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(open(directory.path()).len(), 0);
}

#[test]
fn files_of_other_programs_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["notes.txt", "zz-00.seg", "0001.seg", ".seg"] {
        std::fs::write(directory.path().join(name), "mine").unwrap();
    }
    drop(open(directory.path()));
    assert_eq!(std::fs::read(directory.path().join("0001.seg")).unwrap(), b"mine");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any mixture of accepting, taking, giving back, acknowledging and restarting keeps exactly what is owed.
    #[test]
    fn what_is_owed_is_kept_whatever_happens(steps in prop::collection::vec((0_u8..6, 0_u8..40), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = open(directory.path());
        let mut owed = BTreeSet::new();
        let mut away = BTreeSet::new();
        let mut done = BTreeSet::new();
        for (step, number) in steps {
            match step {
                0 | 1 if !done.contains(&number) => {
                    accept(&mut spool, &message(number, Priority::from_number(i32::from(number % 3))));
                    owed.insert(number);
                }
                2 => {
                    for taken in spool.take(usize::from(number), 500) {
                        prop_assert!(owed.contains(&taken.id[0]) && away.insert(taken.id[0]));
                    }
                }
                3 => {
                    spool.release(&[[number; 16]]);
                    away.remove(&number);
                }
                4 => {
                    spool.acknowledge(&[[number; 16]]);
                    away.remove(&number);
                    if owed.remove(&number) {
                        done.insert(number);
                    }
                }
                5 => {
                    drop(spool);
                    spool = open(directory.path());
                    away.clear();
                }
                _ => {}
            }
            prop_assert_eq!(spool.len(), owed.len());
        }
        drop(spool);
        let back: BTreeSet<u8> = numbers(&take_all(&mut open(directory.path()))).into_iter().collect();
        prop_assert_eq!(back, owed);
    }

    /// Any damage to any place: no crash, no queue blocked, every record that is still whole handed out once.
    #[test]
    fn damage_never_stops_the_rest(hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = open(directory.path());
        (1..=20).for_each(|number| accept(&mut spool, &message(number, Priority::Medium)));
        drop(spool);
        let path = file_with_records(directory.path());
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        for (at, value) in hits {
            bytes[at.index(whole.len())] = value;
        }
        std::fs::write(&path, &bytes).unwrap();
        let record = whole.len() / 20;
        let intact: Vec<u8> = (1..=20_u8)
            .filter(|number| {
                let from = usize::from(number - 1) * record;
                bytes[from..from + record] == whole[from..from + record]
            })
            .collect();
        let mut spool = open(directory.path());
        prop_assert_eq!(numbers(&take_all(&mut spool)), intact.clone());
        prop_assert_eq!(spool.counts().damaged > 0, intact.len() < 20);
    }
}
