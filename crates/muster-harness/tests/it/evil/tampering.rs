//! An order changed byte by byte.

use super::people::Order;
use super::{PEOPLE, Stage};
use muster_core::Action;
use muster_trust::signed_text;

/// Orders under way at once: fewer than a service has places.
const AT_ONCE: usize = 64;

/// Every change of one byte of an order that has run: either it is not an order of these people any more, or it says the
/// same, and that has been run.
#[tokio::test]
async fn an_order_with_any_byte_changed_is_refused_or_says_the_same_and_is_not_run_again() {
    let mut stage = Stage::new().await;
    let order = Order::new("to be changed");
    let good = order.signed(&[&PEOPLE.alice]);
    let before = signed_text(&Action::parse(good.as_bytes()).unwrap()).unwrap();
    assert_eq!(before, order.text(), "the signed text, written twice");
    stage.ordered(good.as_bytes()).await;
    stage.runs += 1;
    let mut changed = Vec::new();
    for mask in [0x01, 0x20, 0x80] {
        for place in 0..good.len() {
            let mut bytes = good.as_bytes().to_vec();
            bytes[place] ^= mask;
            changed.push(bytes);
        }
    }
    let mut said_the_same = 0;
    for (number, orders) in changed.chunks(AT_ONCE).enumerate() {
        let messages: Vec<_> = orders.iter().map(|order| stage.evil.order(order, 1000)).collect();
        for (place, (order, message)) in orders.iter().zip(&messages).enumerate() {
            let what = format!("change {}", number * AT_ONCE + place);
            let result = stage.evil.result(message).await.unwrap();
            let refusal =
                result.refusal.unwrap_or_else(|| panic!("{what} was run: {}", String::from_utf8_lossy(order)));
            if refusal.code == "already-run" {
                let text = signed_text(&Action::parse(order).unwrap()).unwrap();
                assert_eq!(text, before, "{what} is taken for an order that it is not");
                said_the_same += 1;
            }
            assert!(result.results.is_empty() && result.started.is_none(), "{what}");
        }
        stage.nothing_ran("a changed order");
    }
    // Signatures and description are not signed themselves, and their bytes are some.
    assert!((1..changed.len() / 2).contains(&said_the_same), "{said_the_same} of {}", changed.len());
    stage.end().await;
}
