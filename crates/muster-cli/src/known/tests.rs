use super::*;

const ID: &str = "2403f56c0a72054a";
const KEY: &str = "2403f56c0a72054a00000000000000000000000000000000000000000000000a";

fn book(path: &Path) -> Book {
    Book::at(path).unwrap()
}

#[test]
fn a_first_answer_is_kept_and_only_a_person_approves_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("machines/x.jsonl");
    let mut first = book(&path);
    assert_eq!(first.standing(ID), Standing::New);
    first.meet(ID, KEY, "web\u{1b}[2J-1");
    assert_eq!(first.standing(ID), Standing::New, "it stays new for as long as the command that met it runs");
    first.keep().unwrap();
    let mut second = book(&path);
    assert_eq!(second.standing(ID), Standing::Seen);
    assert_eq!(second.machine(ID).unwrap().name, "web[2J-1");
    // Another name of the server's changes nothing, neither before nor after somebody approved it.
    second.meet(ID, KEY, "the-bank");
    second.keep().unwrap();
    assert_eq!(book(&path).machine(ID).unwrap().name, "web[2J-1");
    second.approve(&[(ID.parse().unwrap(), "web-1".into())]).unwrap();
    let mut third = book(&path);
    third.meet(ID, KEY, "the-bank");
    third.keep().unwrap();
    let machine = book(&path).machine(ID).unwrap().clone();
    assert_eq!((machine.name.as_str(), machine.approved), ("web-1", true));
    assert_eq!(machine.key_sha256.as_deref(), Some(KEY));
    third.forget(&[ID.parse().unwrap()]).unwrap();
    assert_eq!(book(&path).standing(ID), Standing::New);
    assert_eq!(third.forget(&[ID.parse().unwrap()]).unwrap_err().exit, Exit::NotFound);
}

#[test]
fn a_machine_that_was_approved_by_its_id_gains_its_key_with_its_first_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    book(&path).approve(&[(ID.parse().unwrap(), "web-1".into())]).unwrap();
    let mut book = book(&path);
    assert_eq!(book.machine(ID).unwrap().key_sha256, None);
    book.meet(ID, KEY, "other");
    book.keep().unwrap();
    let machine = read(&path).unwrap().remove(ID).unwrap();
    assert_eq!((machine.key_sha256.as_deref(), machine.name.as_str(), machine.approved), (Some(KEY), "web-1", true));
}

#[test]
fn an_empty_name_approves_nothing_and_no_server_names_what_is_approved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    let other = "00000000000000aa".parse().unwrap();
    for name in ["", "  ", "\u{1b}\u{7f}", "\n", "\u{202e} "] {
        let failure = book(&path).approve(&[(other, "db-1".into()), (ID.parse().unwrap(), name.into())]).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.what.contains(ID), "{name:?}: {failure}");
        assert!(failure.next.contains("muster agent known add"), "{failure}");
        assert_eq!(book(&path).machines().count(), 0, "none of them is approved");
    }
    // A line that says so all the same approves nothing either.
    std::fs::write(&path, format!(r#"{{"id":"{ID}","name":" ","since":"","approved":true}}"#)).unwrap();
    assert_eq!(book(&path).standing(ID), Standing::Seen);
    // Approved while the answers of a command came in that had met it before.
    let mut asking = book(&path);
    asking.meet(ID, KEY, "the-bank");
    book(&path).approve(&[(ID.parse().unwrap(), "web-1".into())]).unwrap();
    asking.keep().unwrap();
    let machine = book(&path).machine(ID).unwrap().clone();
    assert_eq!((machine.name.as_str(), machine.approved), ("web-1", true));
}

#[test]
fn commands_that_write_at_once_lose_nothing_and_the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    // Each has read the book before any other wrote.
    let books: Vec<_> = (0..16_u8).map(|number| (number, book(&path))).collect();
    std::thread::scope(|scope| {
        for (number, mut book) in books {
            scope.spawn(move || {
                book.meet(&format!("{number:016x}"), &format!("{number:016x}{:048x}", 0), "m");
                book.keep().unwrap();
            });
        }
    });
    assert_eq!(book(&path).machines().count(), 16);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_book_that_was_spoiled_is_not_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    let good = format!(r#"{{"id":"{ID}","name":"a","key_sha256":"{KEY}","since":"","approved":true}}"#);
    std::fs::write(&path, format!("\n{good}\n")).unwrap();
    assert_eq!(read(&path).unwrap().len(), 1);
    for bad in
        ["x", "{}", &good[..40], &good.replace(ID, "00"), &good.replace("key_sha256\":\"24", "key_sha256\":\"25")]
    {
        std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
        let failure = read(&path).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.on.ends_with("line 2"), "{bad}: {failure}");
    }
}

