//! What the engine stands on, in words: for whoever asks how it is, and for the log when it starts.

use super::connection::Connection;

/// What was found when the engine was opened, and holds until it is closed.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// The servers, without a login.
    pub(super) engine: String,
    /// How many servers have each message, and what that is worth.
    pub(super) detail: String,
    /// What is less safe than somebody may think.
    pub(super) warning: Option<String>,
}

impl Standing {
    /// `replicas` is what the stream has that has fewest of those that all share; new topics get what the connection says.
    pub(super) fn of(connection: &Connection, replicas: usize) -> Self {
        let version = &connection.client.server_info().version;
        let (wanted, sync) = (connection.replicas(), connection.options.sync_always);
        Self {
            engine: connection.options.shown(),
            detail: format!("NATS JetStream {version}, {}", worth(replicas.min(wanted), sync)),
            warning: warning(replicas, wanted, sync, connection.is_cluster_of_one()),
        }
    }
}

fn worth(replicas: usize, sync: bool) -> String {
    match (replicas, sync) {
        (2.., _) => format!(
            "each message on {replicas} servers: a receipt says quorum({replicas}), and any {} of them may be lost",
            (replicas - 1) / 2
        ),
        (_, true) => "each message on one server, synced to its disk: a receipt says fsync".into(),
        (_, false) => "each message on one server, which syncs later: a receipt says os at most".into(),
    }
}

fn warning(replicas: usize, wanted: usize, sync: bool, is_cluster: bool) -> Option<String> {
    if replicas < wanted {
        return Some(format!(
            "what the servers share has {replicas} replica and is gone with its nats-server, new topics have {wanted}: \
             give the older streams as many (`nats stream edit --replicas {wanted}`), all of which begin with this \
             cluster's prefix, KV_ or OBJ_ before it"
        ));
    }
    if is_cluster {
        return Some(
            "NATS is a cluster, of which three servers could not be found when this began: each message is kept by one of \
             them, and is gone with it. Start three nats-servers, name them all in the broker's URL, give the streams that \
             are there three replicas (`nats stream edit --replicas 3`), and start the servers again"
                .into(),
        );
    }
    (replicas < 2 && !sync).then(|| {
        "NATS keeps each message once, and does not tell its clients whether it syncs before it acknowledges; by default \
         it does not, and a power cut takes what was acknowledged in the last two minutes. So topics that ask for fsync \
         are refused. Run three nats-servers; or set jetstream { sync_interval: always } in nats-server's configuration, \
         and say so with ?sync=always behind the broker's URL"
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_a_receipt_is_worth() {
        assert!(worth(3, false).contains("quorum(3), and any 1 "), "{}", worth(3, false));
        assert!(worth(5, true).contains("quorum(5), and any 2 "));
        assert!(worth(1, true).contains("fsync"));
        assert!(worth(1, false).contains("os at most"));
    }

    #[test]
    fn one_server_is_warned_about_unless_it_syncs_and_so_is_a_store_that_did_not_grow() {
        assert_eq!(warning(3, 3, false, false), None);
        assert_eq!(warning(1, 1, true, false), None);
        assert!(warning(1, 1, false, false).is_some_and(|warning| warning.contains("?sync=always")));
        assert!(warning(1, 3, true, false).is_some_and(|warning| warning.contains("--replicas 3")));
        assert!(
            warning(1, 1, true, true).is_some_and(|warning| warning.contains("Start three nats-servers"))
        );
    }
}
