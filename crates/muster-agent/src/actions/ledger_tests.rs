use super::super::ledger_content::{ORDERS_KEPT, REFUSALS_KEPT};
use super::super::recalls::Objects;
use super::*;
use muster_trust::ledger::keep_until;
use std::time::Duration;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + seconds)
}

fn order(number: u8, now: i64, end: i64) -> Order {
    Order {
        key: [number; 32],
        at: at(now),
        action_id: i64::from(number),
        command_id: 0,
        message: "aa".into(),
        name: "who is there".into(),
        target: "name = 'x'".into(),
        modules: vec!["timedrift".into()],
        signers: vec!["AB".into()],
        valid_from: at(now - 60),
        expire_after: at(end),
        floor: at(now - 50),
        outcome: None,
    }
}

/// Whoever called back may.
fn anybody(_: &Objection) -> bool {
    true
}

fn by(signer: &str) -> Canceller<'_> {
    Canceller { signer, weight: 1 }
}

fn done(seconds: i64) -> Outcome {
    Outcome { at: at(seconds), status: "success".into(), found: 1 }
}

fn a_path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders");
    (directory, path)
}

#[test]
fn an_order_is_taken_once_whatever_comes_between() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    assert_eq!(ledger.begin(order(1, 5, 100), at(0), &anybody).unwrap(), Begun::Now);
    assert_eq!(ledger.begin(order(1, 6, 100), at(0), &anybody).unwrap(), Begun::Before);
    drop(ledger);
    // It ended in the middle: known, and without an outcome.
    let mut ledger = OrderLedger::open(&path, true, at(0)).unwrap();
    assert_eq!(ledger.begin(order(1, 7, 100), at(0), &anybody).unwrap(), Begun::Before);
    assert_eq!(ledger.content().order(&[1; 32]), Some(&order(1, 5, 100)));
    ledger.finish([1; 32], done(9)).unwrap();
    drop(ledger);
    let ledger = OrderLedger::open(&path, true, at(0)).unwrap();
    assert_eq!(ledger.content().order(&[1; 32]).unwrap().outcome, Some(done(9)));
    assert_eq!(ledger.content().since(), (at(0), Origin::New));
}

#[test]
fn the_floor_is_the_latest_that_was_signed_and_never_sinks() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    ledger.begin(order(1, 500, 600), at(0), &anybody).unwrap();
    ledger.begin(order(2, 40, 600), at(0), &anybody).unwrap();
    assert_eq!(ledger.content().floor(), at(450));
    drop(ledger);
    assert_eq!(OrderLedger::open(&path, true, at(-9000)).unwrap().content().floor(), at(450));
}

#[test]
fn a_line_torn_by_a_crash_is_as_if_it_was_never_written() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    ledger.begin(order(1, 5, 100), at(0), &anybody).unwrap();
    let before = std::fs::metadata(&path).unwrap().len();
    // Written, and the crash comes before anything was promised.
    ledger.append(Line::Begun(order(2, 6, 100))).unwrap();
    drop(ledger);
    let whole = std::fs::read(&path).unwrap();
    for cut in usize::try_from(before).unwrap()..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut ledger = OrderLedger::open(&path, true, at(10)).unwrap();
        assert_eq!(ledger.content().since().1, Origin::New, "cut at {cut}");
        assert!(ledger.content().order(&[1; 32]).is_some() && ledger.content().order(&[2; 32]).is_none());
        // What is written next is readable.
        assert_eq!(ledger.begin(order(3, 7, 100), at(0), &anybody).unwrap(), Begun::Now);
        assert!(look(&path).unwrap().unwrap().order(&[3; 32]).is_some());
    }
}

#[test]
fn a_ledger_that_was_cut_anywhere_is_never_a_shorter_one() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    for number in 1..=3 {
        ledger.begin(order(number, 5, 100), at(0), &anybody).unwrap();
    }
    ledger.shrink_at = 1;
    ledger.finish([1; 32], done(9)).unwrap();
    ledger.begin(order(4, 6, 100), at(0), &anybody).unwrap();
    ledger.recall([5; 32], by("AB"), at(100)).unwrap();
    drop(ledger);
    let whole = std::fs::read(&path).unwrap();
    assert!(Content::read(&whole).is_some());
    for cut in 0..whole.len() {
        assert!(Content::read(&whole[..cut]).is_none(), "cut at {cut}");
    }
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(OrderLedger::open(&path, true, at(50)).unwrap().content().since(), (at(50), Origin::Lost));
}

