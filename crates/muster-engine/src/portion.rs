//! Portions: a contact's messages, parted so that what is packed in them fits into memory.
//!
//! Results travel packed, a hundred messages to a contact, and a few kilobytes may unpack to megabytes. Stays true: no
//! portion unpacks to more than one result may have, and all portions that are under way to no more than was set aside.

use crate::engine::Inner;
use muster_core::contact::IncomingMessage;
use muster_core::{limits, system};
use tokio::sync::SemaphorePermit;

/// Messages that are judged and stored together.
#[derive(Debug, Default)]
pub(crate) struct Portion {
    pub(crate) messages: Vec<IncomingMessage>,
    /// Bytes that unpacking takes.
    bytes: u64,
}

impl Inner {
    /// Parts messages, in their order. Nearly always that is one portion.
    pub(crate) fn portions(&self, messages: Vec<IncomingMessage>) -> Vec<Portion> {
        part(messages, |message| self.unpacked_bytes(message))
    }

    fn unpacked_bytes(&self, message: &IncomingMessage) -> u64 {
        let is_result = message.destination_service == system::ACTIONS && message.message_type == system::ACTION_RESULT;
        let payload = message.payload.as_ref().filter(|_| is_result);
        payload.map_or(0, |payload| self.outside.codec.unpacked_bytes(payload)).min(limits::RESULT_BYTES_MAX)
    }

    /// Waits until there is memory for what a portion unpacks to; it is given back on drop, once the portion is stored.
    pub(crate) async fn room_for(&self, portion: &Portion) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(portion.bytes).unwrap_or(u32::MAX);
        if bytes == 0 {
            return None;
        }
        Some(self.unpacking.acquire_many(bytes).await.expect("it is never closed"))
    }
}

fn part(messages: Vec<IncomingMessage>, bytes_of: impl Fn(&IncomingMessage) -> u64) -> Vec<Portion> {
    let mut portions: Vec<Portion> = Vec::new();
    for message in messages {
        let bytes = bytes_of(&message);
        match portions.last_mut() {
            Some(portion) if portion.bytes + bytes <= limits::RESULT_BYTES_MAX => {
                portion.bytes += bytes;
                portion.messages.push(message);
            }
            _ => portions.push(Portion { messages: vec![message], bytes }),
        }
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages whose bodies say how much they unpack to, in parts of the most.
    fn parted(eighths: &[u8]) -> Vec<Vec<u8>> {
        let message = |of: &u8| IncomingMessage { source_message_id: vec![*of], ..IncomingMessage::default() };
        let bytes = |message: &IncomingMessage| u64::from(message.source_message_id[0]) * limits::RESULT_BYTES_MAX / 8;
        let portions = part(eighths.iter().map(message).collect(), bytes);
        portions.iter().map(|portion| portion.messages.iter().map(|one| one.source_message_id[0]).collect()).collect()
    }

    #[test]
    fn messages_stay_in_order_and_no_portion_is_larger_than_one_result() {
        assert!(parted(&[]).is_empty());
        assert_eq!(parted(&[0; 100]), [vec![0; 100]]);
        assert_eq!(parted(&[8, 8]), [[8], [8]]);
        assert_eq!(parted(&[0, 4, 4, 0, 1, 7, 1]), [vec![0, 4, 4, 0], vec![1, 7], vec![1]]);
    }
}
