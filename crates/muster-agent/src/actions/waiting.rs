//! Orders that came and wait to be judged.
//!
//! Stays true: they have a number and a size that they do not exceed; one too many is left to the server, which sends it
//! again. Not here: judging (gate), and how many are judged at once.

use crate::hub::Delivery;
use std::collections::VecDeque;

/// Orders that wait to be judged.
const WAITING_MAX: usize = 100;
/// Bytes of them, together.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Orders that wait to be judged.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    orders: VecDeque<Delivery>,
    bytes: usize,
}

impl Waiting {
    /// Tells whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Takes an order in. One too many is left to the server, which sends it again.
    pub(super) fn put(&mut self, order: Delivery) {
        let bytes = order_bytes(&order);
        if self.orders.len() >= WAITING_MAX || (!self.is_empty() && self.bytes + bytes > WAITING_BYTES_MAX) {
            tracing::warn!("too many orders wait to be judged; the server will send this one again");
            return;
        }
        self.bytes += bytes;
        self.orders.push_back(order);
    }

    /// Takes out the one that came first.
    pub(super) fn take(&mut self) -> Option<Delivery> {
        let order = self.orders.pop_front()?;
        self.bytes -= order_bytes(&order);
        Some(order)
    }
}

fn order_bytes(order: &Delivery) -> usize {
    order.message.data.as_ref().map_or(0, |data| data.value.len())
}