#[test]
fn damage_and_loss_are_never_an_empty_ledger() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    ledger.begin(order(1, 5, 100), at(0), &anybody).unwrap();
    drop(ledger);
    let whole = std::fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let ledger = OrderLedger::open(&path, true, at(50)).unwrap();
        assert_eq!(ledger.content().since(), (at(50), Origin::Lost), "byte {place}");
        assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), bytes);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(OrderLedger::open(&path, true, at(60)).unwrap().content().since(), (at(60), Origin::Lost));
}

#[test]
fn a_ledger_that_was_lost_in_the_middle_of_a_second_does_not_answer_for_that_second() {
    let half = Duration::from_millis(500);
    for (known_before, since) in [(true, at(1)), (false, at(0))] {
        let (_directory, path) = a_path();
        let ledger = OrderLedger::open(&path, known_before, at(0).plus(half)).unwrap();
        assert_eq!(ledger.content().since().0, since);
    }
    let (_directory, path) = a_path();
    assert_eq!(OrderLedger::open(&path, true, at(0)).unwrap().content().since(), (at(0), Origin::Lost));
}

#[test]
fn what_is_forgotten_lies_below_the_floor_and_stays_refused_and_the_hash_goes_on() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    let many = u32::try_from(ORDERS_KEPT).unwrap() + 50;
    for number in 0..many {
        let mut order = order(0, 5, 100 + i64::from(number));
        order.key[..4].copy_from_slice(&number.to_be_bytes());
        let key = order.key;
        ledger.begin(order, at(0), &anybody).unwrap();
        // One that never ended holds up those after it.
        if number != 40 {
            ledger.finish(key, done(9)).unwrap();
        }
    }
    let before = ledger.content().head();
    let mut content = ledger.content().clone();
    // However late the clock of this machine says that it is: nobody vouches for that.
    content.forget();
    assert_eq!((content.orders().count(), content.forgotten_until()), (ORDERS_KEPT + 50, Timestamp::EPOCH));
    content.take(Line::Floor { at: at(100_000_000) });
    content.forget();
    assert_eq!(content.orders().count(), ORDERS_KEPT + 10);
    // At its end an order is still valid.
    assert!(content.may_be_forgotten(at(139)) && !content.may_be_forgotten(at(140)));
    let (again, _) = Content::read(&content.write()).unwrap();
    assert_eq!((again.forgotten_until(), again.head(), content.head()), (at(139), before, before));
}

#[test]
fn a_clock_reset_revives_neither_an_order_nor_a_cancellation_that_was_forgotten() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    for number in 0..=u32::try_from(ORDERS_KEPT).unwrap() {
        let mut order = order(0, 5, 100);
        order.key[..4].copy_from_slice(&number.to_be_bytes());
        let key = order.key;
        ledger.begin(order, at(6), &anybody).unwrap();
        ledger.finish(key, done(9)).unwrap();
    }
    ledger.recall([7; 32], by("AB"), at(200)).unwrap();
    // Both are long past, by a word that counted until somebody found the clock to be wrong.
    ledger.raise_floor(keep_until(at(300))).unwrap();
    ledger.shrink_at = 1;
    ledger.raise_floor(keep_until(at(301))).unwrap();
    assert!(ledger.content().order(&[0; 32]).is_none());
    assert_eq!(ledger.content().objections(&[7; 32], at(0)).count(), 0);
    ledger.reset_clock(at(10)).unwrap();
    for _ in 0..2 {
        assert_eq!(ledger.content().floor(), at(10));
        let mut ran = order(0, 5, 100);
        // Another fraction of the second does not make it another order.
        ran.expire_after = at(100).plus(Duration::from_millis(900));
        assert_eq!(ledger.begin(ran, at(10), &anybody).unwrap(), Begun::Forgotten);
        assert_eq!(ledger.begin(order(7, 5, 200), at(10), &anybody).unwrap(), Begun::Forgotten);
        drop(ledger);
        ledger = OrderLedger::open(&path, true, at(10)).unwrap();
    }
    // What ends later cannot be one of them.
    assert_eq!(ledger.begin(order(8, 5, 201), at(10), &anybody).unwrap(), Begun::Now);
}

#[test]
fn a_cancellation_that_was_dropped_for_another_stays_forgotten_after_a_reset() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    ledger.recall([7; 32], by("AB"), at(200)).unwrap();
    ledger.raise_floor(keep_until(at(300))).unwrap();
    // The next one finds the first forgotten, in memory; the file still has it.
    ledger.recall([8; 32], by("AB"), keep_until(at(400))).unwrap();
    assert_eq!(ledger.content().objections(&[7; 32], at(0)).count(), 0);
    ledger.reset_clock(at(10)).unwrap();
    drop(ledger);
    let mut ledger = OrderLedger::open(&path, true, at(10)).unwrap();
    assert_eq!(ledger.begin(order(7, 5, 200), at(10), &anybody).unwrap(), Begun::Forgotten);
}

