//! Orders that no machine may run: one row each, with the word under which it is refused.

use super::people::{Order, People, Person, made_at, now};
use muster_trust::signature;
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::types::{HashAlgorithm, SignatureType};
use serde_json::Value;
use std::time::Duration;

/// What is tried, the word it is refused with, and the bytes that are delivered.
pub(super) type Row = (&'static str, &'static str, fn(&People) -> Vec<u8>);

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn order() -> Order {
    Order::new("an attack")
}

/// A good order by Alice, of which something is exchanged in its JSON.
fn replaced(people: &People, old: &str, new: &str) -> Vec<u8> {
    let good = order().signed(&[&people.alice]);
    assert!(good.contains(old), "{old:?} does not stand in {good}");
    good.replacen(old, new, 1).into_bytes()
}

/// An order that Alice did sign, and that is not as it should be.
fn by_alice(people: &People, change: impl FnOnce(&mut Order)) -> Vec<u8> {
    Order::with("an attack", change).signed(&[&people.alice]).into_bytes()
}

fn by(person: &Person) -> Vec<u8> {
    order().signed(&[person]).into_bytes()
}

fn alice_signs(people: &People, change: fn(SignatureBuilder) -> SignatureBuilder) -> Vec<u8> {
    order().signed_as(|text| people.alice.sign_as(0, text, change)).into_bytes()
}

/// Alice's good signature, with its packet changed.
fn alice_packet(people: &People, change: fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    order().signed_as(|text| signature::encode(&change(people.alice.packet(0, text, |b| b)))).into_bytes()
}

/// An order that the server put together under signatures of another.
fn graft(people: &People, signed: &Order, delivered: &Order) -> Vec<u8> {
    delivered.grafted(&signed.signed(&[&people.alice])).into_bytes()
}