#[test]
fn no_two_books_share_a_file() {
    let names = ["server-a:80", "server-a%3A80", "fleet-a", "server-[::1]:80", "fleet-a/b"].map(file_name);
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    assert!(names.iter().all(|name| !name.contains('/')), "{names:?}");
}

#[test]
fn a_server_that_fills_the_book_takes_no_room_from_what_a_person_approves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    // A book that was filled before there was a ceiling.
    let line = |number: usize| {
        let since = format!("2026-01-02T03:04:{:02}Z", number * 60 / (KNOWN_MACHINES_MAX + 10));
        format!("{{\"id\":\"{number:016x}\",\"name\":\"m\",\"since\":\"{since}\",\"approved\":false}}\n")
    };
    std::fs::write(&path, (0..KNOWN_MACHINES_MAX + 10).map(line).collect::<String>()).unwrap();
    let mut filled = book(&path);
    let id: AgentId = ID.parse().unwrap();
    filled.approve(&[(id, "web-1".into())]).unwrap();
    assert_eq!(filled.machines().count(), KNOWN_UNAPPROVED_MAX + 1);
    assert!(filled.machine(&format!("{:016x}", KNOWN_MACHINES_MAX + 9)).is_some(), "the newest stay");
    assert!(filled.machine(&format!("{:016x}", 0)).is_none(), "the oldest go");
    // However many keys answer: what is approved stays, and has its own key written down.
    for number in 0..KNOWN_UNAPPROVED_MAX + 5 {
        let made_up = format!("ee{number:014x}");
        filled.meet(&made_up, &format!("{made_up}{:048x}", 0), "m");
    }
    filled.meet(ID, KEY, "x");
    filled.keep().unwrap();
    let mut after = book(&path);
    assert_eq!(after.machines().filter(|machine| !machine.approved).count(), KNOWN_UNAPPROVED_MAX);
    assert!(after.machines().filter(|machine| !machine.approved).all(|machine| machine.id.starts_with("ee")));
    assert_eq!(after.machine(ID).unwrap().key_sha256.as_deref(), Some(KEY));
    assert_eq!(after.forget_unapproved().unwrap(), KNOWN_UNAPPROVED_MAX);
    let left: Vec<_> = book(&path).machines().map(|machine| machine.id.clone()).collect();
    assert_eq!(left, [ID]);
}

#[test]
fn a_book_of_another_account_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("machines/x.jsonl");
    book(&path).approve(&[(ID.parse().unwrap(), "web-1".into())]).unwrap();
    own::tests::refuses_what_others_wrote(&path, &|| read(&path).map(drop));
}

#[test]
fn what_is_said_to_be_done_next_is_done_with_the_same_book() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Book::at(&dir.path().join("x.jsonl")).unwrap();
    assert_eq!(book.command("add ID NAME"), "muster agent known add ID NAME");
    book = book.of_fleet("lab");
    assert_eq!(book.command("list"), "muster agent known list --fleet lab");
    let id = "1122334455667788".parse().unwrap();
    let unnamed = book.approve(&[(id, String::new())]).unwrap_err();
    assert!(unnamed.next.ends_with("muster agent known add --fleet lab 1122334455667788 NAME"), "{unnamed}");
    assert_eq!(book.forget(&[id]).unwrap_err().next, "muster agent known list --fleet lab");
}