#[test]
fn an_order_called_back_before_it_came_never_begins_if_whoever_signed_that_may() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    ledger.recall([7; 32], by("AB"), at(100)).unwrap();
    ledger.recall([8; 32], by("CD"), at(100)).unwrap();
    drop(ledger);
    let mut ledger = OrderLedger::open(&path, true, at(2)).unwrap();
    let only_ab = |objection: &Objection| objection.signer == "AB";
    let called_back = Objection { signer: "AB".into(), what: Objects::Recalled { had: 1 } };
    assert_eq!(ledger.begin(order(7, 5, 100), at(0), &only_ab).unwrap(), Begun::CalledBack(called_back));
    assert_eq!(ledger.begin(order(8, 5, 100), at(0), &only_ab).unwrap(), Begun::Now);
    assert_eq!(ledger.begin(order(9, 5, 100), at(0), &only_ab).unwrap(), Begun::Now);
}

#[test]
fn cancellations_without_end_fill_no_disk_and_flush_none() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    let key = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    };
    ledger.recall(key(0), by("AB"), at(100)).unwrap();
    for number in 1..limits::CANCELS_PER_SIGNER_MAX {
        let line = ledger.content.recalls.line(key(number), by("AB"), at(100)).unwrap();
        ledger.append(line).unwrap();
    }
    assert_eq!(ledger.content().without_room(at(0)).count(), 0);
    let more = |number| key(limits::CANCELS_PER_SIGNER_MAX + number);
    ledger.recall(more(0), by("AB"), at(200)).unwrap();
    let bytes = ledger.bytes;
    for number in 1..20 {
        ledger.recall(more(number), by("AB"), at(200)).unwrap();
    }
    assert_eq!(ledger.bytes, bytes, "what changes nothing is not written");
    drop(ledger);
    let mut ledger = OrderLedger::open(&path, true, at(7)).unwrap();
    let content = ledger.content().clone();
    let first = Objection { signer: "AB".into(), what: Objects::Recalled { had: 1 } };
    let full = Objection { signer: "AB".into(), what: Objects::NoRoom { until: at(200) } };
    assert_eq!(content.objections(&key(0), at(200)).collect::<Vec<_>>(), [first, full.clone()]);
    assert_eq!(content.without_room(at(200)).collect::<Vec<_>>(), [("AB", at(200))]);
    assert_eq!(content.without_room(at(201)).count(), 0);
    // In the very step that takes an order it is asked whether there was room for all.
    assert_eq!(ledger.begin(order(7, 5, 100), at(200), &anybody).unwrap(), Begun::CalledBack(full));
    assert_eq!(ledger.begin(order(7, 5, 100), at(200), &|_| false).unwrap(), Begun::Now);
    assert_eq!(ledger.begin(order(8, 5, 100), at(201), &anybody).unwrap(), Begun::Now);
}

#[test]
fn what_filled_a_ledger_before_it_was_written_down_whose_it_was_ends_within_days() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    let year = 400 * 86_400;
    ledger.append(Line::RecallsFull { until: at(year), signer: String::new() }).unwrap();
    ledger.sync().unwrap();
    drop(ledger);
    let soon = at(7).plus(limits::CANCEL_AHEAD_MAX);
    // Each further start does not begin anew.
    for now in [7, 90_000] {
        let ledger = OrderLedger::open(&path, true, at(now)).unwrap();
        assert_eq!(ledger.content().without_room(at(now)).collect::<Vec<_>>(), [("", soon)]);
    }
}

#[test]
fn the_floor_rises_with_whatever_is_trusted_and_is_there_after_a_restart() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    ledger.raise_floor(at(500)).unwrap();
    ledger.raise_floor(at(400)).unwrap();
    drop(ledger);
    let mut ledger = OrderLedger::open(&path, true, at(-9000)).unwrap();
    assert_eq!(ledger.content().floor(), at(500));
    ledger.shrink_at = 1;
    ledger.raise_floor(at(600)).unwrap();
    drop(ledger);
    assert_eq!(OrderLedger::open(&path, true, at(-9000)).unwrap().content().floor(), at(600));
}

