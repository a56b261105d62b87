//! The generated types of `proto/`, in modules named as their packages, and the descriptors they came from.

#[expect(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes,
    reason = "generated from the .proto files, which say what each thing is"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub use generated::fleetspeak::*;
/// What the service `actions` says: `proto/muster/actions.proto`.
pub use generated::muster::actions;
/// What our own agent shows of itself: `proto/muster/enrolment.proto`.
pub use generated::muster::enrolment;

/// Every file of `proto/` with all it imports, as a serialized `google.protobuf.FileDescriptorSet`: for gRPC reflection
/// and text protos.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
