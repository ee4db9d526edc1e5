//! Channels and connections: translating between protocols and topics, one folder a protocol.

pub mod http;