#[test]
fn a_ledger_of_an_earlier_form_stays_whole() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    ledger.begin(order(1, 5, 100), at(0), &anybody).unwrap();
    drop(ledger);
    // Its first line does not say whether a server was reached.
    let whole = std::fs::read_to_string(&path).unwrap();
    let (header, rest) = whole.split_once('\n').unwrap();
    let json = header[9..].replace(",\"in_contact\":false", "");
    assert!(json.len() + 9 < header.len());
    let promised = format!("{:020}", whole.len() - (header.len() - json.len() - 9));
    let json = json.replace(&format!("{:020}", whole.len()), &promised);
    std::fs::write(&path, format!("{:08x} {json}\n{rest}", crc32c::crc32c(json.as_bytes()))).unwrap();
    let mut ledger = OrderLedger::open(&path, true, at(10)).unwrap();
    assert!(ledger.content().was_in_contact());
    ledger.begin(order(2, 5, 100), at(0), &anybody).unwrap();
    drop(ledger);
    let ledger = OrderLedger::open(&path, true, at(20)).unwrap();
    assert_eq!(ledger.content().since(), (at(0), Origin::New), "it was damaged");
    assert!(ledger.content().order(&[1; 32]).is_some() && ledger.content().order(&[2; 32]).is_some());
}

#[test]
fn case_20_a_ledger_begins_when_a_server_was_reached_and_not_in_2040() {
    let (_directory, path) = a_path();
    let (in_2040, today) = (at(500_000_000), at(7));
    let mut ledger = OrderLedger::open(&path, false, in_2040).unwrap();
    assert!(!ledger.content().was_in_contact());
    ledger.first_contact(today).unwrap();
    assert_eq!((ledger.content().since(), ledger.content().was_in_contact()), ((today, Origin::New), true));
    drop(ledger);
    let mut ledger = OrderLedger::open(&path, true, today).unwrap();
    assert_eq!((ledger.content().since(), ledger.content().was_in_contact()), ((today, Origin::New), true));
    // One that was in order is not moved forward, and one that was lost does not begin earlier.
    ledger.first_contact(at(900)).unwrap();
    assert_eq!(ledger.content().since().0, today);
    std::fs::remove_file(&path).unwrap();
    let mut ledger = OrderLedger::open(&path, true, at(50)).unwrap();
    ledger.first_contact(at(7)).unwrap();
    assert_eq!(ledger.content().since(), (at(50), Origin::Lost));
}

#[test]
fn case_20_what_a_wrong_clock_left_behind_can_be_forgotten() {
    let (_directory, path) = a_path();
    let in_2040 = 500_000_000;
    let mut ledger = OrderLedger::open(&path, true, at(in_2040)).unwrap();
    ledger.begin(order(1, in_2040, in_2040 + 100), at(0), &anybody).unwrap();
    ledger.raise_floor(at(in_2040)).unwrap();
    let half = Duration::from_millis(500);
    ledger.reset_clock(at(7).plus(half)).unwrap();
    for again in 0..2 {
        let content = ledger.content();
        assert_eq!((content.floor(), content.since().0), (at(7).plus(half), at(8)), "{again}");
        assert_eq!(ledger.begin(order(1, 9, 100), at(0), &anybody).unwrap(), Begun::Before, "orders stay known");
        drop(ledger);
        ledger = OrderLedger::open(&path, true, at(10)).unwrap();
    }
    // Where nothing is wrong, nothing changes.
    ledger.reset_clock(at(900)).unwrap();
    assert_eq!((ledger.content().floor(), ledger.content().since().0), (at(7).plus(half), at(8)));
}

#[test]
fn refusals_are_shown_and_bounded() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    for number in 0..300 {
        let (code, reason) = ("weight".to_owned(), "too light".to_owned());
        ledger.refuse(RefusedOrder { at: at(number), action_id: number, name: "n".into(), code, reason }).unwrap();
    }
    drop(ledger);
    let content = look(&path).unwrap().unwrap();
    assert_eq!(content.refused().count(), REFUSALS_KEPT);
    assert_eq!(content.refused().last().unwrap().action_id, 299);
}

#[test]
fn after_the_file_was_written_anew_a_failed_write_cuts_off_no_order() {
    let (_directory, path) = a_path();
    let mut ledger = OrderLedger::open(&path, false, at(0)).unwrap();
    // Nothing of it may be forgotten yet, so that it is as large afterwards as it was before.
    ledger.shrink_at = 1;
    for number in 1..=200 {
        ledger.begin(order(number, 5, 100), at(0), &anybody).unwrap();
        ledger.finish([number; 32], done(9)).unwrap();
        ledger.shrink_at = 1;
    }
    // The disk is full in the middle of a line.
    ledger.file().unwrap().write_all(b"0badc0de {\"event\":").unwrap();
    ledger.is_torn = true;
    assert_eq!(ledger.begin(order(201, 6, 100), at(0), &anybody).unwrap(), Begun::Now);
    drop(ledger);
    let mut ledger = OrderLedger::open(&path, true, at(10)).unwrap();
    assert_eq!(ledger.content().since(), (at(0), Origin::New), "it was damaged");
    for number in 1..=201 {
        assert_eq!(ledger.begin(order(number, 7, 100), at(0), &anybody).unwrap(), Begun::Before, "order {number}");
    }
}
