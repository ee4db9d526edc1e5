//! Channels and connections: translating between protocols and topics.
