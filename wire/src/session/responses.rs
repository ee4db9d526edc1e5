//! What a server says.

use super::header::numbered;
use super::{PageRun, Ranges, TopicRuns, WireError};

numbered! {
    /// What a server says.
    pub enum ToClient {
        /// `[1, 0, version, server, heartbeat_ms, max_header, max_payload, max_requests, max_deliveries]`: the answer to
        /// `Hello`, and what holds in this session.
        1 = Welcome {
            /// The version of the protocol that is spoken from now on.
            version: u32,
            /// What the server calls itself and its version, for logs.
            server: String,
            /// After this time without anything sent, `Ping` is. A peer that is silent for three times as long is taken for
            /// gone. 0: neither side does so.
            heartbeat_ms: u64,
            /// The largest header that the server takes.
            max_header: u32,
            /// The largest payload that it takes.
            max_payload: u32,
            /// How many requests may be without their answer; the server reads on when some are answered.
            max_requests: u32,
            /// The most deliveries that come in one frame.
            max_deliveries: u32,
        },
        /// `[2, 0]`: it is there. Sent when nothing else was for a heartbeat's interval; not answered.
        2 = Ping {},
        /// `[3, 0]`: it is about to go. Flows of deliveries and requests end; the client settles what it holds, asks for
        /// nothing new, and closes.
        3 = Drain {},
        /// `[4, id]`: nobody waits for the reply to this `Request` any more; the id is the server's own count, as there.
        4 = Abandoned {},
        /// `[5, 0, ready, reason, engine]`: how the broker is. Said after `Welcome` and whenever it changes.
        5 = Health {
            /// Whether it takes writes.
            ready: bool,
            /// Why not.
            reason: Option<String>,
            /// Which engine it is and where it keeps its data.
            engine: String,
        },
        /// `[10, id, first, count, durability, duplicates]`: the answer to `Publish`.
        10 = Receipts {
            /// The offset of the first message that was stored; without one, where it would have been.
            first: u64,
            /// How many messages the batch held.
            count: u32,
            /// How safe they are, as in `Publish`.
            durability: u8,
            /// `[place in the batch, offset of the first one]` of each duplicate, in order.
            duplicates: Vec<(u32, u64)>,
        },
        /// `[11, id, next, runs]`, payload: the messages' run of records: the answer to `Read`.
        11 = Page {
            /// Where to go on reading.
            next: u64,
            /// Where and when they were stored.
            runs: Vec<PageRun>,
        },
        /// `[12, id, consumer]`: the answer to `Join`, and the beginning of a flow.
        12 = Joined {
            /// Who the client is now.
            consumer: u64,
        },
        /// `[14, id, topics, payloads]`, payload: the messages' run of records: the answer to `Fetch`, or some of a flow.
        14 = Deliveries {
            /// What they are deliveries of.
            topics: Vec<TopicRuns>,
            /// In a flow, how many bytes at the end of each record are its message's payload; else empty.
            payloads: Vec<u32>,
        },
        /// `[17, id, settled, stale]`: the answer to `Settle` and to `Extend`.
        17 = Settled {
            /// How many took effect.
            settled: u64,
            /// The deliveries about which nothing was done.
            stale: Ranges,
        },
        /// `[19, id, payload_bytes]`, payload: a record: the answer to `Invoke`.
        19 = Answer {
            /// How many bytes at the end of the record are the message's payload.
            payload_bytes: u32,
        },
        /// `[20, id, serving, budget_ms, payload_bytes]`, payload: a record: some of a flow of requests. The
        /// id is what the `Reply` repeats, the server's own count.
        20 = Request {
            /// The flow: the id of its `Serve`.
            serving: u64,
            /// How long somebody waits for the reply.
            budget_ms: u64,
            /// How many bytes at the end of the record are the message's payload.
            payload_bytes: u32,
        },
        /// `[22, id, json, more]`, payload: so many bytes of JSON, and then what belongs to it: the answer to `Call`.
        22 = Done {
            /// How many bytes of the payload are JSON.
            json: u32,
            /// Whether more such answers follow.
            more: bool,
        },
        /// `[23, id]`: the end of a flow.
        23 = End {},
        /// `[24, id, error]`: why a request was not done, or a flow ended; with the id 0, why the connection is closed.
        24 = Failed {
            /// Why.
            error: WireError,
        },
    }
}