fn two_operations() -> Order {
    Order::with("an attack", |order| {
        order.operations.push(("recorder".to_owned(), r#"{"who":"too"}"#.to_owned()));
    })
}

pub(super) const ROWS: &[Row] = &[
    // Nobody, or not enough.
    ("signed by nobody", "invalid", |_| order().carrying(&[]).into_bytes()),
    ("signatures that are null", "invalid", |_| {
        order().carrying(&[]).replace("\"pgpsignatures\":[]", "\"pgpsignatures\":null").into_bytes()
    }),
    ("a stranger's signature", "key-unknown", |p| by(&p.stranger)),
    ("a stranger's beside a good one", "key-unknown", |p| order().signed(&[&p.alice, &p.stranger]).into_bytes()),
    ("an administrator's signature", "key-unknown", |p| by(&p.dora)),
    ("weight not reached", "weight", |p| by(&p.bob)),
    ("weight of the dearer module not reached", "weight", |p| {
        by_alice(p, |order| order.operations[0].0 = "recorder-too".into())
    }),
    ("a dear operation behind a cheap one", "weight", |p| {
        by_alice(p, |order| order.operations.push(("recorder-too".into(), "{}".into())))
    }),
    ("the same signature twice", "weight", |p| {
        let order = order();
        let signature = p.bob.sign(&order.text());
        order.carrying(&[signature.clone(), signature]).into_bytes()
    }),
    ("two signatures by one key", "weight", |p| {
        let order = order();
        let later = p.bob.sign_as(0, &order.text(), made_at(now() - 30));
        order.carrying(&[p.bob.sign(&order.text()), later]).into_bytes()
    }),
    ("a subkey and its primary key", "weight", |p| {
        let order = order();
        order.carrying(&[p.bob.sign(&order.text()), p.bob.sign_as(1, &order.text(), |b| b)]).into_bytes()
    }),
    ("two keys of one person", "weight", |p| {
        let [one, two] = &p.carol;
        order().signed(&[one, two]).into_bytes()
    }),
    ("seventeen signatures", "invalid", |p| {
        let order = order();
        let signature = p.alice.sign(&order.text());
        order.carrying(&vec![signature; 17]).into_bytes()
    }),
    // Keys that are good for nothing.
    ("a stolen key that was revoked", "key-revoked", |p| by(&p.stolen)),
    ("a stolen key, with a date before it was revoked", "key-revoked", |p| {
        order().signed_as(|text| p.stolen.sign_as(0, text, made_at(now() - 2 * HOUR))).into_bytes()
    }),
    ("a retired key", "key-revoked", |p| by(&p.retired)),
    ("an expired key", "key-expired", |p| by(&p.expired)),
    ("an expired key, with a date at which it was good", "key-expired", |p| {
        order().signed_as(|text| p.expired.sign_as(0, text, made_at(now() - DAY + 60))).into_bytes()
    }),
    ("a key of RSA with 1024 bits", "key-weak", |p| by(&p.weak)),
    ("a key that only certifies", "key-not-for-signing", |p| by(&p.certifier)),
    ("a subkey that never agreed to its owner", "key-not-for-signing", |p| {
        order().signed_as(|text| p.adopting.sign_as(1, text, |b| b)).into_bytes()
    }),
    // Signatures that are none.
    ("a signature with SHA-1", "signature-weak", |p| alice_signs(p, |b| b.set_hash_algo(HashAlgorithm::SHA1))),
    ("a signature with MD5", "signature-weak", |p| alice_signs(p, |b| b.set_hash_algo(HashAlgorithm::MD5))),
    ("a signature over text", "signature-unacceptable", |p| alice_signs(p, |b| b.set_type(SignatureType::Text))),
    ("a signature over nothing", "signature-unacceptable", |p| order().carrying(&[p.alice.standalone()]).into_bytes()),
    ("a signature with a critical notation", "signature-unacceptable", |p| {
        alice_signs(p, |b| b.set_notation("a@example.net", "x", None, true).unwrap())
    }),
    ("a signature that has expired", "signature-expired", |p| {
        alice_signs(p, |b| b.set_signature_validity_period(Duration::from_secs(30)).unwrap())
    }),
    ("a signature from the future", "signature-future", |p| {
        order().signed_as(|text| p.alice.sign_as(0, text, made_at(now() + HOUR))).into_bytes()
    }),
    ("a signature older than its key", "signature-future", |p| {
        order().signed_as(|text| p.alice.sign_as(0, text, made_at(now() - 2 * DAY))).into_bytes()
    }),
    ("a signature that names two signers", "key-unknown", |p| {
        let sign = |text: &str| {
            p.alice.sign_as(0, text, |b| {
                b.set_issuer(p.bob.key(0).into()).unwrap().set_issuer_fingerprint(p.alice.key(0)).unwrap()
            })
        };
        order().signed_as(sign).into_bytes()
    }),
    ("a stranger's signature that names Alice", "signature-mismatch", |p| {
        let sign = |text: &str| {
            p.stranger.sign_as(0, text, |b| {
                b.set_issuer(p.alice.key(0).into()).unwrap().set_issuer_fingerprint(p.alice.key(0)).unwrap()
            })
        };
        order().signed_as(sign).into_bytes()
    }),
    ("two signatures in one", "signature-malformed", |p| alice_packet(p, |packet| packet.repeat(2))),
    ("a byte behind a signature", "signature-malformed", |p| alice_packet(p, |packet| [packet, vec![0]].concat())),
    ("a message signed inline", "signature-malformed", |p| {
        alice_packet(p, |packet| [vec![0xCB, 7, b'b', 0, 0, 0, 0, 0, b'x'], packet].concat())
    }),
    ("half a signature", "signature-malformed", |p| alice_packet(p, |packet| packet[..packet.len() / 2].to_vec())),
    ("a signature of 17 KiB", "signature-malformed", |_| order().carrying(&["A".repeat(17 * 1024)]).into_bytes()),
    ("a signature that is a word", "signature-malformed", |_| order().carrying(&["trust me".into()]).into_bytes()),
    // Signatures over something else.
    ("a signature of another order", "signature-mismatch", |p| graft(p, &Order::new("another"), &order())),
    ("a good signature beside one of another order", "signature-mismatch", |p| {
        let (order, other) = (order(), Order::new("another"));
        order.carrying(&[p.alice.sign(&order.text()), p.bob.sign(&other.text())]).into_bytes()
    }),
    ("a signature of a document", "signature-mismatch", |p| {
        order().signed_as(|text| p.alice.sign(&muster_trust::document::signing_text(text))).into_bytes()
    }),
    ("another name", "signature-mismatch", |p| replaced(p, "an attack", "a question")),
    ("another target", "signature-mismatch", |p| {
        graft(p, &Order::with("an attack", |order| order.target = "name = 'elsewhere'".into()), &order())
    }),
    ("a wider window", "signature-mismatch", |p| {
        graft(p, &order(), &Order::with("an attack", |order| order.until += HOUR))
    }),
    ("an old window moved to now", "signature-mismatch", |p| {
        let old = Order::with("an attack", |order| (order.from, order.until) = (now() - 2 * HOUR, now() - HOUR));
        graft(p, &old, &order())
    }),
    ("another module", "signature-mismatch", |p| replaced(p, "\"recorder\"", "\"recorder-too\"")),
    ("other parameters", "signature-mismatch", |p| replaced(p, "\"asks\"", "\"acts\"")),
    ("giant parameters", "signature-mismatch", |p| {
        replaced(p, "\"asks\"", &Value::from("x".repeat(900 * 1024)).to_string())
    }),
    ("parameters marked as packed", "signature-mismatch", |p| {
        replaced(p, "\"module\":\"recorder\"", "\"module\":\"recorder\",\"is_compressed\":true")
    }),
    ("parameters to be packed", "signature-mismatch", |p| {
        replaced(p, "\"module\":\"recorder\"", "\"module\":\"recorder\",\"want_compressed\":true")
    }),
    ("an operation more", "signature-mismatch", |p| graft(p, &order(), &two_operations())),
    ("an operation less", "signature-mismatch", |p| graft(p, &two_operations(), &order())),
    ("operations in another order", "signature-mismatch", |p| {
        let mut swapped = two_operations();
        swapped.operations.reverse();
        graft(p, &two_operations(), &swapped)
    }),
    // Signed well, for somebody or some time else.
    ("for another machine", "not-for-this-agent", |p| by_alice(p, |order| order.target = "name = 'elsewhere'".into())),
    ("for a machine of another key", "not-for-this-agent", |p| {
        by_alice(p, |order| order.target = "queueloc = 'linux.elsewhere.0123456789abcdef'".into())
    }),
    ("a window that is over", "expired", |p| {
        by_alice(p, |order| (order.from, order.until) = (now() - 2 * HOUR, now() - HOUR))
    }),
    ("a window that is to come", "not-yet-valid", |p| {
        by_alice(p, |order| (order.from, order.until) = (now() + HOUR, now() + 2 * HOUR))
    }),
    ("a window of eight days", "window-too-long", |p| by_alice(p, |order| order.until = order.from + 8 * DAY)),
    ("a window that ends before it begins", "invalid", |p| {
        by_alice(p, |order| (order.from, order.until) = (now() - HOUR, now() - 2 * HOUR))
    }),
    ("a window without an end", "window-too-long", |p| {
        let good = order().signed(&[&p.alice]);
        let mut json: Value = serde_json::from_str(&good).unwrap();
        json["expireafter"] = "9998-01-11T11:11:11Z".into();
        json.to_string().into_bytes()
    }),
    ("a module that is not there", "unknown-module", |p| by_alice(p, |order| order.operations[0].0 = "shell".into())),
    ("a module in capitals", "unknown-module", |p| by_alice(p, |order| order.operations[0].0 = "RECORDER".into())),
    ("a module that is a path", "unknown-module", |p| {
        by_alice(p, |order| order.operations[0].0 = "../../bin/sh".into())
    }),
    // What can be read in two ways, or cannot be read.
    ("a name that holds a target", "ambiguous", |p| by_alice(p, |order| order.name = "a;target=1=1".into())),
    ("a target that holds operations", "ambiguous", |p| by_alice(p, |order| order.target = "1=1;operations=[]".into())),
    ("a name read as a name and a target", "ambiguous", |p| {
        let meant = Order::with("a", |order| order.target = "name = 'elsewhere'".into());
        let read = Order::with("a;target=name = 'elsewhere'", |order| order.target = "1=1".into());
        graft(p, &meant, &read)
    }),
    ("a name of two lines", "invalid", |p| by_alice(p, |order| order.name = "a\nb".into())),
    ("a name with a zero byte", "invalid", |p| by_alice(p, |order| order.name = "a\0b".into())),
    ("a target that is SQL", "target-invalid", |p| by_alice(p, |order| order.target = "1=1; DROP TABLE agents".into())),
    ("a target of nine hundred brackets", "target-invalid", |p| {
        by_alice(p, |order| order.target = format!("{}1=1{}", "(".repeat(900), ")".repeat(900)))
    }),
    ("no operations", "invalid", |p| by_alice(p, |order| order.operations.clear())),
    ("operations that are null", "invalid", |p| {
        let empty = Order::with("an attack", |order| order.operations.clear());
        empty.signed(&[&p.alice]).replace("\"operations\":[]", "\"operations\":null").into_bytes()
    }),
    ("sixty-five operations", "invalid", |p| {
        by_alice(p, |order| order.operations = vec![order.operations[0].clone(); 65])
    }),
    ("a key twice", "malformed", |p| replaced(p, "{\"name\":", "{\"name\":\"first\",\"name\":")),
    ("a key twice, once in capitals", "malformed", |p| replaced(p, "{\"name\":", "{\"NAME\":\"first\",\"name\":")),
    ("a key twice in the parameters", "parameters", |p| {
        by_alice(p, |order| order.operations[0].1 = r#"{"who":"a","who":"b"}"#.into())
    }),
    ("a number that no double holds", "parameters", |p| {
        by_alice(p, |order| order.operations[0].1 = r#"{"who":1e400}"#.into())
    }),
    ("half of a surrogate pair", "parameters", |p| {
        by_alice(p, |order| order.operations[0].1 = r#"{"who":"\ud800"}"#.into())
    }),
    ("another version of the format", "invalid", |p| replaced(p, "\"syntaxversion\":2", "\"syntaxversion\":3")),
    ("no version of the format", "invalid", |p| replaced(p, "\"syntaxversion\":2,", "")),
    ("nesting of a hundred thousand", "malformed", |p| {
        replaced(p, "{\"who\":\"asks\"}", &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)))
    }),
    ("more than a mebibyte", "too-large", |p| {
        let good = order().signed(&[&p.alice]);
        [good.as_bytes(), &vec![b' '; 1024 * 1024]].concat()
    }),
    ("no bytes at all", "malformed", |_| Vec::new()),
    ("a list", "malformed", |_| b"[]".to_vec()),
    ("half an order", "malformed", |p| {
        let good = order().signed(&[&p.alice]);
        good.as_bytes()[..good.len() / 2].to_vec()
    }),
    ("two orders", "malformed", |p| order().signed(&[&p.alice]).repeat(2).into_bytes()),
    ("UTF-16", "malformed", |p| order().signed(&[&p.alice]).encode_utf16().flat_map(u16::to_le_bytes).collect()),
    ("a mark of the byte order", "malformed", |p| {
        [&b"\xEF\xBB\xBF"[..], order().signed(&[&p.alice]).as_bytes()].concat()
    }),
];
